//! Which devices carry the programs (D42), and bringing that about.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Agent;
use crate::index::{DeviceBinding, Snapshot};
use crate::loader::attach::HOOKS;

/// None before a host endpoint governs something here, then those that [`DeviceBinding::carries_programs`] names.
pub(super) fn wanted(snapshot: &Snapshot) -> Vec<(&String, &DeviceBinding)> {
    if snapshot.facts.governed.is_empty() {
        return Vec::new();
    }
    snapshot.devices.iter().filter(|(_, d)| d.carries_programs()).collect()
}

impl Agent {
    pub(super) fn attach(&mut self, snapshot: &Snapshot) {
        let wanted = wanted(snapshot);
        let numbers: BTreeSet<u32> = wanted.iter().map(|(_, d)| d.ifindex).collect();
        // What a trial goes back to may govern a device that the trial does not: its program stays until then.
        let retained = if self.on_trial() { Ok(Vec::new()) } else { self.attacher.retain(&numbers) };
        match retained {
            Ok(removed) => {
                self.trouble.remove("detach");
                for device in removed {
                    self.trouble.remove(&format!("device {device}"));
                    tracing::info!(device, "detached");
                }
            }
            Err(e) => self.fails("detach", &e),
        }
        for (device, binding) in wanted {
            if self.attacher.has(binding.ifindex) {
                continue;
            }
            let place = format!("device {device}");
            match self.attach_one(device, binding.ifindex) {
                Ok(()) => {
                    self.attacher.finished(binding.ifindex);
                    self.trouble.remove(&place);
                    tracing::info!(device, by = %self.attacher.mechanism(), "attached");
                }
                Err(e) => self.fails(&place, &e),
            }
        }
        // A device that went away has no trouble any more.
        let names: BTreeSet<String> = snapshot.devices.keys().map(|d| format!("device {d}")).collect();
        self.trouble.retain(|place, _| !place.starts_with("device ") || names.contains(place));
        self.follow_xdp();
    }

    /// Attaches to what carries no program yet, and leaves all else as it is: before a generation that governs more.
    pub(super) fn attach_new(&mut self, snapshot: &Snapshot) {
        for (device, binding) in wanted(snapshot) {
            if self.attacher.carries(binding.ifindex) {
                continue;
            }
            match self.attach_one(device, binding.ifindex) {
                Ok(()) => self.attacher.finished(binding.ifindex),
                Err(e) => self.fails(&format!("device {device}"), &e),
            }
        }
    }

    pub(super) fn attach_one(&mut self, device: &str, ifindex: u32) -> Result<()> {
        for hook in HOOKS {
            let program = self.dataplane.program(hook)?;
            self.attacher.attach(program, hook, device, ifindex)?;
        }
        Ok(())
    }
}
