//! Whether the agent lives, and whether all that was asked for is enforced.

use std::fmt::Write as _;
use std::time::Duration;

use super::Sources;
use crate::maps::Pinned;
use crate::maps::pinned::{now_ns, slot_in_force};
use crate::safety::Standing;
use crate::state::State;
use crate::state::telemetry::{HANGS, Telemetry};

/// One thing that must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    /// Why it does not hold.
    pub result: Result<(), String>,
}

impl Check {
    fn new(name: &'static str, result: Result<(), String>) -> Self {
        Self { name, result }
    }
}

/// Whether all hold.
pub fn is_good(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.result.is_ok())
}

/// For people and probes: `ok`, or what is missing. `verbose`: what holds too.
pub fn page(checks: &[Check], verbose: bool) -> String {
    if is_good(checks) && !verbose {
        return "ok\n".to_owned();
    }
    let mut page = String::new();
    for check in checks {
        // Writing into a string cannot fail.
        let _ = match &check.result {
            Ok(()) if verbose => writeln!(page, "[+] {}", check.name),
            Ok(()) => Ok(()),
            Err(why) => writeln!(page, "[-] {}: {}", check.name, why.replace('\n', "; ")),
        };
    }
    page
}

/// Answers for the agent.
#[derive(Clone, Debug)]
pub struct Health {
    sources: Sources,
}

impl Health {
    /// Reads nothing yet.
    pub fn new(sources: Sources) -> Self {
        Self { sources }
    }

    /// What is told of.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Whether the loop turns. `within`: with more or less patience than [`HANGS`].
    pub fn live(&self, within: Option<Duration>) -> Vec<Check> {
        vec![turns(&self.sources.telemetry, within.unwrap_or(HANGS))]
    }

    /// Whether all that the source says was in force once, is on every device that it governs, and the kernel has it.
    /// An API server that goes away later makes no agent unready: what was read goes on.
    pub fn ready(&self) -> Vec<Check> {
        let telemetry = &self.sources.telemetry;
        let mut checks = vec![turns(telemetry, HANGS)];
        let Some(state) = telemetry.state() else {
            checks.push(Check::new("in sync", Err("the first look is not over".to_owned())));
            return checks;
        };
        checks.push(Check::new("in sync", synced(telemetry, &state)));
        checks.push(Check::new("attached", attached(&state)));
        checks.push(Check::new("maps", self.kernel_has(&state)));
        checks
    }

    /// What was written was read back then; here the kernel is asked which of the generations it enforces.
    fn kernel_has(&self, state: &State) -> Result<(), String> {
        let pinned = Pinned::new(&self.sources.pin_dir);
        let read = || {
            let control = pinned.control()?;
            let now = now_ns(&control);
            let settings = slot_in_force(&control, now).map(|slot| pinned.settings(slot)).transpose()?;
            Ok::<_, crate::maps::Error>((Standing::of(&control, now), settings.flatten()))
        };
        match read() {
            Err(e) => Err(format!("{:#}", anyhow::Error::from(e))),
            Ok((_, None)) => Err("no generation is active: every packet passes".to_owned()),
            Ok((standing, Some(found))) if found.generation != state.generation && !standing.went_back => {
                Err(format!(
                    "the kernel enforces generation {}, the agent wrote {}",
                    found.generation, state.generation
                ))
            }
            Ok(_) => Ok(()),
        }
    }
}

fn turns(telemetry: &Telemetry, within: Duration) -> Check {
    let age = telemetry.turn_age();
    let result = match age <= within {
        true => Ok(()),
        false => Err(format!(
            "the agent hangs: its last turn was {} s ago; what is in force stays in force, without updates",
            age.as_secs()
        )),
    };
    Check::new("loop", result)
}

fn synced(telemetry: &Telemetry, state: &State) -> Result<(), String> {
    if telemetry.was_in_sync() {
        return Ok(());
    }
    let why: Vec<String> = state.trouble.iter().map(|(place, why)| format!("{place}: {why}")).collect();
    let waiting = state.kubernetes.as_ref().map(|k| k.waiting.join(", ")).unwrap_or_default();
    Err(match (why.is_empty(), waiting.is_empty()) {
        (false, _) => why.join("; "),
        (true, false) => format!("not read as a whole yet: {waiting}"),
        (true, true) => "nothing is in force yet".to_owned(),
    })
}

fn attached(state: &State) -> Result<(), String> {
    let missing: Vec<String> = state
        .governed
        .iter()
        .filter(|(device, _)| !state.attached.contains(*device))
        .map(|(device, endpoint)| format!("device {device} (HostEndpoint/{endpoint})"))
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("no program on {}: its policy is not enforced", missing.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::state::telemetry::Sizes;
    use crate::state::tests::state;

    fn health(telemetry: Telemetry) -> Health {
        Health::new(Sources { telemetry: Arc::new(telemetry), pin_dir: "/nowhere".into() })
    }

    fn result<'a>(checks: &'a [Check], name: &str) -> &'a Result<(), String> {
        &checks.iter().find(|c| c.name == name).expect(name).result
    }

    #[test]
    fn a_loop_that_does_not_turn_is_dead() {
        let health = health(Telemetry::default());
        assert!(is_good(&health.live(None)));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!is_good(&health.live(Some(Duration::from_millis(10)))));
        // More than 10 ms may pass between turn and look, on a busy machine.
        let turned = || {
            health.sources.telemetry.turn();
            is_good(&health.live(Some(Duration::from_millis(10))))
        };
        assert!((0..100).any(|_| turned()));
    }

    #[test]
    fn what_is_missing_is_said() {
        let health = health(Telemetry::default());
        assert_eq!(page(&health.ready(), false), "[-] in sync: the first look is not over\n");
        let mut state = state();
        state.attached.clear();
        state.trouble.insert("compile".into(), "too many rules".into());
        health.sources.telemetry.publish(Arc::new(state.clone()), Sizes::default());
        let checks = health.ready();
        assert_eq!(result(&checks, "in sync"), &Err("compile: too many rules".to_owned()));
        assert_eq!(
            result(&checks, "attached"),
            &Err("no program on device eth0 (HostEndpoint/node1-eth0): its policy is not enforced".to_owned())
        );
        assert!(result(&checks, "maps").as_ref().is_err_and(|why| why.contains("/nowhere")));
        assert!(page(&checks, true).starts_with("[+] loop\n[-] in sync: "), "{}", page(&checks, true));
        // In sync once is enough: what fails later leaves in force what is.
        state.trouble.clear();
        health.sources.telemetry.publish(Arc::new(state.clone()), Sizes::default());
        state.trouble.insert("kubernetes".into(), "no answer".into());
        health.sources.telemetry.publish(Arc::new(state), Sizes::default());
        assert_eq!(result(&health.ready(), "in sync"), &Ok(()));
    }

    #[test]
    fn a_page_is_ok_or_what_is_wrong() {
        let good = [Check::new("loop", Ok(()))];
        assert_eq!((page(&good, false).as_str(), page(&good, true).as_str()), ("ok\n", "[+] loop\n"));
        assert_eq!(page(&[Check::new("maps", Err("a\nb".into()))], false), "[-] maps: a; b\n");
    }
}
