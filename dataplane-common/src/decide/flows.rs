//! The flow table: lookup, what a flow admits, what a packet does to it (D15–D18, D37, D38, D42).

use super::{expired, flag_of, governed, plain_syn};
use crate::abi::{Facts, Hook, Scratch, own_flag, rule_flag, settings_flag};
use crate::addr::Addr;
use crate::flow::{FlowEntry, FlowKey, SPACE_HIGH_ASKED, TcpState, flow_flag};
use crate::packet::{Packet, Tuple, flag, protocol, tcp};
use crate::parse::icmp::exchange;
use crate::tables::{FlowTable, Tables};
use crate::verdict::{NO_RULE, Reason, Stage, Verdict};

/// [`FlowEntry::pending`]: a SYN of the original direction waits.
const PENDING_ORIGINAL: u8 = 1;
/// [`FlowEntry::pending`]: a SYN of the reply direction waits.
const PENDING_REPLY: u8 = 2;

/// Whether the source is the low end of the key.
#[inline(always)]
fn source_is_low(tuple: &Tuple) -> bool {
    if tuple.src.bytes == tuple.dst.bytes { tuple.sport <= tuple.dport } else { less(&tuple.src, &tuple.dst) }
}

#[inline(always)]
fn less(a: &Addr, b: &Addr) -> bool {
    u128::from_be_bytes(a.bytes) < u128::from_be_bytes(b.bytes)
}

/// Fills the key of the flow that a packet with `tuple` belongs to. False: such packets have none.
#[inline(always)]
fn fill_key(key: &mut FlowKey, tuple: &Tuple, icmp_type: u8) -> bool {
    let low_first = source_is_low(tuple);
    let v4 = tuple.src.is_v4();
    let mut space = 0;
    if tuple.protocol == if v4 { protocol::ICMP } else { protocol::ICMPV6 } {
        let Some((request, answer)) = exchange(v4, icmp_type) else { return false };
        space = request;
        if low_first == answer {
            space |= SPACE_HIGH_ASKED;
        }
    }
    if low_first {
        key.low = tuple.src;
        key.high = tuple.dst;
        key.low_port = tuple.sport;
        key.high_port = tuple.dport;
    } else {
        key.low = tuple.dst;
        key.high = tuple.src;
        key.low_port = tuple.dport;
        key.high_port = tuple.sport;
    }
    key.protocol = tuple.protocol;
    key.space = space;
    key.pad = [0; 2];
    true
}

/// Looks the packet's flow up: sets `keyed`, `related`, `found`, `original`. An expired entry is removed and not
/// found.
#[inline(never)]
pub(super) fn find<T: Tables>(tables: &T, work: &mut Scratch) {
    let quoted = work.packet.flags & flag::ICMP_ERROR != 0;
    let low_first;
    if quoted {
        // D37: the error must go to the one whose packet it quotes.
        if work.packet.flags & flag::INNER == 0 || work.packet.inner.src != work.packet.tuple.dst {
            return;
        }
        if !fill_key(&mut work.key, &work.packet.inner, work.packet.inner_icmp_type) {
            return;
        }
        work.facts.related = 1;
        low_first = source_is_low(&work.packet.inner);
    } else {
        if !fill_key(&mut work.key, &work.packet.tuple, work.packet.icmp_type) {
            return;
        }
        work.facts.keyed = 1;
        low_first = source_is_low(&work.packet.tuple);
    }
    look(tables, work);
    if work.facts.found != 0 {
        let began_low = work.flow.flags & flow_flag::ORIGINAL_IS_LOW != 0;
        work.facts.original = flag_of(began_low == low_first);
    }
}

#[inline(always)]
fn look<T: Tables>(tables: &T, work: &mut Scratch) {
    for table in FlowTable::ALL {
        if tables.flow(table, &work.key, &mut work.flow) {
            if expired(&work.flow, work.key.protocol, work.facts.now_ns) {
                tables.flow_remove(table, &work.key);
            } else {
                work.facts.found = table as u8 + 1;
                return;
            }
        }
    }
}

