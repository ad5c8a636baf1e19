//! One list → compiled rules: alternatives of named ports and Services become rules of their own, negated named
//! ports become skips in front, Pass becomes a skip to the tier's end, the end of a tier becomes a rule.

use dataplane_common::abi::{ListKind, RuleAction, RuleEntry, rule_flag};
use dataplane_common::packet::protocol::{ICMP, ICMPV6};

use super::error::{Error, Limit, check};
use super::names;
use crate::index::{List, PolicyBlock, PortAlternative, Resolved, SetId, Side, TierBlock, TierEnd};
use crate::policy::{Action, Icmp, OnPolicyChange, PortRange, Protocol};

/// A compiled rule: what it does, and criteria in terms of sets only.
#[derive(Clone, Debug, PartialEq)]
pub struct Expanded {
    pub entry: RuleEntry,
    pub v4: bool,
    pub v6: bool,
    pub source: AddressMatch,
    pub destination: AddressMatch,
    /// Protocol, destination ports, ICMP types.
    pub dport: PortCriteria,
    /// Source ports; the protocol is checked by `dport`.
    pub sport: PortCriteria,
    /// What `names` knows this position by.
    pub name: names::NameId,
}

/// In all of these sets and in none of those.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AddressMatch {
    pub all_of: Vec<SetId>,
    pub none_of: Vec<SetId>,
}

/// Ranges of one protocol's 16-bit space: ports, or ICMP type << 8 | code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSet {
    pub protocol: Protocol,
    pub ranges: Vec<PortRange>,
}

/// Criteria over (protocol, port) of one side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortCriteria {
    pub protocol: Option<Protocol>,
    pub not_protocol: Option<Protocol>,
    pub all_of: Vec<PortSet>,
    pub none_of: Vec<PortSet>,
}

impl PortCriteria {
    /// Whether every (protocol, port) matches.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }
}

impl Expanded {
    /// Address sets it refers to.
    pub fn sets(&self) -> impl Iterator<Item = SetId> + '_ {
        let sides = [&self.source, &self.destination].into_iter();
        sides.flat_map(|s| s.all_of.iter().chain(&s.none_of).copied())
    }
    /// Whether the source port matters.
    pub fn looks_at_source_port(&self) -> bool {
        !self.sport.is_any()
    }
    fn is_final(&self) -> bool {
        self.entry.action == RuleAction::Allow as u8 || self.entry.action == RuleAction::Deny as u8
    }
}

/// Compiles one list of one endpoint.
pub fn list(
    endpoint: &str,
    kind: ListKind,
    list: &List,
    names: &mut names::Builder,
) -> Result<Vec<Expanded>, Error> {
    let mut out = Vec::new();
    for tier in &list.tiers {
        self::tier(kind, tier, names, &mut out);
        // Positions beyond the limit are never used, but an unbounded list must not be built first.
        check(Limit::RulesPerList, out.len(), &format!("HostEndpoint/{endpoint}, tier {}", tier.name))?;
    }
    let continuing = out.iter().filter(|r| !r.is_final()).count();
    check(Limit::ContinueRulesPerList, continuing, &format!("HostEndpoint/{endpoint}"))?;
    Ok(out)
}

fn tier(kind: ListKind, tier: &TierBlock, names: &mut names::Builder, out: &mut Vec<Expanded>) {
    // Skips to the end of the tier, to be told where that is.
    let mut to_end = Vec::new();
    for policy in &tier.policies {
        let mut to_policy_end = Vec::new();
        for rule in &policy.rules {
            self::rule(kind, tier, policy, rule, names, out, &mut to_end, &mut to_policy_end);
        }
        let end = out.len() as u32;
        to_policy_end.into_iter().for_each(|at: usize| out[at].entry.resume = end);
    }
    // Pass out of the tier goes on behind its end, not to it.
    let end = out.len() as u32 + u32::from(tier.end != TierEnd::Pass);
    match tier.end {
        TierEnd::Deny => out.push(tier_end(kind, tier, names, None)),
        TierEnd::WouldDeny => out.push(tier_end(kind, tier, names, Some(end))),
        TierEnd::Pass => {}
    }
    to_end.into_iter().for_each(|at: usize| out[at].entry.resume = end);
}

