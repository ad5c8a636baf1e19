//! The pinned control word in the hands of commands: it works whether an agent lives or not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use aya::maps::{Array, Map, MapData};
use dataplane_common::abi::{Control, control_flag};
use dataplane_common::names;

use crate::loader::object::policy_pins;
use crate::maps::state::{lock_control, monotonic_ns};

const NS: u64 = 1_000_000_000;

/// The control word of a pin dir.
pub struct Word {
    map: Array<MapData, Control>,
    pins: PathBuf,
}

impl Word {
    /// `None`: nothing is pinned there, so nothing is enforced.
    pub fn open(pin_dir: &Path) -> Result<Option<Self>> {
        let pins = policy_pins(pin_dir);
        let path = pins.join(names::MAP_CONTROL);
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(e) => return Err(anyhow!(e).context(format!("cannot look at {} (as root?)", path.display()))),
        }
        let data = MapData::from_pin(&path)
            .with_context(|| format!("cannot open {}: run it as root", path.display()))?;
        let map = Array::try_from(Map::Array(data))
            .with_context(|| format!("{} is of another version", path.display()))?;
        Ok(Some(Self { map, pins }))
    }

    /// As it stands.
    pub fn read(&self) -> Result<Control> {
        self.map.get(&0, 0).context("cannot read the control word")
    }

    /// What it says now.
    pub fn standing(&self) -> Result<Standing> {
        let control = self.read()?;
        Ok(Standing::of(&control, clock(&control)))
    }

    /// Changes it while nobody else does; the clock is that of the programs, ns.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut Control, u64) -> T) -> Result<T> {
        let _lock = lock_control(&self.pins)?;
        let mut control = self.read()?;
        let now_ns = clock(&control);
        let result = change(&mut control, now_ns);
        self.store(&control)?;
        Ok(result)
    }

    fn store(&mut self, control: &Control) -> Result<()> {
        self.map.set(0, control, 0).context("cannot write the control word: run it as root")
    }

    /// Keeps what is on trial. False: nothing waits, or it is too late.
    pub fn confirm(&mut self, trial: u64) -> Result<bool> {
        self.change(|control, now_ns| {
            let in_time = control.trial == trial && control.waits() && !control.expired(now_ns);
            if in_time {
                control.confirm_until_ns = 0;
                control.flags |= control_flag::CONFIRMED;
            }
            in_time
        })
    }

    /// Goes back to what was in force before the trial, in time or after it. Two stores, so that a packet that reads
    /// between them is judged by the generation before in any case.
    pub fn undo(&mut self) -> Result<()> {
        let waits = self.change(|control, now_ns| {
            if control.waits() && control.fallback != 0 {
                control.epoch = control.in_force(now_ns).1.wrapping_add(u32::from(!control.expired(now_ns)));
                control.active = control.fallback;
            }
            control.waits()
        })?;
        if waits {
            self.change(|control, _| {
                control.confirm_until_ns = 0;
                control.flags |= control_flag::UNDONE;
            })?;
        }
        Ok(())
    }

    /// What is denied passes until then; zero ends it.
    pub fn suspend(&mut self, limit: Duration) -> Result<()> {
        self.change(|control, now_ns| {
            let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
            control.suspend_until_ns = if limit_ns == 0 { 0 } else { now_ns.saturating_add(limit_ns) };
        })
    }
}

fn clock(control: &Control) -> u64 {
    monotonic_ns().wrapping_add(control.clock_offset_ns)
}

/// What holds beside the policies, in words that can be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Standing {
    /// Node-wide audit: what is denied passes.
    pub audit: bool,
    /// What is denied passes for so many seconds more.
    pub suspended_seconds: Option<u64>,
    /// An apply waits for its confirmation for so many seconds more.
    pub confirm_seconds: Option<u64>,
    /// Nobody confirmed in time: the generation before is in force.
    pub went_back: bool,
    /// The apply that waits, or did last.
    pub trial: u64,
    /// That apply was confirmed.
    pub confirmed: bool,
    /// That apply was undone, and the control word says so.
    pub undone: bool,
}

impl Standing {
    /// At a time of the programs' clock, ns.
    pub fn of(control: &Control, now_ns: u64) -> Self {
        let left = |until: u64| (now_ns < until).then(|| (until - now_ns).div_ceil(NS));
        Self {
            audit: control.flags & control_flag::AUDIT != 0,
            suspended_seconds: left(control.suspend_until_ns),
            confirm_seconds: if control.waits() { left(control.confirm_until_ns) } else { None },
            went_back: control.expired(now_ns),
            trial: control.trial,
            confirmed: control.flags & control_flag::CONFIRMED != 0,
            undone: control.flags & control_flag::UNDONE != 0,
        }
    }

    /// What the agent's line on stdout adds: without seconds, so that it changes only when something does.
    pub fn headline(&self) -> String {
        let mut line = String::new();
        if self.audit {
            line += "; AUDIT: counts, drops nothing";
        }
        if self.suspended_seconds.is_some() {
            line += "; SUSPENDED: counts, drops nothing";
        }
        if self.confirm_seconds.is_some() {
            line += "; ON TRIAL: waits for `portcullis confirm`";
        }
        line
    }

    /// Loud lines for the top of `status`.
    pub fn lines(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.audit {
            out.push(
                "AUDIT: nothing is dropped; what policy denies is counted and passes (`run --audit`)".into(),
            );
        }
        if let Some(seconds) = self.suspended_seconds {
            out.push(format!(
                "SUSPENDED: nothing is dropped for another {}; `portcullis suspend --end` ends it now",
                in_words(seconds)
            ));
        }
        if let Some(seconds) = self.confirm_seconds {
            out.push(format!(
                "ON TRIAL: the last apply is undone in {}, unless `portcullis confirm` keeps it",
                in_words(seconds)
            ));
        }
        if self.went_back {
            out.push(
                "WENT BACK: nobody confirmed the last apply in time; the policies before it are in force, and the \
                 agent will put the folder back too"
                    .into(),
            );
        }
        out
    }
}

/// `90` → `1 min 30 s`.
pub fn in_words(seconds: u64) -> String {
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let parts = [(h, "h"), (m, "min"), (s, "s")];
    let words: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n} {unit}")).collect();
    if words.is_empty() { "0 s".into() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_said() {
        let control = Control {
            active: 2,
            fallback: 1,
            confirm_until_ns: 90 * NS,
            suspend_until_ns: 10 * NS,
            flags: control_flag::AUDIT,
            ..Control::default()
        };
        let text = Standing::of(&control, 5 * NS).lines().join("\n");
        for words in ["AUDIT", "SUSPENDED: nothing is dropped for another 5 s", "undone in 1 min 25 s"] {
            assert!(text.contains(words), "{text}");
        }
        let later = Standing::of(&control, 90 * NS);
        assert!(later.went_back && later.confirm_seconds.is_none() && later.suspended_seconds.is_none());
        assert_eq!(Standing::of(&Control::default(), 5 * NS).lines(), Vec::<String>::new());
    }

    #[test]
    fn durations_in_words() {
        assert_eq!(in_words(0), "0 s");
        assert_eq!(in_words(3720), "1 h 2 min");
    }
}