/// Whether `ack` answers a SYN whose next number is `next`, with or without the payload it carried.
#[inline(always)]
fn acknowledges(packet: &Packet, next: u32, payload: u16) -> bool {
    packet.tcp_flags & tcp::ACK != 0 && packet.tcp_ack.wrapping_sub(next) <= u32::from(payload)
}

#[inline(always)]
fn syn_ack(packet: &Packet) -> bool {
    packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK
}

/// Refuses on a governed device; elsewhere the packet goes by and leaves no trace.
#[inline(always)]
fn invalid(work: &mut Scratch, reason: Reason) {
    work.facts.no_record = 1;
    governed(work, Verdict::Deny, Stage::Invalid, reason);
}

/// What the flow says to this packet. Leaves the decision open where policy is to judge.
#[inline(never)]
pub(super) fn judge<T: Tables>(tables: &T, work: &mut Scratch) {
    if work.facts.related != 0 {
        if work.facts.found != 0 {
            governed(work, Verdict::Allow, Stage::Flow, Reason::FlowRelated);
        }
        return;
    }
    if work.facts.keyed == 0 {
        return;
    }
    if work.facts.found == 0 {
        without_flow(work);
        return;
    }
    let is_tcp = work.packet.tuple.protocol == protocol::TCP;
    if is_tcp && plain_syn(&work.packet) {
        return; // D16
    }
    if work.facts.original != 0 {
        original(work, is_tcp);
    } else {
        reply(work, is_tcp);
    }
    if work.decision.stage as u8 == Stage::Flow as u8 {
        begin_recheck(tables, work);
    }
}

/// D17, D38.
#[inline(always)]
fn without_flow(work: &mut Scratch) {
    let packet = &work.packet;
    let protocol = packet.tuple.protocol;
    let begins = match protocol {
        protocol::TCP => plain_syn(packet),
        protocol::SCTP => packet.flags & flag::SCTP_INIT != 0,
        _ => true,
    };
    if !begins && work.facts.grace == 0 {
        let reason = if protocol == protocol::TCP { Reason::TcpNoFlow } else { Reason::SctpNoFlow };
        invalid(work, reason);
        return;
    }
    // An ICMP answer may be allowed by policy, but it begins nothing.
    work.facts.may_begin = flag_of(packet.flags & flag::ICMP_REPLY == 0);
}

#[inline(always)]
fn original(work: &mut Scratch, is_tcp: bool) {
    let flow = &work.flow;
    let answers_pending = flow.pending == PENDING_REPLY
        && is_tcp
        && syn_ack(&work.packet)
        && acknowledges(&work.packet, flow.pending_next_seq, flow.pending_payload);
    if answers_pending {
        governed(work, Verdict::Allow, Stage::Flow, Reason::FlowReply);
        return;
    }
    if flow.flags & flow_flag::CONFIRMED != 0 {
        if flow.hooks & (1 << (work.facts.hook & 1)) != 0 {
            governed(work, Verdict::Allow, Stage::Flow, Reason::FlowOriginal);
        }
        return;
    }
    let answered = flow.state_reply != TcpState::None as u8;
    let learnt = flow.flags & flow_flag::GRACE != 0;
    if is_tcp && !answered && !learnt && work.packet.tcp_flags & tcp::RST == 0 {
        invalid(work, Reason::TcpBeforeReply);
    }
}

/// T-12: the first reply of a half-open TCP connection must answer its SYN.
#[inline(always)]
fn believable(packet: &Packet, flow: &FlowEntry) -> bool {
    let waits = flow.state_reply == TcpState::None as u8
        && flow.flags & (flow_flag::GRACE | flow_flag::CONFIRMED) == 0;
    let kind = syn_ack(packet) || packet.tcp_flags & tcp::RST != 0;
    !waits || (kind && acknowledges(packet, flow.original_next_seq, flow.syn_payload))
}

