//! Somebody else deletes our pins, unmounts their bpffs, or takes our programs off a device. What was taken is put
//! back, and told: a pin at once, since the agent holds what was behind it; a program at the next look.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Agent;
use crate::loader::attach::HOOKS;

impl Agent {
    /// Looks whether all that was pinned and attached is still there. True when a device must get its programs again.
    pub(super) async fn mend(&mut self) -> bool {
        match self.pin_again() {
            Ok(0) => drop(self.trouble.remove("pins")),
            Ok(count) => {
                tracing::error!(
                    count,
                    path = %self.pin_dir.path().display(),
                    "somebody removed our pins; they are back, and enforcement went on meanwhile"
                );
                self.trouble.remove("pins");
            }
            Err(e) => self.fails("pins", &e),
        }
        match self.taken_off().await {
            Ok(lost) => {
                for (device, ifindex) in &lost {
                    tracing::error!(
                        device,
                        "somebody took our program off this device: its policy was not enforced; attaching it again"
                    );
                    self.attacher.forget(*ifindex);
                }
                self.taken_away |= !lost.is_empty();
            }
            Err(e) => self.fails("netlink", &e),
        }
        self.taken_away
    }

    fn pin_again(&mut self) -> Result<usize> {
        self.pin_dir.mend(self.options.bpffs.as_deref())?;
        Ok(self.held.pin_again()? + self.attacher.pin_again()?)
    }

    /// Devices that were done, and do not run our programs.
    async fn taken_off(&mut self) -> Result<Vec<(String, u32)>> {
        let mut own = BTreeSet::new();
        for hook in HOOKS {
            own.insert(self.dataplane.program(hook)?.info()?.id());
        }
        let mut lost = Vec::new();
        for device in self.view.devices.values().filter(|d| self.attacher.has(d.ifindex)) {
            for hook in HOOKS {
                if !self.links.runs(&own, hook, &device.name, device.ifindex).await? {
                    lost.push((device.name.clone(), device.ifindex));
                    break;
                }
            }
        }
        Ok(lost)
    }
}
