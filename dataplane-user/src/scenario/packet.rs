//! Builds the frame that a `packet:` describes, well-formed where nothing else is said.

use std::net::IpAddr;

use super::conversation::Conversations;
use super::format::{Chunk, PacketSpec};

/// Where a frame is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Macs {
    pub src: [u8; 6],
    pub dst: [u8; 6],
}

/// The whole frame.
pub(crate) fn frame(spec: &PacketSpec, macs: Macs, talk: &mut Conversations) -> Result<Vec<u8>, String> {
    if let Some(hex) = &spec.raw {
        return raw(hex);
    }
    let ip = ip_packet(spec, Some(talk))?;
    let mut frame = Vec::with_capacity(ip.len() + 22);
    frame.extend(macs.dst);
    frame.extend(macs.src);
    for id in spec.vlan.iter().flatten() {
        if *id > 4094 {
            return Err(format!("packet.vlan {id} is no VLAN id: write 0 to 4094"));
        }
        frame.extend(0x8100u16.to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    let v6 = matches!(spec.dst, Some(IpAddr::V6(_)));
    frame.extend(if v6 { 0x86ddu16 } else { 0x0800 }.to_be_bytes());
    frame.extend(ip);
    Ok(frame)
}

fn raw(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = hex
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .map(|c| c.to_digit(16).map(|d| d as u8).ok_or_else(|| format!("packet.raw: {c:?} is no hex digit")))
        .collect::<Result<_, _>>()?;
    if !digits.len().is_multiple_of(2) {
        return Err("packet.raw has an odd number of hex digits: two make a byte".into());
    }
    Ok(digits.chunks(2).map(|pair| (pair[0] << 4) | pair[1]).collect())
}

fn ip_packet(spec: &PacketSpec, talk: Option<&mut Conversations>) -> Result<Vec<u8>, String> {
    let (Some(src), Some(dst), Some(protocol)) = (spec.src, spec.dst, spec.protocol) else {
        return Err("packet.src, dst and protocol are needed".into());
    };
    let protocol = protocol.0;
    let fragment = spec.fragment.as_ref();
    let body = match fragment {
        // A later fragment has no header of its own.
        Some(f) if f.offset > 0 => filler(usize::from(spec.payload.unwrap_or(8))),
        _ => upper(spec, src, dst, protocol, talk)?,
    };
    let ttl = spec.ttl.unwrap_or_else(|| default_ttl(spec, protocol, src.is_ipv6()));
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => v4(spec, src.octets(), dst.octets(), protocol, ttl, &body),
        (IpAddr::V6(src), IpAddr::V6(dst)) => v6(spec, src.octets(), dst.octets(), protocol, ttl, &body),
        _ => Err(format!("packet: src {src} and dst {dst} are of different families")),
    }
}

/// 255 for neighbour discovery, 1 for MLD (D7).
fn default_ttl(spec: &PacketSpec, protocol: u8, v6: bool) -> u8 {
    match spec.icmp.as_ref().map(|i| i.kind) {
        Some(133..=137) if v6 && protocol == 58 => 255,
        Some(130..=132 | 143) if v6 && protocol == 58 => 1,
        _ => 64,
    }
}

fn v4(
    spec: &PacketSpec,
    src: [u8; 4],
    dst: [u8; 4],
    protocol: u8,
    ttl: u8,
    body: &[u8],
) -> Result<Vec<u8>, String> {
    let total =
        u16::try_from(20 + body.len()).map_err(|_| "packet is longer than 65535 bytes".to_string())?;
    let (id, word) = match &spec.fragment {
        Some(f) => (f.id as u16, (f.offset / 8) | if f.more { 0x2000 } else { 0 }),
        None => (1, 0x4000),
    };
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend(id.to_be_bytes());
    header.extend(word.to_be_bytes());
    header.extend([ttl, protocol, 0, 0]);
    header.extend(src);
    header.extend(dst);
    let sum = internet_checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(body);
    Ok(header)
}

fn v6(
    spec: &PacketSpec,
    src: [u8; 16],
    dst: [u8; 16],
    protocol: u8,
    hop_limit: u8,
    body: &[u8],
) -> Result<Vec<u8>, String> {
    let mut payload = Vec::new();
    let mut next = protocol;
    if let Some(f) = &spec.fragment {
        next = 44;
        payload.extend([protocol, 0]);
        payload.extend((f.offset | u16::from(f.more)).to_be_bytes());
        payload.extend(f.id.to_be_bytes());
    }
    payload.extend(body);
    let length = u16::try_from(payload.len()).map_err(|_| "packet is longer than 65535 bytes".to_string())?;
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next, hop_limit]);
    packet.extend(src);
    packet.extend(dst);
    packet.extend(payload);
    Ok(packet)
}

