//! The policy lists of an endpoint: which policies, in which order, and how a list is walked (semantics §3, D24).

use super::frame::Packet;
use super::peers::{self, Peer};
use super::rules;
use crate::policy::{
    Action, Direction, Family, HostEndpoint, OnPolicyChange, Order, Policy, Rule, Tier, TierDefault, World,
};

/// The four list families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Untracked,
    PreDnat,
    Forward,
    Normal,
}

impl List {
    fn holds(self, family: Family) -> bool {
        match self {
            Self::Untracked => family == Family::Untracked,
            Self::PreDnat => family == Family::PreDnat,
            Self::Forward => family == Family::NormalAndForward,
            Self::Normal => matches!(family, Family::NormalAndForward | Family::Normal),
        }
    }
    /// Untracked and preDNAT tiers always pass at their end.
    fn tier_end(self, tier: &Tier) -> TierDefault {
        match self {
            Self::Untracked | Self::PreDnat => TierDefault::Pass,
            Self::Forward | Self::Normal => tier.default_action,
        }
    }
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Untracked => "untracked",
            Self::PreDnat => "preDNAT",
            Self::Forward => "forward",
            Self::Normal => "normal",
        }
    }
}

/// How a list ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// A rule decided.
    Rule { allow: bool, tier: Option<String>, policy: String, rule: u32, recheck: Option<OnPolicyChange> },
    /// The tier ended, and denies.
    Tier { tier: String },
    /// Nothing decided.
    Open,
}

/// What a walk needs beside the packet.
pub(crate) struct Walk<'a> {
    pub world: &'a World,
    pub peers: &'a [Peer],
    pub packet: &'a Packet,
    pub direction: Direction,
    pub trace: &'a mut Vec<String>,
}

fn built_in(name: &str) -> Option<Tier> {
    let (order, default_action) = match name {
        "default" => (1_000_000.0, TierDefault::Deny),
        "kube-admin" => (1_000.0, TierDefault::Pass),
        "kube-baseline" => (10_000_000.0, TierDefault::Pass),
        _ => return None,
    };
    Some(Tier { name: name.into(), order: Order(Some(order)), default_action })
}

/// Tiers in order, each with its policies in order. Missing tiers come last and deny (§3.2).
pub(crate) fn tiers<'a>(
    world: &'a World,
    endpoint: &HostEndpoint,
    list: List,
    direction: Direction,
) -> Vec<(Tier, Vec<&'a Policy>)> {
    let labels = peers::endpoint_labels(world, endpoint);
    let mut found: Vec<(bool, Tier, Vec<&Policy>)> = Vec::new();
    for policy in world.policies.values() {
        if !list.holds(policy.family)
            || !policy.types.contains(&direction)
            || !policy.selector.matches(&labels)
        {
            continue;
        }
        if let Some(entry) = found.iter_mut().find(|(_, t, _)| t.name == policy.tier) {
            entry.2.push(policy);
            continue;
        }
        let tier = world.tiers.get(&policy.tier).cloned().or_else(|| built_in(&policy.tier));
        let missing = tier.is_none();
        let tier = tier.unwrap_or_else(|| Tier {
            name: policy.tier.clone(),
            order: Order(None),
            default_action: TierDefault::Deny,
        });
        found.push((missing, tier, vec![policy]));
    }
    found.sort_by(|a, b| (a.0, a.1.order, &a.1.name).cmp(&(b.0, b.1.order, &b.1.name)));
    for (_, _, policies) in &mut found {
        policies.sort_by_key(|p| (p.order, p.tie_break()));
    }
    found.into_iter().map(|(_, tier, policies)| (tier, policies)).collect()
}

enum Step {
    Decided(bool, u32),
    Pass,
    Next,
}

/// Walks the rules of one policy or profile.
fn rules_of(walk: &mut Walk<'_>, what: &str, rules: &[Rule]) -> Step {
    for (index, rule) in rules.iter().enumerate() {
        let at = format!("{what} rule {index} ({:?})", rule.action);
        if let Some(why) = rules::mismatch(walk.world, walk.peers, rule, walk.packet) {
            walk.trace.push(format!("{at}: no match: {why}"));
            continue;
        }
        walk.trace.push(format!("{at}: match"));
        match rule.action {
            Action::Allow => return Step::Decided(true, index as u32),
            Action::Deny => return Step::Decided(false, index as u32),
            Action::Pass => return Step::Pass,
            Action::Log => {}
        }
    }
    Step::Next
}

/// Walks a list of policies.
pub(crate) fn walk(walk: &mut Walk<'_>, endpoint: &HostEndpoint, list: List) -> End {
    let tiers = tiers(walk.world, endpoint, list, walk.direction);
    if tiers.is_empty() {
        walk.trace.push(format!("{} list of HostEndpoint {}: no policy", list.name(), endpoint.name));
    }
    'tiers: for (tier, policies) in tiers {
        let mut enforced = false;
        for policy in policies {
            let what =
                format!("{} list, tier {}, {} {}", list.name(), tier.name, policy.kind.as_str(), policy.name);
            if policy.kind.is_staged() {
                let would = match rules_of(walk, &what, policy.rules(walk.direction)) {
                    Step::Decided(true, rule) => format!("would Allow by rule {rule}"),
                    Step::Decided(false, rule) => format!("would Deny by rule {rule}"),
                    Step::Pass => "would Pass".to_owned(),
                    Step::Next => "no rule of it would decide".to_owned(),
                };
                walk.trace.push(format!("{what}: staged, not enforced: {would}"));
                continue;
            }
            enforced = true;
            match rules_of(walk, &what, policy.rules(walk.direction)) {
                Step::Next => {}
                Step::Pass => continue 'tiers,
                Step::Decided(allow, rule) => {
                    return End::Rule {
                        allow,
                        tier: Some(tier.name.clone()),
                        policy: policy.name.clone(),
                        rule,
                        recheck: policy.on_policy_change,
                    };
                }
            }
        }
        if !enforced {
            continue;
        }
        match list.tier_end(&tier) {
            TierDefault::Pass => {
                walk.trace.push(format!("{} list, end of tier {}: pass", list.name(), tier.name))
            }
            TierDefault::Deny => {
                walk.trace.push(format!("{} list, end of tier {}: deny", list.name(), tier.name));
                return End::Tier { tier: tier.name };
            }
        }
    }
    End::Open
}

/// Walks the profiles of an endpoint (§3.8). A Pass in a profile decides nothing.
pub(crate) fn profiles(walk: &mut Walk<'_>, endpoint: &HostEndpoint) -> End {
    for name in &endpoint.profiles {
        let what = format!("profile {name}");
        let step = match walk.world.profiles.get(name) {
            Some(profile) => {
                let rules = match walk.direction {
                    Direction::Ingress => &profile.ingress,
                    Direction::Egress => &profile.egress,
                };
                rules_of(walk, &what, rules)
            }
            // A namespace's own profile allows everything (§1.8).
            None if name == "projectcalico-default-allow"
                || name.strip_prefix("kns.").is_some_and(|n| walk.world.namespaces.contains_key(n)) =>
            {
                walk.trace.push(format!("{what} rule 0 (Allow): match"));
                Step::Decided(true, 0)
            }
            None => {
                walk.trace.push(format!("{what}: does not exist"));
                Step::Next
            }
        };
        if let Step::Decided(allow, rule) = step {
            return End::Rule { allow, tier: None, policy: name.clone(), rule, recheck: None };
        }
    }
    End::Open
}