#[inline(always)]
fn reply(work: &mut Scratch, is_tcp: bool) {
    if is_tcp && !believable(&work.packet, &work.flow) {
        invalid(work, Reason::TcpBadReply);
        return;
    }
    governed(work, Verdict::Allow, Stage::Flow, Reason::FlowReply);
}

/// D15: a flow of an older epoch is judged again, in its original direction and where it began. Turns the packet
/// into that of the original direction; [`end_recheck`] turns it back.
#[inline(always)]
fn begin_recheck<T: Tables>(tables: &T, work: &mut Scratch) {
    let asked =
        work.facts.settings & settings_flag::RECHECK != 0 || work.flow.flags & flow_flag::RECHECK != 0;
    if !asked || work.flow.epoch == work.facts.epoch || work.flow.flags & flow_flag::FAILSAFE != 0 {
        return;
    }
    let entry = tables.device(work.flow.device).unwrap_or_default();
    work.facts.recheck = if work.facts.original != 0 { 1 } else { 2 };
    work.facts.saved_hook = work.facts.hook;
    work.facts.saved_endpoint = work.facts.endpoint;
    work.facts.saved_device_flags = work.facts.device_flags;
    work.facts.hook = work.flow.hook;
    work.facts.endpoint = entry.endpoint;
    work.facts.device_flags = entry.flags;
    if work.facts.original == 0 {
        swap(&mut work.packet.tuple);
        core::mem::swap(&mut work.facts.source_own, &mut work.facts.destination_own);
        work.packet.icmp_type = work.key.space & !SPACE_HIGH_ASKED;
    }
    // Masqueraded pod traffic has an own source and was forwarded (D4).
    let local = work.flow.flags & flow_flag::FORWARDED == 0 && work.facts.source_own & own_flag::OWN != 0;
    work.facts.locally_sent = flag_of(work.facts.hook == Hook::Egress as u8 && local);
    work.decision = super::OPEN;
}

#[inline(always)]
fn swap(tuple: &mut Tuple) {
    core::mem::swap(&mut tuple.src, &mut tuple.dst);
    core::mem::swap(&mut tuple.sport, &mut tuple.dport);
}

/// Gives the packet back, and the flow its new epoch or its end.
#[inline(never)]
pub(super) fn end_recheck<T: Tables>(tables: &T, work: &mut Scratch) {
    work.facts.hook = work.facts.saved_hook;
    work.facts.endpoint = work.facts.saved_endpoint;
    work.facts.device_flags = work.facts.saved_device_flags;
    let against = work.facts.recheck == 2;
    if against {
        swap(&mut work.packet.tuple);
    }
    if work.decision.verdict as u8 == Verdict::Deny as u8 {
        let rule = work.decision.rule;
        if let Some(table) = table_of(work.facts.found) {
            tables.flow_remove(table, &work.key);
        }
        governed(work, Verdict::Deny, Stage::Flow, Reason::FlowRechecked);
        work.decision.rule = rule;
        return;
    }
    work.flow.epoch = work.facts.epoch;
    let reason = if against { Reason::FlowReply } else { Reason::FlowOriginal };
    governed(work, Verdict::Allow, Stage::Flow, reason);
}

#[inline(always)]
fn table_of(found: u8) -> Option<FlowTable> {
    match found {
        1 => Some(FlowTable::Confirmed),
        2 => Some(FlowTable::Unconfirmed),
        3 => Some(FlowTable::Failsafe),
        _ => None,
    }
}

