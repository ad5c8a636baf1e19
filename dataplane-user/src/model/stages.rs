//! The stages in their order (architecture §2, semantics §4), for one packet that was read.

use std::net::{IpAddr, Ipv4Addr};

use dataplane_common::abi::Hook;
use dataplane_common::verdict::{Reason, Stage};
use ipnet::IpNet;

use super::binding::Governor;
use super::frame::Packet;
use super::lists::{self, End, List, Walk};
use super::node::{Frontend, Node};
use crate::policy::{Direction, Failsafe, HepInterface, HostEndpoint, OnPolicyChange};

/// A verdict on the way out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judgement {
    pub allow: bool,
    pub stage: Stage,
    pub reason: Reason,
    pub tier: Option<String>,
    pub policy: Option<String>,
    pub rule: Option<u32>,
    /// Annotation of the policy that decided (D15).
    pub recheck: Option<OnPolicyChange>,
}

fn plain(allow: bool, stage: Stage, reason: Reason) -> Judgement {
    Judgement { allow, stage, reason, tier: None, policy: None, rule: None, recheck: None }
}
pub(crate) fn allow(stage: Stage, reason: Reason) -> Judgement {
    plain(true, stage, reason)
}
pub(crate) fn deny(stage: Stage, reason: Reason) -> Judgement {
    plain(false, stage, reason)
}

/// Where a packet is: its device, its hook, and for egress where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Place<'a> {
    pub device: &'a str,
    pub hook: Hook,
    pub from: Option<&'a str>,
    pub governor: &'a Governor,
}

impl Place<'_> {
    fn direction(&self) -> Direction {
        match self.hook {
            Hook::Ingress => Direction::Ingress,
            Hook::Egress => Direction::Egress,
        }
    }
    fn workload(&self) -> bool {
        matches!(self.governor, Governor::Workload(_))
    }
}

/// Impossible packets (D7, D27, D29, D30).
pub(crate) fn martian(node: &Node<'_>, place: &Place<'_>, packet: &Packet) -> Option<Judgement> {
    let from_wire = place.hook == Hook::Ingress && !node.is_loopback(place.device);
    let icmp6 = packet.icmp6().map(|i| i.kind);
    let redirect = packet.icmp4().is_some_and(|i| i.kind == 5) || icmp6 == Some(137);
    let reason = if matches!(icmp6, Some(133..=136)) && packet.ttl != 255 {
        Reason::NdHopLimit
    } else if redirect && place.hook == Hook::Ingress {
        Reason::Redirect
    } else if !from_wire {
        return None;
    } else if let Some(reason) = martian_addresses(node, packet) {
        reason
    } else if node.spoofed(place, packet) {
        Reason::Spoofed
    } else {
        return None;
    };
    Some(deny(Stage::Martian, reason))
}

fn martian_addresses(node: &Node<'_>, packet: &Packet) -> Option<Reason> {
    let zero = |ip: IpAddr| match ip {
        IpAddr::V4(a) => a.octets()[0] == 0,
        IpAddr::V6(a) => a.is_unspecified(),
    };
    let mapped = |ip: IpAddr| matches!(ip, IpAddr::V6(a) if a.to_ipv4_mapped().is_some());
    let (src, dst) = (packet.src, packet.dst);
    if src.is_loopback() {
        Some(Reason::SourceLoopback)
    } else if src.is_multicast() || src == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some(Reason::SourceMulticast)
    } else if zero(src) && !may_have_no_source(packet) {
        Some(Reason::SourceZero)
    } else if mapped(src) {
        Some(Reason::SourceMapped)
    } else if node.owns(src) {
        Some(Reason::SourceOwn)
    } else if dst.is_loopback() || zero(dst) {
        Some(Reason::Destination)
    } else {
        None
    }
}

/// The messages that begin before there is an address: DHCP, IGMP; DAD, MLD, RS.
fn may_have_no_source(packet: &Packet) -> bool {
    if !packet.src.is_unspecified() {
        return false;
    }
    match packet.icmp6() {
        Some(icmp) => matches!(icmp.kind, 130..=133 | 135 | 143),
        None if packet.v6() => false,
        None => packet.protocol == 2 || (packet.protocol == 17 && packet.ports == Some((68, 67))),
    }
}

fn failsafe_holds(list: &[Failsafe], protocol: u8, port: u16, peer: IpAddr) -> bool {
    list.iter().any(|f| {
        f.protocol == protocol && f.port == port && f.net.is_none_or(|net: IpNet| net.contains(&peer))
    })
}

/// D1, D2.
pub(crate) fn failsafe(node: &Node<'_>, place: &Place<'_>, packet: &Packet) -> Option<Judgement> {
    let (sport, dport) = packet.ports?;
    let protocol = packet.protocol;
    let found = |reason| Some(allow(Stage::Failsafe, reason));
    match place.hook {
        Hook::Ingress => {
            if !failsafe_holds(&node.inbound, protocol, dport, packet.src) {
                return None;
            }
            let lease = protocol == 17 && matches!(dport, 68 | 546);
            let here = node.owns(packet.dst) || node.is_broadcast(packet.dst);
            let service = node.frontend(packet.dst, protocol, dport) == Frontend::Service;
            // An address that the lease is still to bring is no frontend; a failsafe never opens one.
            if (lease || here) && !service { found(Reason::FailsafeInbound) } else { None }
        }
        Hook::Egress => {
            if !node.locally_sent(place.from, packet.src) {
                return None;
            }
            if failsafe_holds(&node.outbound, protocol, dport, packet.dst) {
                return found(Reason::FailsafeOutbound);
            }
            let answer = packet.tcp.is_some_and(|t| !t.plain_syn())
                && node.owns(packet.src)
                && failsafe_holds(&node.inbound, protocol, sport, packet.dst);
            if answer { found(Reason::FailsafeReply) } else { None }
        }
    }
}

