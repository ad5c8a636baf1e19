//! What the agent says about itself: a JSON file that `status` reads, replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Agent, devices};
use crate::index::Snapshot;
use crate::loader::xdp::Outcome;
use crate::policy::{OnPolicyChange, Problem, Settings, Severity};
use crate::safety::Standing;

/// Version of every JSON that we print or write.
pub const API_VERSION: &str = "portcullis.dev/v1alpha1";
const FILE: &str = "status.json";

/// `status -o json`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub api_version: String,
    pub kind: String,
    pub node: String,
    /// Process of the agent that wrote this.
    pub pid: u32,
    /// When that process began, in ticks since the boot: a number may be used again, and a program renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
    /// 0: nothing in force yet.
    pub generation: u64,
    /// Unix seconds at which that generation began.
    pub since: u64,
    /// Folder; `kubernetes` where the API is the source.
    pub policies: PathBuf,
    /// Where the API is the source.
    #[serde(default)]
    pub kubernetes: Option<KubernetesState>,
    pub pin_dir: PathBuf,
    /// What the agent was told beside the policies.
    #[serde(default)]
    pub settings: SettingsState,
    /// Number of the network namespace that the agent governs; 0: unknown.
    #[serde(default)]
    pub netns: u64,
    /// When the agent last looked: audit, suspension, an apply on trial.
    #[serde(default)]
    pub safety: Standing,
    /// `tcx` or `clsact`.
    pub attached_by: String,
    /// Devices that carry the programs.
    pub attached: BTreeSet<String>,
    /// Devices with an untracked list that denies: whether it drops at XDP already (D10).
    #[serde(default)]
    pub xdp: BTreeMap<String, XdpState>,
    /// Device → host endpoint.
    pub governed: BTreeMap<String, String>,
    /// Host devices that no host endpoint covers (D21).
    pub unprotected: BTreeSet<String>,
    pub workload: BTreeSet<String>,
    /// Host endpoints of this node that bind nothing → why.
    pub lost: BTreeMap<String, String>,
    pub endpoints: Vec<EndpointState>,
    pub empty_selectors: Vec<EmptySelectorState>,
    /// Policies that select nothing that governs a device here.
    pub idle_policies: Vec<String>,
    /// Policies that select no host endpoint of any node (D43).
    pub not_for_hosts: Vec<String>,
    /// Those among them that act on nothing but host endpoints: they miss what they were written for.
    #[serde(default)]
    pub misses: Vec<String>,
    /// What the agent could not do: where → why. What was in force stays.
    pub trouble: BTreeMap<String, String>,
    pub problems: Vec<ProblemState>,
    /// Objects that go on in their last good version (D13).
    #[serde(default)]
    pub kept: Vec<KeptState>,
    /// Why the last good state on disk could not be used, if so.
    #[serde(default)]
    pub last_good_ignored: Option<String>,
    /// Device → when its grace ends, Unix seconds (D17): until then mid-flow packets are judged by policy.
    #[serde(default)]
    pub grace: BTreeMap<String, u64>,
    /// The last take-over of live flows by this agent (D17).
    #[serde(default)]
    pub adoption: Option<AdoptionState>,
    /// Device, or `pins` → what somebody else took from under this agent, which put it back.
    #[serde(default)]
    pub taken_away: BTreeMap<String, TakenAwayState>,
    /// Rules of the generation in force.
    pub rules: Vec<RuleState>,
}

/// Settings that the tables depend on, so that others can derive them again.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SettingsState {
    pub recheck: bool,
    pub infra_tunnels: bool,
    pub govern_loopback: bool,
    pub node_port_addresses: Vec<String>,
    pub grace_seconds: u32,
}

impl Default for SettingsState {
    fn default() -> Self {
        Self::new(&Settings::default())
    }
}

impl SettingsState {
    fn new(settings: &Settings) -> Self {
        // All fields by name: a setting that is added must be told here too.
        let Settings { on_policy_change, infra_tunnels, govern_loopback, node_port_addresses, grace_seconds } =
            settings;
        Self {
            recheck: *on_policy_change == OnPolicyChange::Recheck,
            infra_tunnels: *infra_tunnels,
            govern_loopback: *govern_loopback,
            node_port_addresses: node_port_addresses.iter().map(ToString::to_string).collect(),
            grace_seconds: *grace_seconds,
        }
    }
    /// Back to settings; a net that another version wrote unreadably is left out.
    pub fn to_settings(&self) -> Settings {
        Settings {
            on_policy_change: if self.recheck { OnPolicyChange::Recheck } else { OnPolicyChange::Keep },
            infra_tunnels: self.infra_tunnels,
            govern_loopback: self.govern_loopback,
            node_port_addresses: self.node_port_addresses.iter().filter_map(|n| n.parse().ok()).collect(),
            grace_seconds: self.grace_seconds,
        }
    }
}