/// D42: what is admitted records or refreshes its flow.
#[inline(never)]
pub(super) fn record<T: Tables>(tables: &T, work: &mut Scratch) {
    let Some(table) = table_of(work.facts.found) else {
        if work.facts.may_begin != 0 {
            create(tables, work);
        }
        return;
    };
    if !refresh(work) {
        return;
    }
    if table as u8 == FlowTable::Unconfirmed as u8 && work.flow.flags & flow_flag::CONFIRMED != 0 {
        if tables.flow_put(FlowTable::Confirmed, &work.key, &work.flow) {
            tables.flow_remove(FlowTable::Unconfirmed, &work.key);
            return;
        }
        // D18: no room; it works, judged at every packet.
        work.flow.flags &= !flow_flag::CONFIRMED;
    }
    tables.flow_put(table, &work.key, &work.flow);
}

#[inline(always)]
fn create<T: Tables>(tables: &T, work: &mut Scratch) {
    let failsafe = work.decision.stage as u8 == Stage::Failsafe as u8;
    let is_tcp = work.packet.tuple.protocol == protocol::TCP;
    let syn = plain_syn(&work.packet);
    let set = |condition: bool, bit: u8| if condition { bit } else { 0 };
    let flags = set(source_is_low(&work.packet.tuple), flow_flag::ORIGINAL_IS_LOW)
        | set(failsafe, flow_flag::FAILSAFE)
        | set(is_tcp && !syn, flow_flag::GRACE)
        | set(work.facts.rule_flags & rule_flag::RECHECK != 0, flow_flag::RECHECK)
        | set(work.facts.from_device != 0, flow_flag::FORWARDED);
    let facts: &Facts = &work.facts;
    work.flow = FlowEntry {
        last_seen_ns: facts.now_ns,
        created_ns: facts.now_ns,
        generation: facts.generation,
        epoch: facts.epoch,
        rule: work.decision.rule,
        rule_identity: if work.decision.rule == NO_RULE { 0 } else { facts.rule_identity },
        device: facts.device,
        original_next_seq: end_of_segment(&work.packet, syn),
        flags,
        hooks: 1 << (facts.hook & 1),
        stage: work.decision.stage as u8,
        hook: facts.hook,
        state_original: if syn { TcpState::SynSent as u8 } else { TcpState::Established as u8 },
        syn_payload: work.packet.tcp_payload,
        ..FlowEntry::default()
    };
    let table = if failsafe { FlowTable::Failsafe } else { FlowTable::Unconfirmed };
    tables.flow_put(table, &work.key, &work.flow);
}

/// The number that acknowledges a SYN (without its payload), or the end of another segment.
#[inline(always)]
fn end_of_segment(packet: &Packet, syn: bool) -> u32 {
    if syn {
        return packet.tcp_seq.wrapping_add(1);
    }
    let controls = u32::from(packet.tcp_flags & tcp::FIN != 0) + u32::from(packet.tcp_flags & tcp::SYN != 0);
    packet.tcp_seq.wrapping_add(u32::from(packet.tcp_payload)).wrapping_add(controls)
}

/// Takes the packet into the flow. False: the flow stays as it is.
#[inline(always)]
fn refresh(work: &mut Scratch) -> bool {
    let is_tcp = work.packet.tuple.protocol == protocol::TCP;
    let bit = 1 << (work.facts.hook & 1);
    if is_tcp && plain_syn(&work.packet) {
        syn_on_flow(&work.packet, &mut work.flow, &work.facts, bit);
        return true;
    }
    let original = work.facts.original != 0;
    if is_tcp && !original && !believable(&work.packet, &work.flow) {
        return false; // a failsafe lets it pass; it confirms nothing
    }
    if is_tcp {
        if syn_ack(&work.packet) {
            answer_pending(&work.packet, &mut work.flow, original);
        }
        // Answering may have turned the flow round.
        let began_low = work.flow.flags & flow_flag::ORIGINAL_IS_LOW != 0;
        let original = began_low == source_is_low(&work.packet.tuple);
        segment(&work.packet, &mut work.flow, original);
        work.facts.original = flag_of(original);
    } else if !original {
        work.flow.state_reply = TcpState::Established as u8;
        work.flow.flags |= flow_flag::CONFIRMED;
    }
    if work.facts.original != 0 {
        work.flow.hooks |= bit;
        if work.decision.stage as u8 != Stage::Flow as u8 {
            work.flow.epoch = work.facts.epoch; // policy has just judged it
        }
    }
    work.flow.last_seen_ns = work.facts.now_ns;
    true
}

