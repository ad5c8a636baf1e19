//! Rules with their names resolved: selectors, nets, named ports and services as address sets (`semantics.md` §6).

use crate::policy::{Action, EntityRule, Icmp, IpVersion, Port, PortRange, Protocol, Rule};

use super::resolver::Resolver;
use super::sets::SetId;

/// A rule that needs nothing but packets and sets to be evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    pub action: Action,
    /// Index in the policy's list.
    pub index: u16,
    /// Whether IPv4 packets can match (R23).
    pub v4: bool,
    /// Whether IPv6 packets can match.
    pub v6: bool,
    pub protocol: Option<Protocol>,
    pub not_protocol: Option<Protocol>,
    pub icmp: Option<Icmp>,
    pub not_icmp: Option<Icmp>,
    pub source: Side,
    pub destination: Side,
}

/// One side of a rule. The address must be in every set of `all_of` and in none of `none_of`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Side {
    pub all_of: Vec<SetId>,
    pub none_of: Vec<SetId>,
    pub ports: PortMatch,
}

/// Port criteria of one side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortMatch {
    /// `None`: no such criterion. Empty: a name or Service that nobody has, so nothing matches (D14).
    pub any_of: Option<Vec<PortAlternative>>,
    /// `notPorts`, numeric.
    pub none_of: Vec<PortRange>,
    /// `notPorts`, named: the packet is none of (protocol, port, address in set).
    pub none_of_named: Vec<(Protocol, u16, SetId)>,
}

/// One of the ORed entries of a port list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortAlternative {
    /// Any address of this side.
    Ranges(Vec<PortRange>),
    /// This port at these addresses: a named port, or a Service's backends.
    At(Protocol, u16, SetId),
}

/// A selector, named port or Service of a rule that stands for no address: (`source.selector`, text). With a set: as
/// long as the set is empty, which it may not be now.
pub type Empty = (String, String, Option<SetId>);

/// Resolves one rule.
pub fn resolve(rule: &Rule, index: usize, named: &mut Resolver<'_>, empty: &mut Vec<Empty>) -> Resolved {
    let (v4, v6) = families(rule);
    Resolved {
        action: rule.action,
        // Validation allows 1,024 rules per list.
        index: u16::try_from(index).unwrap_or(u16::MAX),
        v4,
        v6,
        protocol: rule.protocol,
        not_protocol: rule.not_protocol,
        icmp: rule.icmp,
        not_icmp: rule.not_icmp,
        source: side(&rule.source, "source", rule.protocol, named, empty),
        destination: side(&rule.destination, "destination", rule.protocol, named, empty),
    }
}

fn side(
    entity: &EntityRule,
    name: &str,
    protocol: Option<Protocol>,
    named: &mut Resolver<'_>,
    empty: &mut Vec<Empty>,
) -> Side {
    let mut side = Side::default();
    if !entity.nets.is_empty() {
        side.all_of.push(named.nets(&entity.nets));
    }
    if !entity.not_nets.is_empty() {
        side.none_of.push(named.nets(&entity.not_nets));
    }
    if let Some(selector) = &entity.selector {
        let set = named.selected(selector);
        empty.push((format!("{name}.selector"), selector.text.clone(), Some(set)));
        side.all_of.push(set);
    }
    if let Some(selector) = &entity.not_selector {
        let set = named.selected(selector);
        side.none_of.push(set);
    }
    side.ports = ports(entity, name, protocol, named, empty);
    if let Some(service) = &entity.service {
        add_service(&mut side, service, name == "source", protocol, named);
        if named.has_no_backend(service) {
            empty.push((format!("{name}.services"), format!("{}/{}", service.0, service.1), None));
        }
    }
    side.all_of.sort_unstable();
    side.all_of.dedup();
    side
}

fn ports(
    entity: &EntityRule,
    side: &str,
    protocol: Option<Protocol>,
    named: &mut Resolver<'_>,
    empty: &mut Vec<Empty>,
) -> PortMatch {
    let mut found = PortMatch { none_of: ranges(&entity.not_ports), ..PortMatch::default() };
    // A rule with a protocol only means this protocol's port of that name.
    let wanted = |p: Protocol| protocol.is_none_or(|q| p == q);
    let selector = entity.selector.as_ref();
    if !entity.ports.is_empty() {
        let mut any_of = Vec::new();
        let numeric = ranges(&entity.ports);
        if !numeric.is_empty() {
            any_of.push(PortAlternative::Ranges(numeric));
        }
        for name in names(&entity.ports) {
            for ((p, port), set) in named.named_port(name, selector) {
                if wanted(p) {
                    any_of.push(PortAlternative::At(p, port, set));
                }
            }
        }
        if any_of.is_empty() {
            let text: Vec<&str> = names(&entity.ports).collect();
            empty.push((format!("{side}.ports"), text.join(", "), None));
        }
        found.any_of = Some(any_of);
    }
    for name in names(&entity.not_ports) {
        let exposed = named.named_port(name, selector);
        found
            .none_of_named
            .extend(exposed.into_iter().filter(|((p, _), _)| wanted(*p)).map(|((p, n), s)| (p, n, s)));
    }
    found
}

/// `source.services` means the backends' addresses, `destination.services` their protocol and port too (§1.3).
fn add_service(
    side: &mut Side,
    service: &(String, String),
    is_source: bool,
    protocol: Option<Protocol>,
    named: &mut Resolver<'_>,
) {
    if is_source {
        side.all_of.push(named.service_addresses(service));
        return;
    }
    let ports = named.service_ports(service).into_iter();
    let ports = ports.filter(|((p, _), _)| protocol.is_none_or(|q| *p == q));
    side.ports.any_of = Some(ports.map(|((p, port), set)| PortAlternative::At(p, port, set)).collect());
}

fn ranges(ports: &[Port]) -> Vec<PortRange> {
    let numeric = ports.iter().filter_map(|p| match p {
        Port::Range(r) => Some(*r),
        Port::Named(_) => None,
    });
    numeric.collect()
}

fn names(ports: &[Port]) -> impl Iterator<Item = &str> {
    ports.iter().filter_map(|p| match p {
        Port::Range(_) => None,
        Port::Named(name) => Some(name.as_str()),
    })
}

/// Which families a rule is for: as written, and none for which one of its CIDR lists would become empty (§6).
fn families(rule: &Rule) -> (bool, bool) {
    let lists =
        [&rule.source.nets, &rule.source.not_nets, &rule.destination.nets, &rule.destination.not_nets];
    let holds = |v4: bool| lists.iter().all(|l| l.is_empty() || l.iter().any(|n| n.addr().is_ipv4() == v4));
    let by_protocol = match rule.protocol {
        Some(1) => Some(IpVersion::V4),
        Some(58) => Some(IpVersion::V6),
        _ => None,
    };
    let allows = |v: IpVersion| rule.ip_version.is_none_or(|w| w == v) && by_protocol.is_none_or(|w| w == v);
    (allows(IpVersion::V4) && holds(true), allows(IpVersion::V6) && holds(false))
}
