//! The IPv6 twin of `policies/nodeport`, and what keeps IPv6 itself alive: neighbour discovery, router advertisements.

use std::{
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use dataplane_common::verdict::{Reason, Verdict};
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket,
        sockopt,
    },
};
use tests::{
    netns::Netns,
    probe::ask,
    topology::{Lab, NODE_PORT, NODE_V6, OUTSIDE_SAYS, OUTSIDE_V6, POD_SAYS, POD_V6, Proxy, SSH_SAYS},
    witness::Witness,
};

use crate::{answer, assert_silence, enforce, folder_of, run};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// One router advertisement on the link of `device`: "I am a default router for 30 minutes".
fn advertise_router(router: &Netns, device: &str) -> Result<()> {
    router.run(|| {
        let raw = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)?;
        setsockopt(&raw, sockopt::Ipv6MulticastHops, &255)?;
        let to = SockaddrIn6::from(SocketAddrV6::new(ALL_NODES, 0, 0, if_nametoindex(device)?));
        // Type 134; the kernel writes the checksum; hop limit 64, no flags, lifetime 1800 s, no timers.
        let message = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
        sendto(raw.as_raw_fd(), &message, &to, MsgFlags::empty())?;
        Ok(())
    })?
}

/// Whether the node has a default route from an advertisement.
fn has_learnt_a_router(node: &Netns) -> Result<bool> {
    let output = node.command("ip").args(["-6", "route", "show", "default", "proto", "ra"]).output();
    Ok(!output.context("ip route")?.stdout.is_empty())
}

/// Whether the node learns a default route from an advertisement, within some seconds.
fn learns_a_router(node: &Netns) -> Result<bool> {
    for _ in 0..200 {
        if has_learnt_a_router(node)? {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(false)
}

fn nodeport_over_ipv6(proxy: Proxy) -> Result<()> {
    let lab = Lab::new(proxy)?;
    assert_eq!(ask(&lab.outside, NODE_V6, NODE_PORT)?, answer(POD_SAYS));
    assert!(
        !lab.conntrack(OUTSIDE_V6, NODE_PORT)?.is_empty(),
        "without policy the packet comes to netfilter"
    );

    let folder = folder_of(&["nodeport/base", "nodeport/ipv6"])?;
    let (mut agent, home) = enforce(&lab, &folder)?;
    // Neighbours forget each other, so that everything below needs neighbour discovery through the Deny.
    for netns in [&lab.router, &lab.node] {
        netns.ip("neigh flush all\n")?;
    }
    let strangers = [(&lab.outside, NODE_V6.into(), NODE_PORT), (&lab.outside, POD_V6.into(), 8080)];
    assert_silence(&agent, &strangers);
    assert_eq!(lab.conntrack(OUTSIDE_V6, NODE_PORT)?, Vec::<String>::new(), "dropped before DNAT");
    assert_eq!(ask(&lab.outside, NODE_V6, 22)?, answer(SSH_SAYS), "{}", agent.log());
    assert_eq!(ask(&lab.peer, NODE_V6, NODE_PORT)?, answer(POD_SAYS), "{}", agent.log());
    assert_eq!(ask(&lab.node, OUTSIDE_V6, 443)?, answer(OUTSIDE_SAYS), "{}", agent.log());
    assert_eq!(ask(&lab.pod, OUTSIDE_V6, 443)?, answer(OUTSIDE_SAYS), "{}", agent.log());

    // The device forwards and takes no advertisements: they are dropped, with a reason of their own (D7).
    let witness = Witness::open(&home.pin_dir(), &[])?;
    let before = witness.tally()?;
    let mut dropped = 0;
    for _ in 0..50 {
        advertise_router(&lab.router, "br0")?;
        thread::sleep(Duration::from_millis(200));
        let after = witness.tally()?;
        dropped = Witness::packets(&before, &after, Verdict::Deny, Reason::RouterAdvertisement);
        if dropped > 0 {
            break;
        }
    }
    assert!(dropped > 0, "{}", agent.log());
    assert!(!has_learnt_a_router(&lab.node)?);

    folder.put_all(&tests::topology::policies().join("nodeport/pinhole"))?;
    agent.next_generation()?;
    assert_eq!(ask(&lab.outside, NODE_V6, NODE_PORT)?, answer(POD_SAYS), "{}", agent.log());
    Ok(())
}

#[test]
fn nodeport_over_ipv6_nftables() {
    run("nodeport_over_ipv6_nftables", || nodeport_over_ipv6(Proxy::Nftables));
}

#[test]
fn nodeport_over_ipv6_iptables() {
    run("nodeport_over_ipv6_iptables", || nodeport_over_ipv6(Proxy::Iptables));
}

#[test]
fn a_device_that_takes_router_advertisements_gets_them() {
    run("a_device_that_takes_router_advertisements_gets_them", || {
        let lab = Lab::new(Proxy::Nftables)?;
        lab.node.sysctl(&[("ipv6/conf/eth0/accept_ra", "2")])?;
        let (agent, _home) = enforce(&lab, &folder_of(&["nodeport/base"])?)?;
        advertise_router(&lab.router, "br0")?;
        assert!(learns_a_router(&lab.node)?, "{}", agent.log());
        Ok(())
    });
}
