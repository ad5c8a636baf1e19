//! What is judged before any state: martians, failsafes, untracked policy, neighbour discovery.

use super::{Frontend, destination, flag_of, frontend, governed, open, plain_syn, policy};
use crate::abi::{
    FAILSAFE_INBOUND, FAILSAFE_OUTBOUND, Hook, ListKind, Scratch, device_flag, own_flag, settings_flag,
};
use crate::packet::{FragmentPart, Packet, flag, protocol};
use crate::parse::icmp::kind;
use crate::tables::Tables;
use crate::verdict::{Reason, Stage, Verdict};

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const DHCP6_CLIENT: u16 = 546;

/// D7, D29, D30, D27.
#[inline(never)]
pub(super) fn martian<T: Tables>(tables: &T, work: &mut Scratch) {
    let reason = match addresses_from_the_wire(work) {
        Some(reason) => reason,
        None if work.facts.hook == Hook::Ingress as u8
            && work.facts.device_flags & device_flag::ANTI_SPOOF != 0
            && spoofed(tables, work) =>
        {
            Reason::Spoofed
        }
        None => return,
    };
    governed(work, Verdict::Deny, Stage::Martian, reason);
}

/// D27: an internal source that does not live behind this device. Sources in no internal range are not asked about: the
/// outside may be reached by any route.
#[inline(always)]
fn spoofed<T: Tables>(tables: &T, work: &Scratch) -> bool {
    let bits = work.facts.source_own;
    bits & own_flag::SERVICE != 0 || (bits & own_flag::INTERNAL != 0 && tables.lives_elsewhere(&work.packet))
}

#[inline(always)]
fn addresses_from_the_wire(work: &Scratch) -> Option<Reason> {
    let packet = &work.packet;
    let v4 = packet.tuple.src.is_v4();
    let icmp6 = !v4 && packet.tuple.protocol == protocol::ICMPV6 && packet.fragment != FragmentPart::Later;
    let on_link_only =
        (kind::ROUTER_SOLICITATION..=kind::NEIGHBOUR_ADVERTISEMENT).contains(&packet.icmp_type);
    if icmp6 && on_link_only && packet.ttl != 255 {
        return Some(Reason::NdHopLimit);
    }
    if work.facts.hook != Hook::Ingress as u8 {
        return None;
    }
    let icmp4 = v4 && packet.tuple.protocol == protocol::ICMP && packet.fragment != FragmentPart::Later;
    if (icmp4 && packet.icmp_type == kind::V4_REDIRECT) || (icmp6 && packet.icmp_type == kind::V6_REDIRECT) {
        return Some(Reason::Redirect);
    }
    if work.facts.device_flags & device_flag::LOOPBACK != 0 {
        return None; // no wire: the node talks to itself from its own addresses (D5)
    }
    let source = if v4 { source_v4(packet) } else { source_v6(packet, icmp6) };
    if source.is_some() {
        return source;
    }
    if work.facts.source_own & own_flag::OWN != 0 && packet.flags & flag::LOOPED == 0 {
        return Some(Reason::SourceOwn);
    }
    let to = &packet.tuple.dst;
    let bad = if v4 {
        to.bytes[0] == 127 || to.bytes[0] == 0
    } else {
        to.is_unspecified() || is_loopback_v6(&to.bytes)
    };
    if bad { Some(Reason::Destination) } else { None }
}

#[inline(always)]
fn is_loopback_v6(bytes: &[u8; 16]) -> bool {
    let value = u128::from_be_bytes(*bytes);
    value == 1
}

#[inline(always)]
fn source_v4(packet: &Packet) -> Option<Reason> {
    let from = &packet.tuple.src;
    let first = from.bytes[0];
    if first == 127 {
        return Some(Reason::SourceLoopback);
    }
    if from.is_multicast() || from.is_limited_broadcast() {
        return Some(Reason::SourceMulticast);
    }
    if first != 0 {
        return None;
    }
    let dhcp = packet.tuple.protocol == protocol::UDP
        && packet.flags & flag::PORTS != 0
        && packet.tuple.sport == DHCP_CLIENT
        && packet.tuple.dport == DHCP_SERVER;
    let igmp = packet.tuple.protocol == protocol::IGMP;
    if from.is_unspecified() && (dhcp || igmp) { None } else { Some(Reason::SourceZero) }
}