fn filler(length: usize) -> Vec<u8> {
    (0..length).map(|i| b'a' + (i % 26) as u8).collect()
}

/// The L4 header and what follows it.
fn upper(
    spec: &PacketSpec,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    talk: Option<&mut Conversations>,
) -> Result<Vec<u8>, String> {
    let more = spec.fragment.as_ref().is_some_and(|f| f.more);
    // A fragment with more to come holds a multiple of 8 bytes; every header here but TCP's does.
    let padded = |header: usize| {
        let wanted = usize::from(spec.payload.unwrap_or(8));
        if more && spec.payload.is_none() { (header + wanted).next_multiple_of(8) - header } else { wanted }
    };
    match (protocol, src.is_ipv6()) {
        (6, _) => tcp(spec, src, dst, padded(20), more, talk),
        (17 | 136, _) => Ok(udp(spec, src, dst, protocol, padded(8), more)),
        (132, _) => Ok(sctp(spec, more)),
        (1, false) | (58, true) => icmp(spec, src, dst, padded(8)),
        _ => Ok(filler(padded(0))),
    }
}

/// The default ports of a packet that names none.
fn ports(spec: &PacketSpec) -> (u16, u16) {
    (spec.sport.unwrap_or(40000), spec.dport.unwrap_or(80))
}

/// TCP flag bits of `SYN+ACK` and the like.
pub(crate) fn tcp_flags(text: &str) -> Result<u8, String> {
    text.split('+').try_fold(0, |bits, name| {
        let bit = match name.trim().to_ascii_uppercase().as_str() {
            "FIN" => 0x01,
            "SYN" => 0x02,
            "RST" => 0x04,
            "PSH" => 0x08,
            "ACK" => 0x10,
            "URG" => 0x20,
            "ECE" => 0x40,
            "CWR" => 0x80,
            "NONE" | "" => 0,
            _ => {
                return Err(format!(
                    "packet.flags {name:?} is unknown: join FIN, SYN, RST, PSH, ACK, URG, ECE, CWR with +"
                ));
            }
        };
        Ok(bits | bit)
    })
}

