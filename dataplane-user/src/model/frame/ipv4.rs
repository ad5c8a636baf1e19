//! The IPv4 header (D31, D32), and AH behind it (D33).

use std::net::{IpAddr, Ipv4Addr};

use dataplane_common::verdict::Reason;

use super::{Packet, Part, be16, empty, part, upper};

pub(super) fn read(bytes: &[u8]) -> Result<Packet, Reason> {
    let header = bytes.get(..20).ok_or(Reason::Short)?;
    if header[0] >> 4 != 4 {
        return Err(Reason::IpVersion);
    }
    let header_len = usize::from(header[0] & 0xf) * 4;
    if header_len < 20 || header_len > bytes.len() {
        return Err(Reason::Ipv4HeaderLength);
    }
    let total = usize::from(be16(header, 2).unwrap_or(0));
    if total < header_len || total > bytes.len() {
        return Err(Reason::IpLength);
    }
    let flags = be16(header, 6).unwrap_or(0);
    if flags & 0x8000 != 0 {
        return Err(Reason::Ipv4ReservedFlag);
    }
    let address =
        |at: usize| IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap_or([0; 4])));
    let mut packet = empty(address(12), address(16), header[9], header[8]);
    v4_options(&bytes[20..header_len])?;
    let payload = &bytes[header_len..total];
    let (offset, more) = (usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
    packet.fragment_id = u32::from(be16(header, 4).unwrap_or(0));
    packet.part = part(offset, more, payload.len())?;
    if matches!(packet.part, Part::Later { .. }) {
        return Ok(packet);
    }
    let mut at = 0;
    let mut headers = 0;
    while packet.protocol == 51 {
        let size = (usize::from(*payload.get(at + 1).ok_or(Reason::ShortL4)?) + 2) * 4;
        headers += 1;
        if at + size > payload.len() {
            return Err(Reason::ShortL4);
        }
        if headers > 8 || at + size > 256 {
            return Err(Reason::ExtensionLimit);
        }
        packet.protocol = payload[at];
        at += size;
    }
    upper::read(&mut packet, &payload[at..], at, false)?;
    Ok(packet)
}

/// Lengths up to an end-of-list, and no source route (D31).
fn v4_options(options: &[u8]) -> Result<(), Reason> {
    let mut at = 0;
    while at < options.len() {
        match options[at] {
            0 => break,
            1 => at += 1,
            kind => {
                let length = usize::from(*options.get(at + 1).ok_or(Reason::Ipv4Options)?);
                if length < 2 || at + length > options.len() {
                    return Err(Reason::Ipv4Options);
                }
                if kind == 131 || kind == 137 {
                    return Err(Reason::SourceRoute);
                }
                at += length;
            }
        }
    }
    Ok(())
}