/// Losing XDP opens nothing: TC judges every packet.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct XdpState {
    /// `generic` or `native`; absent: not attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached: Option<String>,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
}

impl From<&Outcome> for XdpState {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Attached(mode) => Self { attached: Some(mode.to_string()), left: None },
            Outcome::Left(why) => Self { attached: None, left: Some(why.clone()) },
        }
    }
}

/// A host endpoint that governs, and its policies.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EndpointState {
    pub name: String,
    pub devices: BTreeSet<String>,
    /// List → policies in the order of evaluation.
    pub lists: BTreeMap<String, Vec<String>>,
}

/// D14: this rule matches nothing there.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EmptySelectorState {
    pub policy: String,
    pub path: String,
    pub selector: String,
}

/// How the Kubernetes API is followed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesState {
    /// UID of the namespace `kube-system`.
    pub cluster: Option<String>,
    /// All was read, and nothing fails.
    pub in_sync: bool,
    /// Unix seconds since when what is known may be out of date.
    pub stale_since: Option<u64>,
    /// What was never read as a whole.
    pub waiting: Vec<String>,
    /// Objects by what is watched.
    pub watches: BTreeMap<String, usize>,
}

/// An object whose file says something else now.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KeptState {
    pub object: String,
    /// Where the good version stood.
    pub file: String,
    /// When it was accepted, Unix seconds.
    pub accepted: u64,
    /// When what came after it was first refused, Unix seconds.
    pub since: u64,
    /// Why it was refused.
    pub reasons: Vec<String>,
}

impl From<super::accepted::Kept> for KeptState {
    fn from(k: super::accepted::Kept) -> Self {
        Self { object: k.object, file: k.file, accepted: k.accepted, since: k.since, reasons: k.reasons }
    }
}

/// Live flows that were taken over.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AdoptionState {
    /// Unix seconds.
    pub at: u64,
    /// Flows that only connection tracking knew.
    pub conntrack: u64,
    /// Flows that only sockets knew.
    pub sockets: u64,
    /// Entries that could not be read.
    pub unreadable: u64,
    /// What could not be asked: such flows have only their grace.
    pub errors: Vec<String>,
}

impl From<&super::enforce::Adopted> for AdoptionState {
    fn from(a: &super::enforce::Adopted) -> Self {
        Self {
            at: a.at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            conntrack: a.found.conntrack,
            sockets: a.found.sockets,
            unreadable: a.found.unreadable,
            errors: a.found.errors.clone(),
        }
    }
}

/// Programs that somebody took off a device, or pins that somebody deleted.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TakenAwayState {
    /// How often, since this agent started.
    pub times: u64,
    /// When it was last noticed and put back, Unix seconds.
    pub last: u64,
    /// What it was then.
    pub what: String,
}

impl From<&super::tamper::TakenAway> for TakenAwayState {
    fn from(t: &super::tamper::TakenAway) -> Self {
        let last = t.last.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Self { times: t.times, last, what: t.what.clone() }
    }
}

/// A finding about a document.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProblemState {
    pub severity: String,
    pub file: String,
    pub line: usize,
    pub object: String,
    pub path: String,
    pub value: String,
    pub message: String,
}

impl From<&Problem> for ProblemState {
    fn from(p: &Problem) -> Self {
        Self {
            severity: severity_name(p.severity).to_owned(),
            file: p.file.clone(),
            line: p.line,
            object: p.object.clone(),
            path: p.path.clone(),
            value: p.value.clone(),
            message: p.message.clone(),
        }
    }
}

/// As JSON and tables write it.
pub fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

/// What a rule counter's identity means.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RuleState {
    pub identity: u32,
    pub list: String,
    pub tier: String,
    /// Absent at the end of a tier.
    pub policy: Option<String>,
    pub index: Option<u32>,
    pub action: Option<String>,
    /// Its hits are what a staged policy would have done.
    #[serde(default)]
    pub staged: bool,
}