/// The untracked list (D10, D41): named endpoints only, at egress locally sent packets only.
pub(crate) fn untracked(
    node: &Node<'_>,
    place: &Place<'_>,
    packet: &Packet,
    trace: &mut Vec<String>,
) -> Option<Judgement> {
    let Governor::Host(endpoint) = place.governor else { return None };
    if endpoint.interface == HepInterface::All {
        return None;
    }
    match place.hook {
        Hook::Ingress => {
            if packet.ports.is_some_and(|p| failsafe_holds(&node.outbound, packet.protocol, p.0, packet.src))
            {
                trace.push("untracked list: skipped, the source is an outbound failsafe".into());
                return None;
            }
        }
        Hook::Egress => {
            if !node.locally_sent(place.from, packet.src) {
                return None;
            }
        }
    }
    list(node, place, packet, endpoint, List::Untracked, Stage::Untracked, trace)
}

/// Neighbour discovery and MLD on the link (D7).
pub(crate) fn nd(node: &Node<'_>, place: &Place<'_>, packet: &Packet) -> Option<Judgement> {
    let kind = packet.icmp6()?.kind;
    let hop_limit = if matches!(kind, 130..=132 | 143) { 1 } else { 255 };
    if packet.ttl != hop_limit {
        return None;
    }
    match kind {
        130..=133 | 135 | 136 | 143 => Some(allow(Stage::Nd, Reason::NdAllowed)),
        134 if place.hook == Hook::Ingress => Some(if node.accepts_ra(place) {
            allow(Stage::Nd, Reason::NdAllowed)
        } else {
            deny(Stage::Nd, Reason::RouterAdvertisement)
        }),
        _ => None,
    }
}

/// Everything behind the flow table: preDNAT, then normal or forward.
pub(crate) fn policy(
    node: &Node<'_>,
    place: &Place<'_>,
    packet: &Packet,
    trace: &mut Vec<String>,
) -> Judgement {
    let Some(endpoint) = place.governor.endpoint() else {
        return allow(Stage::None, Reason::Ungoverned);
    };
    let host = match place.hook {
        Hook::Ingress => {
            let before = list(node, place, packet, endpoint, List::PreDnat, Stage::PreDnat, trace);
            if let Some(judgement) = before {
                return judgement;
            }
            let local = node.delivered_here(packet);
            trace.push(format!(
                "{} is {}",
                packet.dst,
                if local { "local" } else { "forwarded or a service" }
            ));
            local
        }
        Hook::Egress => {
            let local = node.locally_sent(place.from, packet.src);
            trace.push(format!("the packet is {}", if local { "locally sent" } else { "forwarded" }));
            local
        }
    };
    match (host, place.workload()) {
        (true, true) if place.hook == Hook::Ingress => allow(Stage::Forward, Reason::PodToHost),
        (true, true) => allow(Stage::Forward, Reason::HostToPod),
        (true, false) => host_traffic(node, place, packet, endpoint, trace),
        (false, _) => list(node, place, packet, endpoint, List::Forward, Stage::Forward, trace)
            .unwrap_or_else(|| allow(Stage::Forward, Reason::ForwardDefault)),
    }
}

fn host_traffic(
    node: &Node<'_>,
    place: &Place<'_>,
    packet: &Packet,
    endpoint: &HostEndpoint,
    trace: &mut Vec<String>,
) -> Judgement {
    let (own, peer) = match place.hook {
        Hook::Ingress => (packet.dst, packet.src),
        Hook::Egress => (packet.src, packet.dst),
    };
    if node.infra(own, peer, packet) {
        return allow(Stage::Infra, Reason::InfraTunnel);
    }
    if let Some(judgement) = list(node, place, packet, endpoint, List::Normal, Stage::Normal, trace) {
        return judgement;
    }
    let mut walk =
        Walk { world: node.world, peers: &node.peers, packet, direction: place.direction(), trace };
    judged(lists::profiles(&mut walk, endpoint), Stage::Profile)
        .unwrap_or_else(|| deny(Stage::Profile, Reason::ProfileEnd))
}

fn list(
    node: &Node<'_>,
    place: &Place<'_>,
    packet: &Packet,
    endpoint: &HostEndpoint,
    list: List,
    stage: Stage,
    trace: &mut Vec<String>,
) -> Option<Judgement> {
    let mut walk =
        Walk { world: node.world, peers: &node.peers, packet, direction: place.direction(), trace };
    judged(lists::walk(&mut walk, endpoint, list), stage)
}

fn judged(end: End, stage: Stage) -> Option<Judgement> {
    match end {
        End::Open => None,
        End::Tier { tier } => Some(Judgement { tier: Some(tier), ..deny(stage, Reason::TierEnd) }),
        End::Rule { allow: yes, tier, policy, rule, recheck } => {
            let reason = if yes { Reason::RuleAllow } else { Reason::RuleDeny };
            Some(Judgement {
                tier,
                policy: Some(policy),
                rule: Some(rule),
                recheck,
                ..plain(yes, stage, reason)
            })
        }
    }
}
