//! The lists: preDNAT, then normal and profiles for the host's own traffic, or the forward list (D3, D4, D8).

use super::{Frontend, destination, flag_of, frontend, open};
use crate::abi::{
    Hook, ListKind, PortKey, RuleAction, SIDE_DESTINATION, SIDE_SOURCE, Scratch, device_flag, own_flag,
    rule_flag, settings_flag,
};
use crate::packet::{flag, protocol};
use crate::scan::{SCAN_LIMIT, SCAN_NONE};
use crate::tables::Tables;
use crate::verdict::{Decision, Reason, Stage, Verdict};

const SERVICE: u32 = Frontend::Service as u32;
const LOCAL: u32 = Frontend::Local as u32;

/// Judges a packet that begins a flow, or whose flow does not admit it here. Always decides.
#[inline(never)]
pub(super) fn judge<T: Tables>(tables: &T, work: &mut Scratch) {
    let ingress = work.facts.hook == Hook::Ingress as u8;
    if ingress {
        list(tables, work, ListKind::PreDnat, Stage::PreDnat);
        if !open(work) {
            return;
        }
    }
    destination(tables, work);
    let local = if ingress { to_here(tables, work) } else { work.facts.locally_sent != 0 };
    if local && work.facts.device_flags & device_flag::WORKLOAD != 0 {
        let reason = if ingress { Reason::PodToHost } else { Reason::HostToPod };
        work.decision = Decision::new(Verdict::Allow, Stage::Forward, reason);
        return;
    }
    if local && infra(tables, work) {
        work.decision = Decision::new(Verdict::Allow, Stage::Infra, Reason::InfraTunnel);
        return;
    }
    let (first, stage) = match (local, ingress) {
        (true, true) => (ListKind::NormalIngress, Stage::Normal),
        (true, false) => (ListKind::NormalEgress, Stage::Normal),
        (false, true) => (ListKind::ForwardIngress, Stage::Forward),
        (false, false) => (ListKind::ForwardEgress, Stage::Forward),
    };
    list(tables, work, first, stage);
    if !open(work) {
        return;
    }
    if !local {
        work.decision = Decision::new(Verdict::Allow, Stage::Forward, Reason::ForwardDefault);
        return;
    }
    let profiles = if ingress { ListKind::ProfileIngress } else { ListKind::ProfileEgress };
    list(tables, work, profiles, Stage::Profile);
    if open(work) {
        work.decision = Decision::new(Verdict::Deny, Stage::Profile, Reason::ProfileEnd);
    }
}

/// D3: whether a packet at ingress is for this host.
#[inline(never)]
fn to_here<T: Tables>(tables: &T, work: &Scratch) -> bool {
    let to = &work.packet.tuple.dst;
    match frontend(tables, work) {
        SERVICE => false,
        LOCAL => true,
        _ => {
            work.facts.destination_own & (own_flag::OWN | own_flag::BROADCAST) != 0
                || to.is_multicast()
                || to.is_limited_broadcast()
                || to.is_link_local_v6()
                // What the kernel would not forward is for the host, whatever our tables know (D3).
                || !tables.would_forward(&work.packet)
        }
    }
}

/// D39: the outer packet of a tunnel that exists here, between own addresses and another node's.
#[inline(never)]
fn infra<T: Tables>(tables: &T, work: &Scratch) -> bool {
    if work.facts.settings & settings_flag::INFRA == 0 {
        return false;
    }
    let tuple = &work.packet.tuple;
    let ingress = work.facts.hook == Hook::Ingress as u8;
    let (own, peer) =
        if ingress { (work.facts.destination_own, &tuple.src) } else { (work.facts.source_own, &tuple.dst) };
    let port = if tuple.protocol == protocol::UDP { tuple.dport } else { 0 };
    own & own_flag::OWN != 0 && tables.infra(peer, tuple.protocol, port)
}

/// Judges by one list of the endpoint. Leaves the decision open when no rule of it decides.
#[inline(never)]
pub(super) fn list<T: Tables>(tables: &T, work: &mut Scratch, kind: ListKind, stage: Stage) {
    let torn = Decision::new(Verdict::Deny, stage, Reason::TableMissing);
    let Some(list) = tables.list_of(work.facts.endpoint.wrapping_sub(1), kind) else {
        work.decision = torn;
        return;
    };
    if list == 0 {
        return;
    }
    if work.facts.classified == 0 {
        classify(tables, work);
    }
    let hit = tables.scan(list - 1, work);
    if hit == SCAN_NONE {
        return;
    }
    if hit == SCAN_LIMIT {
        work.decision = Decision::new(Verdict::Deny, stage, Reason::ScanLimit);
        return;
    }
    if hit >= SCAN_NONE {
        work.decision = torn;
        return;
    }
    let Some(rule) = tables.rule(hit as u32) else {
        work.decision = torn;
        return;
    };
    work.facts.rule_identity = rule.identity;
    work.facts.rule_flags = rule.flags;
    let (verdict, reason) = if rule.action == RuleAction::Allow as u8 {
        (Verdict::Allow, Reason::RuleAllow)
    } else if rule.flags & rule_flag::TIER_END != 0 {
        (Verdict::Deny, Reason::TierEnd)
    } else {
        (Verdict::Deny, Reason::RuleDeny)
    };
    work.decision = Decision { rule: hit as u32, verdict, stage, reason, pad: 0 };
}

/// Once per packet: what the four row lookups of every list need.
#[inline(never)]
fn classify<T: Tables>(tables: &T, work: &mut Scratch) {
    let tuple = &work.packet.tuple;
    work.facts.source_class = tables.addr_class(&tuple.src);
    work.facts.destination_class = tables.addr_class(&tuple.dst);
    let icmp = (tuple.protocol == protocol::ICMP && tuple.src.is_v4())
        || (tuple.protocol == protocol::ICMPV6 && !tuple.src.is_v4());
    let ports = work.packet.flags & flag::PORTS != 0;
    let dport = if icmp {
        u16::from(work.packet.icmp_type) << 8 | u16::from(work.packet.icmp_code)
    } else if ports {
        tuple.dport
    } else {
        0
    };
    let key = |side, port: u16| PortKey { side, protocol: tuple.protocol, port_be: port.to_be_bytes() };
    work.facts.dport_class = tables.port_class(&key(SIDE_DESTINATION, dport));
    if work.facts.settings & settings_flag::SPORT != 0 {
        let sport = if ports { tuple.sport } else { 0 };
        work.facts.sport_class = tables.port_class(&key(SIDE_SOURCE, sport));
    }
    work.facts.classified = flag_of(true);
}
