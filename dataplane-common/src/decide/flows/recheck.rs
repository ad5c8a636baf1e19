//! D15: a flow of an older epoch is judged again, in its original direction and where it began.

use super::record::change_flags;
use super::table_of;
use crate::abi::{Scratch, settings_flag};
use crate::decide::{OPEN, addresses, early, flag_of, governed};
use crate::flow::{SPACE_HIGH_ASKED, flow_flag};
use crate::packet::{Tuple, protocol, tcp};
use crate::tables::Tables;
use crate::verdict::{NO_RULE, Reason, Stage, Verdict};

/// Turns the packet into that which began the flow, and opens the decision for policy; [`end`] turns it back.
#[inline(always)]
pub(super) fn begin<T: Tables>(tables: &T, work: &mut Scratch) {
    let flags = work.flow.flags;
    // A policy's annotation goes before the node's setting, whatever that is.
    let by_setting = flags & flow_flag::KEEP == 0 && work.facts.settings & settings_flag::RECHECK != 0;
    if !(by_setting || flags & flow_flag::RECHECK != 0) || work.flow.epoch == work.facts.epoch {
        return;
    }
    if flags & flow_flag::ADOPTED != 0 {
        // Nobody saw it begin: its original direction is judged wherever it comes by.
        work.flow.epoch = work.facts.epoch;
        work.flow.hooks = 0;
        if work.facts.original != 0 {
            work.decision = OPEN;
        }
        return;
    }
    if work.facts.original != 0 && work.facts.hook != work.flow.hook {
        // What this hook admitted under the old policy counts no more. Where the flow began, it was judged just before.
        work.decision = OPEN;
        return;
    }
    let entry = tables.device(work.flow.device).unwrap_or_default();
    let facts = &mut work.facts;
    facts.recheck = if facts.original != 0 { 1 } else { 2 };
    facts.saved_hook = facts.hook;
    facts.saved_from_device = facts.from_device;
    facts.saved_endpoint = facts.endpoint;
    facts.saved_device_flags = facts.device_flags;
    facts.saved_is_reply = flag_of(work.decision.reason as u8 == Reason::FlowReply as u8);
    facts.saved_tcp_flags = work.packet.tcp_flags;
    facts.saved_icmp_type = work.packet.icmp_type;
    facts.hook = work.flow.hook;
    facts.from_device = flag_of(flags & flow_flag::FROM_DEVICE != 0);
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

#[inline(always)]
fn swap(tuple: &mut Tuple) {
    core::mem::swap(&mut tuple.src, &mut tuple.dst);
    core::mem::swap(&mut tuple.sport, &mut tuple.dport);
}

/// Gives the packet back, and the flow its new epoch or its end. What the other hook admitted under the old policy is
/// forgotten: there the original direction meets its list again.
#[inline(never)]
pub(in crate::decide) fn end<T: Tables>(tables: &T, work: &mut Scratch) {
    let against = work.facts.recheck == 2;
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
    let is_reply = work.facts.saved_is_reply != 0;
    let reason = if is_reply { Reason::FlowReply } else { Reason::FlowOriginal };
    governed(work, Verdict::Allow, Stage::Flow, reason);
}
