//! Frames by hand, and what the parser makes of them.

extern crate std;

use std::vec::Vec;

use super::{ParseResult, parse};
use crate::frame::Frame;
use crate::packet::{FragmentPart, Packet, flag, tcp};
use crate::verdict::{Reason, Stage};

/// Bytes from the network header on.
#[derive(Clone, Debug)]
pub(crate) struct Bytes {
    pub(crate) ethertype: u16,
    pub(crate) tag: Option<u16>,
    pub(crate) bytes: Vec<u8>,
}

impl Frame for Bytes {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.bytes.get(offset as usize..)?.get(..N)?.try_into().ok()
    }
    fn ethertype(&self) -> u16 {
        self.ethertype
    }
    fn vlan_tag(&self) -> Option<u16> {
        self.tag
    }
    fn gso_size(&self) -> u32 {
        0
    }
    fn segments(&self) -> u16 {
        0
    }
    fn network_len(&self) -> u32 {
        self.bytes.len() as u32
    }
    fn looped_back(&self) -> bool {
        false
    }
}

fn v4(src: [u8; 4], dst: [u8; 4], protocol: u8, id: u16, bits: u16, l4: &[u8]) -> Bytes {
    let mut b = Vec::from([0x45, 0]);
    b.extend((20 + l4.len() as u16).to_be_bytes());
    b.extend(id.to_be_bytes());
    b.extend(bits.to_be_bytes());
    b.extend([64, protocol, 0, 0]);
    b.extend(src);
    b.extend(dst);
    b.extend(l4);
    Bytes { ethertype: 0x0800, tag: None, bytes: b }
}

fn tcp_bytes(sport: u16, dport: u16, flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let mut b = Vec::new();
    b.extend(sport.to_be_bytes());
    b.extend(dport.to_be_bytes());
    b.extend(seq.to_be_bytes());
    b.extend(ack.to_be_bytes());
    b.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
    b
}

pub(crate) fn tcp_v4(
    src: [u8; 4],
    dst: [u8; 4],
    sport: u16,
    dport: u16,
    flags: u8,
    seq: u32,
    ack: u32,
) -> Bytes {
    v4(src, dst, 6, 1, 0, &tcp_bytes(sport, dport, flags, seq, ack))
}

fn udp_bytes(sport: u16, dport: u16) -> Vec<u8> {
    let mut b = Vec::new();
    b.extend(sport.to_be_bytes());
    b.extend(dport.to_be_bytes());
    b.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    b
}

pub(crate) fn udp_v4(src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16) -> Bytes {
    v4(src, dst, 17, 1, 0, &udp_bytes(sport, dport))
}

pub(crate) fn icmp_v4(src: [u8; 4], dst: [u8; 4], kind: u8, id: u16) -> Bytes {
    let id = id.to_be_bytes();
    v4(src, dst, 1, 1, 0, &[kind, 0, 0, 0, id[0], id[1], 0, 1])
}

pub(crate) fn icmp_error_v4(
    src: [u8; 4],
    dst: [u8; 4],
    from: [u8; 4],
    to: [u8; 4],
    sport: u16,
    dport: u16,
) -> Bytes {
    let mut l4 = Vec::from([3u8, 3, 0, 0, 0, 0, 0, 0]);
    l4.extend(udp_v4(from, to, sport, dport).bytes);
    v4(src, dst, 1, 1, 0, &l4)
}

pub(crate) fn fragment_v4(
    src: [u8; 4],
    dst: [u8; 4],
    protocol: u8,
    id: u16,
    offset: u16,
    more: bool,
    l4: &[u8],
) -> Bytes {
    v4(src, dst, protocol, id, (offset / 8) | if more { 0x2000 } else { 0 }, l4)
}

fn v6(next: u8, payload: &[u8]) -> Bytes {
    let mut b = Vec::from([0x60, 0, 0, 0]);
    b.extend((payload.len() as u16).to_be_bytes());
    b.extend([next, 64]);
    b.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    b.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    b.extend(payload);
    Bytes { ethertype: 0x86dd, tag: None, bytes: b }
}

fn read(frame: &Bytes) -> (ParseResult, Packet) {
    let mut packet = Packet::default();
    (parse(frame, &mut packet), packet)
}

