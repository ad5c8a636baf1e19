//! The parser: total, bounded, fail-closed (D19–D38). Every refusal has a stage and a reason; whatever is not
//! refused was read at its real place. Order of the files is the order of the headers.

pub mod icmp;
mod ipv4;
mod ipv6;
mod l4;
#[cfg(test)]
pub(crate) mod tests;

use core::num::NonZeroU32;

use crate::frame::Frame;
use crate::limits::MAX_VLAN_TAGS;
use crate::packet::{Packet, flag};
use crate::verdict::{Reason, Stage};

/// Ethertype of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Ethertype of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// Below this an "ethertype" is a length, or one of the kernel's numbers for 802.2 frames.
const ETHERTYPE_FIRST: u16 = 0x0600;
/// VID bits of a TCI.
const VID: u16 = 0x0fff;
/// Longest packet that an IPv4 total length or IPv6 payload length of 16 bits can name (D33: BIG TCP).
const MAX_SHORT_LENGTH: u32 = 65535;

/// What a packet turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum ParseResult {
    /// IP: the packet was filled.
    Ip,
    /// Not IP (D20).
    NotIp {
        /// Ethertype behind the tags of VID 0; below 0x600: an 802.2 frame.
        ethertype: u16,
    },
    /// Tagged for a VLAN device (D28).
    OtherVlan,
    /// Malformed, or a martian that the headers alone give away.
    Refused(Stage, Reason),
}

/// A refusal: `Err` of the parser's parts. Not zero, so that `Result<(), Refusal>` is one number without undefined
/// bits: the BPF verifier takes a read of those for an error.
type Refusal = NonZeroU32;

const fn refusal(stage: Stage, reason: Reason) -> Refusal {
    NonZeroU32::MIN.saturating_add((stage as u32) << 16 | (reason as u32) << 8)
}

const fn malformed(reason: Reason) -> Refusal {
    refusal(Stage::Malformed, reason)
}

const fn martian(reason: Reason) -> Refusal {
    refusal(Stage::Martian, reason)
}

/// What [`read`] returns beside refusals (whose low byte is 1).
const IP: u32 = 0;
const NOT_IP: u32 = 2;
const OTHER_VLAN: u32 = 3;

/// Where the walk stands: the next header's protocol and offset, and the end of the IP packet.
#[derive(Clone, Copy)]
struct Cursor {
    next: u8,
    offset: u32,
    end: u32,
}

/// Reads one packet. `out` must be all zero.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F, out: &mut Packet) -> ParseResult {
    // Two calls, so that their stacks do not add up.
    let mut cursor = Cursor { next: 0, offset: 0, end: 0 };
    let mut code = read(frame, &mut cursor, out);
    if code == IP {
        code = l4::parse(frame, &cursor, out);
    }
    match code & 0xff {
        IP => ParseResult::Ip,
        NOT_IP => ParseResult::NotIp { ethertype: (code >> 16) as u16 },
        OTHER_VLAN => ParseResult::OtherVlan,
        _ => {
            // Every number here was written by `refusal`.
            let stage =
                if (code >> 16) as u8 == Stage::Martian as u8 { Stage::Martian } else { Stage::Malformed };
            ParseResult::Refused(stage, Reason::from_number((code >> 8) as u8).unwrap_or(Reason::Short))
        }
    }
}

/// [`parse`] up to the upper layer, as a number.
#[inline(never)]
fn read<F: Frame>(frame: &F, cursor: &mut Cursor, out: &mut Packet) -> u32 {
    if frame.looped_back() {
        out.flags |= flag::LOOPED;
    }
    out.segments = frame.segments().max(1);
    let mut tags = 0;
    if let Some(tci) = frame.vlan_tag() {
        if tci & VID != 0 {
            return OTHER_VLAN;
        }
        tags = 1;
    }
    // Tags in the bytes: seen in test runs, and below a device that does not strip them.
    let mut ethertype = frame.ethertype();
    let mut offset = 0;
    for _ in 0..=MAX_VLAN_TAGS {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        if tags == MAX_VLAN_TAGS {
            return malformed(Reason::VlanTags).get();
        }
        let Some(tag) = frame.load::<4>(offset) else { return malformed(Reason::Short).get() };
        if u16::from_be_bytes([tag[0], tag[1]]) & VID != 0 {
            return OTHER_VLAN;
        }
        ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        offset += 4;
        tags += 1;
    }
    out.ethertype = ethertype;
    let len = frame.network_len().saturating_sub(offset);
    out.len = len;
    let l3 = match ethertype {
        ETHERTYPE_IPV4 => ipv4::parse(frame, offset, len, cursor, out),
        ETHERTYPE_IPV6 => ipv6::parse(frame, offset, len, cursor, out),
        _ if ethertype < ETHERTYPE_FIRST && snap_with_ip(frame, offset) => Err(malformed(Reason::Snap)),
        _ => return NOT_IP | u32::from(ethertype) << 16,
    };
    match l3 {
        Ok(()) => IP,
        Err(refusal) => refusal.get(),
    }
}

/// SNAP (aa aa 03, with the group and response bits free) that carries IP, under any OUI (D20).
#[inline(always)]
fn snap_with_ip<F: Frame>(frame: &F, offset: u32) -> bool {
    let Some(b) = frame.load::<8>(offset) else { return false };
    let carried = u16::from_be_bytes([b[6], b[7]]);
    b[0] & 0xfe == 0xaa
        && b[1] & 0xfe == 0xaa
        && b[2] == 0x03
        && (carried == ETHERTYPE_IPV4 || carried == ETHERTYPE_IPV6)
}

/// The end of the IP packet, counted from its own header, from its length field (`named`, header included).
/// Zero is only for super-packets that the kernel itself made (D33).
#[inline(always)]
fn checked_length<F: Frame>(
    frame: &F,
    zero: bool,
    named: u32,
    header: u32,
    len: u32,
) -> Result<u32, Refusal> {
    if zero {
        return if frame.gso_size() != 0 && len > MAX_SHORT_LENGTH {
            Ok(len)
        } else {
            Err(malformed(Reason::IpLength))
        };
    }
    if named < header || named > len { Err(malformed(Reason::IpLength)) } else { Ok(named) }
}

/// D36: the lengths that no fragment may have.
#[inline(always)]
fn check_fragment(offset: u32, payload: u32, more: bool) -> Result<(), Refusal> {
    if more && !payload.is_multiple_of(8) {
        return Err(malformed(Reason::FragmentLength));
    }
    if offset + payload > MAX_SHORT_LENGTH {
        return Err(malformed(Reason::FragmentTooLong));
    }
    Ok(())
}