/// D16: an admitted SYN on a flow. Before any reply it is a retransmission or a new try; after, it waits beside
/// the flow until the peer answers it.
#[inline(always)]
fn syn_on_flow(packet: &Packet, flow: &mut FlowEntry, facts: &Facts, bit: u8) {
    let next = packet.tcp_seq.wrapping_add(1);
    let original = facts.original != 0;
    if original && flow.flags & flow_flag::CONFIRMED == 0 && flow.state_reply == TcpState::None as u8 {
        flow.original_next_seq = next;
        flow.syn_payload = packet.tcp_payload;
        flow.state_original = TcpState::SynSent as u8;
        flow.flags &= !flow_flag::GRACE;
        flow.hooks |= bit;
        flow.epoch = facts.epoch;
        flow.last_seen_ns = facts.now_ns;
        return;
    }
    let pending = if original { PENDING_ORIGINAL } else { PENDING_REPLY };
    let again = flow.pending == pending && flow.pending_next_seq == next;
    flow.pending_hooks = if again { flow.pending_hooks | bit } else { bit };
    flow.pending = pending;
    flow.pending_next_seq = next;
    flow.pending_payload = packet.tcp_payload;
}

/// A SYN+ACK that answers the pending SYN: the flow begins anew, in the direction of that SYN.
#[inline(always)]
fn answer_pending(packet: &Packet, flow: &mut FlowEntry, original: bool) {
    let other = if original { PENDING_REPLY } else { PENDING_ORIGINAL };
    if flow.pending != other || !acknowledges(packet, flow.pending_next_seq, flow.pending_payload) {
        return;
    }
    if original {
        flow.flags ^= flow_flag::ORIGINAL_IS_LOW;
    }
    flow.original_next_seq = flow.pending_next_seq;
    flow.syn_payload = flow.pending_payload;
    flow.hooks = flow.pending_hooks;
    flow.pending = 0;
    flow.state_original = TcpState::SynSent as u8;
    flow.state_reply = TcpState::None as u8;
    flow.reply_next_seq = 0;
}

/// Any other segment: states, sequence numbers, confirmation.
#[inline(always)]
fn segment(packet: &Packet, flow: &mut FlowEntry, original: bool) {
    let (state, next) = if original {
        (flow.state_original, flow.original_next_seq)
    } else {
        (flow.state_reply, flow.reply_next_seq)
    };
    let end = end_of_segment(packet, false);
    let first = state == TcpState::None as u8;
    let new_state = if packet.tcp_flags & tcp::RST != 0 {
        // T-9: a reset out of sequence is the kernel's to refuse, and ends nothing here.
        if first || packet.tcp_seq == next { TcpState::Closing as u8 } else { state }
    } else if syn_ack(packet) {
        if first { TcpState::SynSent as u8 } else { state }
    } else if packet.tcp_flags & tcp::FIN != 0 {
        TcpState::Fin as u8
    } else if state <= TcpState::SynSent as u8 {
        TcpState::Established as u8
    } else {
        state
    };
    let advances = first || (end.wrapping_sub(next) as i32) > 0;
    let new_next = if advances && packet.tcp_flags & tcp::RST == 0 { end } else { next };
    if original {
        flow.state_original = new_state;
        flow.original_next_seq = new_next;
    } else {
        flow.state_reply = new_state;
        flow.reply_next_seq = new_next;
        if packet.tcp_flags & tcp::RST == 0 {
            flow.flags |= flow_flag::CONFIRMED;
        }
    }
}
