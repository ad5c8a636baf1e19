//! What the agent knows when it reports: the state that `portcullis status` shows, and of the objects of the API what a
//! report needs beyond it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::index::status::Acceptance;
use crate::policy::Problem;
use crate::resource::ObjectKey;
use crate::state::State;
use crate::state::cause::Cause;

/// Everything that a report is made of, except the time, and the hooks, which only the kernel knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Without what no report has: see [`Facts::new`].
    pub state: State,
    /// Policies, host endpoints, and whatever else was refused.
    pub objects: Vec<ObjectFacts>,
    /// Host endpoint of this node → the one that governs its device instead.
    pub lost_to: BTreeMap<String, String>,
    /// What is in force. `None`: what an earlier agent left.
    pub applied: Option<Applied>,
    /// UID of this node's Node object, in the cluster that is followed.
    pub node_uid: Option<String>,
    /// The agent was asked to end.
    pub stopped: bool,
}

impl Facts {
    /// `state` as it is written for `status`.
    pub fn new(mut state: State) -> Self {
        // Nothing of this reaches a report, and much of it moves often: who compares facts must not see it.
        state.rules.clear();
        state.empty_selectors.clear();
        state.grace.clear();
        state.adoption = None;
        if let Some(kubernetes) = &mut state.kubernetes {
            kubernetes.watches.retain(|name, _| name == NODES);
            kubernetes.kube_proxy = None;
            kubernetes.report = None;
        }
        Self {
            state,
            objects: Vec::new(),
            lost_to: BTreeMap::new(),
            applied: None,
            node_uid: None,
            stopped: false,
        }
    }

    /// Nodes of the cluster, at least this one.
    pub fn nodes(&self) -> u32 {
        let watches = self.state.kubernetes.as_ref().map(|k| &k.watches);
        let nodes = watches.and_then(|w| w.get(NODES)).copied().unwrap_or(1);
        u32::try_from(nodes).unwrap_or(u32::MAX).max(1)
    }

    /// Everything was read once: before that a report would say what a moment later is no longer so.
    pub fn in_sync(&self) -> bool {
        self.state.kubernetes.as_ref().is_some_and(|k| k.in_sync)
    }

    pub(super) fn refused(&self) -> impl Iterator<Item = &ObjectFacts> {
        self.objects.iter().filter(|o| o.acceptance != Acceptance::Accepted)
    }

    /// What is wrong, the worst first, each with its place and words.
    pub(super) fn causes(&self) -> Vec<(Cause, String)> {
        let state = &self.state;
        let mut out: Vec<(Cause, String)> = state
            .trouble
            .iter()
            .map(|(place, why)| (cause_of(state, place), format!("{place}: {why}")))
            .collect();
        if state.generation == 0 {
            out.push((Cause::NothingInForce, "no generation is active: every packet passes".into()));
        }
        for (device, endpoint) in &state.governed {
            if !state.attached.contains(device) && !state.trouble.contains_key(&format!("device {device}")) {
                let text = format!("device {device} (HostEndpoint/{endpoint}): its policy is not enforced");
                out.push((Cause::NotAttached, text));
            }
        }
        if state.safety.suspended_seconds.is_some() {
            out.push((Cause::Suspended, "enforcement is suspended: what policy denies passes".into()));
        }
        if state.safety.audit {
            out.push((Cause::Audit, "audit: what policy denies is counted and passes".into()));
        }
        if state.safety.went_back {
            let text = "an apply on trial was not confirmed: the generation before it is in force";
            out.push((Cause::TrialExpired, text.into()));
        }
        for object in self.refused() {
            let cause = match object.bad_selector {
                true => Cause::InvalidSelector,
                false => Cause::InvalidObject,
            };
            let first = object.errors.first().map_or("was refused", String::as_str);
            out.push((cause, format!("{}: {first}", object.key)));
        }
        let nameless = state.problems.iter().filter(|p| p.severity == "error");
        for problem in nameless.filter(|p| !self.objects.iter().any(|o| o.key.to_string() == p.object)) {
            out.push((Cause::InvalidObject, format!("{}: {}", problem.file, problem.message)));
        }
        for (name, why) in &state.lost {
            let cause = match self.lost_to.contains_key(name) {
                true => Cause::HostEndpointConflict,
                false => Cause::HostEndpointBindsNothing,
            };
            out.push((cause, format!("HostEndpoint/{name}: {why}")));
        }
        if state.governed.is_empty() && !(state.idle_policies.is_empty() && state.misses.is_empty()) {
            let text = format!("there are policies for hosts, and no HostEndpoint of node {}", state.node);
            out.push((Cause::NothingGoverned, text));
        }
        out.sort();
        out
    }
}

