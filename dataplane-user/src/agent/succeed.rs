//! Taking a node over from a build whose flow tables have another layout (D49).
//!
//! Its programs go on enforcing meanwhile. Ours come behind them on every device and hook, where they only record what
//! was let through; then its flows are moved; then ours enforce, and its programs go. So each flow is known to ours
//! before they judge a packet of it, wherever it is on its way.

use std::time::Duration;

use anyhow::Result;
use dataplane_common::decide::timeout_ns;

use super::Agent;
use super::devices::wanted;
use super::enforce::RECORD_ONLY;
use crate::compile::Tables;
use crate::index::Snapshot;
use crate::loader::attach::{Beside, HOOKS};
use crate::maps::layouts::{Earlier, Others};

/// A pass over the earlier tables finds what changed during the pass before; under traffic there is always something.
const PASSES: usize = 4;
/// Packets that were on their way through two programs when a pass began are through.
const BETWEEN_PASSES: Duration = Duration::from_millis(5);

impl Agent {
    /// Whether a build with other flow tables enforces here, by tables of its own.
    pub(super) fn succeeds(&self) -> bool {
        self.flows_lost
            && self.dataplane.generations().number() == 0
            && self.attacher.carries_any()
            && self.pin_dir.has_other_layouts()
    }

    /// Record only, beside what enforces → move → enforce → the others go.
    pub(super) fn succeed(&mut self, snapshot: &Snapshot, tables: &Tables) -> Result<()> {
        let others = Others::find(self.pin_dir.path());
        let limit = self.dataplane.now_ns()?.saturating_add(RECORD_ONLY.as_nanos() as u64);
        self.dataplane.update_control(|control| control.grace_until_ns = limit)?;
        // Flows that are all known need no grace.
        let result = if others.known.is_some() { self.flip(tables) } else { self.apply(tables) };
        let mut beside = Vec::new();
        if result.is_ok() {
            self.retired = true;
            beside = self.attach_beside(snapshot);
            self.take_flows(&others);
        }
        self.dataplane.update_control(|control| control.grace_until_ns = 0)?;
        result?;
        let mut until_replaced = Vec::new();
        for one in beside {
            match self.attacher.settle(one) {
                Ok(left) => until_replaced.extend(left),
                // Then as on any other day: the other build's program is replaced.
                Err(error) => tracing::warn!("not settled: {error:#}"),
            }
        }
        self.attach(snapshot);
        drop(until_replaced);
        self.flows_lost = false;
        Ok(())
    }

    fn attach_beside(&mut self, snapshot: &Snapshot) -> Vec<Beside> {
        if let Err(error) = self.attacher.forget_unsettled() {
            tracing::warn!("what an agent before left cannot be removed: {error:#}");
        }
        let mut all = Vec::new();
        for (device, binding) in wanted(snapshot) {
            for hook in HOOKS {
                let attached = match self.dataplane.program(hook) {
                    Ok(program) => self.attacher.attach_beside(program, hook, device, binding.ifindex),
                    Err(e) => Err(e.into()),
                };
                match attached {
                    Ok(link) => all.extend(link),
                    // Its flows are moved all the same; what begins there meanwhile is met as unknown.
                    Err(error) => {
                        tracing::warn!(device, hook = hook.name(), "not attached beside: {error:#}")
                    }
                }
            }
        }
        all
    }

    fn take_flows(&mut self, others: &Others) {
        let Some(earlier) = &others.known else {
            for why in &others.unknown {
                tracing::error!(
                    "{why}: its flows are taken from connection tracking and sockets; what these do not know has \
                     only its grace"
                );
            }
            self.adopt();
            if let Some(adopted) = &mut self.adopted {
                adopted.found.errors.extend(others.unknown.iter().cloned());
            }
            return;
        };
        match self.move_flows(earlier) {
            Ok(count) => {
                self.trouble.remove("adoption");
                tracing::info!(count, from = %earlier.folder().display(), "moved the flows of another layout");
                self.moved(count);
            }
            Err(e) => {
                self.fails("adoption", &e);
                self.adopt();
            }
        }
    }

    /// How many flows live. Its programs write while we read: what came or changed since is in the next pass.
    fn move_flows(&mut self, earlier: &Earlier) -> Result<u64> {
        let epoch = self.dataplane.control()?.epoch;
        let mut count = 0;
        for _ in 0..PASSES {
            let now_ns = self.dataplane.now_ns()?;
            let state = self.dataplane.state();
            let (mut alive, mut changed) = (0, 0);
            for (table, key, mut entry) in earlier.flows()? {
                if now_ns.saturating_sub(entry.last_seen_ns) > timeout_ns(&entry, key.protocol) {
                    continue;
                }
                // Epochs of the other layout are not ours: where policy is to judge again, it does once (D15).
                entry.epoch = epoch.wrapping_sub(1);
                changed += u64::from(state.take_over_flow(table, &key, &entry)?);
                alive += 1;
            }
            for (key, record) in earlier.fragments()? {
                state.put_fragment(&key, &record)?;
            }
            count = alive;
            if changed == 0 {
                break;
            }
            std::thread::sleep(BETWEEN_PASSES);
        }
        Ok(count)
    }
}
