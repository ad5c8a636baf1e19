//! Rules that can never decide because an earlier rule of the same list takes every packet that they would match.
//!
//! The answer is on the safe side: a rule is called shadowed only when one single earlier rule covers it. Two rules
//! that cover it together are not looked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;

use super::lists::{EndpointLists, List, ListKey, PolicyId};
use super::rules::{PortAlternative, PortMatch, Resolved, Side};
use super::sets::{SetId, Sets};
use crate::policy::{Action, Icmp, PortRange};

/// Most comparisons of two rules in one list: longer lists are looked at from their beginning, as far as this lasts.
pub const MAX_COMPARISONS: usize = 1 << 20;
/// Largest set whose prefixes are compared one by one with another's.
const MAX_COMPARED_PREFIXES: usize = 4096;

/// A rule: its policy, and its index in the list of that direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId {
    pub policy: PolicyId,
    /// `ingress` or `egress`.
    pub direction: &'static str,
    pub index: u16,
}

impl RuleId {
    /// `spec.ingress[2]`.
    pub fn path(&self) -> String {
        format!("spec.{}[{}]", self.direction, self.index)
    }
}

impl std::fmt::Display for RuleId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.policy, self.path())
    }
}

/// Rules that are shadowed in every list of every endpoint that they stand in, each with a rule that covers it.
pub fn shadowed(endpoints: &[EndpointLists], sets: &Sets) -> BTreeMap<RuleId, RuleId> {
    let mut covered: BTreeMap<RuleId, RuleId> = BTreeMap::new();
    let mut alive: BTreeSet<RuleId> = BTreeSet::new();
    let mut subsets = Subsets { sets, known: HashMap::new() };
    for endpoint in endpoints {
        for (key, list) in &endpoint.lists {
            of_list(*key, list, &mut subsets, &mut covered, &mut alive);
        }
    }
    covered.retain(|rule, _| !alive.contains(rule));
    covered
}

fn of_list(
    key: ListKey,
    list: &List,
    subsets: &mut Subsets<'_>,
    covered: &mut BTreeMap<RuleId, RuleId>,
    alive: &mut BTreeSet<RuleId>,
) {
    let direction = if key.is_ingress() { "ingress" } else { "egress" };
    let mut left = MAX_COMPARISONS;
    // Rules of the whole list that decide, and Pass rules of the present tier.
    let mut deciding: Vec<(RuleId, &Resolved)> = Vec::new();
    for tier in &list.tiers {
        let mut passing: Vec<(RuleId, &Resolved)> = Vec::new();
        for policy in tier.policies.iter().filter(|p| !p.staged) {
            for rule in &policy.rules {
                let id = RuleId { policy: policy.id.clone(), direction, index: rule.index };
                let earlier = deciding.iter().chain(&passing).take(left);
                let by = earlier.clone().find(|(_, e)| covers(e, rule, subsets)).map(|(id, _)| id.clone());
                left -= earlier.count();
                match by {
                    Some(by) => drop(covered.entry(id).or_insert(by)),
                    None => {
                        match rule.action {
                            Action::Allow | Action::Deny => deciding.push((id.clone(), rule)),
                            Action::Pass => passing.push((id.clone(), rule)),
                            Action::Log => {}
                        }
                        alive.insert(id);
                    }
                }
            }
        }
    }
}

/// Whether every packet that `rule` matches is matched by `earlier` too. False when in doubt.
fn covers(earlier: &Resolved, rule: &Resolved, subsets: &mut Subsets<'_>) -> bool {
    let protocol = earlier.protocol.is_none_or(|p| rule.protocol == Some(p));
    let not_protocol = earlier
        .not_protocol
        .is_none_or(|p| rule.not_protocol == Some(p) || rule.protocol.is_some_and(|q| q != p));
    (earlier.v4 || !subsets.reaches(rule, true))
        && (earlier.v6 || !subsets.reaches(rule, false))
        && protocol
        && not_protocol
        && earlier.icmp.is_none_or(|e| rule.icmp.is_some_and(|r| icmp_within(r, e)))
        && earlier.not_icmp.is_none_or(|e| rule.not_icmp.is_some_and(|r| icmp_within(e, r)))
        && side_covers(&earlier.source, &rule.source, subsets)
        && side_covers(&earlier.destination, &rule.destination, subsets)
}

