//! Policies of each governing endpoint, per list, in the order of evaluation (`semantics.md` §3).

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::ListKind;

use super::EmptySelector;
use super::binding::Bindings;
use super::labels::endpoint_labels;
use super::resolver::Resolver;
use super::rules::{self, Resolved};
use super::sets::SetId;
use crate::policy::{
    Direction, Family, HepInterface, HostEndpoint, OnPolicyChange, Order, Policy, PolicyKind, Profile, Rule,
    Tier, TierDefault, World, defaults,
};

/// Names a policy for people and counters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    pub kind: PolicyOrProfile,
    /// Empty for global kinds.
    pub namespace: String,
    pub name: String,
    /// Empty for profiles.
    pub tier: String,
}

/// What rules stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyOrProfile {
    GlobalNetworkPolicy,
    NetworkPolicy,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
    Profile,
}

impl PolicyOrProfile {
    /// The Kubernetes kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            Self::StagedNetworkPolicy => "StagedNetworkPolicy",
            Self::Profile => "Profile",
        }
    }
}

impl From<PolicyKind> for PolicyOrProfile {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::GlobalNetworkPolicy => Self::GlobalNetworkPolicy,
            PolicyKind::NetworkPolicy => Self::NetworkPolicy,
            PolicyKind::StagedGlobalNetworkPolicy => Self::StagedGlobalNetworkPolicy,
            PolicyKind::StagedNetworkPolicy => Self::StagedNetworkPolicy,
        }
    }
}

impl PolicyId {
    /// Of a policy.
    pub fn of(policy: &Policy) -> Self {
        Self {
            kind: policy.kind.into(),
            namespace: policy.namespace.clone().unwrap_or_default(),
            name: policy.name.clone(),
            tier: policy.tier.clone(),
        }
    }
    fn of_profile(name: &str) -> Self {
        Self {
            kind: PolicyOrProfile::Profile,
            namespace: String::new(),
            name: name.to_owned(),
            tier: String::new(),
        }
    }
}

impl std::fmt::Display for PolicyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/", self.kind.as_str())?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}", self.name)
    }
}

/// A host endpoint that governs a device, and its lists.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointLists {
    pub name: String,
    /// Bound by `*`.
    pub wildcard: bool,
    /// A list that is absent holds no policy: the stage takes its own default (§4.3).
    pub lists: BTreeMap<ListKey, List>,
}

/// [`ListKind`] with an order, for maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListKey(pub ListKind);

impl ListKey {
    /// Whether it judges what a device receives.
    pub fn is_ingress(self) -> bool {
        direction(self.0) == Direction::Ingress
    }
    /// As people know it, `preDNAT` or `normal ingress`.
    pub fn name(self) -> &'static str {
        match self.0 {
            ListKind::UntrackedIngress => "untracked ingress",
            ListKind::UntrackedEgress => "untracked egress",
            ListKind::PreDnat => "preDNAT",
            ListKind::ForwardIngress => "forward ingress",
            ListKind::ForwardEgress => "forward egress",
            ListKind::NormalIngress => "normal ingress",
            ListKind::NormalEgress => "normal egress",
            ListKind::ProfileIngress => "profile ingress",
            ListKind::ProfileEgress => "profile egress",
        }
    }
}

impl PartialOrd for ListKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ListKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0 as usize).cmp(&(other.0 as usize))
    }
}

/// Tiers in order. For profiles: one block per profile.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    pub tiers: Vec<TierBlock>,
}

/// What happens when no rule of a tier decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierEnd {
    Deny,
    Pass,
    /// Only staged policies are here: nothing is denied, and what would be is counted.
    WouldDeny,
}

/// The policies of one tier in one list.
#[derive(Clone, Debug, PartialEq)]
pub struct TierBlock {
    /// Tier name, or the profile's.
    pub name: String,
    pub end: TierEnd,
    pub policies: Vec<PolicyBlock>,
}

/// The rules of one policy in one list.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyBlock {
    pub id: PolicyId,
    /// Counted, never enforced.
    pub staged: bool,
    /// Its annotation; without one the node's setting counts, as it is when the flow is looked at (D15).
    pub on_change: Option<OnPolicyChange>,
    pub rules: Vec<Resolved>,
}

/// What [`resolve`] finds.
#[derive(Clone, Debug, Default)]
pub struct ResolvedLists {
    pub endpoints: Vec<EndpointLists>,
    /// Sorted. With a set: empty as long as the set is.
    pub may_be_empty: Vec<(EmptySelector, Option<SetId>)>,
    pub idle: Vec<PolicyId>,
    pub not_for_hosts: Vec<PolicyId>,
    pub misses: Vec<PolicyId>,
}

