//! What the parser produces and the decision consumes.

use crate::addr::Addr;

/// IP protocol numbers that the data path knows by name.
pub mod protocol {
    #![allow(missing_docs, reason = "the names are those of the IANA registry")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6_ROUTE: u8 = 43;
    pub const IPV6_FRAGMENT: u8 = 44;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const IPV6_NONE: u8 = 59;
    pub const IPV6_DEST: u8 = 60;
    pub const SCTP: u8 = 132;
    pub const MOBILITY: u8 = 135;
    pub const UDPLITE: u8 = 136;
    pub const HIP: u8 = 139;
    pub const SHIM6: u8 = 140;
}

/// TCP flag bits, as in byte 13 of the header.
pub mod tcp {
    #![allow(missing_docs, reason = "the names are those of RFC 9293")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
}

/// What part of a datagram this packet is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FragmentPart {
    /// Not fragmented; an atomic IPv6 fragment too (D36).
    #[default]
    Whole = 0,
    /// Offset 0, more to come.
    First = 1,
    /// Offset > 0: no L4 header here, ports are never read.
    Later = 2,
}

/// An address pair with ports. `sport` and `dport` are 0 where the protocol has none. For ICMP echo (and
/// timestamp) both hold the identifier.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tuple {
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Host order.
    pub sport: u16,
    /// Host order.
    pub dport: u16,
    /// Upper-layer protocol, behind all IPv6 extension headers that D33 skips.
    pub protocol: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

/// [`Packet::flags`] bits.
pub mod flag {
    /// `sport` and `dport` were read (TCP, UDP, SCTP, UDPLite with their header in this packet).
    pub const PORTS: u16 = 1 << 0;
    /// `inner` was read: this is an ICMP error that quotes a packet with at least 8 bytes of its L4 header.
    pub const INNER: u16 = 1 << 1;
    /// ICMP echo request or its like: may begin a flow of the ICMP key space.
    pub const ICMP_REQUEST: u16 = 1 << 2;
    /// ICMP echo reply or its like: can only answer one.
    pub const ICMP_REPLY: u16 = 1 << 3;
    /// ICMP error (v4: 3, 4, 11, 12; v6: 1–4).
    pub const ICMP_ERROR: u16 = 1 << 4;
    /// The first SCTP chunk is INIT.
    pub const SCTP_INIT: u16 = 1 << 5;
    /// Any Fragment header stood in the chain, an atomic one too (RFC 6980).
    pub const FRAGMENT_HEADER: u16 = 1 << 6;
    /// The inner packet was itself an ICMP error, a later fragment, or too short (C-7).
    pub const INNER_BAD: u16 = 1 << 7;
    /// Neighbour discovery or MLD message that is long enough for its type (D7).
    pub const ND: u16 = 1 << 8;
    /// The kernel's own multicast, looped back to it (D29).
    pub const LOOPED: u16 = 1 << 9;
}

/// One parsed IP packet. Every field was read from the packet or is zero; nothing is assumed.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Packet {
    /// Outer addresses, protocol and ports.
    pub tuple: Tuple,
    /// The packet quoted in an ICMP error, as it stands there, when [`flag::INNER`] is set.
    pub inner: Tuple,
    /// Fragment identification.
    pub fragment_id: u32,
    /// TCP sequence number.
    pub tcp_seq: u32,
    /// TCP acknowledgement number.
    pub tcp_ack: u32,
    /// Bytes of the packet from the network header on.
    pub len: u32,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Fragment offset in bytes.
    pub fragment_offset: u16,
    /// Bytes of TCP payload (sequence space without SYN and FIN), for the flow's next expected numbers.
    pub tcp_payload: u16,
    /// Bytes of L4 header, and for IPv6 of the fragmentable extension headers, in a first fragment (D36).
    pub l4_header: u16,
    /// Byte 13 of the TCP header.
    pub tcp_flags: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whole, first or later.
    pub fragment: FragmentPart,
    /// ICMP type of the packet quoted in `inner`: which key space its identifier is in.
    pub inner_icmp_type: u8,
    /// Ethertype behind tags of VID 0, host order; below 0x600: an 802.2 frame.
    pub ethertype: u16,
    /// What one super-packet (GRO, GSO) stands for: packets on the wire, at least 1.
    pub segments: u16,
    /// IPv4: the protocol that the header itself names; fragments are told apart by it (D36).
    pub header_protocol: u8,
    /// Always zero.
    pub pad: [u8; 5],
}
