//! ICMP and ICMPv6: identifiers of requests and replies, neighbour discovery (D7), quoted packets (D37).

use super::{Cursor, Refusal, malformed};
use crate::addr::Addr;
use crate::frame::Frame;
use crate::limits::{MAX_EXTENSION_BYTES, MAX_EXTENSION_HEADERS};
use crate::packet::{Packet, flag, protocol};
use crate::verdict::Reason;

const HEADER: u32 = 8;

/// ICMPv6 type of the first and last informational messages that the data path knows.
pub mod kind {
    #![allow(missing_docs, reason = "the names are those of the IANA registry")]
    pub const V4_ECHO_REPLY: u8 = 0;
    pub const V4_REDIRECT: u8 = 5;
    pub const V4_ECHO: u8 = 8;
    pub const V4_TIMESTAMP: u8 = 13;
    pub const V4_TIMESTAMP_REPLY: u8 = 14;
    pub const V6_ECHO: u8 = 128;
    pub const V6_ECHO_REPLY: u8 = 129;
    pub const MLD_QUERY: u8 = 130;
    pub const MLD_REPORT: u8 = 131;
    pub const MLD_DONE: u8 = 132;
    pub const ROUTER_SOLICITATION: u8 = 133;
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub const V6_REDIRECT: u8 = 137;
    pub const MLD2_REPORT: u8 = 143;
}

/// The request that a type belongs to, and whether it is the answer: the key space of identifiers. `None`: a
/// message without an identifier.
#[inline(always)]
pub const fn exchange(v4: bool, icmp_type: u8) -> Option<(u8, bool)> {
    match (v4, icmp_type) {
        (true, kind::V4_ECHO) => Some((kind::V4_ECHO, false)),
        (true, kind::V4_ECHO_REPLY) => Some((kind::V4_ECHO, true)),
        (true, kind::V4_TIMESTAMP) => Some((kind::V4_TIMESTAMP, false)),
        (true, kind::V4_TIMESTAMP_REPLY) => Some((kind::V4_TIMESTAMP, true)),
        (false, kind::V6_ECHO) => Some((kind::V6_ECHO, false)),
        (false, kind::V6_ECHO_REPLY) => Some((kind::V6_ECHO, true)),
        _ => None,
    }
}

#[inline(always)]
const fn is_error(v4: bool, icmp_type: u8) -> bool {
    if v4 { matches!(icmp_type, 3 | 4 | 11 | 12) } else { matches!(icmp_type, 1..=4) }
}

/// Type, code and identifier. Returns the header.
#[inline(always)]
fn head<F: Frame>(frame: &F, at: &Cursor, v4: bool, out: &mut Packet) -> Result<(), Refusal> {
    if at.end - at.offset < HEADER {
        return Err(malformed(Reason::ShortIcmp));
    }
    let Some(h) = frame.load::<8>(at.offset) else { return Err(malformed(Reason::ShortIcmp)) };
    out.icmp_type = h[0];
    out.icmp_code = h[1];
    if let Some((_, answer)) = exchange(v4, h[0]) {
        let id = u16::from_be_bytes([h[4], h[5]]);
        out.tuple.sport = id;
        out.tuple.dport = id;
        out.flags |= if answer { flag::ICMP_REPLY } else { flag::ICMP_REQUEST };
    }
    Ok(())
}

#[inline(always)]
pub(super) fn v4<F: Frame>(frame: &F, at: &Cursor, out: &mut Packet) -> Result<u32, Refusal> {
    head(frame, at, true, out)?;
    if is_error(true, out.icmp_type) {
        out.flags |= flag::ICMP_ERROR;
        quoted_v4(frame, at, out)?;
    }
    Ok(HEADER)
}

#[inline(always)]
pub(super) fn v6<F: Frame>(frame: &F, at: &Cursor, out: &mut Packet) -> Result<u32, Refusal> {
    head(frame, at, false, out)?;
    if is_error(false, out.icmp_type) {
        out.flags |= flag::ICMP_ERROR;
        quoted_v6(frame, at, out)?;
        return Ok(HEADER);
    }
    let least = match out.icmp_type {
        kind::ROUTER_SOLICITATION | kind::MLD2_REPORT => 8,
        kind::ROUTER_ADVERTISEMENT => 16,
        kind::NEIGHBOUR_SOLICITATION | kind::NEIGHBOUR_ADVERTISEMENT => 24,
        kind::MLD_QUERY | kind::MLD_REPORT | kind::MLD_DONE => 24,
        kind::V6_REDIRECT => 40,
        _ => return Ok(HEADER),
    };
    if out.flags & flag::FRAGMENT_HEADER != 0 {
        return Err(malformed(Reason::NdFragment));
    }
    if at.end - at.offset < least {
        return Err(malformed(Reason::ShortNd));
    }
    out.flags |= flag::ND;
    Ok(HEADER)
}