fn refused(frame: &Bytes) -> Reason {
    match read(frame).0 {
        ParseResult::Refused(_, reason) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

const A: [u8; 4] = [1, 2, 3, 4];
const B: [u8; 4] = [5, 6, 7, 8];

#[test]
fn ports_behind_options_and_extension_headers() {
    let mut optioned = tcp_v4(A, B, 1000, 22, tcp::SYN, 0, 0);
    optioned.bytes[0] = 0x46;
    optioned.bytes[3] += 4;
    optioned.bytes.splice(20..20, [1, 1, 1, 0]);
    let (result, packet) = read(&optioned);
    assert_eq!((result, packet.tuple.dport), (ParseResult::Ip, 22));
    // Hop-by-hop, then AH with its own unit of length, then an atomic fragment.
    let mut chain = Vec::from([51u8, 0, 1, 4, 0, 0, 0, 0]);
    chain.extend([44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend([6, 0, 0, 0, 0, 0, 0, 9]);
    chain.extend(tcp_bytes(1000, 443, tcp::SYN, 0, 0));
    let (result, packet) = read(&v6(0, &chain));
    assert_eq!((result, packet.tuple.dport, packet.fragment), (ParseResult::Ip, 443, FragmentPart::Whole));
    assert_ne!(packet.flags & flag::FRAGMENT_HEADER, 0);
}

#[test]
fn lengths_are_checked_against_the_packet() {
    let whole = udp_v4(A, B, 1, 2);
    for cut in 0..whole.bytes.len() {
        let mut short = whole.clone();
        short.bytes.truncate(cut);
        assert!(matches!(read(&short).0, ParseResult::Refused(Stage::Malformed, _)), "cut at {cut}");
    }
    let mut low = whole.clone();
    low.bytes[24 + 1] = 7;
    assert_eq!(refused(&low), Reason::UdpLength);
    let mut long = whole;
    long.bytes[24 + 1] = 13;
    assert_eq!(refused(&long), Reason::UdpLength);
}

#[test]
fn hostile_headers_have_their_reasons() {
    let flags = |f| refused(&tcp_v4(A, B, 1, 2, f, 0, 0));
    assert_eq!(flags(0), Reason::TcpFlags);
    assert_eq!(flags(tcp::SYN | tcp::FIN), Reason::TcpFlags);
    assert_eq!(flags(tcp::FIN | tcp::PSH | tcp::URG), Reason::TcpFlags);
    assert_eq!(refused(&tcp_v4(A, B, 1, 0, tcp::SYN, 0, 0)), Reason::PortZero);
    let bits = |bits| refused(&v4(A, B, 17, 1, bits, &udp_bytes(1, 2)));
    assert_eq!(bits(0x8000), Reason::Ipv4ReservedFlag);
    assert_eq!(bits(0x2000), Reason::FragmentLength);
    assert_eq!(bits(0x1fff), Reason::FragmentTooLong);
    let mut routed = udp_v4(A, B, 1, 2);
    routed.bytes[0] = 0x46;
    routed.bytes[3] += 4;
    routed.bytes.splice(20..20, [131, 3, 4, 0]);
    assert_eq!(read(&routed).0, ParseResult::Refused(Stage::Martian, Reason::SourceRoute));
    let routing = [6, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(read(&v6(43, &routing)).0, ParseResult::Refused(Stage::Martian, Reason::RoutingHeader));
    let twice = [0, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0];
    assert_eq!(refused(&v6(0, &twice)), Reason::ExtensionOrder);
    assert_eq!(refused(&v6(58, &[135, 0, 0, 0, 0, 0, 0, 0])), Reason::ShortNd);
}

#[test]
fn tags_of_vid_zero_are_skipped_and_others_are_not_ours() {
    let tagged = |tag: Option<u16>, inner: &[u16]| {
        let mut frame = udp_v4(A, B, 1, 2);
        frame.tag = tag;
        for tci in inner.iter().rev() {
            let mut head = Vec::from(tci.to_be_bytes());
            head.extend(frame.ethertype.to_be_bytes());
            frame.bytes.splice(0..0, head);
            frame.ethertype = 0x8100;
        }
        read(&frame).0
    };
    assert_eq!(tagged(Some(0), &[0]), ParseResult::Ip);
    assert_eq!(tagged(None, &[0, 0]), ParseResult::Ip);
    assert_eq!(tagged(Some(0), &[0, 0]), ParseResult::Refused(Stage::Malformed, Reason::VlanTags));
    assert_eq!(tagged(Some(10), &[]), ParseResult::OtherVlan);
    assert_eq!(tagged(None, &[0, 10]), ParseResult::OtherVlan);
}

#[test]
fn snap_with_ip_is_refused_and_other_llc_is_not_ip() {
    let llc = |bytes: &[u8]| read(&Bytes { ethertype: 4, tag: None, bytes: bytes.into() }).0;
    assert_eq!(llc(&[0xaa, 0xaa, 3, 9, 9, 9, 8, 0]), ParseResult::Refused(Stage::Malformed, Reason::Snap));
    assert_eq!(llc(&[0x42, 0x42, 3, 0, 0, 0, 0, 0]), ParseResult::NotIp { ethertype: 4 });
}

#[test]
fn later_fragments_have_no_ports() {
    let (result, packet) = read(&fragment_v4(A, B, 6, 1, 24, false, &tcp_bytes(1, 443, tcp::SYN, 0, 0)));
    assert_eq!((result, packet.tuple.dport, packet.fragment), (ParseResult::Ip, 0, FragmentPart::Later));
}
