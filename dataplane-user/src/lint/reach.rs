//! What a list may let through, looking at protocol and port alone: an address that would pass is enough.

use dataplane_common::abi::ListKind;

use crate::index::lists::ListKey;
use crate::index::{EndpointLists, List, PortAlternative, Resolved, Side, Snapshot, TierEnd};
use crate::policy::{Action, Failsafe, Protocol};

/// What a service needs.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Some address passes.
    Yes,
    /// None does.
    No,
    /// The list decides nothing for some address.
    Open,
}

/// Whether this node's failsafes let it through, for some address.
pub fn by_failsafe(list: &[Failsafe], need: Need) -> bool {
    list.iter().any(|f| f.protocol == need.protocol && f.port == need.port)
}

/// Whether some sender may reach this port of the host itself through the endpoint.
pub fn may_come_in(snapshot: &Snapshot, endpoint: &EndpointLists, need: Need) -> bool {
    let lists =
        [ListKind::UntrackedIngress, ListKind::PreDnat, ListKind::NormalIngress, ListKind::ProfileIngress];
    by_failsafe(&snapshot.failsafe_inbound, need) || walk(snapshot, endpoint, &lists, need)
}

/// Whether a local process may reach this port of somebody through the endpoint.
pub fn may_go_out(snapshot: &Snapshot, endpoint: &EndpointLists, need: Need) -> bool {
    let lists = [ListKind::UntrackedEgress, ListKind::NormalEgress, ListKind::ProfileEgress];
    by_failsafe(&snapshot.failsafe_outbound, need) || walk(snapshot, endpoint, &lists, need)
}

fn walk(snapshot: &Snapshot, endpoint: &EndpointLists, lists: &[ListKind], need: Need) -> bool {
    for kind in lists {
        let Some(list) = endpoint.lists.get(&ListKey(*kind)) else { continue };
        match through(snapshot, list, need) {
            Way::Yes => return true,
            Way::No => return false,
            Way::Open => {}
        }
    }
    false
}

fn through(snapshot: &Snapshot, list: &List, need: Need) -> Way {
    for tier in &list.tiers {
        let mut leaves = false;
        let rules = tier.policies.iter().filter(|p| !p.staged).flat_map(|p| &p.rules);
        let mut all_leave = false;
        for rule in rules {
            let Some(all) = matches(snapshot, rule, need) else { continue };
            match rule.action {
                Action::Allow => return Way::Yes,
                Action::Deny if all && !leaves => return Way::No,
                Action::Deny if all => {
                    all_leave = true;
                    break;
                }
                Action::Pass => {
                    leaves = true;
                    if all {
                        all_leave = true;
                        break;
                    }
                }
                Action::Deny | Action::Log => {}
            }
        }
        if !all_leave && tier.end == TierEnd::Deny && !leaves {
            return Way::No;
        }
    }
    Way::Open
}

/// Whether the rule can match; `Some(true)`: it matches whatever the addresses and other ports are.
fn matches(snapshot: &Snapshot, rule: &Resolved, need: Need) -> Option<bool> {
    let protocol = rule.protocol.is_none_or(|p| p == need.protocol)
        && rule.not_protocol.is_none_or(|p| p != need.protocol);
    if !protocol || rule.icmp.is_some() || has_empty_set(snapshot, rule) {
        return None;
    }
    let source_port = rule.source.ports == Default::default();
    let (port_may, port_all) = port(&rule.destination, need);
    let any_address =
        [&rule.source, &rule.destination].iter().all(|s| s.all_of.is_empty() && s.none_of.is_empty());
    port_may.then_some(port_all && source_port && any_address && rule.v4 && rule.v6)
}

/// Whether a rule refers to a set without any address, and so matches nothing.
pub fn has_empty_set(snapshot: &Snapshot, rule: &Resolved) -> bool {
    let sides = [&rule.source, &rule.destination];
    let nobody = |side: &&Side| side.ports.any_of.as_ref().is_some_and(Vec::is_empty);
    sides.iter().any(nobody)
        || sides.iter().flat_map(|s| &s.all_of).any(|set| snapshot.sets.get(*set).is_empty())
}

/// (may match this destination port, matches it at every address)
fn port(side: &Side, need: Need) -> (bool, bool) {
    let inside = |first: u16, last: u16| first <= need.port && need.port <= last;
    if side.ports.none_of.iter().any(|r| inside(r.first, r.last)) {
        return (false, false);
    }
    let Some(any_of) = &side.ports.any_of else { return (true, side.ports.none_of_named.is_empty()) };
    let by_range = any_of.iter().any(|a| match a {
        PortAlternative::Ranges(ranges) => ranges.iter().any(|r| inside(r.first, r.last)),
        PortAlternative::At(..) => false,
    });
    let by_name = any_of.iter().any(|a| match a {
        PortAlternative::Ranges(_) => false,
        PortAlternative::At(protocol, port, _) => *protocol == need.protocol && *port == need.port,
    });
    (by_range || by_name, by_range)
}