#[inline(always)]
fn bad_quote() -> Refusal {
    malformed(Reason::IcmpInner)
}

/// The packet quoted in an ICMPv4 error (C-7).
#[inline(always)]
fn quoted_v4<F: Frame>(frame: &F, at: &Cursor, out: &mut Packet) -> Result<(), Refusal> {
    let start = at.offset + HEADER;
    let Some(h) = frame.load::<20>(start) else { return Err(bad_quote()) };
    let header = u32::from(h[0] & 0x0f) * 4;
    let later = u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0;
    if h[0] >> 4 != 4 || header < 20 || later {
        return Err(bad_quote());
    }
    out.inner.src = Addr::v4([h[12], h[13], h[14], h[15]]);
    out.inner.dst = Addr::v4([h[16], h[17], h[18], h[19]]);
    quoted_l4(frame, &Cursor { next: h[9], offset: start + header, end: at.end }, true, out)
}

/// The packet quoted in an ICMPv6 error; its extension headers are skipped (D37).
#[inline(always)]
fn quoted_v6<F: Frame>(frame: &F, at: &Cursor, out: &mut Packet) -> Result<(), Refusal> {
    let start = at.offset + HEADER;
    let Some(h) = frame.load::<40>(start) else { return Err(bad_quote()) };
    if h[0] >> 4 != 6 {
        return Err(bad_quote());
    }
    let mut src = [0; 16];
    let mut dst = [0; 16];
    src.copy_from_slice(&h[8..24]);
    dst.copy_from_slice(&h[24..40]);
    out.inner.src = Addr::v6(src);
    out.inner.dst = Addr::v6(dst);
    let mut cursor = Cursor { next: h[6], offset: start + 40, end: at.end };
    quoted_chain(frame, &mut cursor)?;
    quoted_l4(frame, &cursor, false, out)
}

#[inline(never)]
fn quoted_chain<F: Frame>(frame: &F, cursor: &mut Cursor) -> Result<(), Refusal> {
    let first = cursor.offset;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        if !matches!(
            cursor.next,
            protocol::HOP_BY_HOP
                | protocol::IPV6_ROUTE
                | protocol::IPV6_FRAGMENT
                | protocol::AH
                | protocol::IPV6_DEST
        ) {
            return Ok(());
        }
        let Some(h) = frame.load::<4>(cursor.offset) else { return Err(bad_quote()) };
        let length = match cursor.next {
            protocol::IPV6_FRAGMENT if u16::from_be_bytes([h[2], h[3]]) & 0xfff8 != 0 => {
                return Err(bad_quote());
            }
            protocol::IPV6_FRAGMENT => 8,
            protocol::AH => (u32::from(h[1]) + 2) * 4,
            _ => (u32::from(h[1]) + 1) * 8,
        };
        cursor.next = h[0];
        cursor.offset += length;
        if cursor.offset - first > MAX_EXTENSION_BYTES {
            return Err(bad_quote());
        }
    }
    Err(bad_quote())
}

/// At least 8 bytes of the quoted upper layer: ports, or an identifier.
#[inline(always)]
fn quoted_l4<F: Frame>(frame: &F, at: &Cursor, v4: bool, out: &mut Packet) -> Result<(), Refusal> {
    if at.offset + 8 > at.end {
        return Err(bad_quote());
    }
    let Some(h) = frame.load::<8>(at.offset) else { return Err(bad_quote()) };
    out.inner.protocol = at.next;
    match at.next {
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDPLITE => {
            out.inner.sport = u16::from_be_bytes([h[0], h[1]]);
            out.inner.dport = u16::from_be_bytes([h[2], h[3]]);
        }
        protocol::ICMP | protocol::ICMPV6 if (at.next == protocol::ICMP) == v4 => {
            out.inner_icmp_type = h[0];
            if is_error(v4, h[0]) {
                return Err(bad_quote());
            }
            if exchange(v4, h[0]).is_none() {
                return Ok(()); // no flow could stand behind it
            }
            let id = u16::from_be_bytes([h[4], h[5]]);
            out.inner.sport = id;
            out.inner.dport = id;
        }
        _ => {}
    }
    out.flags |= flag::INNER;
    Ok(())
}
