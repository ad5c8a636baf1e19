//! The one decision (`architecture.md` §2). Each step reads and writes the scratch memory only and either sets
//! the decision or leaves it open; the first that sets it wins.
//!
//! Steps are functions of their own, never inlined: the BPF verifier then sees each of them once, with a state
//! that does not depend on the path before.

mod anticipate;
mod early;
mod flows;
mod fragments;
mod policy;
#[cfg(test)]
mod tests;
mod timeouts;

pub use anticipate::{denied_untracked, tell_passed};
pub use timeouts::timeout_ns;

use crate::abi::{Facts, Hook, Scratch, device_flag, frontend_flag, own_flag, settings_flag};
use crate::flow::FlowEntry;
use crate::frame::Frame;
use crate::packet::{FragmentPart, Packet, protocol, tcp};
use crate::parse::{ParseResult, parse};
use crate::tables::Tables;
use crate::verdict::{Decision, Reason, Stage, Verdict};

/// Not decided yet. At the end it means: no host endpoint covers this device and direction.
const OPEN: Decision = Decision::new(Verdict::Ungoverned, Stage::None, Reason::Ungoverned);

/// Judges one packet. `from_device`: it came in through a device (at egress: it was forwarded, D4).
#[inline(always)]
pub fn run<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    work: &mut Scratch,
    hook: Hook,
    device: u32,
    from_device: bool,
) -> Decision {
    work.packet = Packet::default();
    work.decision = OPEN;
    if begin(tables, work, hook, device, from_device) {
        match parse(frame, &mut work.packet) {
            ParseResult::Ip => judge(tables, work),
            ParseResult::NotIp { ethertype } => not_ip(work, ethertype),
            ParseResult::OtherVlan => governed(work, Verdict::Allow, Stage::L2, Reason::OtherVlan),
            ParseResult::Refused(stage, reason) => governed(work, Verdict::Deny, stage, reason),
        }
    }
    work.decision
}

/// Sets the decision, if the device is governed.
#[inline(always)]
fn governed(work: &mut Scratch, verdict: Verdict, stage: Stage, reason: Reason) {
    if work.facts.endpoint != 0 {
        work.decision = Decision::new(verdict, stage, reason);
    }
}

/// Whether the decision still stands open.
#[inline(always)]
fn open(work: &Scratch) -> bool {
    work.decision.stage as u8 == Stage::None as u8 && work.decision.verdict as u8 == Verdict::Ungoverned as u8
}

#[inline(always)]
fn flag_of(condition: bool) -> u8 {
    if condition { 1 } else { 0 }
}

/// The facts of node and device. False: nothing more is to be done.
#[inline(never)]
fn begin<T: Tables>(tables: &T, work: &mut Scratch, hook: Hook, device: u32, from_device: bool) -> bool {
    let Some(node) = tables.node() else {
        work.decision = Decision::new(Verdict::Deny, Stage::None, Reason::TableMissing);
        return false;
    };
    work.facts = Facts {
        now_ns: node.now_ns,
        generation: node.generation,
        settings: node.settings,
        epoch: node.epoch,
        device,
        hook: hook as u8,
        from_device: flag_of(from_device),
        ..Facts::default()
    };
    if node.settings & settings_flag::GOVERNED == 0 {
        return false; // D42: no host endpoint on this node, no state
    }
    if node.now_ns < node.record_only_until_ns {
        // D17 (a): live flows are being taken over; nothing is judged, everything is learnt.
        work.facts.grace = 1;
        return true;
    }
    if let Some(entry) = tables.device(device) {
        // Devices that are never host devices: nothing is judged there, and nothing learnt (D5, D42, D47).
        if entry.endpoint == 0 && entry.flags & (device_flag::LOOPBACK | device_flag::WORKLOAD) != 0 {
            return false;
        }
        work.facts.device_flags = entry.flags;
        work.facts.endpoint = entry.endpoint;
        work.facts.grace = flag_of(node.now_ns < entry.grace_until_ns);
    }
    true
}

/// D20.
#[inline(always)]
fn not_ip(work: &mut Scratch, ethertype: u16) {
    // 802.2, ARP, slow protocols, LLDP, EAPOL, MPLS, PPPoE.
    let known = ethertype < 0x0600
        || matches!(ethertype, 0x0806 | 0x8809 | 0x88cc | 0x888e | 0x8847 | 0x8848 | 0x8863 | 0x8864);
    if !known && work.facts.device_flags & device_flag::DROP_UNKNOWN_ETHERTYPES != 0 {
        governed(work, Verdict::Deny, Stage::L2, Reason::UnknownEthertype);
    } else {
        governed(work, Verdict::Allow, Stage::L2, Reason::NotIp);
    }
}

