//! What became of each object: accepted, kept in an older version, or rejected, and why; what it selects on this node,
//! who selects it, and which parts of it never act. For `status`, `get` and `lint`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::lists::PolicyId;
use super::{RuleId, Snapshot};
use crate::policy::{PeerSelector, Policy, Problem, Rule, World};
use crate::resource::{Kind, Object, ObjectKey, Store, StoredObject};
use crate::selector::Selector;

/// Whether an object is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Acceptance {
    /// As it was written last.
    Accepted,
    /// A later version was refused; the one before goes on (D13).
    KeptLastGood,
    /// Refused, and there never was a good version.
    Rejected,
}

/// A part of an object that does nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dead {
    /// `spec.ingress[2]`, or empty for the whole object.
    pub path: String,
    pub why: String,
}

/// One object's status on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// `Kind/name` or `Kind/namespace/name`.
    pub object: String,
    pub acceptance: Acceptance,
    /// Unix seconds since when an older version goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// Policies: host endpoint → lists in which it stands. Host endpoints: device → nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub acts_on: BTreeMap<String, BTreeSet<String>>,
    /// Host endpoints: the policies that select them. Sets, tiers and profiles: who names them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub used_by: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead: Vec<Dead>,
}

impl ObjectStatus {
    fn new(object: String, acceptance: Acceptance) -> Self {
        Self {
            object,
            acceptance,
            since: None,
            refused: Vec::new(),
            acts_on: BTreeMap::new(),
            used_by: BTreeSet::new(),
            dead: Vec::new(),
        }
    }
}

/// The status of every object of Calico's kinds, sorted by kind and name: the accepted ones, then those that were
/// rejected and never accepted. Kubernetes' own kinds only appear when something is wrong with them.
pub fn of(store: &Store, snapshot: &Snapshot) -> Vec<ObjectStatus> {
    let context = Context::new(store, snapshot);
    let mut all: Vec<ObjectStatus> = Vec::new();
    for stored in store.objects() {
        let mut status = ObjectStatus::new(stored.key.to_string(), Acceptance::Accepted);
        if !stored.superseded.is_empty() {
            status.acceptance = Acceptance::KeptLastGood;
            status.since = stored.superseded_since.and_then(seconds);
            status.refused = stored.superseded.iter().map(sentence).collect();
        }
        let is_core = stored.key.kind.group() != crate::resource::Group::Calico;
        if is_core && status.acceptance == Acceptance::Accepted {
            continue;
        }
        context.describe(stored, &mut status);
        all.push(status);
    }
    for (key, problems) in store.rejected() {
        let mut status = ObjectStatus::new(key.to_string(), Acceptance::Rejected);
        status.refused = problems.iter().map(sentence).collect();
        all.push(status);
    }
    all
}

fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs())
}

fn sentence(problem: &Problem) -> String {
    let value = if problem.value.is_empty() { String::new() } else { format!(" {:?}", problem.value) };
    let at = if problem.path.is_empty() { String::new() } else { format!("{}{value}: ", problem.path) };
    format!("{at}{}", problem.message)
}

/// What all objects share, gathered once.
struct Context<'a> {
    world: &'a World,
    snapshot: &'a Snapshot,
    /// Policy → host endpoint → lists.
    policies: BTreeMap<PolicyId, BTreeMap<String, BTreeSet<String>>>,
    /// Selectors of rules → the rules that have them.
    selectors: BTreeMap<(bool, Selector), BTreeSet<String>>,
    shadowed: BTreeMap<RuleId, RuleId>,
}

impl<'a> Context<'a> {
    fn new(store: &'a Store, snapshot: &'a Snapshot) -> Self {
        let mut policies: BTreeMap<PolicyId, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for endpoint in &snapshot.endpoints {
            for (key, list) in &endpoint.lists {
                for policy in list.tiers.iter().flat_map(|tier| &tier.policies) {
                    let endpoints = policies.entry(policy.id.clone()).or_default();
                    endpoints.entry(endpoint.name.clone()).or_default().insert(key.name().to_owned());
                }
            }
        }
        let mut selectors: BTreeMap<(bool, Selector), BTreeSet<String>> = BTreeMap::new();
        for policy in store.world().policies.values() {
            for peer in rules(policy).flat_map(peers_of) {
                let key = (peer.global_only, peer.selector.clone());
                selectors.entry(key).or_default().insert(PolicyId::of(policy).to_string());
            }
        }
        Self { world: store.world(), snapshot, policies, selectors, shadowed: snapshot.shadowed() }
    }

