//! What the agent leaves for others: for commands, for the next agent, for who reports it.
//!
//! This file is the state, JSON that `status` reads, replaced as a whole. Beside it: the last good version of every
//! object (`lastgood`), causes by name (`cause`), and numbers that live as long as the agent (`telemetry`).

pub mod cause;
mod file;
pub mod lastgood;
mod parts;
pub mod telemetry;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::safety::Standing;
use cause::Cause;
pub(crate) use file::{pid_namespace, process};
pub use parts::{
    AdoptionState, EmptySelectorState, EndpointState, KeptState, KubeProxyState, KubernetesState,
    ProblemState, ReportState, RuleState, SettingsState, TakenAwayState, XdpState, severity_name,
};

/// Version of every JSON that we print or write.
pub const API_VERSION: &str = "portcullis.dev/v1alpha1";
/// What stands for the folder where the Kubernetes API is the source: no folder, since a folder's path begins with `/`.
pub const KUBERNETES: &str = "kubernetes";
/// In [`State::trouble`]: nobody is answered about this agent, who enforces all the same.
pub(crate) const HTTP: &str = "http";

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
    /// Number of the PID namespace that this number is of; 0: unknown.
    #[serde(default)]
    pub pid_namespace: u64,
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
    /// Of those places, a word for programs, where the error says more than its place.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub causes: BTreeMap<String, Cause>,
    pub problems: Vec<ProblemState>,
    /// Objects that go on in their last good version (D13).
    #[serde(default)]
    pub kept: Vec<KeptState>,
    /// Why the last good state on disk could not be used, if so.
    #[serde(default)]
    pub last_good_ignored: Option<String>,
    /// What is in force is newer, in pods, endpoints or nodes, than the last good state on disk.
    #[serde(default)]
    pub last_good_behind: bool,
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

impl State {
    /// All that the source says, as far as it is valid, is in force.
    pub fn in_sync(&self) -> bool {
        self.generation > 0
            && self.trouble.keys().all(|place| place == HTTP)
            && self.kubernetes.as_ref().is_none_or(|k| k.in_sync)
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

    /// Seconds since the generation began.
    pub fn age(&self) -> u64 {
        now().saturating_sub(self.since)
    }
}

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
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
            pid_namespace: 0,
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
            causes: BTreeMap::new(),
            problems: Vec::new(),
            kept: Vec::new(),
            last_good_ignored: None,
            last_good_behind: false,
            grace: BTreeMap::new(),
            adoption: None,
            taken_away: BTreeMap::new(),
            rules: Vec::new(),
        }
    }

    #[test]
    fn the_headline_never_claims_a_device_that_is_not_attached() {
        let mut state = state();
        assert_eq!(state.headline(), "portcullis: generation 3 in force on eth0 (HostEndpoint/node1-eth0)");
        state.attached.clear();
        assert_eq!(state.headline(), "portcullis: generation 3 in force on no device; NOT on eth0");
    }
}
