//! D42: what is admitted records or refreshes its flow.

use super::key::source_is_low;
use super::table_of;
use super::tcp::{answer_pending, believable, end_of_segment, segment, syn_ack, syn_on_flow};
use crate::abi::{FlowEvent, Hook, Scratch, rule_flag};
use crate::decide::{flag_of, plain_syn};
use crate::flow::{FlowEntry, TcpState, flow_flag};
use crate::packet::protocol;
use crate::tables::{FlowTable, Room, Tables};
use crate::verdict::{NO_RULE, Stage};

/// Begins a flow, or takes the packet into the one that was found.
#[inline(never)]
pub(in crate::decide) fn record<T: Tables>(tables: &T, work: &mut Scratch) {
    let Some(table) = table_of(work.facts.found) else {
        if work.facts.may_begin != 0 {
            create(tables, work);
        }
        return;
    };
    let (flags, pending) = (work.flow.flags, work.flow.pending);
    if !refresh(work) {
        return;
    }
    let confirmed = work.flow.flags & flow_flag::CONFIRMED != 0;
    if confirmed && table as u8 != FlowTable::Confirmed as u8 {
        if tables.flow_put(FlowTable::Confirmed, &work.key, &work.flow) {
            tables.flow_remove(table, &work.key);
            return;
        }
        tables.flow_event(FlowEvent::ConfirmedFull);
        if table as u8 == FlowTable::Unconfirmed as u8 {
            // D18: no room; it works, judged at every packet.
            work.flow.flags &= !flow_flag::CONFIRMED;
        }
    }
    let rare = plain_syn(&work.packet)
        || work.facts.recheck != 0
        || flags != work.flow.flags
        || pending != work.flow.pending;
    if rare {
        tables.flow_put(table, &work.key, &work.flow);
    } else {
        tables.flow_touch(table, &work.key, &work.flow, work.facts.original != 0);
    }
}

/// What the policy that admitted a flow says of later changes (D15): its annotation, nothing without one.
#[inline(always)]
pub(super) fn change_flags(work: &Scratch) -> u8 {
    if work.decision.rule == NO_RULE {
        return 0;
    }
    let set = |bit: u8, flag: u8| if work.facts.rule_flags & bit != 0 { flag } else { 0 };
    set(rule_flag::RECHECK, flow_flag::RECHECK) | set(rule_flag::KEEP, flow_flag::KEEP)
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
        | set(work.facts.from_device != 0, flow_flag::FROM_DEVICE)
        | change_flags(work);
    let facts = &work.facts;
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
    let room = match (failsafe, facts.hook == Hook::Ingress as u8) {
        (false, true) => Room::FromOutside,
        (false, false) => Room::FromInside,
        (true, true) => Room::FailsafeInbound,
        (true, false) => Room::FailsafeOutbound,
    };
    tables.flow_begin(room, &work.packet.tuple.src, &work.key, &work.flow);
}

/// Takes the packet into the flow. False: the flow stays as it is.
#[inline(always)]
fn refresh(work: &mut Scratch) -> bool {
    let is_tcp = work.packet.tuple.protocol == protocol::TCP;
    if is_tcp && plain_syn(&work.packet) {
        syn_on_flow(&work.packet, &mut work.flow, &work.facts);
        return true;
    }
    if is_tcp && work.facts.original == 0 && !believable(&work.packet, &work.flow) {
        return false; // a failsafe lets it pass; it confirms nothing
    }
    if is_tcp {
        if syn_ack(&work.packet) {
            answer_pending(&work.packet, &mut work.flow, work.facts.original != 0);
        }
        // Answering may have turned the flow round.
        let began_low = work.flow.flags & flow_flag::ORIGINAL_IS_LOW != 0;
        let original = began_low == source_is_low(&work.packet.tuple);
        segment(&work.packet, &mut work.flow, original);
        work.facts.original = flag_of(original);
    } else if work.facts.original == 0 {
        work.flow.state_reply = TcpState::Established as u8;
        work.flow.flags |= flow_flag::CONFIRMED;
    }
    if work.facts.original != 0 {
        work.flow.hooks |= 1 << (work.facts.hook & 1);
        // Policy has just judged it, where the flow began.
        if work.facts.endpoint != 0
            && work.facts.hook == work.flow.hook
            && work.decision.stage as u8 != Stage::Flow as u8
        {
            work.flow.epoch = work.facts.epoch;
        }
    }
    work.flow.last_seen_ns = work.facts.now_ns;
    true
}
