//! Making a generation the one in force, and taking over the flows that it would otherwise cut (D17).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use super::adopt::{self, Found};
use super::{Agent, is_error};
use crate::compile::{Tables, compile};
use crate::index::{Index, Snapshot};
use crate::maps::adopt::Adoption;
use crate::policy::World;
use crate::state::lastgood::{LONGEST_WAIT, LastGood};
use crate::state::telemetry::Work;

/// Longest time in which packets are only recorded while live flows are taken over. It ends by itself, so an agent
/// that dies there leaves nothing open.
pub(super) const RECORD_ONLY: Duration = Duration::from_secs(10);
const NS: u64 = 1_000_000_000;

/// The last adoption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Adopted {
    pub at: SystemTime,
    pub found: Found,
}

impl Agent {
    /// Brings the kernel to what source and node say.
    pub(super) fn reconcile(&mut self) {
        // Whatever waited is no longer what is in force, or is saved below.
        self.unsaved = false;
        let mut snapshot = self.index();
        if self.safety.held {
            // `trouble` says why; what is in force stays.
        } else if let Some(why) = self.source.holds_back() {
            if self.trouble.insert("source".into(), why.clone()).as_ref() != Some(&why) {
                tracing::warn!("{why}");
            }
        } else if self.must_not_replace() {
            self.trouble.remove("source");
            let text = "documents were rejected, and what an earlier agent accepted of them is not known: the \
                        generation that it left stays in force until the documents are repaired or removed";
            self.trouble.insert("folder".into(), text.into());
            tracing::error!("{text}");
        } else {
            self.trouble.remove("source");
            self.trouble.remove("folder");
            let done = self.enforce(&snapshot);
            if done {
                self.source.came_into_force();
                self.save();
            }
            self.refuse_trial();
            if !done && let Some(before) = self.fall_back() {
                snapshot = Arc::new(before);
            }
        }
        self.published = Some(Arc::clone(&snapshot));
        self.publish(&snapshot);
    }

    /// Folder and node as they are now.
    fn index(&mut self) -> Arc<Snapshot> {
        let changes = self.source.take_changes();
        let (world, view) = (self.source.world(), &self.view);
        match &mut self.index {
            Some(index) => index.update(world, view, &changes),
            None => self.index.insert(Index::new(world, view)).snapshot(),
        }
    }

    /// Without a last good state a broken file must not lift what the last agent enforced, nor a part of it (D22).
    fn must_not_replace(&self) -> bool {
        self.tables.is_none()
            && !self.restored.complete
            && self.in_force()
            && self.source.problems().iter().any(is_error)
    }

    /// Whether this agent, or one before it, of this build or another, enforces something.
    fn in_force(&self) -> bool {
        self.dataplane.generations().number() > 0
            || self.attacher.carries_any()
            || self.pin_dir.has_other_layouts()
    }

    /// What is in force now is the last good state (D46). What a cluster changes all day is not written each time.
    fn save(&mut self) {
        // What may yet be undone is not good enough for the next boot.
        if self.on_trial() {
            return;
        }
        let last = self.source.last_good();
        if self.saved.as_ref() == Some(&last) {
            return;
        }
        if self.saved_at.is_some_and(|at| last.may_wait(self.saved.as_ref(), at.elapsed())) {
            self.unsaved = true;
            return;
        }
        self.write(last);
    }

    /// What waited is written after a while, and at the end at once.
    pub(super) fn save_what_waited(&mut self, ends: bool) {
        if self.unsaved && (ends || self.saved_at.is_none_or(|at| at.elapsed() >= LONGEST_WAIT)) {
            self.write(self.source.last_good());
        }
    }

    fn write(&mut self, last: LastGood) {
        self.unsaved = false;
        self.saved_at = Some(Instant::now());
        match last.save(&self.options.state_dir) {
            Ok(()) => {
                self.trouble.remove("last good state");
                self.saved = Some(last);
            }
            Err(e) => self.fails("last good state", &e),
        }
    }

    /// After a reboot nothing is in force. When the folder makes no generation then, the last good state does (D46).
    fn fall_back(&mut self) -> Option<Snapshot> {
        if self.in_force() {
            return None;
        }
        let world = self.last_world.take()?;
        let snapshot = Snapshot::build(&world, &self.view);
        let trouble = self.trouble.clone();
        let done = self.enforce(&snapshot);
        // What is wrong with the folder is still wrong.
        self.trouble.extend(trouble);
        done.then_some(snapshot)
    }

    /// False when the generation before stays in force. Devices are the other half: what fails there is told apart.
    fn enforce(&mut self, snapshot: &Snapshot) -> bool {
        let next = self.dataplane.generations().number() + 1;
        let compiled = {
            let _span = tracing::info_span!("compile", generation = next).entered();
            let began = Instant::now();
            let compiled = compile(snapshot);
            self.telemetry.took(Work::Compile, began.elapsed());
            compiled
        };
        let tables = match compiled {
            Ok(tables) => tables,
            Err(e) => {
                self.fails("compile", &e.into());
                return false;
            }
        };
        self.trouble.remove("compile");
        let unseen = !self.dataplane.generations().unseen().is_empty();
        if self.safety.begin.is_some() || unseen || self.tables.as_ref() != Some(&tables) {
            let result = if self.succeeds() {
                self.succeed(snapshot, &tables)
            } else if self.meets_unknown_flows(&tables) {
                self.take_over(snapshot, &tables)
            } else {
                self.apply(&tables)
            };
            if let Err(e) = result {
                self.fails("maps", &e);
                return false;
            }
            self.since = SystemTime::now();
            if let Some(noticed) = self.noticed.take() {
                self.telemetry.took(Work::Change, noticed.elapsed());
            }
            self.trouble.remove("maps");
            self.tables = Some(tables);
        }
        self.attach(snapshot);
        self.forget_other_layouts();
        true
    }