/// An IP packet.
#[inline(always)]
fn judge<T: Tables>(tables: &T, work: &mut Scratch) {
    let governed = work.facts.endpoint != 0;
    let part = work.packet.fragment;
    if governed {
        addresses(tables, work);
        early::martian(tables, work);
        if !open(work) {
            return;
        }
        if part != FragmentPart::Whole {
            fragments::before(tables, work);
            if !open(work) {
                return;
            }
        }
        early::failsafe(tables, work);
        if open(work) {
            early::untracked(tables, work);
        }
        if open(work) {
            early::neighbour_discovery(work);
        }
    } else if part == FragmentPart::Later {
        return; // no ports here, and only governed devices keep records (D36)
    }
    // What untracked policy and neighbour discovery decide has no flow (D41).
    if open(work) || work.decision.stage as u8 == Stage::Failsafe as u8 {
        with_flow(tables, work);
    }
    if governed && part == FragmentPart::First {
        fragments::after(tables, work);
    }
}

/// Flow, policy, and the record of both.
#[inline(always)]
fn with_flow<T: Tables>(tables: &T, work: &mut Scratch) {
    flows::find(tables, work);
    if open(work) {
        flows::judge(tables, work);
        if open(work) && work.facts.endpoint != 0 {
            policy::judge(tables, work);
        }
        if work.facts.recheck != 0 {
            flows::end_recheck(tables, work);
        }
    } else {
        // The answer of a failsafe's service begins nothing; all else that a failsafe admits does (D1).
        work.facts.may_begin = flag_of(work.decision.reason as u8 != Reason::FailsafeReply as u8);
    }
    if work.decision.verdict as u8 != Verdict::Deny as u8
        && work.facts.keyed != 0
        && work.facts.no_record == 0
    {
        flows::record(tables, work);
    }
}

/// What the source is to this node, and at egress whether a local process sent the packet (D4).
#[inline(never)]
fn addresses<T: Tables>(tables: &T, work: &mut Scratch) {
    work.facts.source_own = 0;
    work.facts.locally_sent = 0;
    if work.facts.hook == Hook::Egress as u8 && work.facts.from_device != 0 {
        return; // forwarded, whatever its source
    }
    let source = &work.packet.tuple.src;
    work.facts.source_own = tables.own_addr(source);
    if work.facts.hook == Hook::Egress as u8 {
        let own = work.facts.source_own & own_flag::OWN != 0 || source.is_unspecified();
        work.facts.locally_sent = flag_of(own);
    }
}

/// What the destination is to this node. Not asked for flows that policy does not judge.
#[inline(always)]
fn destination<T: Tables>(tables: &T, work: &mut Scratch) {
    work.facts.destination_own = tables.own_addr(&work.packet.tuple.dst);
}

/// D3: what the destination of a packet at ingress is to Services. Needs [`destination`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Frontend {
    No = 0,
    /// Treated as forwarded.
    Service = 1,
    /// All its endpoints are own addresses: treated as local.
    Local = 2,
}

#[inline(never)]
fn frontend<T: Tables>(tables: &T, work: &Scratch) -> u32 {
    let tuple = &work.packet.tuple;
    if work.packet.flags & crate::packet::flag::PORTS == 0
        || work.facts.settings & settings_flag::FRONTENDS == 0
    {
        return Frontend::No as u32;
    }
    let bits = tables.frontend(&tuple.dst, tuple.protocol, tuple.dport);
    if bits & frontend_flag::LOCAL != 0 {
        return Frontend::Local as u32;
    }
    if bits & frontend_flag::SERVICE != 0 {
        return Frontend::Service as u32;
    }
    let port_of_node = work.facts.destination_own & own_flag::OWN != 0
        && matches!(tuple.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    if port_of_node {
        for number in 0..crate::limits::MAX_NODE_PORT_RANGES as u32 {
            let Some(range) = tables.node_ports(number) else { break };
            if tuple.dport >= range.first && tuple.dport <= range.last {
                return Frontend::Service as u32;
            }
        }
    }
    Frontend::No as u32
}

/// SYN and not ACK: what begins a connection (D35 leaves no FIN or RST beside it).
#[inline(always)]
fn plain_syn(packet: &Packet) -> bool {
    packet.tuple.protocol == protocol::TCP && packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
}

/// Whether `flow` has outlived its timeout.
#[inline(always)]
fn expired(flow: &FlowEntry, protocol: u8, now_ns: u64) -> bool {
    now_ns.saturating_sub(flow.last_seen_ns) > timeout_ns(flow, protocol)
}