/// Name of the watch of nodes, in [`crate::state::KubernetesState::watches`].
const NODES: &str = "v1 nodes";

/// Of a place of trouble.
pub(super) fn cause_of(state: &State, place: &str) -> Cause {
    state.causes.get(place).copied().unwrap_or_else(|| Cause::of_place(place))
}

/// An object of the API.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectFacts {
    pub key: ObjectKey,
    /// In which it was read.
    pub api_version: String,
    /// `metadata.name`, which the storage form gives a prefix.
    pub resource: String,
    pub uid: Option<String>,
    /// `metadata.generation` of the version that was accepted last.
    pub accepted: Option<i64>,
    /// Of the version that the API has.
    pub latest: Option<i64>,
    pub acceptance: Acceptance,
    /// Unix seconds since when an older version goes on.
    pub since: Option<u64>,
    /// Why it was refused.
    pub errors: Vec<String>,
    /// One of them is about a selector.
    pub bad_selector: bool,
}

impl ObjectFacts {
    /// `accepted`: the document in its last good version. `latest`: as the API has it, if that was refused, and why.
    pub fn new(
        key: ObjectKey,
        accepted: Option<&Value>,
        latest: Option<&Value>,
        problems: &[Problem],
        since: Option<u64>,
    ) -> Self {
        let none = Value::Null;
        let newest = latest.or(accepted).unwrap_or(&none);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let generation = |value: &Value| value["metadata"]["generation"].as_i64();
        let selector = |p: &Problem| p.path.to_lowercase().ends_with("selector");
        Self {
            api_version: text(&newest["apiVersion"]).unwrap_or_default(),
            resource: text(&newest["metadata"]["name"]).unwrap_or_else(|| key.name.clone()),
            uid: text(&newest["metadata"]["uid"]),
            accepted: accepted.and_then(generation),
            latest: generation(newest),
            acceptance: match (problems.is_empty(), accepted) {
                (true, _) => Acceptance::Accepted,
                (false, Some(_)) => Acceptance::KeptLastGood,
                (false, None) => Acceptance::Rejected,
            },
            since,
            errors: problems.iter().map(sentence).collect(),
            bad_selector: problems.iter().any(selector),
            key,
        }
    }
}

/// Without the object and its place, which stand beside it.
fn sentence(problem: &Problem) -> String {
    let value = if problem.value.is_empty() { String::new() } else { format!(" {:?}", problem.value) };
    let at = if problem.path.is_empty() { String::new() } else { format!("{}{value}: ", problem.path) };
    format!("{at}{}", problem.message)
}

/// What an agent put in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// Object → `metadata.generation`, where the server gives one.
    pub versions: BTreeMap<ObjectKey, Option<i64>>,
    /// Of all of them.
    pub hash: String,
}

impl Applied {
    /// Of what was accepted when a generation was made of it.
    pub fn of<'a>(objects: impl Iterator<Item = (&'a ObjectKey, &'a Value)>) -> Self {
        let mut versions = BTreeMap::new();
        let mut hash = Fnv::default();
        for (key, value) in objects {
            let metadata = &value["metadata"];
            let generation = metadata["generation"].as_i64();
            hash.take(&key.to_string());
            // A change of these does not move the generation.
            for field in ["uid", "labels", "annotations"] {
                hash.take(&metadata[field].to_string());
            }
            match generation {
                Some(generation) => hash.take(&generation.to_string()),
                // An aggregated API server may give none.
                None => hash.take(&value["spec"].to_string()),
            }
            versions.insert(key.clone(), generation);
        }
        Self { versions, hash: hash.to_string() }
    }
}

/// FNV-1a, 64 bits: the same on all nodes and in all versions. Nothing is safe by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// A text and its end.
    pub(super) fn take(&mut self, text: &str) {
        for byte in text.bytes().chain([0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

impl std::fmt::Display for Fnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