/// Lists of every endpoint that governs a device.
pub fn resolve(
    world: &World,
    heps: &BTreeMap<String, HostEndpoint>,
    bindings: &Bindings,
    named: &mut Resolver<'_>,
) -> ResolvedLists {
    let mut builder = Builder { named, blocks: BTreeMap::new(), empty: BTreeSet::new() };
    let order = EvaluationOrder::new(world);
    let active: BTreeSet<&String> = bindings.devices.values().filter_map(|d| d.endpoint.as_ref()).collect();
    let mut used = BTreeSet::new();
    let mut found = ResolvedLists::default();
    for hep in active.iter().filter_map(|name| heps.get(*name)) {
        let labels = endpoint_labels(hep, world);
        let tiers = order.selecting(&labels);
        used.extend(tiers.iter().flat_map(|(_, policies)| policies.iter().map(|p| p.tie_break())));
        let wildcard = hep.interface == HepInterface::All;
        let mut lists = BTreeMap::new();
        for kind in ALL_KINDS {
            if wildcard && is_untracked(kind) {
                continue; // §4.5: a `*` endpoint has no untracked policy.
            }
            let list = match kind {
                ListKind::ProfileIngress | ListKind::ProfileEgress => builder.profiles(hep, world, kind),
                _ => builder.policies(&tiers, kind),
            };
            if !list.tiers.is_empty() {
                lists.insert(ListKey(kind), list);
            }
        }
        found.endpoints.push(EndpointLists { name: hep.name.clone(), wildcard, lists });
    }
    found.may_be_empty = builder.empty.into_iter().collect();
    let everywhere: Vec<_> = heps.values().map(|h| endpoint_labels(h, world)).collect();
    for policy in world.policies.values().filter(|p| !used.contains(&p.tie_break())) {
        let id = PolicyId::of(policy);
        if everywhere.iter().any(|labels| policy.selector.matches(labels)) {
            found.idle.push(id);
        } else {
            // What only acts on host endpoints cannot be meant for pods.
            if policy.family != Family::Normal {
                found.misses.push(id.clone());
            }
            found.not_for_hosts.push(id);
        }
    }
    found
}

const ALL_KINDS: [ListKind; 9] = [
    ListKind::UntrackedIngress,
    ListKind::UntrackedEgress,
    ListKind::PreDnat,
    ListKind::ForwardIngress,
    ListKind::ForwardEgress,
    ListKind::NormalIngress,
    ListKind::NormalEgress,
    ListKind::ProfileIngress,
    ListKind::ProfileEgress,
];

fn is_untracked(kind: ListKind) -> bool {
    matches!(kind, ListKind::UntrackedIngress | ListKind::UntrackedEgress)
}

fn direction(kind: ListKind) -> Direction {
    match kind {
        ListKind::UntrackedIngress
        | ListKind::PreDnat
        | ListKind::ForwardIngress
        | ListKind::NormalIngress
        | ListKind::ProfileIngress => Direction::Ingress,
        ListKind::UntrackedEgress
        | ListKind::ForwardEgress
        | ListKind::NormalEgress
        | ListKind::ProfileEgress => Direction::Egress,
    }
}

/// §3.4: which policies stand in a list.
fn belongs(family: Family, kind: ListKind) -> bool {
    match kind {
        ListKind::UntrackedIngress | ListKind::UntrackedEgress => family == Family::Untracked,
        ListKind::PreDnat => family == Family::PreDnat,
        ListKind::ForwardIngress | ListKind::ForwardEgress => family == Family::NormalAndForward,
        ListKind::NormalIngress | ListKind::NormalEgress => {
            matches!(family, Family::Normal | Family::NormalAndForward)
        }
        ListKind::ProfileIngress | ListKind::ProfileEgress => false,
    }
}

/// §3.4: untracked and preDNAT tiers always end with Pass.
fn ends_with_pass(kind: ListKind) -> bool {
    is_untracked(kind) || kind == ListKind::PreDnat
}

/// All policies, sorted once: tiers, then policies inside them (§3.2, §3.3, D24).
struct EvaluationOrder<'a> {
    tiers: Vec<(Tier, Vec<&'a Policy>)>,
}

