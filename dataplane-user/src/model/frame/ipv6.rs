//! The IPv6 header and its extension headers (D33).

use std::net::{IpAddr, Ipv6Addr};

use dataplane_common::verdict::Reason;

use super::{Packet, Part, be16, be32, empty, part, upper};

pub(super) fn read(bytes: &[u8]) -> Result<Packet, Reason> {
    let header = bytes.get(..40).ok_or(Reason::Short)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::IpVersion);
    }
    let length = usize::from(be16(header, 4).unwrap_or(0));
    if length == 0 || 40 + length > bytes.len() {
        return Err(Reason::IpLength);
    }
    let address = |at: usize| {
        IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).unwrap_or([0; 16])))
    };
    let mut packet = empty(address(8), address(24), header[6], header[7]);
    let payload = &bytes[40..40 + length];
    let mut chain = Chain::default();
    while chain.step(&mut packet, payload)? {}
    if matches!(packet.part, Part::Later { .. }) {
        return Ok(packet);
    }
    let before = chain.at - chain.fragmentable;
    upper::read(&mut packet, &payload[chain.at..], before, chain.fragment_header)?;
    Ok(packet)
}

/// The walk along IPv6 extension headers (D33).
#[derive(Default)]
struct Chain {
    at: usize,
    headers: usize,
    destination_options: usize,
    /// Where the fragmentable part begins.
    fragmentable: usize,
    fragment_header: bool,
}

impl Chain {
    /// One header; false at the upper-layer protocol, or where a later fragment ends the walk.
    fn step(&mut self, packet: &mut Packet, payload: &[u8]) -> Result<bool, Reason> {
        let protocol = packet.protocol;
        if !matches!(protocol, 0 | 43 | 44 | 51 | 60) {
            return Ok(false);
        }
        if self.headers == 8 {
            return Err(Reason::ExtensionLimit);
        }
        if protocol == 0 && self.headers > 0 {
            return Err(Reason::ExtensionOrder);
        }
        self.destination_options += usize::from(protocol == 60);
        if self.destination_options > 2 {
            return Err(Reason::ExtensionOrder);
        }
        self.headers += 1;
        // In a first fragment a chain that is not whole is RFC 7112.
        let short = if packet.part == Part::First { Reason::ShortL4 } else { Reason::Short };
        let head = payload.get(self.at..self.at + 8).ok_or(short)?;
        if protocol == 43 && (head[2] == 0 || head[3] != 0) {
            return Err(Reason::RoutingHeader);
        }
        let size = match protocol {
            44 => 8,
            51 => (usize::from(head[1]) + 2) * 4,
            _ => (usize::from(head[1]) + 1) * 8,
        };
        let rest = payload.get(self.at + size..).ok_or(short)?;
        if self.at + size > 256 {
            return Err(Reason::ExtensionLimit);
        }
        if protocol == 44 {
            self.fragment_header = true;
            let word = be16(head, 2).unwrap_or(0);
            let (offset, more) = (usize::from(word & 0xfff8), word & 1 != 0);
            if offset > 0 || more {
                if packet.part != Part::Whole {
                    // A fragment of a fragment: its upper layer is nowhere in this packet.
                    return Err(Reason::ShortL4);
                }
                packet.part = part(offset, more, rest.len())?;
                packet.fragment_id = be32(head, 4).unwrap_or(0);
                self.fragmentable = self.at + 8;
            }
        }
        packet.protocol = head[0];
        self.at += size;
        Ok(!matches!(packet.part, Part::Later { .. }))
    }
}
