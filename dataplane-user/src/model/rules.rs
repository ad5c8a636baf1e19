//! Whether a rule matches a packet (semantics §6, D14). Every present criterion is ANDed.

use std::net::IpAddr;

use ipnet::IpNet;

use super::frame::Packet;
use super::peers::{self, Peer};
use crate::policy::{EntityRule, IpVersion, Port, Rule, World};

/// Why the rule does not match; `None` when it does.
pub(crate) fn mismatch(world: &World, peers: &[Peer], rule: &Rule, packet: &Packet) -> Option<String> {
    let version = if packet.v6() { IpVersion::V6 } else { IpVersion::V4 };
    if rule.ip_version.is_some_and(|v| v != version) {
        return Some(format!("rule is for {:?} only", rule.ip_version?));
    }
    if let Some(protocol) = rule.protocol.filter(|p| *p != packet.protocol) {
        return Some(format!("protocol {} is not {protocol}", packet.protocol));
    }
    if rule.not_protocol == Some(packet.protocol) {
        return Some(format!("notProtocol {}", packet.protocol));
    }
    let is = |wanted: &crate::policy::Icmp| {
        packet.icmp.is_some_and(|i| i.kind == wanted.kind && wanted.code.is_none_or(|c| c == i.code))
    };
    if rule.icmp.as_ref().is_some_and(|i| !is(i)) {
        return Some("another ICMP type or code".into());
    }
    if rule.not_icmp.as_ref().is_some_and(is) {
        return Some("notICMP".into());
    }
    let ports = packet.ports.filter(|_| matches!(packet.protocol, 6 | 17 | 132));
    let source =
        Side { ip: packet.src, protocol: packet.protocol, port: ports.map(|p| p.0), backend_port: false };
    let destination =
        Side { ip: packet.dst, protocol: packet.protocol, port: ports.map(|p| p.1), backend_port: true };
    entity(world, peers, &rule.source, &source).map(|why| format!("source {why}")).or_else(|| {
        entity(world, peers, &rule.destination, &destination).map(|why| format!("destination {why}"))
    })
}

/// One end of the packet.
struct Side {
    ip: IpAddr,
    protocol: u8,
    port: Option<u16>,
    /// `services` at the destination means address, protocol and port; at the source the address alone.
    backend_port: bool,
}

fn entity(world: &World, peers: &[Peer], entity: &EntityRule, side: &Side) -> Option<String> {
    let ip = side.ip;
    let same_family = |net: &&IpNet| net.addr().is_ipv4() == ip.is_ipv4();
    if !entity.nets.is_empty() && !entity.nets.iter().any(|net| net.contains(&ip)) {
        return Some(format!("{ip} is in none of nets"));
    }
    if !entity.not_nets.is_empty() {
        // Nets of the other family only: the rule does not exist for this family.
        if !entity.not_nets.iter().any(|net| same_family(&net)) {
            return Some(format!("{ip} is of another family than notNets"));
        }
        if let Some(net) = entity.not_nets.iter().find(|net| net.contains(&ip)) {
            return Some(format!("{ip} is in notNets {net}"));
        }
    }
    if let Some(selector) = &entity.selector
        && !peers::in_set(peers, selector, ip)
    {
        return Some(format!("{ip} belongs to nothing that {:?} selects", selector.text));
    }
    if let Some(selector) = &entity.not_selector
        && peers::in_set(peers, selector, ip)
    {
        return Some(format!("{ip} belongs to something that notSelector {:?} selects", selector.text));
    }
    if let Some(service) = &entity.service {
        let port = if side.backend_port { Some((side.protocol, side.port.unwrap_or(0))) } else { None };
        if !peers::is_backend(world, service, ip, port) {
            return Some(format!("{ip} is no backend of Service {}/{}", service.0, service.1));
        }
    }
    ports(peers, entity, side)
}

fn ports(peers: &[Peer], entity: &EntityRule, side: &Side) -> Option<String> {
    if entity.ports.is_empty() && entity.not_ports.is_empty() {
        return None;
    }
    // A rule with ports, negated ones too, is about protocols with ports only.
    let Some(port) = side.port else { return Some(format!("protocol {} has no ports", side.protocol)) };
    let one = |wanted: &Port| match wanted {
        Port::Range(range) => (range.first..=range.last).contains(&port),
        Port::Named(name) => {
            peers::has_port(peers, entity.selector.as_ref(), name, (side.ip, side.protocol, port))
        }
    };
    if !entity.ports.is_empty() && !entity.ports.iter().any(one) {
        return Some(format!("port {port} is none of ports"));
    }
    if entity.not_ports.iter().any(one) {
        return Some(format!("port {port} is one of notPorts"));
    }
    None
}