#[inline(always)]
fn source_v6(packet: &Packet, icmp6: bool) -> Option<Reason> {
    let from = &packet.tuple.src;
    if from.bytes[0] == 0xff {
        return Some(Reason::SourceMulticast);
    }
    if from.bytes[0] != 0 {
        return None;
    }
    let value = u128::from_be_bytes(from.bytes);
    if value == 1 {
        return Some(Reason::SourceLoopback);
    }
    if value >> 32 == 0xffff {
        return Some(Reason::SourceMapped);
    }
    let may = icmp6
        && matches!(
            packet.icmp_type,
            kind::NEIGHBOUR_SOLICITATION
                | kind::ROUTER_SOLICITATION
                | kind::MLD_QUERY
                | kind::MLD_REPORT
                | kind::MLD_DONE
                | kind::MLD2_REPORT
        );
    if value == 0 && !may { Some(Reason::SourceZero) } else { None }
}

/// D1, D2.
#[inline(never)]
pub(super) fn failsafe<T: Tables>(tables: &T, work: &mut Scratch) {
    if work.packet.flags & flag::PORTS == 0 {
        return;
    }
    let tuple = &work.packet.tuple;
    let reason = if work.facts.hook == Hook::Ingress as u8 {
        let lease =
            tuple.protocol == protocol::UDP && (tuple.dport == DHCP_CLIENT || tuple.dport == DHCP6_CLIENT);
        if !tables.failsafe(FAILSAFE_INBOUND, tuple.protocol, tuple.dport, &tuple.src) {
            return;
        }
        if !lease && !here(tables, work) {
            return;
        }
        Reason::FailsafeInbound
    } else {
        if work.facts.locally_sent == 0 {
            return;
        }
        if tables.failsafe(FAILSAFE_OUTBOUND, tuple.protocol, tuple.dport, &tuple.dst) {
            Reason::FailsafeOutbound
        } else {
            let answer = tuple.protocol == protocol::TCP
                && !plain_syn(&work.packet)
                && work.facts.source_own & own_flag::OWN != 0;
            if !answer || !tables.failsafe(FAILSAFE_INBOUND, tuple.protocol, tuple.sport, &tuple.dst) {
                return;
            }
            Reason::FailsafeReply
        }
    };
    governed(work, Verdict::Allow, Stage::Failsafe, reason);
}

/// D1: an own address of this node, or a broadcast to it, and no Service's frontend.
#[inline(always)]
fn here<T: Tables>(tables: &T, work: &mut Scratch) -> bool {
    destination(tables, work);
    let own = work.facts.destination_own & (own_flag::OWN | own_flag::BROADCAST) != 0
        || work.packet.tuple.dst.is_limited_broadcast();
    own && frontend(tables, work) != Frontend::Service as u32
}

/// D41: before the flow table; at egress for locally sent packets only; never on workload devices (D26).
#[inline(never)]
pub(super) fn untracked<T: Tables>(tables: &T, work: &mut Scratch) {
    if work.facts.settings & settings_flag::UNTRACKED == 0
        || work.facts.device_flags & device_flag::WORKLOAD != 0
    {
        return;
    }
    let tuple = &work.packet.tuple;
    let kind = if work.facts.hook == Hook::Ingress as u8 {
        // What an outbound failsafe's peer answers passes this list, and only this.
        if work.packet.flags & flag::PORTS != 0
            && tables.failsafe(FAILSAFE_OUTBOUND, tuple.protocol, tuple.sport, &tuple.src)
        {
            return;
        }
        ListKind::UntrackedIngress
    } else {
        if work.facts.locally_sent == 0 {
            return;
        }
        ListKind::UntrackedEgress
    };
    policy::list(tables, work, kind, Stage::Untracked);
}

/// D7. Lengths and hop limits that are never right were refused before.
#[inline(never)]
pub(super) fn neighbour_discovery(work: &mut Scratch) {
    let packet = &work.packet;
    if packet.flags & flag::ND == 0 || !open(work) {
        return;
    }
    let allowed = match packet.icmp_type {
        kind::ROUTER_SOLICITATION | kind::NEIGHBOUR_SOLICITATION | kind::NEIGHBOUR_ADVERTISEMENT => 1,
        kind::MLD_QUERY | kind::MLD_REPORT | kind::MLD_DONE | kind::MLD2_REPORT => flag_of(packet.ttl == 1),
        kind::ROUTER_ADVERTISEMENT if work.facts.hook == Hook::Ingress as u8 => {
            if work.facts.device_flags & device_flag::ACCEPT_RA == 0 {
                governed(work, Verdict::Deny, Stage::Nd, Reason::RouterAdvertisement);
                return;
            }
            1
        }
        _ => 0,
    };
    if allowed != 0 {
        governed(work, Verdict::Allow, Stage::Nd, Reason::NdAllowed);
    }
}