/// With `staged_resume` it denies nothing: it is counted, and the list goes on there.
fn tier_end(
    kind: ListKind,
    tier: &TierBlock,
    names: &mut names::Builder,
    staged_resume: Option<u32>,
) -> Expanded {
    let (name, identity) = names.tier_end(kind, &tier.name, staged_resume.is_some());
    let (action, flags) = match staged_resume {
        None => (RuleAction::Deny, rule_flag::TIER_END),
        Some(_) => (RuleAction::Skip, rule_flag::TIER_END | rule_flag::STAGED),
    };
    Expanded {
        entry: RuleEntry {
            action: action as u8,
            flags,
            index: u16::MAX,
            policy: u32::MAX,
            resume: staged_resume.unwrap_or(0),
            identity,
        },
        v4: true,
        v6: true,
        source: AddressMatch::default(),
        destination: AddressMatch::default(),
        dport: PortCriteria::default(),
        sport: PortCriteria::default(),
        name,
    }
}

#[allow(clippy::too_many_arguments, reason = "one call site; the two lists are what it fills")]
fn rule(
    kind: ListKind,
    tier: &TierBlock,
    policy: &PolicyBlock,
    rule: &Resolved,
    names: &mut names::Builder,
    out: &mut Vec<Expanded>,
    to_tier_end: &mut Vec<usize>,
    to_policy_end: &mut Vec<usize>,
) {
    if !rule.v4 && !rule.v6 {
        return;
    }
    let (policy_number, name, identity) = names.rule(kind, &tier.name, policy, rule);
    let mut entry = RuleEntry { index: rule.index, policy: policy_number, identity, ..RuleEntry::default() };
    entry.flags |= match policy.on_change {
        Some(OnPolicyChange::Recheck) => rule_flag::RECHECK,
        Some(OnPolicyChange::Keep) => rule_flag::KEEP,
        None => 0,
    };
    if policy.staged {
        entry.flags |= rule_flag::STAGED;
    }
    let alternatives = alternatives(rule, entry, name);
    if alternatives.is_empty() {
        return;
    }
    let only_staged = tier.policies.iter().all(|p| p.staged);
    // "None of these named ports": whoever has one jumps behind the rule.
    let first_skip = out.len();
    for skip in negated_named_ports(&alternatives, rule) {
        out.push(skip);
    }
    let skips = first_skip..out.len();
    for mut alternative in alternatives {
        let position = out.len();
        alternative.entry.action = match (rule.action, policy.staged) {
            (Action::Log, _) => RuleAction::Log,
            (Action::Pass, false) => {
                to_tier_end.push(position);
                RuleAction::Skip
            }
            // What a staged policy says is only counted. Where enforced policies stand beside it, it ends at its own
            // verdict; among staged ones alone, its verdict is that of the tier.
            (Action::Allow | Action::Deny | Action::Pass, true) if only_staged => {
                to_tier_end.push(position);
                RuleAction::Skip
            }
            (Action::Allow | Action::Deny | Action::Pass, true) => {
                to_policy_end.push(position);
                RuleAction::Skip
            }
            (Action::Allow, false) => RuleAction::Allow,
            (Action::Deny, false) => RuleAction::Deny,
        } as u8;
        out.push(alternative);
    }
    let behind = out.len() as u32;
    out[skips].iter_mut().for_each(|skip| skip.entry.resume = behind);
}

/// The rule once for each combination of alternatives of its two sides; none when a side has none (D14).
fn alternatives(rule: &Resolved, entry: RuleEntry, name: names::NameId) -> Vec<Expanded> {
    let mut found = Vec::new();
    for source in side_alternatives(&rule.source) {
        for destination in side_alternatives(&rule.destination) {
            let protocols = [rule.protocol, source.protocol, destination.protocol];
            // Two alternatives of different protocols never hold together.
            let Ok(protocol) = agree(protocols) else { continue };
            let mut dport = PortCriteria {
                protocol,
                not_protocol: rule.not_protocol,
                all_of: port_sets(protocol, destination.ranges),
                none_of: port_sets(protocol, non_empty(&rule.destination.ports.none_of)),
            };
            add_icmp(&mut dport, rule);
            let sport = PortCriteria {
                protocol: None,
                not_protocol: None,
                all_of: port_sets(protocol, source.ranges.clone()),
                none_of: port_sets(protocol, non_empty(&rule.source.ports.none_of)),
            };
            found.push(Expanded {
                entry,
                v4: rule.v4,
                v6: rule.v6,
                source: address_match(&rule.source, source.set),
                destination: address_match(&rule.destination, destination.set),
                dport,
                sport,
                name,
            });
        }
    }
    found
}

struct SideAlternative {
    protocol: Option<Protocol>,
    ranges: Option<Vec<PortRange>>,
    set: Option<SetId>,
}

