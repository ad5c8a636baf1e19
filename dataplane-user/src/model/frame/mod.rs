//! Reads a frame as the RFCs describe it, with the refusals of D19–D38. Written apart from the kernel's parser.

mod ipv4;
mod ipv6;
mod quoted;
mod upper;

use std::net::IpAddr;

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
    /// The other direction.
    pub(crate) fn turned(&self) -> Self {
        let ports = self.ports.map(|(sport, dport)| (dport, sport));
        Self { src: self.dst, dst: self.src, ports, ..self.clone() }
    }
    /// As it would begin its flow: a SYN, a question.
    pub(crate) fn as_a_beginning(&self) -> Self {
        let tcp = self.tcp.map(|tcp| Tcp { flags: SYN, ..tcp });
        let icmp = self.icmp.map(|icmp| Icmp {
            kind: super::flows::icmp_request(self.v6(), icmp.kind).unwrap_or(icmp.kind),
            ..icmp
        });
        Self { tcp, icmp, ..self.clone() }
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
            0x0800 => return ipv4::read(&frame[at..]).map(|p| Frame::Ip(Box::new(p))),
            0x86dd => return ipv6::read(&frame[at..]).map(|p| Frame::Ip(Box::new(p))),
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

/// Which part of a datagram, and the lengths that no fragment may have (D36).
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
