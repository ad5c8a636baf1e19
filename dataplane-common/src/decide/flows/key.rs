//! The canonical key: both directions of a flow, and what an ICMP error quotes of it, find one entry.

use crate::addr::Addr;
use crate::flow::{FlowKey, SPACE_HIGH_ASKED};
use crate::packet::{Tuple, protocol};
use crate::parse::icmp::exchange;

/// Whether the source is the low end of the key.
#[inline(always)]
pub(super) fn source_is_low(tuple: &Tuple) -> bool {
    if tuple.src.bytes == tuple.dst.bytes { tuple.sport <= tuple.dport } else { less(&tuple.src, &tuple.dst) }
}

#[inline(always)]
fn less(a: &Addr, b: &Addr) -> bool {
    u128::from_be_bytes(a.bytes) < u128::from_be_bytes(b.bytes)
}

/// Fills the key of the flow that a packet with `tuple` belongs to. False: such packets have none.
#[inline(always)]
pub(super) fn fill_key(key: &mut FlowKey, tuple: &Tuple, icmp_type: u8) -> bool {
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
