//! The inner maps of the generation slots, each pinned and held. The kernel gives an inner map away by its number only
//! to CAP_SYS_ADMIN, by a pin or a descriptor to CAP_BPF; an agent with the least capabilities reads them by these.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError};

use super::Error;
use super::template::typed;

/// Folder of the slots, beside the pins of the outer maps.
const FOLDER: &str = "slots";

/// Where the inner map of a slot is pinned. `policies`: the folder of the outer maps' pins.
pub(super) fn pin_path(policies: &Path, outer: &str, slot: u32) -> PathBuf {
    policies.join(FOLDER).join(slot.to_string()).join(outer)
}

/// The inner maps that this process made or found pinned.
pub struct Slots {
    /// `None`: nothing is pinned (tests).
    policies: Option<PathBuf>,
    held: RefCell<BTreeMap<(u32, &'static str), OwnedFd>>,
}

impl Slots {
    /// For the folder of the outer maps' pins. Takes what is pinned there.
    pub fn take(policies: Option<PathBuf>, outers: &[&'static str], slots: u32) -> Self {
        let mut held = BTreeMap::new();
        for (slot, outer) in (0..slots).flat_map(|slot| outers.iter().map(move |outer| (slot, *outer))) {
            let found = policies.as_deref().and_then(|p| MapData::from_pin(pin_path(p, outer, slot)).ok());
            if let Some(fd) = found.and_then(|map| map.fd().as_fd().try_clone_to_owned().ok()) {
                held.insert((slot, outer), fd);
            }
        }
        Self { policies, held: RefCell::new(held) }
    }

    /// Keeps a fresh inner map of a slot that no packet is judged by, in place of the one before.
    pub fn keep(&self, outer: &'static str, slot: u32, map: &MapData) -> Result<(), Error> {
        let failed = |e: io::Error| Error::map(outer, "pin a slot of", MapError::IoError(e));
        let fd = map.fd().as_fd().try_clone_to_owned().map_err(failed)?;
        self.held.borrow_mut().insert((slot, outer), fd);
        let Some(policies) = &self.policies else { return Ok(()) };
        let path = pin_path(policies, outer, slot);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            Ok(()) | Err(_) => {}
        }
        pin(map, &path).map_err(failed)
    }

    /// The inner map of a slot; `None`: neither made nor found by this process.
    pub fn open<T>(&self, outer: &'static str, slot: u32) -> Result<Option<T>, Error>
    where
        T: TryFrom<Map, Error = MapError>,
    {
        let Some(map) = self.data(outer, slot)? else { return Ok(None) };
        let map = Map::from_map_data(map).map_err(|e| Error::map(outer, "open", e))?;
        typed(outer, map).map(Some)
    }

    /// Whether the slot was ever used.
    pub fn has(&self, outer: &'static str, slot: u32) -> bool {
        self.held.borrow().contains_key(&(slot, outer))
    }

    /// Pins again what is not there any more. Says how many.
    pub fn pin_again(&self) -> io::Result<usize> {
        let Some(policies) = &self.policies else { return Ok(0) };
        let gone: Vec<(u32, &'static str)> = {
            let held = self.held.borrow();
            held.keys().copied().filter(|(slot, outer)| !pin_path(policies, outer, *slot).exists()).collect()
        };
        for (slot, outer) in &gone {
            if let Some(map) = self.data(outer, *slot).map_err(io::Error::other)? {
                pin(&map, &pin_path(policies, outer, *slot))?;
            }
        }
        Ok(gone.len())
    }

    fn data(&self, outer: &'static str, slot: u32) -> Result<Option<MapData>, Error> {
        let failed = |e| Error::map(outer, "open", e);
        let held = self.held.borrow();
        let Some(fd) = held.get(&(slot, outer)) else { return Ok(None) };
        let fd = fd.try_clone().map_err(|e| failed(MapError::IoError(e)))?;
        MapData::from_fd(fd).map(Some).map_err(failed)
    }
}

fn pin(map: &MapData, path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    map.pin(path).map_err(io::Error::other)
}
