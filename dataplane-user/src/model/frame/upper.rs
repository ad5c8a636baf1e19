//! The upper-layer header (D34, D35, D38), and ICMP's own rules (D7).

use dataplane_common::verdict::Reason;

use super::quoted::{is_error, quoted};
use super::{ACK, FIN, Icmp, Packet, Part, RST, SYN, Tcp, be16, be32};

/// The L4 header. `before`: bytes of the fragmentable part in front of it.
pub(super) fn read(
    packet: &mut Packet,
    l4: &[u8],
    before: usize,
    fragment_header: bool,
) -> Result<(), Reason> {
    let first = packet.part == Part::First;
    let header = match (packet.protocol, packet.v6()) {
        (6, _) => tcp(packet, l4)?,
        (17, _) => {
            let ports = ports(packet, l4, 8)?;
            let length = usize::from(be16(l4, 4).unwrap_or(0));
            if length < 8 || (length > l4.len() && !first) {
                return Err(Reason::UdpLength);
            }
            if ports.1 == 0 {
                return Err(Reason::PortZero);
            }
            8
        }
        (132, _) => {
            if ports(packet, l4, 16)?.1 == 0 {
                return Err(Reason::PortZero);
            }
            packet.sctp_init = l4.get(12) == Some(&1);
            12
        }
        (136, _) => {
            ports(packet, l4, 8)?;
            8
        }
        (1, false) | (58, true) => {
            icmp(packet, l4, fragment_header)?;
            8
        }
        _ => 0,
    };
    packet.header_bytes = before + header;
    Ok(())
}

fn ports(packet: &mut Packet, l4: &[u8], header: usize) -> Result<(u16, u16), Reason> {
    if l4.len() < header {
        return Err(Reason::ShortL4);
    }
    let ports = (be16(l4, 0).unwrap_or(0), be16(l4, 2).unwrap_or(0));
    packet.ports = Some(ports);
    Ok(ports)
}

fn tcp(packet: &mut Packet, l4: &[u8]) -> Result<usize, Reason> {
    let (sport, dport) = ports(packet, l4, 20)?;
    let header = usize::from(l4[12] >> 4) * 4;
    if header < 20 || header > l4.len() {
        return Err(Reason::TcpOffset);
    }
    let flags = l4[13];
    let nonsense = (flags & SYN != 0 && flags & (FIN | RST) != 0)
        || flags & (FIN | SYN | RST | ACK) == 0
        || (flags & FIN != 0 && flags & ACK == 0);
    if nonsense {
        return Err(Reason::TcpFlags);
    }
    if sport == 0 || dport == 0 {
        return Err(Reason::PortZero);
    }
    let payload = (l4.len() - header) as u32;
    packet.tcp = Some(Tcp { flags, seq: be32(l4, 4).unwrap_or(0), ack: be32(l4, 8).unwrap_or(0), payload });
    Ok(header)
}

fn icmp(packet: &mut Packet, l4: &[u8], fragment_header: bool) -> Result<(), Reason> {
    let message = l4.get(..8).ok_or(Reason::ShortIcmp)?;
    let icmp = Icmp { kind: message[0], code: message[1], id: be16(message, 4).unwrap_or(0) };
    packet.icmp = Some(icmp);
    if packet.v6() {
        // Lengths of RFC 4861, 2710 and 3810 (D7); fragmented ones: RFC 6980.
        let needs = match icmp.kind {
            133 | 143 => 8,
            134 => 16,
            130..=132 | 135 | 136 => 24,
            137 => 40,
            _ => 0,
        };
        if needs > 0 && fragment_header {
            return Err(Reason::NdFragment);
        }
        if l4.len() < needs {
            return Err(Reason::ShortNd);
        }
    }
    if is_error(packet.v6(), icmp.kind) {
        packet.quoted = Some(quoted(packet.v6(), &l4[8..]).ok_or(Reason::IcmpInner)?);
    }
    Ok(())
}