    pub(super) fn apply(&mut self, tables: &Tables) -> Result<()> {
        let began = Instant::now();
        self.begin()?;
        let generation = self.dataplane.generations().number() + 1;
        let _span = tracing::info_span!("apply", generation).entered();
        self.flip(tables)?;
        self.retired = true;
        self.telemetry.took(Work::Apply, began.elapsed());
        tracing::info!(
            rules = tables.rules.len(),
            devices = tables.devices.values().filter(|d| d.endpoint != 0).count(),
            milliseconds = began.elapsed().as_millis() as u64,
            "in force"
        );
        Ok(())
    }

    /// On a node without any generation: one that governs nothing, so that what follows makes devices governed and
    /// begins their grace (D17).
    fn begin(&mut self) -> Result<()> {
        if self.dataplane.generations().number() == 0 {
            let nothing = Snapshot::build(&World::default(), &self.view);
            self.dataplane.apply(&compile(&nothing)?)?;
        }
        Ok(())
    }

    /// Whether flows may live on a governed device that no program of ours has seen begin.
    fn meets_unknown_flows(&self, tables: &Tables) -> bool {
        let before = self.dataplane.generations().devices();
        let was_governed = |ifindex: &u32| before.get(ifindex).is_some_and(|d| d.endpoint != 0);
        // What began while somebody kept our programs off a device was not judged: it is not taken over, it has its
        // grace, in which policy judges it.
        let unseen = self.dataplane.generations().unseen();
        let seen = |ifindex: &u32| {
            was_governed(ifindex) && (unseen.contains(ifindex) || self.attacher.carries(*ifindex))
        };
        let mut governed =
            tables.devices.iter().filter(|(_, d)| d.endpoint != 0).map(|(ifindex, _)| ifindex).peekable();
        governed.peek().is_some() && (self.flows_lost || !governed.all(seen))
    }

    /// Record only → dump → enforce. Where something is enforced already it must not be lifted for that: there the
    /// programs come to the new devices first, which record what nothing governs yet.
    fn take_over(&mut self, snapshot: &Snapshot, tables: &Tables) -> Result<()> {
        let governs = self.dataplane.generations().devices().values().any(|d| d.endpoint != 0);
        if !(governs || self.attacher.carries_any() || self.pin_dir.has_other_layouts()) {
            let limit = self.dataplane.now_ns()?.saturating_add(RECORD_ONLY.as_nanos() as u64);
            self.dataplane.update_control(|control| control.grace_until_ns = limit)?;
            let result = self.apply(tables);
            if result.is_ok() {
                self.attach(snapshot);
                self.adopt();
            }
            self.dataplane.update_control(|control| control.grace_until_ns = 0)?;
            result?;
        } else {
            if self.flows_lost {
                self.dataplane.begin_grace_anew();
            }
            // Without a generation of this layout a program would enforce nothing.
            if self.dataplane.generations().number() > 0 {
                self.attach_new(snapshot);
            }
            self.adopt();
            self.apply(tables)?;
            if self.flows_lost {
                // What began between the dump and the programs of this layout.
                self.attach(snapshot);
                self.adopt();
            }
        }
        self.flows_lost = false;
        Ok(())
    }

    pub(super) fn adopt(&mut self) {
        let as_of = self.dataplane.now_ns().and_then(|now_ns| {
            Ok(Adoption {
                now_ns,
                generation: self.dataplane.generations().number(),
                epoch: self.dataplane.control()?.epoch,
            })
        });
        let own = self.view.devices.values().flat_map(|d| d.addresses.iter().map(|net| net.addr())).collect();
        let found = match as_of {
            Ok(as_of) => adopt::adopt(self.dataplane.state(), as_of, &own),
            Err(e) => return self.fails("adoption", &e.into()),
        };
        self.trouble.remove("adoption");
        for error in &found.errors {
            tracing::warn!("live flows were not all taken over, they have their grace: {error}");
        }
        tracing::info!(conntrack = found.conntrack, sockets = found.sockets, "took over live flows");
        self.adopted = Some(Adopted { at: SystemTime::now(), found });
    }

    /// Notes how many flows came from tables of another layout (D49).
    pub(super) fn moved(&mut self, count: u64) {
        let found = Found { moved: count, ..Found::default() };
        self.adopted = Some(Adopted { at: SystemTime::now(), found });
    }

    /// Maps of another build's layout, once no device needs them (D49).
    fn forget_other_layouts(&mut self) {
        let attached = !self.trouble.keys().any(|place| place.starts_with("device ") || place == "detach");
        if attached && let Err(e) = self.pin_dir.forget_other_layouts() {
            self.fails("old layouts", &e);
        }
    }

    /// Device → seconds of grace left, now.
    pub(super) fn graces(&self) -> BTreeMap<String, u64> {
        let Ok(now) = self.dataplane.now_ns() else { return BTreeMap::new() };
        let devices = self.dataplane.generations().devices();
        self.view
            .devices
            .values()
            .filter_map(|d| Some((d.name.clone(), devices.get(&d.ifindex)?.grace_until_ns.checked_sub(now)?)))
            .filter(|(_, left)| *left > 0)
            .map(|(name, left)| (name, left.div_ceil(NS)))
            .collect()
    }
}
