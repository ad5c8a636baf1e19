//! Live flows from the kernel's own sockets: a host without address translation tracks no connections.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result};
use dataplane_common::packet::protocol;
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, TCP_LISTEN, TCP_SYN_RECV};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::Live;
use super::dump::{Ended, dump};
use crate::maps::adopt::Ends;

/// Hands on every open TCP connection and every connected UDP socket of one family.
pub(super) fn read(family: u8, number: u8, mut each: impl FnMut(Live) -> bool) -> Result<Ended> {
    let name = format!(
        "{} sockets, IPv{} (sock_diag)",
        if number == protocol::TCP { "TCP" } else { "UDP" },
        if family == AF_INET { 4 } else { 6 }
    );
    let mut listening = BTreeSet::new();
    if number == protocol::TCP {
        sockets(family, number, StateFlags::LISTEN, |socket| {
            listening.insert(socket.socket_id.source_port);
            true
        })
        .with_context(|| name.clone())?;
    }
    let open = if number == protocol::TCP {
        StateFlags::ESTABLISHED
            | StateFlags::SYN_RECV
            | StateFlags::FIN_WAIT1
            | StateFlags::FIN_WAIT2
            | StateFlags::CLOSE_WAIT
            | StateFlags::LAST_ACK
            | StateFlags::CLOSING
    } else {
        // A UDP socket is in this state once it is connected.
        StateFlags::ESTABLISHED
    };
    sockets(family, number, open, |socket| live(&socket, number, &listening).is_none_or(&mut each))
        .with_context(|| name)
}

fn sockets(
    family: u8,
    number: u8,
    states: StateFlags,
    mut each: impl FnMut(InetResponseHeader) -> bool,
) -> Result<Ended> {
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let request =
        InetRequest { family, protocol: number, extensions: ExtensionFlags::empty(), states, socket_id };
    dump(NETLINK_SOCK_DIAG, SockDiagMessage::InetRequest(request), |message| match message {
        SockDiagMessage::InetResponse(response) => each(response.header),
        _ => true,
    })
}

/// `None`: within the host, or no connection.
fn live(socket: &InetResponseHeader, number: u8, listening: &BTreeSet<u16>) -> Option<Live> {
    let id = &socket.socket_id;
    let (local, remote) = (plain(id.source_address), plain(id.destination_address));
    if socket.state == TCP_LISTEN
        || remote.is_unspecified()
        || id.destination_port == 0
        || local.is_loopback()
    {
        return None;
    }
    let out = Ends { source: (local, id.source_port), destination: (remote, id.destination_port) };
    let began_there = listening.contains(&id.source_port);
    Some(Live {
        protocol: number,
        original: if began_there { out.reversed() } else { out },
        translated: None,
        handshake: number == protocol::TCP && socket.state == TCP_SYN_RECV,
    })
}

/// IPv4 over an IPv6 socket is IPv4 on the wire.
fn plain(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// Both families.
pub(super) const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    /// Asks the real kernel.
    #[test]
    fn sockets_of_this_process_are_found() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(("::1", port)).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.connect("127.0.0.1:9").unwrap();
        let found = |family, number, state, wanted: u16| {
            let mut found = 0;
            let ended = sockets(family, number, state, |s| {
                found += usize::from(s.socket_id.source_port == wanted);
                true
            });
            assert_eq!(ended.unwrap().unreadable, 0);
            found
        };
        assert_eq!(found(AF_INET6, protocol::TCP, StateFlags::ESTABLISHED, port), 1);
        assert_eq!(found(AF_INET6, protocol::TCP, StateFlags::LISTEN, port), 1);
        let port = udp.local_addr().unwrap().port();
        assert_eq!(found(AF_INET, protocol::UDP, StateFlags::ESTABLISHED, port), 1);
        // Within the host, so nothing to adopt; and both families are read whole.
        for family in FAMILIES {
            read(family, protocol::TCP, |live| {
                assert_ne!(live.original.destination.1, listener.local_addr().unwrap().port());
                true
            })
            .unwrap();
        }
    }

    #[test]
    fn the_side_that_listens_did_not_begin() {
        let socket = InetResponseHeader {
            family: AF_INET6,
            state: 1,
            timer: None,
            socket_id: SocketId {
                source_port: 22,
                destination_port: 40000,
                source_address: "::ffff:10.0.0.1".parse().unwrap(),
                destination_address: "::ffff:1.2.3.4".parse().unwrap(),
                ..SocketId::new_v6()
            },
            recv_queue: 0,
            send_queue: 0,
            uid: 0,
            inode: 0,
        };
        let inbound = live(&socket, protocol::TCP, &BTreeSet::from([22])).unwrap();
        assert_eq!(inbound.original.source, ("1.2.3.4".parse().unwrap(), 40000));
        let outbound = live(&socket, protocol::TCP, &BTreeSet::new()).unwrap();
        assert_eq!(outbound.original, inbound.original.reversed());
    }
}
