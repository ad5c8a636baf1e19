//! Reads a frame as the RFCs describe it, with the refusals of D19–D38. Written apart from the kernel's parser.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_common::verdict::Reason;

/// What a frame turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Frame {
    /// ARP, LLDP, LLC, … `known`: a protocol that D20 names.
    NotIp {
        known: bool,
    },
    /// Tagged with a VLAN id other than 0 (D28).
    OtherVlan,
    Malformed(Reason),
    /// Source routes and routing headers (D31, D33): the headers alone give them away.
    Martian(Reason),
    Ip(Box<Packet>),
}

/// What part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    First,
    Later { offset: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tcp {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    /// Bytes of data, which count in sequence space.
    pub payload: u32,
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

impl Tcp {
    /// SYN without ACK: what may begin a connection.
    pub(crate) fn plain_syn(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Icmp {
    pub kind: u8,
    pub code: u8,
    /// Identifier of echo and timestamp messages.
    pub id: u16,
}

/// The packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quoted {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub ports: Option<(u16, u16)>,
    pub icmp: Option<Icmp>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Behind all extension headers.
    pub protocol: u8,
    /// As the IPv4 header says; fragments are told apart by it (D36).
    pub header_protocol: u8,
    pub ttl: u8,
    pub ports: Option<(u16, u16)>,
    pub tcp: Option<Tcp>,
    pub icmp: Option<Icmp>,
    pub quoted: Option<Quoted>,
    pub sctp_init: bool,
    pub part: Part,
    pub fragment_id: u32,
    /// First fragment: bytes of the L4 header, with the IPv6 headers of the fragmentable part (D36).
    pub header_bytes: usize,
}

impl Packet {
    pub(crate) fn v6(&self) -> bool {
        self.src.is_ipv6()
    }
    /// The ICMP message of the family that it belongs to.
    pub(crate) fn icmp4(&self) -> Option<Icmp> {
        self.icmp.filter(|_| !self.v6())
    }
    pub(crate) fn icmp6(&self) -> Option<Icmp> {
        self.icmp.filter(|_| self.v6())
    }
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(b.get(at..at + 2)?.try_into().ok()?))
}
fn be32(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

/// Reads an Ethernet frame.
pub(crate) fn read(frame: &[u8]) -> Frame {
    link(frame).unwrap_or_else(|reason| match reason {
        Reason::SourceRoute | Reason::RoutingHeader => Frame::Martian(reason),
        other => Frame::Malformed(other),
    })
}

fn link(frame: &[u8]) -> Result<Frame, Reason> {
    let mut at = 12;
    let mut tags = 0;
    loop {
        let ethertype = be16(frame, at).ok_or(Reason::Short)?;
        at += 2;
        match ethertype {
            0x8100 | 0x88a8 => {
                if tags == 2 {
                    return Err(Reason::VlanTags);
                }
                let tci = be16(frame, at).ok_or(Reason::Short)?;
                // A tag without an ethertype behind it is no tag.
                be16(frame, at + 2).ok_or(Reason::Short)?;
                if tci & 0x0fff != 0 {
                    return Ok(Frame::OtherVlan);
                }
                tags += 1;
                at += 2;
            }
            0x0800 => return v4(&frame[at..]).map(|p| Frame::Ip(Box::new(p))),
            0x86dd => return v6(&frame[at..]).map(|p| Frame::Ip(Box::new(p))),
            // 802.3: a length, then LLC; aa-aa-03 is SNAP, with an OUI and an ethertype behind (D20).
            0..0x0600 => {
                let snap = frame
                    .get(at..at + 3)
                    .is_some_and(|b| b[0] & 0xfe == 0xaa && b[1] & 0xfe == 0xaa && b[2] == 3);
                if snap && matches!(be16(frame, at + 6), Some(0x0800 | 0x86dd)) {
                    return Err(Reason::Snap);
                }
                return Ok(Frame::NotIp { known: true });
            }
            other => {
                let known =
                    matches!(other, 0x0806 | 0x8809 | 0x88cc | 0x888e | 0x8847 | 0x8848 | 0x8863 | 0x8864);
                return Ok(Frame::NotIp { known });
            }
        }
    }
}

fn empty(src: IpAddr, dst: IpAddr, protocol: u8, ttl: u8) -> Packet {
    Packet {
        src,
        dst,
        protocol,
        header_protocol: protocol,
        ttl,
        ports: None,
        tcp: None,
        icmp: None,
        quoted: None,
        sctp_init: false,
        part: Part::Whole,
        fragment_id: 0,
        header_bytes: 0,
    }
}

fn v4(bytes: &[u8]) -> Result<Packet, Reason> {
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
    upper(&mut packet, &payload[at..], at, false)?;
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

fn part(offset: usize, more: bool, length: usize) -> Result<Part, Reason> {
    if more && !length.is_multiple_of(8) {
        return Err(Reason::FragmentLength);
    }
    if (more || offset > 0) && offset + length > 65535 {
        return Err(Reason::FragmentTooLong);
    }
    Ok(match (offset, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        (offset, _) => Part::Later { offset },
    })
}

fn v6(bytes: &[u8]) -> Result<Packet, Reason> {
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
    upper(&mut packet, &payload[chain.at..], before, chain.fragment_header)?;
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

/// The L4 header. `before`: bytes of the fragmentable part in front of it.
fn upper(packet: &mut Packet, l4: &[u8], before: usize, fragment_header: bool) -> Result<(), Reason> {
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

/// ICMP messages that quote the packet they are about. Redirects are none of them: nothing inherits by them (D7).
fn is_error(v6: bool, kind: u8) -> bool {
    if v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 4 | 11 | 12) }
}

/// The quoted packet, or `None` for the cases of C-7: an error, a later fragment, or too little.
fn quoted(v6: bool, bytes: &[u8]) -> Option<Quoted> {
    let (src, dst, protocol, l4) = if v6 { quoted_v6(bytes)? } else { quoted_v4(bytes)? };
    let head = l4.get(..8)?;
    let mut quoted = Quoted { src, dst, protocol, ports: None, icmp: None };
    match (protocol, v6) {
        (6 | 17 | 132 | 136, _) => quoted.ports = Some((be16(head, 0)?, be16(head, 2)?)),
        (1, false) | (58, true) if is_error(v6, head[0]) => return None,
        (1, false) | (58, true) => {
            quoted.icmp = Some(Icmp { kind: head[0], code: head[1], id: be16(head, 4)? });
        }
        _ => {}
    }
    Some(quoted)
}

type QuotedHeader<'a> = (IpAddr, IpAddr, u8, &'a [u8]);

fn quoted_v4(bytes: &[u8]) -> Option<QuotedHeader<'_>> {
    let header = bytes.get(..20)?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || header_len < 20 || be16(header, 6)? & 0x1fff != 0 {
        return None;
    }
    let src = Ipv4Addr::from(<[u8; 4]>::try_from(&header[12..16]).ok()?);
    let dst = Ipv4Addr::from(<[u8; 4]>::try_from(&header[16..20]).ok()?);
    Some((src.into(), dst.into(), header[9], bytes.get(header_len..)?))
}

fn quoted_v6(bytes: &[u8]) -> Option<QuotedHeader<'_>> {
    let header = bytes.get(..40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let src = Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?);
    let dst = Ipv6Addr::from(<[u8; 16]>::try_from(&header[24..40]).ok()?);
    let mut protocol = header[6];
    let mut at = 40;
    let mut headers = 0;
    while matches!(protocol, 0 | 43 | 44 | 51 | 60) {
        let head = bytes.get(at..at + 8)?;
        headers += 1;
        at += match protocol {
            44 => 8,
            51 => (usize::from(head[1]) + 2) * 4,
            _ => (usize::from(head[1]) + 1) * 8,
        };
        if headers > 8 || at > 40 + 256 || (protocol == 44 && be16(head, 2)? & 0xfff8 != 0) {
            return None;
        }
        protocol = head[0];
    }
    Some((src.into(), dst.into(), protocol, bytes.get(at..)?))
}
