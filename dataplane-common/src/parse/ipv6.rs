//! IPv6: header and extension header chain (D33), fragments (D36).

use super::{Cursor, Refusal, check_fragment, checked_length, malformed, martian};
use crate::addr::Addr;
use crate::frame::Frame;
use crate::limits::{MAX_EXTENSION_BYTES, MAX_EXTENSION_HEADERS};
use crate::packet::{FragmentPart, Packet, flag, protocol};
use crate::verdict::Reason;

const HEADER: u32 = 40;

#[inline(always)]
pub(super) fn parse<F: Frame>(
    frame: &F,
    start: u32,
    len: u32,
    cursor: &mut Cursor,
    out: &mut Packet,
) -> Result<(), Refusal> {
    let Some(h) = frame.load::<40>(start) else { return Err(malformed(Reason::Short)) };
    if h[0] >> 4 != 6 {
        return Err(malformed(Reason::IpVersion));
    }
    let payload = u16::from_be_bytes([h[4], h[5]]);
    let end = checked_length(frame, payload == 0, u32::from(payload) + HEADER, HEADER, len)?;
    let mut src = [0; 16];
    let mut dst = [0; 16];
    src.copy_from_slice(&h[8..24]);
    dst.copy_from_slice(&h[24..40]);
    out.tuple.src = Addr::v6(src);
    out.tuple.dst = Addr::v6(dst);
    out.ttl = h[7];
    *cursor = Cursor { next: h[6], offset: start + HEADER, end: start + end };
    // Where the fragmentable part begins, unless a Fragment header says otherwise; `l4` turns it into a length.
    out.l4_header = cursor.offset as u16;
    let walked = chain(frame, cursor, out);
    out.tuple.protocol = cursor.next;
    walked
}

/// Walks the extension headers up to the upper layer. A later fragment ends the walk: what follows its header
/// is not a header.
#[inline(never)]
fn chain<F: Frame>(frame: &F, cursor: &mut Cursor, out: &mut Packet) -> Result<(), Refusal> {
    let first = cursor.offset;
    let mut destination_options = 0u32;
    let mut headers = 0u32;
    while headers <= MAX_EXTENSION_HEADERS {
        let kind = cursor.next;
        if !matches!(
            kind,
            protocol::HOP_BY_HOP
                | protocol::IPV6_ROUTE
                | protocol::IPV6_FRAGMENT
                | protocol::AH
                | protocol::IPV6_DEST
        ) {
            return Ok(());
        }
        if headers == MAX_EXTENSION_HEADERS {
            break;
        }
        if kind == protocol::HOP_BY_HOP && headers != 0 {
            return Err(malformed(Reason::ExtensionOrder));
        }
        if kind == protocol::IPV6_DEST {
            destination_options += 1;
            if destination_options > 2 {
                return Err(malformed(Reason::ExtensionOrder));
            }
        }
        // The shortest extension header has 8 bytes. What stands behind the packet's end is not part of it.
        if cursor.offset + 8 > cursor.end {
            return Err(short(out));
        }
        let Some(h) = frame.load::<8>(cursor.offset) else { return Err(short(out)) };
        let length = match kind {
            protocol::IPV6_FRAGMENT => 8,
            protocol::AH => (u32::from(h[1]) + 2) * 4,
            _ => (u32::from(h[1]) + 1) * 8,
        };
        if kind == protocol::IPV6_ROUTE && (h[2] == 0 || h[3] != 0) {
            return Err(martian(Reason::RoutingHeader));
        }
        cursor.next = h[0];
        cursor.offset += length;
        if cursor.offset > cursor.end {
            return Err(short(out));
        }
        if cursor.offset - first > MAX_EXTENSION_BYTES {
            return Err(malformed(Reason::ExtensionLimit));
        }
        headers += 1;
        if kind == protocol::IPV6_FRAGMENT {
            fragment(cursor, h, out)?;
            if out.fragment == FragmentPart::Later {
                return Ok(());
            }
        }
    }
    Err(malformed(Reason::ExtensionLimit))
}

/// A header that is not whole: in a first fragment that is RFC 7112.
#[inline(always)]
fn short(out: &Packet) -> Refusal {
    malformed(if out.fragment == FragmentPart::First { Reason::ShortL4 } else { Reason::Short })
}

/// Takes a Fragment header in.
#[inline(always)]
fn fragment(cursor: &Cursor, h: [u8; 8], out: &mut Packet) -> Result<(), Refusal> {
    out.flags |= flag::FRAGMENT_HEADER;
    let bits = u16::from_be_bytes([h[2], h[3]]);
    let offset = u32::from(bits & 0xfff8);
    let more = bits & 1 != 0;
    if !more && offset == 0 {
        return Ok(()); // atomic: a whole packet (RFC 6946)
    }
    if out.fragment != FragmentPart::Whole {
        // A fragment of a fragment: the inner one's upper layer is nowhere in this packet.
        return Err(malformed(Reason::ShortL4));
    }
    check_fragment(offset, cursor.end - cursor.offset, more)?;
    out.fragment_id = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
    out.fragment_offset = offset as u16;
    out.fragment = if offset == 0 { FragmentPart::First } else { FragmentPart::Later };
    out.l4_header = cursor.offset as u16;
    Ok(())
}
