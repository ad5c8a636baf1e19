//! Each policy by itself: what it says and cannot do.

use std::collections::BTreeSet;

use super::{Code, Found, endpoint_key};
use crate::index::lists::PolicyId;
use crate::index::{Snapshot, labels};
use crate::policy::{
    Action, Direction, Family, HepInterface, HostEndpoint, Labels, PeerSelector, Policy, Rule, World,
};

pub(super) fn check(world: &World, snapshot: &Snapshot, found: &mut Found) {
    let all = &snapshot.facts.host_endpoints;
    let endpoints: Vec<(&HostEndpoint, Labels)> =
        all.values().map(|h| (h, labels::endpoint_labels(h, world))).collect();
    for policy in world.policies.values() {
        let id = PolicyId::of(policy);
        log_only(policy, &id, found);
        outside_types(policy, &id, found);
        for (endpoint, labels) in endpoints.iter().filter(|(_, labels)| policy.selector.matches(labels)) {
            negative_namespace(policy, &id, endpoint, labels, found);
            untracked_on_wildcard(policy, &id, endpoint, found);
        }
        selects_nothing(policy, &id, world, snapshot, found);
    }
    matches_nothing(world, snapshot, &endpoints, found);
    shadowed(world, snapshot, found);
}

/// The rules of each direction that are judged, with the name of their list.
fn directions(policy: &Policy) -> [(&'static str, &[Rule]); 2] {
    [("ingress", policy.rules(Direction::Ingress)), ("egress", policy.rules(Direction::Egress))]
}

/// L06
fn log_only(policy: &Policy, id: &PolicyId, found: &mut Found) {
    if policy.kind.is_staged() || matches!(policy.family, Family::Untracked | Family::PreDnat) {
        return;
    }
    for (list, rules) in directions(policy) {
        if !rules.is_empty() && rules.iter().all(|r| r.action == Action::Log) {
            found.add(
                Code::LogOnly,
                id,
                format!("spec.{list}"),
                "has only Log rules, and a policy without a verdict still makes the end of its tier deny",
                "add `- action: Pass` (or Allow) behind the last Log rule",
            );
        }
    }
}

/// L09
fn outside_types(policy: &Policy, id: &PolicyId, found: &mut Found) {
    let lists =
        [("ingress", Direction::Ingress, &policy.ingress), ("egress", Direction::Egress, &policy.egress)];
    for (list, direction, rules) in lists {
        if !rules.is_empty() && !policy.types.contains(&direction) {
            found.add(
                Code::RulesOutsideTypes,
                id,
                format!("spec.{list}"),
                format!(
                    "has {} rules that are ignored, because `types` leaves {direction:?} out",
                    rules.len()
                ),
                format!("add {direction:?} to `types`, or remove the rules"),
            );
        }
    }
}

/// L08: a condition about namespaces that host endpoints fulfil because they are in none.
fn negative_namespace(
    policy: &Policy,
    id: &PolicyId,
    endpoint: &HostEndpoint,
    labels: &Labels,
    found: &mut Found,
) {
    for (prefix, field) in [("pcns.", "namespaceSelector"), ("pcsa.", "serviceAccountSelector")] {
        let inherits = labels.keys().any(|key| key.starts_with(prefix));
        if policy.selector.mentions_keys_with(prefix) && !inherits {
            found.add(
                Code::NegativeNamespaceSelector,
                id,
                format!("spec.{field}"),
                format!(
                    "is true for what has no such label, so the policy governs host endpoints too ({})",
                    endpoint_key(&endpoint.name)
                ),
                "add `has(projectcalico.org/name) && (…)` around it if only pods are meant",
            );
        }
    }
}

/// L23
fn untracked_on_wildcard(policy: &Policy, id: &PolicyId, endpoint: &HostEndpoint, found: &mut Found) {
    if policy.family == Family::Untracked && endpoint.interface == HepInterface::All {
        found.add(
            Code::UntrackedOnWildcard,
            id,
            "spec.doNotTrack",
            format!(
                "untracked policy has no effect on a `*` host endpoint ({})",
                endpoint_key(&endpoint.name)
            ),
            "name the device in interfaceName, or select other host endpoints",
        );
    }
}

/// L18
fn selects_nothing(policy: &Policy, id: &PolicyId, world: &World, snapshot: &Snapshot, found: &mut Found) {
    if !snapshot.facts.not_for_hosts.contains(id) {
        return;
    }
    let for_pods = world.pods.values().any(|pod| policy.selector.matches(&labels::pod_labels(pod, world)));
    if !for_pods && policy.namespace.is_none() {
        found.add(
            Code::SelectsNothing,
            id,
            "spec.selector",
            format!("`{}` selects no host endpoint of any node, and no known pod", policy.selector),
            "compare it with the labels of the HostEndpoints (`portcullis get hep -o wide`)",
        );
    }
}

/// L03 and L17: parts of rules that stand for no address.
fn matches_nothing(
    world: &World,
    snapshot: &Snapshot,
    endpoints: &[(&HostEndpoint, Labels)],
    found: &mut Found,
) {
    for empty in &snapshot.facts.empty_selectors {
        let Some(id) = &empty.policy else { continue };
        let policy = world.policies.values().find(|p| PolicyId::of(p) == *id);
        let selector = policy.and_then(|p| selector_at(p, &empty.path));
        let without: Vec<String> = endpoints
            .iter()
            .filter(|(_, labels)| selector.is_some_and(|s| s.selector.matches(labels)))
            .map(|(h, _)| endpoint_key(&h.name))
            .collect();
        let what = empty.path.rsplit('.').next().unwrap_or_default();
        match (without.first(), what) {
            (Some(first), _) => found.add(
                Code::EndpointsWithoutAddresses,
                id,
                empty.path.clone(),
                format!("only matches host endpoints without expectedIPs ({first}), so it stands for no address and the rule never matches"),
                "write the node's addresses into `expectedIPs` of these HostEndpoints",
            ),
            (None, "services") => found.add(
                Code::MatchesNothing,
                id,
                empty.path.clone(),
                format!("the Service {} is unknown or has no endpoint, so the rule never matches", empty.text),
                "check namespace and name, and that its EndpointSlices are among the documents",
            ),
            (None, "ports") => found.add(
                Code::MatchesNothing,
                id,
                empty.path.clone(),
                format!("nobody has a port called {}, so the rule never matches", empty.text),
                "write the port's number, or the name as the pods or `ports` of the HostEndpoint have it",
            ),
            (None, _) => found.add(
                Code::MatchesNothing,
                id,
                empty.path.clone(),
                format!("`{}` matches no known pod, host endpoint or network set, so the rule never matches", empty.text),
                "correct the selector, or label what is meant; for other addresses write `nets`",
            ),
        }
    }
}

/// The selector at `spec.ingress[2].source.selector`.
fn selector_at<'a>(policy: &'a Policy, path: &str) -> Option<&'a PeerSelector> {
    let rest = path.strip_prefix("spec.")?;
    let (list, rest) = rest.split_once('[')?;
    let (index, rest) = rest.split_once("].")?;
    let rules = if list == "ingress" { &policy.ingress } else { &policy.egress };
    let rule = rules.get(index.parse::<usize>().ok()?)?;
    let side = if rest.starts_with("source") { &rule.source } else { &rule.destination };
    side.selector.as_ref()
}

