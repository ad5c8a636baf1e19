//! IPv4: header, options (D31), flags (D32), fragments (D36), authentication headers (D33).

use super::{Cursor, Refusal, check_fragment, checked_length, malformed, martian};
use crate::addr::Addr;
use crate::frame::Frame;
use crate::limits::{MAX_EXTENSION_BYTES, MAX_EXTENSION_HEADERS, MAX_IPV4_OPTIONS};
use crate::packet::{FragmentPart, Packet, protocol};
use crate::verdict::Reason;

const HEADER: u32 = 20;
const RESERVED: u16 = 0x8000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LSRR: u8 = 131;
const OPTION_SSRR: u8 = 137;

#[inline(always)]
pub(super) fn parse<F: Frame>(
    frame: &F,
    start: u32,
    len: u32,
    cursor: &mut Cursor,
    out: &mut Packet,
) -> Result<(), Refusal> {
    let Some(h) = frame.load::<20>(start) else { return Err(malformed(Reason::Short)) };
    if h[0] >> 4 != 4 {
        return Err(malformed(Reason::IpVersion));
    }
    let header = u32::from(h[0] & 0x0f) * 4;
    if header < HEADER || header > len {
        return Err(malformed(Reason::Ipv4HeaderLength));
    }
    let total = u16::from_be_bytes([h[2], h[3]]);
    let end = checked_length(frame, total == 0, u32::from(total), header, len)?;
    let bits = u16::from_be_bytes([h[6], h[7]]);
    if bits & RESERVED != 0 {
        return Err(malformed(Reason::Ipv4ReservedFlag));
    }
    out.tuple.src = Addr::v4([h[12], h[13], h[14], h[15]]);
    out.tuple.dst = Addr::v4([h[16], h[17], h[18], h[19]]);
    out.tuple.protocol = h[9];
    out.header_protocol = h[9];
    out.ttl = h[8];
    out.fragment_id = u32::from(u16::from_be_bytes([h[4], h[5]]));
    if header > HEADER {
        options(frame, start + HEADER, start + header)?;
    }
    let more = bits & MORE != 0;
    let offset = u32::from(bits & OFFSET) * 8;
    if more || offset != 0 {
        check_fragment(offset, end - header, more)?;
        out.fragment = if offset == 0 { FragmentPart::First } else { FragmentPart::Later };
        out.fragment_offset = offset as u16;
    }
    *cursor = Cursor { next: h[9], offset: start + header, end: start + end };
    if out.fragment != FragmentPart::Later && cursor.next == protocol::AH {
        skip_ah(frame, cursor)?;
        out.tuple.protocol = cursor.next;
    }
    // Where the fragmentable part begins; `l4` turns it into a length.
    out.l4_header = (start + header) as u16;
    Ok(())
}

/// D31: lengths are checked up to an end-of-list; a source route is refused.
#[inline(never)]
fn options<F: Frame>(frame: &F, first: u32, end: u32) -> Result<(), Refusal> {
    let mut at = first;
    for _ in 0..MAX_IPV4_OPTIONS {
        if at >= end {
            return Ok(());
        }
        let Some([kind]) = frame.load::<1>(at) else { return Err(malformed(Reason::Short)) };
        if kind == OPTION_END {
            return Ok(());
        }
        if kind == OPTION_NOP {
            at += 1;
            continue;
        }
        if at + 1 >= end {
            return Err(malformed(Reason::Ipv4Options));
        }
        let Some([length]) = frame.load::<1>(at + 1) else { return Err(malformed(Reason::Short)) };
        let length = u32::from(length);
        if length < 2 || at + length > end {
            return Err(malformed(Reason::Ipv4Options));
        }
        if kind == OPTION_LSRR || kind == OPTION_SSRR {
            return Err(martian(Reason::SourceRoute));
        }
        at += length;
    }
    Ok(())
}

/// Authentication headers count in words of 4 bytes, less two (D33).
#[inline(never)]
fn skip_ah<F: Frame>(frame: &F, cursor: &mut Cursor) -> Result<(), Refusal> {
    let first = cursor.offset;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        if cursor.next != protocol::AH {
            return Ok(());
        }
        let Some([next, words]) = frame.load::<2>(cursor.offset) else {
            return Err(malformed(Reason::ShortL4));
        };
        cursor.next = next;
        cursor.offset += (u32::from(words) + 2) * 4;
        if cursor.offset > cursor.end {
            return Err(malformed(Reason::ShortL4));
        }
        if cursor.offset - first > MAX_EXTENSION_BYTES {
            return Err(malformed(Reason::ExtensionLimit));
        }
    }
    Err(malformed(Reason::ExtensionLimit))
}
