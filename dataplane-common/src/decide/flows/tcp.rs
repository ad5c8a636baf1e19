//! What a TCP segment does to its flow: states, sequence numbers, confirmation, SYNs that wait (D16, T-9, T-12).

use crate::abi::Facts;
use crate::flow::{FlowEntry, PENDING_ORIGINAL, PENDING_REPLY, TcpState, flow_flag};
use crate::packet::{Packet, tcp};

/// Whether `ack` answers a SYN whose next number is `next`, with or without the payload it carried.
#[inline(always)]
pub(super) fn acknowledges(packet: &Packet, next: u32, payload: u16) -> bool {
    packet.tcp_flags & tcp::ACK != 0 && packet.tcp_ack.wrapping_sub(next) <= u32::from(payload)
}

#[inline(always)]
pub(super) fn syn_ack(packet: &Packet) -> bool {
    packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK
}

/// Whether the flow's SYN has no answer yet.
#[inline(always)]
fn waits(flow: &FlowEntry) -> bool {
    flow.state_reply == TcpState::None as u8 && flow.flags & (flow_flag::GRACE | flow_flag::CONFIRMED) == 0
}

/// T-12: the first reply of a half-open connection must answer its SYN.
#[inline(always)]
pub(super) fn believable(packet: &Packet, flow: &FlowEntry) -> bool {
    let kind = syn_ack(packet) || packet.tcp_flags & tcp::RST != 0;
    !waits(flow) || (kind && acknowledges(packet, flow.original_next_seq, flow.syn_payload))
}

/// D16: an admitted SYN on a flow. Before any reply it is a retransmission or a new try; after, it waits beside
/// the flow until the peer answers it.
#[inline(always)]
pub(super) fn syn_on_flow(packet: &Packet, flow: &mut FlowEntry, facts: &Facts) {
    let bit = 1 << (facts.hook & 1);
    let next = packet.tcp_seq.wrapping_add(1);
    let original = facts.original != 0;
    if original && flow.flags & flow_flag::CONFIRMED == 0 && flow.state_reply == TcpState::None as u8 {
        flow.original_next_seq = next;
        flow.syn_payload = packet.tcp_payload;
        flow.state_original = TcpState::SynSent as u8;
        flow.flags &= !flow_flag::GRACE;
        flow.hooks |= bit;
        if facts.endpoint != 0 && facts.hook == flow.hook {
            flow.epoch = facts.epoch;
        }
        flow.last_seen_ns = facts.now_ns;
        return;
    }
    let pending = if original { PENDING_ORIGINAL } else { PENDING_REPLY };
    let again = flow.pending == pending && flow.pending_next_seq == next;
    if again {
        flow.pending_hooks |= bit;
    } else {
        flow.pending_hooks = bit;
        flow.pending_device = facts.device;
        flow.pending_hook = facts.hook;
        flow.pending_from_device = facts.from_device;
    }
    flow.pending = pending;
    flow.pending_next_seq = next;
    flow.pending_payload = packet.tcp_payload;
}

/// A SYN+ACK that answers the pending SYN: the flow begins anew, in the direction of that SYN.
#[inline(always)]
pub(super) fn answer_pending(packet: &Packet, flow: &mut FlowEntry, original: bool) {
    let other = if original { PENDING_REPLY } else { PENDING_ORIGINAL };
    if flow.pending != other || !acknowledges(packet, flow.pending_next_seq, flow.pending_payload) {
        return;
    }
    if original {
        flow.flags ^= flow_flag::ORIGINAL_IS_LOW;
    }
    flow.original_next_seq = flow.pending_next_seq;
    flow.syn_payload = flow.pending_payload;
    // It began where that SYN was judged: there it is judged again (D15).
    flow.hooks = flow.pending_hooks;
    flow.device = flow.pending_device;
    flow.hook = flow.pending_hook;
    flow.flags &= !(flow_flag::FROM_DEVICE | flow_flag::GRACE | flow_flag::FAILSAFE);
    if flow.pending_from_device != 0 {
        flow.flags |= flow_flag::FROM_DEVICE;
    }
    flow.pending = 0;
    flow.state_original = TcpState::SynSent as u8;
    flow.state_reply = TcpState::None as u8;
    flow.reply_next_seq = 0;
}

/// Any other segment: states, sequence numbers, confirmation.
#[inline(always)]
pub(super) fn segment(packet: &Packet, flow: &mut FlowEntry, original: bool) {
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
    // T-12: as long as a SYN waits for its answer, the number that answers it stays. A failsafe admits data behind it.
    let advances = first || (!(original && waits(flow)) && (end.wrapping_sub(next) as i32) > 0);
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
/// The number that acknowledges a SYN (without its payload), or the end of another segment.
#[inline(always)]
pub(super) fn end_of_segment(packet: &Packet, syn: bool) -> u32 {
    if syn {
        return packet.tcp_seq.wrapping_add(1);
    }
    let controls = u32::from(packet.tcp_flags & tcp::FIN != 0) + u32::from(packet.tcp_flags & tcp::SYN != 0);
    packet.tcp_seq.wrapping_add(u32::from(packet.tcp_payload)).wrapping_add(controls)
}