impl<'a> EvaluationOrder<'a> {
    fn new(world: &'a World) -> Self {
        let mut by_tier: BTreeMap<&str, Vec<&Policy>> = BTreeMap::new();
        for policy in world.policies.values() {
            by_tier.entry(&policy.tier).or_default().push(policy);
        }
        let built_in = defaults::built_in_tiers();
        let mut tiers: Vec<(bool, Tier, Vec<&Policy>)> = Vec::new();
        for (name, mut policies) in by_tier {
            policies.sort_by_cached_key(|p| (p.order, p.tie_break()));
            let known = world.tiers.get(name).or_else(|| built_in.get(name)).cloned();
            let missing = known.is_none();
            // A policy of a missing tier still applies, last, with Deny (§3.2).
            let tier = known.unwrap_or_else(|| Tier {
                name: name.to_owned(),
                order: Order(None),
                default_action: TierDefault::Deny,
            });
            tiers.push((missing, tier, policies));
        }
        tiers.sort_by(|a, b| (a.0, a.1.order, &a.1.name).cmp(&(b.0, b.1.order, &b.1.name)));
        Self { tiers: tiers.into_iter().map(|(_, tier, policies)| (tier, policies)).collect() }
    }
    fn selecting(&self, labels: &crate::policy::Labels) -> Vec<(&Tier, Vec<&'a Policy>)> {
        let tiers = self.tiers.iter().map(|(tier, policies)| {
            (tier, policies.iter().filter(|p| p.selector.matches(labels)).copied().collect::<Vec<_>>())
        });
        tiers.filter(|(_, policies)| !policies.is_empty()).collect()
    }
}

struct Builder<'a, 'b> {
    named: &'a mut Resolver<'b>,
    /// Rules of a (policy, direction) are resolved once, whatever number of lists they stand in.
    blocks: BTreeMap<(String, Direction), PolicyBlock>,
    empty: BTreeSet<(EmptySelector, Option<SetId>)>,
}

impl Builder<'_, '_> {
    fn policies(&mut self, tiers: &[(&Tier, Vec<&Policy>)], kind: ListKind) -> List {
        let direction = direction(kind);
        let mut blocks = Vec::new();
        for (tier, policies) in tiers {
            let here = policies.iter().filter(|p| belongs(p.family, kind) && p.types.contains(&direction));
            let policies: Vec<PolicyBlock> = here.map(|p| self.policy(p, direction)).collect();
            if policies.is_empty() {
                continue;
            }
            // §3.5: only an enforced policy arms the end of its tier.
            let armed = policies.iter().any(|p| !p.staged);
            let passes = ends_with_pass(kind) || tier.default_action == TierDefault::Pass;
            let end = match (passes, armed) {
                (true, _) => TierEnd::Pass,
                (false, true) => TierEnd::Deny,
                (false, false) => TierEnd::WouldDeny,
            };
            blocks.push(TierBlock { name: tier.name.clone(), end, policies });
        }
        List { tiers: blocks }
    }
    fn policy(&mut self, policy: &Policy, direction: Direction) -> PolicyBlock {
        let key = (policy.tie_break(), direction);
        if let Some(block) = self.blocks.get(&key) {
            return block.clone();
        }
        let id = PolicyId::of(policy);
        let rules = self.rules(policy.rules(direction), Some(&id), direction);
        let on_change = policy.on_policy_change;
        let block = PolicyBlock { id, staged: policy.kind.is_staged(), on_change, rules };
        self.blocks.insert(key, block.clone());
        block
    }
    fn rules(&mut self, rules: &[Rule], policy: Option<&PolicyId>, direction: Direction) -> Vec<Resolved> {
        let list = match direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let mut resolved = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let mut empty = Vec::new();
            resolved.push(rules::resolve(rule, index, self.named, &mut empty));
            for (path, text, set) in empty {
                let path = format!("spec.{list}[{index}].{path}");
                self.empty.insert((EmptySelector { policy: policy.cloned(), path, text }, set));
            }
        }
        resolved
    }
    /// §3.8: profiles in the order listed; one that does not exist matches nothing.
    fn profiles(&mut self, hep: &HostEndpoint, world: &World, kind: ListKind) -> List {
        let direction = direction(kind);
        let mut tiers = Vec::new();
        for name in &hep.profiles {
            let Some(profile) = defaults::profile(world, name) else { continue };
            let rules = self.rules(profile_rules(&profile, direction), None, direction);
            if rules.is_empty() {
                continue;
            }
            let block = PolicyBlock { id: PolicyId::of_profile(name), staged: false, on_change: None, rules };
            tiers.push(TierBlock { name: name.clone(), end: TierEnd::Pass, policies: vec![block] });
        }
        List { tiers }
    }
}

fn profile_rules(profile: &Profile, direction: Direction) -> &[Rule] {
    match direction {
        Direction::Ingress => &profile.ingress,
        Direction::Egress => &profile.egress,
    }
}
