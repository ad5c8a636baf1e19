//! What is wrong, the worst first, and whether all that was asked for is enforced.

use serde::Serialize;

use super::kernel::Kernel;
use super::rules::lasting;
use crate::state::{State, now};

/// The answer of `status`, and its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Everything is enforced as asked.
    Healthy,
    /// Something is not enforced as asked.
    Degraded,
    /// It cannot be told.
    Unknown,
}

/// One line on top of `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// A word to look for: `SUSPENDED`, `NOT ATTACHED`.
    pub what: String,
    pub text: String,
    pub health: Health,
}

fn finding(health: Health, what: &str, text: impl Into<String>) -> Finding {
    Finding { what: what.to_owned(), text: text.into(), health }
}

/// All findings. `kernel`: what was read, or why it could not be.
pub fn findings(state: &State, kernel: Result<&Kernel, &str>) -> Vec<Finding> {
    let mut out = Vec::new();
    match kernel {
        Err(why) => out.push(finding(
            Health::Unknown,
            "CANNOT TELL",
            format!("what the kernel enforces: {why}; what follows is what the agent wrote last"),
        )),
        Ok(kernel) => in_force(&mut out, state, kernel),
    }
    let errors = state.problems.iter().filter(|p| p.severity == "error").count();
    if errors > 0 {
        out.push(finding(
            Health::Degraded,
            "REJECTED",
            format!(
                "{errors} error{} in documents, listed below; what was accepted before stays in force",
                if errors == 1 { "" } else { "s" }
            ),
        ));
    }
    if !state.kept.is_empty() {
        let names: Vec<&str> = state.kept.iter().map(|k| k.object.as_str()).collect();
        out.push(finding(
            Health::Degraded,
            "KEPT",
            format!("at their last good version: {}", names.join(", ")),
        ));
    }
    if !state.agent_runs() {
        out.push(finding(
            Health::Degraded,
            "NO AGENT",
            "the agent is not running, or is stopped; what it put in force stays in force, without updates",
        ));
    }
    for (place, why) in &state.trouble {
        out.push(finding(Health::Degraded, "TROUBLE", format!("{place}: {why}")));
    }
    node_status(&mut out, state);
    for (name, why) in &state.lost {
        out.push(finding(Health::Degraded, "BINDS NOTHING", format!("HostEndpoint/{name}: {why}")));
    }
    if state.governed.is_empty() && !(state.idle_policies.is_empty() && state.misses.is_empty()) {
        out.push(finding(
            Health::Degraded,
            "NOTHING GOVERNED",
            format!(
                "there are policies for host endpoints, and none governs a device here: write a HostEndpoint with \
                 `node: {0}`, or give the agent another name than {0} (--node)",
                state.node
            ),
        ));
    }
    for device in &state.unprotected {
        out.push(finding(
            Health::Healthy,
            "UNPROTECTED",
            format!("device {device}: no HostEndpoint covers it"),
        ));
    }
    // It is enforced again, but somebody or something here works against it.
    for (place, taken) in &state.taken_away {
        let gap = if place == "pins" { "" } else { "; its policy was not enforced until then" };
        let ago = lasting(now().saturating_sub(taken.last));
        out.push(finding(
            Health::Healthy,
            "TAKEN AWAY",
            format!("{place}: {}, {} times, noticed {ago} ago{gap}", taken.what, taken.times),
        ));
    }
    for (device, why) in state.xdp.iter().filter_map(|(device, x)| Some((device, x.left.as_ref()?))) {
        out.push(finding(
            Health::Healthy,
            "NO XDP",
            format!("device {device}: {why}; its untracked policy is enforced at TC"),
        ));
    }
    for policy in &state.misses {
        out.push(finding(
            Health::Healthy,
            "SELECTS NOTHING",
            format!(
                "{policy}: it is for host endpoints only, and its selector matches none of any node; compare it \
                 with their labels (`portcullis get hep -o wide`)"
            ),
        ));
    }
    if let Some(why) = &state.last_good_ignored {
        out.push(finding(Health::Healthy, "NOTE", format!("the last good state was ignored: {why}")));
    }
    out
}

/// Where the API is the source: whether the cluster sees what this node enforces.
fn node_status(out: &mut Vec<Finding>, state: &State) {
    let Some(report) = state.kubernetes.as_ref().and_then(|k| k.report.as_ref()) else { return };
    if let Some(why) = &report.trouble {
        out.push(match report.no_such_kind {
            true => finding(Health::Healthy, "NO NODE STATUS", why),
            false => finding(
                Health::Degraded,
                "TROUBLE",
                format!("node status cannot be written: {why}; enforcement goes on"),
            ),
        });
    }
    if let Some(why) = &report.events {
        out.push(finding(Health::Healthy, "NO EVENTS", format!("Events cannot be written: {why}")));
    }
}

fn in_force(out: &mut Vec<Finding>, state: &State, kernel: &Kernel) {
    for line in kernel.safety.lines() {
        let (what, text) = line.split_once(": ").unwrap_or(("NOTE", &line));
        // A trial that runs is enforced as asked.
        let health = if what == "ON TRIAL" { Health::Healthy } else { Health::Degraded };
        out.push(finding(health, what, text));
    }
    if kernel.generation == 0 {
        out.push(finding(
            Health::Degraded,
            "NOTHING IN FORCE",
            "no generation is active: every packet passes",
        ));
    } else if kernel.generation != state.generation && !kernel.safety.went_back {
        out.push(finding(
            Health::Degraded,
            "OTHER GENERATION",
            format!(
                "the kernel enforces generation {}, the agent wrote {}",
                kernel.generation, state.generation
            ),
        ));
    }
    if let Some(why) = &kernel.hooks_unknown {
        out.push(finding(
            Health::Unknown,
            "CANNOT TELL",
            format!("what runs at the hooks of devices: {why}"),
        ));
        return;
    }
    for (device, endpoint) in &state.governed {
        let hooks = kernel.device(device).map(|d| d.hooks.as_slice()).unwrap_or_default();
        let missing: Vec<&str> = ["ingress", "egress"]
            .into_iter()
            .filter(|hook| !hooks.iter().any(|h| h.hook == *hook && h.attached_by.is_some()))
            .collect();
        if !missing.is_empty() {
            out.push(finding(
                Health::Degraded,
                "NOT ATTACHED",
                format!(
                    "device {device} (HostEndpoint/{endpoint}) at {}: its policy is not enforced",
                    missing.join(" and ")
                ),
            ));
        }
        for hook in hooks.iter().filter(|h| h.position.is_some_and(|p| p > 1)) {
            let before: Vec<&str> =
                hook.chain.iter().take_while(|p| !p.ours).map(|p| p.name.as_str()).collect();
            out.push(finding(
                Health::Healthy,
                "NOT FIRST",
                format!(
                    "device {device} {}: {} runs before us and may let packets past",
                    hook.hook,
                    before.join(", ")
                ),
            ));
        }
    }
    for table in kernel.tables.iter().filter(|t| t.percent() >= 90) {
        out.push(finding(
            Health::Healthy,
            "NEARLY FULL",
            format!("{}: {} of {}", table.name, table.entries, table.limit),
        ));
    }
}

/// The worst of them.
pub fn overall(findings: &[Finding]) -> Health {
    findings.iter().map(|f| f.health).max().unwrap_or(Health::Healthy)
}