impl State {
    pub(super) fn new(agent: &Agent, snapshot: &Snapshot) -> Self {
        let facts = &snapshot.facts;
        let attached = devices::wanted(snapshot)
            .into_iter()
            .filter(|(_, d)| agent.attacher.has(d.ifindex))
            .map(|(n, _)| n.clone())
            .collect();
        Self {
            api_version: API_VERSION.into(),
            kind: "Status".into(),
            node: snapshot.node.clone(),
            pid: std::process::id(),
            started: process(std::process::id()).map(|(_, started)| started),
            generation: agent.dataplane.generations().number(),
            since: agent.since.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            policies: agent.options.policies.clone(),
            kubernetes: agent.source.kubernetes(),
            pin_dir: agent.options.pin_dir.clone(),
            settings: SettingsState::new(&agent.view.settings),
            netns: crate::inspect::kernel::netns_of("self").unwrap_or(0),
            safety: agent.standing(),
            attached_by: agent.attacher.mechanism().to_string(),
            attached,
            xdp: agent.xdp.iter().map(|(device, outcome)| (device.clone(), outcome.into())).collect(),
            governed: facts.governed.clone(),
            unprotected: facts.unprotected.clone(),
            workload: facts.workload.clone(),
            lost: facts.lost.iter().map(|l| (l.name.clone(), l.reason.to_string())).collect(),
            endpoints: endpoints(snapshot),
            empty_selectors: facts
                .empty_selectors
                .iter()
                .map(|e| EmptySelectorState {
                    policy: e.policy.as_ref().map_or_else(String::new, ToString::to_string),
                    path: e.path.clone(),
                    selector: e.text.clone(),
                })
                .collect(),
            idle_policies: facts.idle_policies.iter().map(ToString::to_string).collect(),
            not_for_hosts: facts.not_for_hosts.iter().map(ToString::to_string).collect(),
            misses: facts.misses.iter().map(ToString::to_string).collect(),
            trouble: agent.trouble.clone().into_iter().chain(agent.source.troubles()).collect(),
            problems: agent.source.problems().iter().map(ProblemState::from).collect(),
            kept: agent.source.kept().into_iter().map(KeptState::from).collect(),
            last_good_ignored: agent.restored.ignored.clone(),
            grace: agent.graces().into_iter().map(|(device, left)| (device, now() + left)).collect(),
            adoption: agent.adopted.as_ref().map(AdoptionState::from),
            taken_away: agent.taken_away.iter().map(|(place, t)| (place.clone(), t.into())).collect(),
            rules: rules(agent),
        }
    }

    /// The line that people, tests and scripts wait for.
    pub fn headline(&self) -> String {
        if self.generation == 0 {
            return "portcullis: nothing in force yet".into();
        }
        let generation = self.generation;
        let failed: Vec<&str> =
            self.governed.keys().filter(|d| !self.attached.contains(*d)).map(String::as_str).collect();
        let on: Vec<String> = self
            .governed
            .iter()
            .filter(|(d, _)| self.attached.contains(*d))
            .map(|(d, hep)| format!("{d} (HostEndpoint/{hep})"))
            .collect();
        let mut line = if on.is_empty() {
            format!("portcullis: generation {generation} in force on no device")
        } else {
            format!("portcullis: generation {generation} in force on {}", on.join(", "))
        };
        if self.governed.is_empty() {
            line += &format!(": no HostEndpoint binds a device of node {:?}", self.node);
        }
        if !failed.is_empty() {
            line += &format!("; NOT on {}", failed.join(", "));
        }
        line + &self.safety.headline()
    }

    /// Replaces the file as a whole.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut text = serde_json::to_vec_pretty(self).context("cannot write the state as JSON")?;
        text.push(b'\n');
        let next = dir.join(format!(".{FILE}.next"));
        let mut file =
            fs::File::create(&next).with_context(|| format!("cannot create {}", next.display()))?;
        file.write_all(&text).with_context(|| format!("cannot write {}", next.display()))?;
        fs::rename(&next, &path).with_context(|| format!("cannot replace {}", path.display()))
    }

    /// Whether an agent wrote it, and nobody removed it.
    pub fn is_there(dir: &Path) -> bool {
        dir.join(FILE).is_file()
    }

    /// What an agent wrote last.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = fs::read(&path).with_context(|| {
            format!(
                "cannot read {}: no agent ran with this --state-dir yet (`portcullis run`)",
                path.display()
            )
        })?;
        serde_json::from_slice(&text).with_context(|| {
            format!("{} is of another version; restart the agent with this portcullis", path.display())
        })
    }

    /// Whether the agent that wrote it still runs. One that was stopped (`kill -STOP`), or that is dead and not yet
    /// buried, does not.
    pub fn agent_runs(&self) -> bool {
        let lives = |state| !matches!(state, 'T' | 't' | 'Z' | 'X');
        process(self.pid).is_some_and(|(state, started)| lives(state) && Some(started) == self.started)
    }

    /// Seconds since the generation began.
    pub fn age(&self) -> u64 {
        now().saturating_sub(self.since)
    }
}

