//! Somebody else deletes our pins, unmounts their bpffs, or takes our programs off a device. What was taken is put
//! back, counted and told: a pin at once, since the agent holds what was behind it; a program at the next look. The
//! kernel is asked, at every tick and every notice: nothing that the agent remembers counts.

use std::time::SystemTime;

use anyhow::{Context as _, Result};

use super::Agent;
use crate::loader::attach::HOOKS;
use crate::policy::Device;

/// Under which pins are counted; devices are counted under their names.
pub(super) const PINS: &str = "pins";

/// How often, and when last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TakenAway {
    pub times: u64,
    pub last: SystemTime,
    pub what: String,
}

impl Agent {
    /// Looks whether all that was pinned and attached is still there, and puts back what is not. True when something
    /// was missing.
    pub(super) async fn mend(&mut self) -> bool {
        let mut mended = self.mend_pins();
        let attached: Vec<Device> =
            self.view.devices.values().filter(|d| self.attacher.has(d.ifindex)).cloned().collect();
        for device in attached {
            let place = format!("device {}", device.name);
            match self.missing(&device).await {
                Ok(hooks) if hooks.is_empty() => drop(self.trouble.remove(&place)),
                Ok(hooks) => {
                    mended = true;
                    self.mend_device(&device, &hooks);
                }
                // A device that went away since the look is no trouble; the next look does not find it.
                Err(e) => self.fails(&place, &e),
            }
        }
        mended
    }

    fn mend_pins(&mut self) -> bool {
        match self.pin_again() {
            Ok(0) => {
                self.trouble.remove(PINS);
                false
            }
            Ok(count) => {
                self.trouble.remove(PINS);
                tracing::error!(
                    count,
                    path = %self.pin_dir.path().display(),
                    "somebody removed our pins; they are back, and enforcement went on meanwhile"
                );
                self.count(PINS, &format!("{count} pins below {}", self.pin_dir.path().display()));
                true
            }
            Err(e) => {
                self.fails(PINS, &e);
                false
            }
        }
    }

    fn pin_again(&mut self) -> Result<usize> {
        let renewed = self.pin_dir.mend(self.options.bpffs.as_deref())?;
        let slots = self.dataplane.generations().pin_again().context("cannot pin the generations again")?;
        let count = self.held.pin_again()? + slots + self.attacher.pin_again()?;
        Ok(count.max(usize::from(renewed)))
    }

    /// Hooks of an attached device that do not run the program of this agent.
    async fn missing(&mut self, device: &Device) -> Result<Vec<&'static str>> {
        let mut missing = Vec::new();
        for hook in HOOKS {
            let program = self.dataplane.program(hook)?.info()?.id();
            if !self.links.runs(program, self.attacher.mechanism(), hook, device).await? {
                missing.push(hook.name());
            }
        }
        Ok(missing)
    }

    /// At once, before any new generation: each moment counts.
    fn mend_device(&mut self, device: &Device, hooks: &[&str]) {
        let place = format!("device {}", device.name);
        let hooks = hooks.join(" and ");
        self.count(&device.name, &format!("the program at {hooks}"));
        self.attacher.forget(device.ifindex);
        // Also when it fails now: another try follows, and the grace is for what began until then.
        self.dataplane.was_unseen(device.ifindex);
        match self.attach_one(&device.name, device.ifindex) {
            Ok(()) => {
                self.attacher.finished(device.ifindex);
                self.trouble.remove(&place);
                tracing::error!(
                    device = device.name,
                    hooks,
                    times = self.taken_away[&device.name].times,
                    "somebody took our program off this device: until now its policy was not enforced; it is back"
                );
            }
            Err(e) => {
                let what = format!("somebody took our program off {hooks}, and it cannot be put back");
                self.fails(&place, &e.context(what));
            }
        }
    }

    fn count(&mut self, place: &str, what: &str) {
        let entry = self.taken_away.entry(place.to_owned()).or_insert_with(|| TakenAway {
            times: 0,
            last: SystemTime::UNIX_EPOCH,
            what: String::new(),
        });
        *entry = TakenAway { times: entry.times + 1, last: SystemTime::now(), what: what.to_owned() };
    }
}