/// L13 and L16.
fn shadowed(world: &World, snapshot: &Snapshot, found: &mut Found) {
    let policy = |id: &PolicyId| world.policies.values().find(|p| PolicyId::of(p) == *id);
    let mut unordered: BTreeSet<PolicyId> = BTreeSet::new();
    for (rule, by) in &snapshot.shadowed() {
        let (Some(late), Some(early)) = (policy(&rule.policy), policy(&by.policy)) else { continue };
        let action = |p: &Policy, id: &crate::index::RuleId| {
            let rules = if id.direction == "ingress" { &p.ingress } else { &p.egress };
            rules.get(usize::from(id.index)).map(|r| r.action)
        };
        let (what, by_what) = (action(late, rule), action(early, by));
        let by_order = late.order.0.is_none() && early.order.0.is_some();
        if by_order && what == Some(Action::Allow) && by_what == Some(Action::Deny) {
            if unordered.insert(rule.policy.clone()) {
                found.add(
                    Code::UnorderedAllow,
                    &rule.policy,
                    "spec.order",
                    format!(
                        "is absent, which sorts last: {by} denies everything before this policy is looked at"
                    ),
                    "give this policy an `order` below that of the Deny",
                );
            }
            continue;
        }
        found.add(
            Code::Shadowed,
            &rule.policy,
            rule.path(),
            format!("never decides: {by} comes first and takes every packet of it"),
            "move it before that rule, narrow that rule, or remove this one",
        );
    }
}