fn icmp_within(inner: Icmp, outer: Icmp) -> bool {
    inner.kind == outer.kind && outer.code.is_none_or(|code| inner.code == Some(code))
}

fn side_covers(earlier: &Side, rule: &Side, subsets: &mut Subsets<'_>) -> bool {
    // What costs least first.
    if !ports_cover(&earlier.ports, &rule.ports, subsets) {
        return false;
    }
    let within =
        earlier.all_of.iter().all(|outer| rule.all_of.iter().any(|inner| subsets.holds(*inner, *outer)));
    let without = earlier.none_of.iter().all(|e| rule.none_of.iter().any(|r| subsets.holds(*e, *r)));
    within && without
}

fn ports_cover(earlier: &PortMatch, rule: &PortMatch, subsets: &mut Subsets<'_>) -> bool {
    let any_of = match (&earlier.any_of, &rule.any_of) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => {
            inner.iter().all(|i| outer.iter().any(|o| alternative_covers(o, i, subsets)))
        }
    };
    let none_of = earlier.none_of.iter().all(|e| rule.none_of.iter().any(|r| range_within(e, r)));
    let named = earlier.none_of_named.iter().all(|e| rule.none_of_named.contains(e));
    any_of && none_of && named
}

fn range_within(inner: &PortRange, outer: &PortRange) -> bool {
    outer.first <= inner.first && inner.last <= outer.last
}

fn alternative_covers(outer: &PortAlternative, inner: &PortAlternative, subsets: &mut Subsets<'_>) -> bool {
    use PortAlternative::{At, Ranges};
    match (outer, inner) {
        (Ranges(o), Ranges(i)) => i.iter().all(|i| o.iter().any(|o| range_within(i, o))),
        (Ranges(o), At(_, port, _)) => o.iter().any(|o| o.first <= *port && *port <= o.last),
        (At(p, n, outer), At(q, m, inner)) => p == q && n == m && subsets.holds(*inner, *outer),
        (At(..), Ranges(_)) => false,
    }
}

/// Which set lies within which.
struct Subsets<'a> {
    sets: &'a Sets,
    known: HashMap<(SetId, SetId), bool>,
}

impl Subsets<'_> {
    /// Whether a rule can match packets of this family: a set without addresses of it matches none.
    fn reaches(&self, rule: &Resolved, v4: bool) -> bool {
        let mut sets = rule.source.all_of.iter().chain(&rule.destination.all_of);
        // Sorted: IPv4 stands first.
        let has = |set: &SetId| {
            let nets = self.sets.get(*set);
            if v4 { nets.first() } else { nets.last() }.is_some_and(|net| net.addr().is_ipv4() == v4)
        };
        (if v4 { rule.v4 } else { rule.v6 }) && sets.all(has)
    }
    /// Whether every prefix of `inner` lies in a prefix of `outer`.
    fn holds(&mut self, inner: SetId, outer: SetId) -> bool {
        if inner == outer {
            return true;
        }
        if let Some(known) = self.known.get(&(inner, outer)) {
            return *known;
        }
        let (a, b) = (self.sets.get(inner), self.sets.get(outer));
        let found = a == b || a.len() <= MAX_COMPARED_PREFIXES && a.iter().all(|net| within(net, b));
        self.known.insert((inner, outer), found);
        found
    }
}

/// Whether a sorted list of prefixes holds this one or one that covers it.
fn within(net: &IpNet, sorted: &[IpNet]) -> bool {
    let mut next = Some(*net);
    while let Some(net) = next {
        if sorted.binary_search(&net).is_ok() {
            return true;
        }
        next = net.supernet();
    }
    false
}
