//! The flow table: lookup, and what a flow admits (D16, D17, D37, D38, D42).
//!
//! Reading order: `key` → this file → `recheck` (D15) → `record` (what an admitted packet does to its flow) → `tcp`.

mod key;
mod recheck;
mod record;
mod tcp;

use self::key::{fill_key, source_is_low};
use self::tcp::{acknowledges, believable, syn_ack};
use super::{expired, flag_of, governed, plain_syn};
use crate::abi::Scratch;
use crate::flow::{PENDING_REPLY, TcpState, flow_flag};
use crate::packet::{flag, protocol, tcp as bits};
use crate::tables::{FlowTable, Tables};
use crate::verdict::{Reason, Stage, Verdict};

pub(super) use self::recheck::end as end_recheck;
pub(super) use self::record::record;

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
        recheck::begin(tables, work);
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
    if is_tcp && !answered && !learnt && work.packet.tcp_flags & bits::RST == 0 {
        invalid(work, Reason::TcpBeforeReply);
    }
}

#[inline(always)]
fn reply(work: &mut Scratch, is_tcp: bool) {
    if is_tcp && !believable(&work.packet, &work.flow) {
        invalid(work, Reason::TcpBadReply);
        return;
    }
    governed(work, Verdict::Allow, Stage::Flow, Reason::FlowReply);
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