    fn describe(&self, stored: &StoredObject, status: &mut ObjectStatus) {
        match &*stored.object {
            Object::Policy(policy) => self.policy(policy, status),
            Object::InertPolicy(_) => {
                status.dead.push(whole("only says that another policy is to go; nothing is previewed"));
            }
            Object::HostEndpoint(endpoint) => self.host_endpoint(&endpoint.name, status),
            Object::NetworkSet(set) => {
                let labels = super::labels::set_labels(set, self.world);
                let global = set.namespace.is_none();
                let selecting = self.selectors.iter().filter(|((global_only, selector), _)| {
                    (global || !global_only) && selector.matches(&labels)
                });
                status.used_by = selecting.flat_map(|(_, policies)| policies.iter().cloned()).collect();
                if set.nets.is_empty() {
                    status.dead.push(whole("holds no network"));
                } else if status.used_by.is_empty() {
                    status.dead.push(whole("no rule's selector matches its labels"));
                }
            }
            Object::Tier(tier) => {
                let inside = self.world.policies.values().filter(|p| p.tier == tier.name);
                status.used_by = inside.map(|p| PolicyId::of(p).to_string()).collect();
            }
            Object::Profile(profile) => {
                let all = &self.snapshot.facts.host_endpoints;
                let named = all.values().filter(|h| h.profiles.contains(&profile.name));
                status.used_by = named.map(|h| endpoint_key(&h.name)).collect();
                if status.used_by.is_empty() {
                    status.dead.push(whole("no host endpoint names it"));
                }
            }
            Object::Felix(_)
            | Object::KubeControllers(_)
            | Object::Node(_)
            | Object::Namespace(_)
            | Object::ServiceAccount(_)
            | Object::Service(_)
            | Object::EndpointSlice(_)
            | Object::Pod(_) => {}
        }
    }

    fn policy(&self, policy: &Policy, status: &mut ObjectStatus) {
        let id = PolicyId::of(policy);
        let facts = &self.snapshot.facts;
        status.acts_on = self.policies.get(&id).cloned().unwrap_or_default();
        if facts.misses.contains(&id) {
            status.dead.push(whole("selects no host endpoint of any node, and acts on nothing else"));
        } else if facts.not_for_hosts.contains(&id) {
            status.dead.push(whole("not for hosts: it selects no host endpoint of any node"));
        } else if facts.idle_policies.contains(&id) {
            status.dead.push(whole("selects no host endpoint that governs a device of this node"));
        }
        for empty in facts.empty_selectors.iter().filter(|e| e.policy.as_ref() == Some(&id)) {
            let why = format!("matches nothing: no address is behind {:?}", empty.text);
            status.dead.push(Dead { path: empty.path.clone(), why });
        }
        for (rule, by) in self.shadowed.iter().filter(|(rule, _)| rule.policy == id) {
            status
                .dead
                .push(Dead { path: rule.path(), why: format!("shadowed by {by}, which takes all of it") });
        }
        status.dead.sort();
    }

    fn host_endpoint(&self, name: &str, status: &mut ObjectStatus) {
        let facts = &self.snapshot.facts;
        let devices = facts.governed.iter().filter(|(_, endpoint)| *endpoint == name);
        status.acts_on = devices.map(|(device, _)| (device.clone(), BTreeSet::new())).collect();
        let selecting = self.policies.iter().filter(|(_, endpoints)| endpoints.contains_key(name));
        status.used_by = selecting.map(|(id, _)| id.to_string()).collect();
        let lost = facts.lost.iter().filter(|l| l.name == name);
        status.dead.extend(lost.map(|l| whole(&format!("binds nothing: {}", l.reason))));
        if facts.host_endpoints.get(name).is_some_and(|h| h.node != self.snapshot.node) {
            status.dead.push(whole("is for another node"));
        }
    }
}

fn whole(why: &str) -> Dead {
    Dead { path: String::new(), why: why.to_owned() }
}

fn endpoint_key(name: &str) -> String {
    ObjectKey::new(Kind::HostEndpoint, "", name).to_string()
}

fn rules(policy: &Policy) -> impl Iterator<Item = &Rule> {
    policy.ingress.iter().chain(&policy.egress)
}

fn peers_of(rule: &Rule) -> impl Iterator<Item = &PeerSelector> {
    let sides = [&rule.source, &rule.destination].into_iter();
    sides.flat_map(|side| side.selector.iter().chain(&side.not_selector))
}
