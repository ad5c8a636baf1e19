//! The ring buffer's one consumer.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::maps::{Map, MapData, RingBuf};
use dataplane_common::abi::Event;
use dataplane_common::{event_from_bytes, names};
use jiff::{SignedDuration, Timestamp};
use nix::fcntl::{Flock, FlockArg};

use super::names::Namer;
use super::record::EventRecord;
use crate::loader::pins::LINKS;
use crate::maps::Pinned;
use crate::maps::pinned::now_ns;

/// Who holds this folder's lock, below the pin dir, reads the ring.
const LOCK: &str = "events-reader";

/// Exclusive use of the ring.
pub struct Ring {
    events: RingBuf<MapData>,
    clock: Clock,
    folder: PathBuf,
    lock: Flock<File>,
}

impl Ring {
    /// `None`: somebody else reads it now.
    pub fn open(pin_dir: &Path) -> Result<Option<Self>> {
        let pinned = Pinned::new(pin_dir);
        let data = pinned.data(names::MAP_EVENTS)?;
        // A folder of its own: the folder of the maps is the lock of the control word's writers.
        let folder = pin_dir.join(LOCK);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let file = File::open(&folder).with_context(|| format!("cannot open {}", folder.display()))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => {
                return Err(errno).with_context(|| format!("cannot lock {}", folder.display()));
            }
        };
        let events = RingBuf::try_from(Map::RingBuf(data)).context("cannot map the event ring")?;
        let clock = Clock { pinned };
        Ok(Some(Self { events, clock, folder, lock }))
    }

    /// Locks the folder again where somebody removed it, or its bpffs, and the agent put the pins back. A lock of the
    /// old one would keep an unmounted bpffs alive, with the links that are pinned there.
    pub fn keep_lock(&mut self) {
        let id = |metadata: std::io::Result<fs::Metadata>| metadata.map(|m| (m.dev(), m.ino())).ok();
        let is_back = self.folder.parent().is_some_and(|pin_dir| pin_dir.join(LINKS).is_dir());
        if !is_back || id(fs::metadata(&self.folder)) == id(self.lock.metadata()) {
            return;
        }
        let opened = fs::create_dir_all(&self.folder).and_then(|()| File::open(&self.folder));
        let Ok(file) = opened else { return };
        if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            self.lock = lock;
        }
    }

    /// Takes what is there.
    pub fn drain(&mut self, namer: &mut impl Namer, mut each: impl FnMut(EventRecord)) {
        let base = self.clock.base();
        while let Some(item) = self.events.next() {
            let Some(event) = event_from_bytes(&item) else { continue };
            drop(item);
            each(record(&event, namer, base));
        }
    }

    /// Readable when there is something.
    pub fn readiness(&self) -> Result<OwnedFd> {
        self.events.as_fd().try_clone_to_owned().context("cannot wait for events")
    }
}

fn record(event: &Event, namer: &mut impl Namer, (wall, kernel_ns): (Timestamp, u64)) -> EventRecord {
    let age = i64::try_from(kernel_ns.saturating_sub(event.time_ns)).unwrap_or(0);
    let time = wall.checked_sub(SignedDuration::from_nanos(age)).unwrap_or(wall);
    let label = namer.rule(event);
    EventRecord::new(event, namer.device(event), label, time)
}

/// Kernel time → wall time.
struct Clock {
    pinned: Pinned,
}

impl Clock {
    /// The same instant on both clocks.
    fn base(&self) -> (Timestamp, u64) {
        (Timestamp::now(), now_ns(&self.pinned.control().unwrap_or_default()))
    }
}