/// State and begin of a process, by the fields 3 and 22 of its `stat` (proc(5)).
fn process(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold blanks and brackets: what follows its last bracket does not.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn endpoints(snapshot: &Snapshot) -> Vec<EndpointState> {
    snapshot
        .endpoints
        .iter()
        .map(|e| EndpointState {
            name: e.name.clone(),
            devices: snapshot
                .facts
                .governed
                .iter()
                .filter(|(_, hep)| **hep == e.name)
                .map(|(d, _)| d.clone())
                .collect(),
            lists: e
                .lists
                .iter()
                .map(|(key, list)| {
                    let policies =
                        list.tiers.iter().flat_map(|t| &t.policies).map(|p| p.id.to_string()).collect();
                    (format!("{:?}", key.0), policies)
                })
                .collect(),
        })
        .collect()
}

fn rules(agent: &Agent) -> Vec<RuleState> {
    let Some(tables) = &agent.tables else { return Vec::new() };
    tables
        .names
        .rules
        .iter()
        .map(|r| RuleState {
            identity: r.identity,
            list: format!("{:?}", r.list),
            tier: r.tier.clone(),
            policy: r.policy.as_ref().map(ToString::to_string),
            index: r.index,
            action: r.action.map(|a| format!("{a:?}")),
            staged: r.staged,
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn state() -> State {
        State {
            api_version: API_VERSION.into(),
            kind: "Status".into(),
            node: "node1".into(),
            pid: 1,
            started: None,
            generation: 3,
            since: 0,
            policies: "/p".into(),
            kubernetes: None,
            pin_dir: "/b".into(),
            settings: SettingsState::default(),
            netns: 0,
            safety: Standing::default(),
            attached_by: "tcx".into(),
            attached: BTreeSet::from(["eth0".into()]),
            xdp: BTreeMap::new(),
            governed: BTreeMap::from([("eth0".into(), "node1-eth0".into())]),
            unprotected: BTreeSet::new(),
            workload: BTreeSet::new(),
            lost: BTreeMap::new(),
            endpoints: Vec::new(),
            empty_selectors: Vec::new(),
            idle_policies: Vec::new(),
            not_for_hosts: Vec::new(),
            misses: Vec::new(),
            trouble: BTreeMap::new(),
            problems: Vec::new(),
            kept: Vec::new(),
            last_good_ignored: None,
            grace: BTreeMap::new(),
            adoption: None,
            taken_away: BTreeMap::new(),
            rules: Vec::new(),
        }
    }

    #[test]
    fn an_agent_runs_while_its_very_process_does() {
        let pid = std::process::id();
        let (alive, started) = process(pid).unwrap();
        assert!(matches!(alive, 'R' | 'S'), "{alive}");
        let runs = |started| State { pid, started, ..state() }.agent_runs();
        assert!(runs(Some(started)));
        assert!(!runs(Some(started + 1)), "another process has the number");
        assert!(!runs(None));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let of_child = State { pid: child.id(), started: process(child.id()).map(|p| p.1), ..state() };
        assert!(of_child.agent_runs());
        child.kill().unwrap();
        while process(child.id()).is_some_and(|(state, _)| state != 'Z') {
            std::thread::yield_now();
        }
        assert!(!of_child.agent_runs(), "dead, and not yet buried");
        child.wait().unwrap();
    }

    #[test]
    fn the_headline_never_claims_a_device_that_is_not_attached() {
        let mut state = state();
        assert_eq!(state.headline(), "portcullis: generation 3 in force on eth0 (HostEndpoint/node1-eth0)");
        state.attached.clear();
        assert_eq!(state.headline(), "portcullis: generation 3 in force on no device; NOT on eth0");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        state().write(dir.path()).unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), state());
    }
}
