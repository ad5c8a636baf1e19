//! What the state is made of: names and shapes of `status -o json`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::loader::xdp::Outcome;
use crate::policy::{OnPolicyChange, Problem, Settings, Severity};

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
    pub(crate) fn new(settings: &Settings) -> Self {
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
    /// Who translates NodePorts here, and where (D3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube_proxy: Option<KubeProxyState>,
    /// The copy of this state for the cluster. Absent: none is kept (a floor).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportState>,
}

/// What is known of this node's kube-proxy.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KubeProxyState {
    /// `iptables`, `nftables`, `ipvs`; `None`: it does not tell.
    pub mode: Option<String>,
    /// Why it does not answer now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<String>,
    /// Own addresses in these networks answer NodePorts; none: every own address does.
    pub node_port_addresses: Vec<String>,
    /// How that is known, or why it is assumed.
    pub because: String,
    /// Which ports are node ports.
    pub node_ports: String,
}

/// The node's `NodePolicyStatus`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ReportState {
    pub name: String,
    /// When it was written last, Unix seconds.
    pub written: Option<u64>,
    /// It says what this state says.
    pub current: bool,
    /// The cluster does not have the kind.
    #[serde(default)]
    pub no_such_kind: bool,
    /// Why it cannot be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Why Events cannot be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<String>,
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

/// Live flows that were taken over.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AdoptionState {
    /// Unix seconds.
    pub at: u64,
    /// Flows from flow tables of another build's layout.
    #[serde(default)]
    pub moved: u64,
    /// Flows that only connection tracking knew.
    pub conntrack: u64,
    /// Flows that only sockets knew.
    pub sockets: u64,
    /// Entries that could not be read.
    pub unreadable: u64,
    /// What could not be asked: such flows have only their grace.
    pub errors: Vec<String>,
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
