//! The kind `NodePolicyStatus`: what one node enforces, for those who have `kubectl` and not the node.
//!
//! One object per node, named after it, owned by the Node so that it goes with it. Its agent is the only writer, so
//! there is no status subresource: one request writes all of it, or nothing.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limits::{
    MAX_CHAIN, MAX_CONDITIONS, MAX_DEVICES, MAX_ENDPOINT_DEVICES, MAX_ERRORS, MAX_HOST_ENDPOINTS,
    MAX_OTHER_OBJECTS, MAX_POLICIES, MAX_TAKEN_AWAY, MAX_TROUBLES,
};

/// What one node enforces, written by its agent.
///
/// A report that is older than ten minutes (status.reportedAt) is of an agent that is gone or cannot reach the API
/// server; what was in force then stays in force.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "portcullis.dev",
    version = "v1alpha1",
    kind = "NodePolicyStatus",
    plural = "nodepolicystatuses",
    shortname = "nps",
    category = "portcullis",
    no_spec,
    status = "Report",
    derive = "PartialEq",
    doc = "What one node enforces, written by its agent. A report that is older than ten minutes (status.reportedAt) \
           is of an agent that is gone or cannot reach the API server; what was in force then stays in force.",
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Programmed", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Programmed\")].status"}"#,
    printcolumn = r#"{"name": "Degraded", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Degraded\")].reason", "description": "The worst that is wrong, or AsAsked"}"#,
    printcolumn = r#"{"name": "Generation", "type": "integer", "jsonPath": ".status.generation.number", "description": "Number of the generation in force on the node"}"#,
    printcolumn = r#"{"name": "Policies", "type": "integer", "jsonPath": ".status.counts.active", "description": "Policies that act on a device of the node"}"#,
    printcolumn = r#"{"name": "Refused", "type": "integer", "jsonPath": ".status.counts.refused", "description": "Objects that the agent refused: rejected, or kept in an older version"}"#,
    printcolumn = r#"{"name": "Unprotected", "type": "integer", "jsonPath": ".status.counts.unprotected", "description": "Devices that no HostEndpoint covers", "priority": 1}"#,
    printcolumn = r#"{"name": "Reported", "type": "date", "jsonPath": ".status.reportedAt", "description": "When the agent last wrote; older than ten minutes: it is gone", "priority": 1}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
pub struct Fields {}

/// `status` of the object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Ready: the agent follows the cluster, and what it read is enforced. Programmed: what was read last is in force.
    /// Degraded: something that was asked for is not enforced; its reason is the worst.
    #[schemars(length(max = MAX_CONDITIONS))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// When this was written. Written again at least every five minutes.
    #[schemars(extend("format" = "date-time"))]
    #[serde(default)]
    pub reported_at: String,
    /// Version of the agent.
    #[serde(default)]
    pub agent_version: String,
    /// What the kernel judges packets by. Absent: nothing is in force yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// How the cluster is followed.
    #[serde(default)]
    pub source: Source,
    /// Of everything, also of what the lists below leave out.
    #[serde(default)]
    pub counts: Counts,
    /// What is on top of the policies: audit, a suspension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety: Option<Safety>,
    /// Every policy, what is wrong first.
    #[schemars(length(max = MAX_POLICIES))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyReport>,
    /// Other objects that were refused: tiers, sets, configuration.
    #[schemars(length(max = MAX_OTHER_OBJECTS))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_objects: Vec<ObjectReport>,
    /// Host endpoints of this node, and those that were refused.
    #[schemars(length(max = MAX_HOST_ENDPOINTS))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_endpoints: Vec<HostEndpointReport>,
    /// Devices that are governed, or ought to be looked at; not those of pods.
    #[schemars(length(max = MAX_DEVICES))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceReport>,
    /// What the agent could not do. What was in force stays in force.
    #[schemars(length(max = MAX_TROUBLES))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<TroubleReport>,
    /// Programs and pins that somebody else took away, and that the agent put back.
    #[schemars(length(max = MAX_TAKEN_AWAY))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken_away: Vec<TakenAwayReport>,
    /// What the lists leave out, in words. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<String>,
}

/// As Kubernetes has conditions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Ready, Programmed or Degraded.
    #[serde(rename = "type")]
    pub type_: String,
    pub status: ConditionStatus,
    /// A word for programs. Those of Degraded are listed in docs/reference/node-status.md.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When `status` changed last.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
}

/// Of a condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    True,
    False,
    #[default]
    Unknown,
}

/// A generation in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// Moves with every change of what is enforced, on this node alone.
    pub number: i64,
    /// When it came into force.
    #[schemars(extend("format" = "date-time"))]
    pub since: String,
    /// Of the versions of Calico's objects that it was made of: the same on all nodes that enforce the same. Absent: it
    /// is of an earlier agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// How the cluster is followed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// UID of its namespace kube-system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// All was read, and nothing fails.
    pub in_sync: bool,
    /// Since when what is known may be out of date.
    #[schemars(extend("format" = "date-time"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_since: Option<String>,
}

