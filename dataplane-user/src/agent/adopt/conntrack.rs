//! Live flows from the kernel's connection tracking: forwarded ones, and both sides of translated ones.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use dataplane_common::packet::protocol;
use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Status, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::dump::{Ended, dump};
use super::{Live, has_ports};
use crate::maps::adopt::Ends;

/// Is there where this network namespace has connection tracking. Asked first: the dump itself would load the module.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// `CTA_PROTO_ICMP_ID` and `CTA_PROTO_ICMPV6_ID`.
const ICMP_IDS: [u16; 2] = [4, 7];
/// States of `enum tcp_conntrack` (linux/netfilter/nf_conntrack_tcp.h).
const SYN_RECV: u8 = 2;
const LAST_ACK: u8 = 6;

/// Hands on every live flow.
pub(super) fn read(mut each: impl FnMut(Live) -> bool) -> Result<Ended> {
    if !Path::new(COUNT).exists() {
        return Ok(Ended::default());
    }
    let request = NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0),
        ConntrackMessage::Get(Vec::new()),
    );
    dump(NETLINK_NETFILTER, request, |message| match message.inner {
        NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) => {
            live(&attributes).is_none_or(&mut each)
        }
        _ => true,
    })
    .context("connection tracking (ctnetlink)")
}

/// `None`: no reply yet, at its end, or of a shape that no flow of ours has.
fn live(attributes: &[ConntrackAttribute]) -> Option<Live> {
    let (mut original, mut reply, mut status, mut state) = (None, None, Status::empty(), None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = ends(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => reply = ends(tuple),
            ConntrackAttribute::CtaStatus(found) => status = *found,
            ConntrackAttribute::CtaProtoInfo(list) => state = tcp_state(list),
            _ => {}
        }
    }
    let ((protocol, original), (_, reply)) = (original?, reply?);
    let seen = status.contains(Status::SeenReply) && !status.contains(Status::Dying);
    let open = protocol != protocol::TCP || state.is_none_or(|s| (SYN_RECV..=LAST_ACK).contains(&s));
    let translated = Some(reply.reversed()).filter(|t| *t != original);
    let handshake = protocol == protocol::TCP && state == Some(SYN_RECV);
    (seen && open).then_some(Live { protocol, original, translated, handshake })
}

fn tcp_state(list: &[ProtoInfo]) -> Option<u8> {
    let tcp = list.iter().find_map(|info| match info {
        ProtoInfo::TCP(list) => Some(list),
        _ => None,
    })?;
    tcp.iter().find_map(|info| match info {
        ProtoInfoTCP::State(state) => Some(*state),
        _ => None,
    })
}

fn ends(tuple: &[Tuple]) -> Option<(u8, Ends)> {
    let (mut source, mut destination) = (None::<IpAddr>, None::<IpAddr>);
    let (mut number, mut ports, mut id) = (None, (0, 0), None);
    for part in tuple {
        match part {
            Tuple::Ip(list) => {
                for ip in list {
                    match ip {
                        IPTuple::SourceAddress(ip) => source = Some(*ip),
                        IPTuple::DestinationAddress(ip) => destination = Some(*ip),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(list) => {
                for part in list {
                    match part {
                        ProtoTuple::Protocol(protocol) => number = Some(u8::from(*protocol)),
                        ProtoTuple::SourcePort(port) => ports.0 = *port,
                        ProtoTuple::DestinationPort(port) => ports.1 = *port,
                        ProtoTuple::Other(nla) if ICMP_IDS.contains(&nla.kind()) => id = port_of(nla),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let protocol = number?;
    let (sport, dport) = match (has_ports(protocol), id) {
        (true, _) => ports,
        (false, Some(id)) => (id, id),
        (false, None) => (0, 0),
    };
    Some((protocol, Ends { source: (source?, sport), destination: (destination?, dport) }))
}

fn port_of(nla: &DefaultNla) -> Option<u16> {
    let mut bytes = [0_u8; 2];
    (nla.value_len() == bytes.len()).then(|| nla.emit_value(&mut bytes))?;
    Some(u16::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_netfilter::conntrack::Protocol;

    fn tuple(source: (&str, u16), destination: (&str, u16)) -> Vec<Tuple> {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        vec![
            Tuple::Ip(vec![
                IPTuple::SourceAddress(ip(source.0)),
                IPTuple::DestinationAddress(ip(destination.0)),
            ]),
            Tuple::Proto(vec![
                ProtoTuple::Protocol(Protocol::Tcp),
                ProtoTuple::SourcePort(source.1),
                ProtoTuple::DestinationPort(destination.1),
            ]),
        ]
    }

    fn entry(state: u8, status: Status) -> Vec<ConntrackAttribute> {
        vec![
            ConntrackAttribute::CtaTupleOrig(tuple(("1.2.3.4", 40000), ("10.0.0.1", 31852))),
            ConntrackAttribute::CtaTupleReply(tuple(("192.168.1.10", 8080), ("10.0.0.1", 5555))),
            ConntrackAttribute::CtaStatus(status),
            ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(vec![ProtoInfoTCP::State(state)])]),
        ]
    }

    #[test]
    fn a_translated_entry_is_two_flows_on_the_wire() {
        let live = live(&entry(3, Status::SeenReply)).unwrap();
        assert_eq!(live.original.source.1, 40000);
        let translated = live.translated.unwrap();
        assert_eq!((translated.source.1, translated.destination.1), (5555, 8080));
        assert!(!live.handshake);
    }

    #[test]
    fn what_was_never_answered_or_has_ended_is_not_live() {
        assert_eq!(live(&entry(3, Status::empty())), None);
        assert_eq!(live(&entry(3, Status::SeenReply | Status::Dying)), None);
        for (state, open) in [(1, false), (2, true), (3, true), (6, true), (7, false), (8, false)] {
            assert_eq!(live(&entry(state, Status::SeenReply)).is_some(), open, "state {state}");
        }
        assert!(live(&entry(2, Status::SeenReply)).unwrap().handshake);
        assert_eq!(live(&[]), None);
    }
}