fn tcp(
    spec: &PacketSpec,
    src: IpAddr,
    dst: IpAddr,
    padded: usize,
    more: bool,
    talk: Option<&mut Conversations>,
) -> Result<Vec<u8>, String> {
    let flags = tcp_flags(spec.flags.as_deref().unwrap_or("SYN"))?;
    // A SYN or RST with data is unusual: only where `payload` asks for it.
    let bare = flags & 0x06 != 0 && spec.payload.is_none() && !more;
    let payload = filler(if bare { 0 } else { padded.max(if more { 4 } else { 0 }) });
    let (sport, dport) = ports(spec);
    let mut none = Conversations::default();
    let numbers = talk.unwrap_or(&mut none).numbers(
        (src, sport),
        (dst, dport),
        flags,
        payload.len() as u32,
        spec.seq,
        spec.ack,
    );
    let mut segment = Vec::new();
    segment.extend(sport.to_be_bytes());
    segment.extend(dport.to_be_bytes());
    segment.extend(numbers.0.to_be_bytes());
    segment.extend(numbers.1.to_be_bytes());
    segment.extend([0x50, flags]);
    segment.extend(64240u16.to_be_bytes());
    segment.extend([0, 0, 0, 0]);
    segment.extend(payload);
    let sum = l4_checksum(src, dst, 6, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    Ok(segment)
}

fn udp(spec: &PacketSpec, src: IpAddr, dst: IpAddr, protocol: u8, payload: usize, more: bool) -> Vec<u8> {
    let (sport, dport) = ports(spec);
    let mut datagram = Vec::new();
    datagram.extend(sport.to_be_bytes());
    datagram.extend(dport.to_be_bytes());
    // A first fragment tells the length of the whole datagram; UDP-Lite's coverage 0 means all of it.
    let length = (8 + payload + if more { 8 } else { 0 }) as u16;
    datagram.extend(if protocol == 136 { 0 } else { length }.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(filler(payload));
    let sum = match l4_checksum(src, dst, protocol, &datagram) {
        0 => 0xffff,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

fn sctp(spec: &PacketSpec, more: bool) -> Vec<u8> {
    let (sport, dport) = ports(spec);
    let chunk = spec.chunk.unwrap_or(Chunk::Init);
    let mut packet = Vec::new();
    packet.extend(sport.to_be_bytes());
    packet.extend(dport.to_be_bytes());
    // An INIT has verification tag 0 (RFC 9260).
    packet.extend(if matches!(chunk, Chunk::Init) { [0; 4] } else { [0, 0, 0, 1] });
    packet.extend([0; 4]);
    let (kind, value) = match chunk {
        Chunk::Data => (0, 12 + usize::from(spec.payload.unwrap_or(8))),
        Chunk::Init => (1, 16),
        Chunk::InitAck => (2, 16),
        Chunk::Abort => (6, 0),
        Chunk::CookieEcho => (10, 8),
    };
    packet.extend([kind, if matches!(chunk, Chunk::Data) { 3 } else { 0 }]);
    packet.extend((4 + value as u16).to_be_bytes());
    packet.extend(vec![1; value]);
    let unit = if more { 8 } else { 4 };
    packet.resize(packet.len().next_multiple_of(unit), 0);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

fn icmp(spec: &PacketSpec, src: IpAddr, dst: IpAddr, payload: usize) -> Result<Vec<u8>, String> {
    let v6 = src.is_ipv6();
    let given = spec.icmp.as_ref();
    let kind = given.map_or(if v6 { 128 } else { 8 }, |i| i.kind);
    let mut message = vec![kind, given.map_or(0, |i| i.code), 0, 0];
    let id = given.and_then(|i| i.id);
    let error = if v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 4 | 5 | 11 | 12) };
    if error {
        message.extend(if v6 && kind == 2 { 1280u32 } else { 0 }.to_be_bytes());
        message.extend(quoted(spec, src, dst)?);
    } else if let Some(body) = neighbour_discovery(kind, dst).filter(|_| v6) {
        message.extend(body);
    } else {
        let echo = if v6 { matches!(kind, 128 | 129) } else { matches!(kind, 0 | 8 | 13 | 14) };
        message.extend(id.unwrap_or(u16::from(echo)).to_be_bytes());
        message.extend(u16::from(echo).to_be_bytes());
        message.extend(filler(payload));
    }
    let sum = if v6 { l4_checksum(src, dst, 58, &message) } else { internet_checksum(&[&message]) };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Ok(message)
}

/// The packet that an error quotes: as given, or one that could have caused it.
fn quoted(spec: &PacketSpec, src: IpAddr, dst: IpAddr) -> Result<Vec<u8>, String> {
    match &spec.inner {
        Some(inner) => ip_packet(inner, None),
        None => {
            let cause = PacketSpec {
                src: Some(dst),
                dst: Some(src),
                protocol: Some(super::format::ProtocolName(17)),
                sport: Some(40000),
                dport: Some(33434),
                ..PacketSpec::default()
            };
            ip_packet(&cause, None)
        }
    }
}

/// What follows type, code and checksum in ND and MLD messages (RFC 4861, 2710, 3810).
fn neighbour_discovery(kind: u8, dst: IpAddr) -> Option<Vec<u8>> {
    let target = match dst {
        IpAddr::V6(a) => a.octets(),
        IpAddr::V4(_) => return None,
    };
    let mut body = vec![0; 4];
    match kind {
        133 | 143 => {}
        134 => body = vec![64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0],
        135 | 136 | 130..=132 => body.extend(target),
        137 => {
            body.extend(target);
            body.extend(target);
        }
        _ => return None,
    }
    Some(body)
}

fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += (u32::from(pair[0]) << 8) | u32::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn l4_checksum(src: IpAddr, dst: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let mut pseudo = Vec::new();
    for ip in [src, dst] {
        match ip {
            IpAddr::V4(a) => pseudo.extend(a.octets()),
            IpAddr::V6(a) => pseudo.extend(a.octets()),
        }
    }
    if src.is_ipv4() {
        pseudo.extend([0, protocol]);
        pseudo.extend((segment.len() as u16).to_be_bytes());
    } else {
        pseudo.extend((segment.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, protocol]);
    }
    internet_checksum(&[&pseudo, segment])
}

/// CRC32c, reflected, as SCTP uses it (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_match_published_values() {
        // RFC 1071 section 3 and the CRC32c check value of RFC 3720.
        assert_eq!(internet_checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn flags_and_hex_are_read_strictly() {
        assert_eq!(tcp_flags("SYN+ACK"), Ok(0x12));
        assert!(tcp_flags("SYNACK").is_err());
        assert_eq!(raw("0a:0B 0c"), Ok(vec![10, 11, 12]));
        assert!(raw("abc").is_err());
    }
}