fn side_alternatives(side: &Side) -> Vec<SideAlternative> {
    let Some(any_of) = &side.ports.any_of else {
        return vec![SideAlternative { protocol: None, ranges: None, set: None }];
    };
    let alternatives = any_of.iter().map(|alternative| match alternative {
        PortAlternative::Ranges(ranges) => {
            SideAlternative { protocol: None, ranges: Some(ranges.clone()), set: None }
        }
        PortAlternative::At(protocol, port, set) => SideAlternative {
            protocol: Some(*protocol),
            ranges: Some(vec![PortRange { first: *port, last: *port }]),
            set: Some(*set),
        },
    });
    alternatives.collect()
}

/// Copies of the rule that also ask for one of the names' (protocol, port, address); their `resume` is set later.
fn negated_named_ports(alternatives: &[Expanded], rule: &Resolved) -> Vec<Expanded> {
    let Some(model) = alternatives.first() else { return Vec::new() };
    let mut skips = Vec::new();
    for (named, is_source) in
        [(&rule.source.ports.none_of_named, true), (&rule.destination.ports.none_of_named, false)]
    {
        for (protocol, port, set) in named {
            let exact =
                vec![PortSet { protocol: *protocol, ranges: vec![PortRange { first: *port, last: *port }] }];
            // Only addresses, protocol and port of the name: a skip that hits more often than its rule is harmless.
            let mut skip = Expanded {
                // It means that the rule does not match, so it must not count as a hit of it.
                entry: RuleEntry {
                    action: RuleAction::Skip as u8,
                    flags: rule_flag::UNCOUNTED,
                    ..model.entry
                },
                v4: rule.v4,
                v6: rule.v6,
                source: AddressMatch::default(),
                destination: AddressMatch::default(),
                dport: PortCriteria { protocol: Some(*protocol), ..PortCriteria::default() },
                sport: PortCriteria::default(),
                name: model.name,
            };
            if is_source {
                skip.source.all_of.push(*set);
                skip.sport.all_of = exact;
            } else {
                skip.destination.all_of.push(*set);
                skip.dport.all_of = exact;
            }
            skips.push(skip);
        }
    }
    skips
}

/// The one protocol that all agree on, if any names one.
fn agree(protocols: [Option<Protocol>; 3]) -> Result<Option<Protocol>, ()> {
    let mut agreed = None;
    for protocol in protocols.into_iter().flatten() {
        match agreed {
            Some(p) if p != protocol => return Err(()),
            _ => agreed = Some(protocol),
        }
    }
    Ok(agreed)
}

fn address_match(side: &Side, extra: Option<SetId>) -> AddressMatch {
    let mut all_of: Vec<SetId> = side.all_of.iter().copied().chain(extra).collect();
    all_of.sort_unstable();
    all_of.dedup();
    AddressMatch { all_of, none_of: side.none_of.clone() }
}

fn non_empty(ranges: &[PortRange]) -> Option<Vec<PortRange>> {
    (!ranges.is_empty()).then(|| ranges.to_vec())
}

/// Validation ties numeric ports to a protocol (§1.3). Without one, a rule about numbers matches no packet.
fn port_sets(protocol: Option<Protocol>, ranges: Option<Vec<PortRange>>) -> Vec<PortSet> {
    let Some(ranges) = ranges else { return Vec::new() };
    vec![PortSet { protocol: protocol.unwrap_or(0), ranges: merged(ranges) }]
}

fn add_icmp(criteria: &mut PortCriteria, rule: &Resolved) {
    let types = |icmp: Icmp| {
        let first = u16::from(icmp.kind) << 8;
        match icmp.code {
            Some(code) => PortRange { first: first | u16::from(code), last: first | u16::from(code) },
            None => PortRange { first, last: first | 0xff },
        }
    };
    let protocols = match rule.protocol {
        Some(protocol) => vec![protocol],
        None => vec![ICMP, ICMPV6],
    };
    if let (Some(icmp), Some(protocol)) = (rule.icmp, rule.protocol) {
        criteria.all_of.push(PortSet { protocol, ranges: vec![types(icmp)] });
    }
    if let Some(icmp) = rule.not_icmp {
        // Packets of other protocols have no type, so they are "not of this type".
        let sets = protocols.into_iter().map(|protocol| PortSet { protocol, ranges: vec![types(icmp)] });
        criteria.none_of.extend(sets);
    }
}

/// Sorted, overlapping and adjacent ranges joined, so that equal sets look equal.
fn merged(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut out: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                last.last = last.last.max(range.last)
            }
            _ => out.push(range),
        }
    }
    out
}
