//! D15: a flow of an older epoch is judged again, in its original direction and where it began.

use super::record::change_flags;
use super::table_of;
use crate::abi::{Scratch, settings_flag};
use crate::decide::{OPEN, addresses, early, flag_of, governed};
use crate::flow::{SPACE_HIGH_ASKED, flow_flag};
use crate::packet::{Tuple, protocol, tcp};
use crate::tables::Tables;
use crate::verdict::{NO_RULE, Reason, Stage, Verdict};

/// [`crate::abi::Facts::recheck`]: the packet goes in the flow's original direction.
const AS_IT_IS: u8 = 1;
/// It is a reply.
const TURNED: u8 = 2;
/// It is a reply, and where the flow began is not known.
const GUESSED: u8 = 3;

/// Turns the packet into that which began the flow, and opens the decision for policy; [`end`] turns it back.
#[inline(always)]
pub(super) fn begin<T: Tables>(tables: &T, work: &mut Scratch) {
    let flags = work.flow.flags;
    // A policy's annotation goes before the node's setting, whatever that is.
    let by_setting = flags & flow_flag::KEEP == 0 && work.facts.settings & settings_flag::RECHECK != 0;
    if !(by_setting || flags & flow_flag::RECHECK != 0) || work.flow.epoch == work.facts.epoch {
        return;
    }
    let learns = flags & flow_flag::ADOPTED != 0 && work.flow.device == 0;
    if learns {
        take_place(work);
    }
    if work.facts.original != 0 && work.facts.hook != work.flow.hook {
        // What this hook admitted under the old policy counts no more. Where the flow began, it was judged just before.
        work.decision = OPEN;
        return;
    }
    let entry = tables.device(work.flow.device).unwrap_or_default();
    let from_device = flag_of(work.flow.flags & flow_flag::FROM_DEVICE != 0);
    let facts = &mut work.facts;
    facts.recheck = match (facts.original != 0, learns) {
        (true, _) => AS_IT_IS,
        (false, false) => TURNED,
        (false, true) => GUESSED,
    };
    facts.saved_hook = facts.hook;
    facts.saved_from_device = facts.from_device;
    facts.saved_endpoint = facts.endpoint;
    facts.saved_device_flags = facts.device_flags;
    facts.saved_is_reply = flag_of(work.decision.reason as u8 == Reason::FlowReply as u8);
    facts.saved_tcp_flags = work.packet.tcp_flags;
    facts.saved_icmp_type = work.packet.icmp_type;
    facts.hook = work.flow.hook;
    facts.from_device = from_device;
    facts.endpoint = entry.endpoint;
    facts.device_flags = entry.flags;
    if facts.original == 0 {
        swap(&mut work.packet.tuple);
        work.packet.icmp_type = work.key.space & !SPACE_HIGH_ASKED;
        // An untracked list may have looked the other direction up.
        facts.classified = 0;
    }
    if work.key.protocol == protocol::TCP && flags & flow_flag::GRACE == 0 {
        work.packet.tcp_flags = tcp::SYN;
    }
    work.decision = OPEN;
    addresses(tables, work);
    if work.facts.endpoint != 0 {
        early::failsafe(tables, work);
    }
}

/// Nobody saw an adopted flow begin (D17). It began where its original direction comes by; when a reply comes first,
/// it is judged as if it had come the same way, through the other hook.
#[inline(always)]
fn take_place(work: &mut Scratch) {
    let facts = &work.facts;
    work.flow.device = facts.device;
    if facts.original != 0 {
        work.flow.hook = facts.hook;
        work.flow.flags &= !flow_flag::FROM_DEVICE;
        if facts.from_device != 0 {
            work.flow.flags |= flow_flag::FROM_DEVICE;
        }
    } else {
        work.flow.hook = (facts.hook & 1) ^ 1;
    }
}

#[inline(always)]
fn swap(tuple: &mut Tuple) {
    core::mem::swap(&mut tuple.src, &mut tuple.dst);
    core::mem::swap(&mut tuple.sport, &mut tuple.dport);
}

/// Gives the packet back, and the flow its new epoch or its end. What the other hook admitted under the old policy is
/// forgotten: there the original direction meets its list again.
#[inline(never)]
pub(in crate::decide) fn end<T: Tables>(tables: &T, work: &mut Scratch) {
    let how = work.facts.recheck;
    let against = how != AS_IT_IS;
    let facts = &mut work.facts;
    facts.hook = facts.saved_hook;
    facts.from_device = facts.saved_from_device;
    facts.endpoint = facts.saved_endpoint;
    facts.device_flags = facts.saved_device_flags;
    work.packet.tcp_flags = facts.saved_tcp_flags;
    work.packet.icmp_type = facts.saved_icmp_type;
    if against {
        swap(&mut work.packet.tuple);
    }
    let rule = work.decision.rule;
    if work.decision.verdict as u8 == Verdict::Deny as u8 {
        if let Some(table) = table_of(work.facts.found) {
            tables.flow_remove(table, &work.key);
        }
        governed(work, Verdict::Deny, Stage::Flow, Reason::FlowRechecked);
        work.decision.rule = rule;
        return;
    }
    work.flow.flags = work.flow.flags & !(flow_flag::RECHECK | flow_flag::KEEP) | change_flags(work);
    work.flow.epoch = work.facts.epoch;
    work.flow.generation = work.facts.generation;
    work.flow.rule = rule;
    work.flow.rule_identity = if rule == NO_RULE { 0 } else { work.facts.rule_identity };
    work.flow.hooks = 1 << (work.flow.hook & 1);
    if how == GUESSED {
        // The way of a reply may be another: the original direction meets its lists wherever it comes by.
        work.flow.device = 0;
        work.flow.hooks = 0;
    }
    let is_reply = work.facts.saved_is_reply != 0;
    let reason = if is_reply { Reason::FlowReply } else { Reason::FlowOriginal };
    governed(work, Verdict::Allow, Stage::Flow, reason);
}