/// How many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Policies of the cluster that the agent knows.
    pub policies: u32,
    /// Those that act on a device of this node.
    pub active: u32,
    /// Objects of any kind that were refused: rejected, or kept in an older version.
    pub refused: u32,
    /// Devices under a HostEndpoint.
    pub governed: u32,
    /// Devices that no HostEndpoint covers.
    pub unprotected: u32,
    /// Host endpoints of this node that bind nothing.
    pub binds_nothing: u32,
}

/// Nothing is dropped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Safety {
    /// The agent runs with --audit: what policy denies is counted and passes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// Until then what policy denies passes (`portcullis suspend`).
    #[schemars(extend("format" = "date-time"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_until: Option<String>,
    /// An apply on trial was not confirmed: the generation before it is in force.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub went_back: bool,
}

/// What became of a policy on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum PolicyState {
    /// It was refused, and there never was a good version of it.
    Rejected,
    /// Its latest version was refused; the one before goes on.
    KeptLastGood,
    /// It was accepted, and its generation is not in force (yet).
    Pending,
    /// It acts on a device of this node.
    #[default]
    Active,
    /// It selects host endpoints, and none that governs a device of this node.
    SelectsNothingHere,
    /// It selects no host endpoint of any node.
    NotForHosts,
}

/// One policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReport {
    pub kind: String,
    pub name: String,
    pub state: PolicyState,
    /// metadata.generation of the version in force here. Absent: none is, or the server gives no generations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// metadata.generation of the latest version, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_generation: Option<i64>,
    /// Since when an older version goes on.
    #[schemars(extend("format" = "date-time"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Host endpoints of this node that it selects.
    #[serde(default)]
    pub host_endpoints: u32,
    /// Devices of this node that these govern.
    #[serde(default)]
    pub devices: u32,
    /// Why it was refused: field, value, and what to write instead.
    #[schemars(length(max = MAX_ERRORS))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// Another object that was refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReport {
    pub kind: String,
    /// Empty: its kind lives in no namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub name: String,
    /// Rejected or KeptLastGood.
    pub state: PolicyState,
    /// metadata.generation of the version in force here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// metadata.generation of the version that was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_generation: Option<i64>,
    /// Since when an older version goes on.
    #[schemars(extend("format" = "date-time"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Why it was refused.
    #[schemars(length(max = MAX_ERRORS))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// What a host endpoint does on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum HostEndpointState {
    /// It was refused, and there never was a good version of it.
    Rejected,
    /// It is for this node, and governs no device of it.
    BindsNothing,
    /// It governs devices.
    #[default]
    Governs,
}

/// One host endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostEndpointReport {
    pub name: String,
    pub state: HostEndpointState,
    /// metadata.generation of the version in force here. Absent: none is, or it was made from the Node (an automatic
    /// host endpoint).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// metadata.generation of the latest version, where that is another one: it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_generation: Option<i64>,
    /// Devices that it governs.
    #[schemars(length(max = MAX_ENDPOINT_DEVICES))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Policies in its lists.
    #[serde(default)]
    pub policies: u32,
    /// The host endpoint that governs its device instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_to: Option<String>,
    /// Why it governs nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Why its latest version was refused.
    #[schemars(length(max = MAX_ERRORS))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// Who judges what a device carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum DeviceState {
    /// A host endpoint is for it, and the programs are not on it: nothing is enforced.
    NotAttached,
    /// No host endpoint covers it: nothing is enforced.
    Unprotected,
    /// Its host endpoint's policies are enforced.
    #[default]
    Governed,
}

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceReport {
    pub name: String,
    pub state: DeviceState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_endpoint: Option<String>,
    /// Why it is not governed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What runs at its hooks, in order; ours is called portcullis.
    #[schemars(length(max = 3))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookReport>,
}

/// One hook of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HookReport {
    /// ingress, egress or xdp.
    pub hook: String,
    /// Place of our program, from 1. Absent: it does not run there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// Programs and filters in the order in which they see a packet.
    #[schemars(length(max = MAX_CHAIN))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default)]
    pub chain: Vec<String>,
}

/// What the agent could not do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TroubleReport {
    /// Where, as `portcullis status` says it.
    pub place: String,
    /// As the reason of Degraded.
    pub reason: String,
    pub message: String,
}

/// What somebody else took away.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TakenAwayReport {
    /// A device, or `pins`.
    pub place: String,
    /// How often since this agent started.
    pub times: i64,
    /// When it was last put back.
    #[schemars(extend("format" = "date-time"))]
    pub last: String,
    pub what: String,
}
