//! The first policy on a host that is in use cuts nothing that lives (D17), and lets nothing pass that never did.
//!
//! Grace is 0 unless a test is about it, and the host endpoint has no policy: all but failsafes is denied, so what
//! goes on goes on because it was adopted.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use dataplane_common::verdict::{Reason, Verdict};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};
use tests::{
    can_run,
    netns::Netns,
    probe::{Got, ask, connect, exchange, udp_echo},
    process::{Agent, Home, Policies},
    topology::{
        Lab, NODE, NODE_PORT, NODE_SAYS, NODE_V6, OUTSIDE, OUTSIDE_SAYS, OUTSIDE_V6, POD_SAYS, Proxy,
    },
    witness::{Tally, Witness},
};

const HOST_ENDPOINT: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-eth0, labels: {role: node}}
spec: {node: node1, interfaceName: eth0, expectedIPs: [10.240.0.11]}
";
/// Longer than a retransmission or two of a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn answer(words: &str) -> Got {
    Got::Answer(words.to_owned())
}

fn run(test: &str, body: fn() -> Result<()>) {
    if can_run(test) {
        body().unwrap();
    }
}

/// A listener on the IPv6 wildcard address, as most daemons have: IPv4 clients are v4-mapped there.
fn dual_stack_echo(netns: &Netns, port: u16) -> Result<()> {
    let listener = netns.run(|| TcpListener::bind(("::", port)))??;
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut bytes = [0; 64];
            while let Ok(length @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..length]).is_err() {
                    break;
                }
            }
        }
    });
    Ok(())
}

fn echo(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4]).context("no echo over TCP")
}

/// Datagrams may get lost at the moment of the change; a flow that was cut stays silent.
fn udp_exchange(socket: &UdpSocket) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        socket.send(b"ping")?;
        if socket.recv(&mut [0; 64]).is_ok() {
            return Ok(());
        }
    }
    anyhow::bail!("no echo over UDP")
}

/// Everything that lives before the first policy.
struct Live {
    inbound: TcpStream,
    dual: TcpStream,
    outbound: TcpStream,
    inbound_v6: TcpStream,
    outbound_v6: TcpStream,
    udp: UdpSocket,
    translated: Option<TcpStream>,
    forwarded: Option<TcpStream>,
}

impl Live {
    fn begin(lab: &Lab, proxy: bool) -> Result<Self> {
        dual_stack_echo(&lab.node, 9090)?;
        udp_echo(&lab.outside, OUTSIDE, 5353)?;
        let open = |netns, address: IpAddr, port| -> Result<TcpStream> {
            connect(netns, address, port)?.map_err(|got| anyhow::anyhow!("{got} from {address}:{port}"))
        };
        let udp = lab.node.run(|| UdpSocket::bind("0.0.0.0:0"))??;
        udp.connect(SocketAddr::new(IpAddr::V4(OUTSIDE), 5353))?;
        let mut live = Self {
            inbound: open(&lab.outside, NODE.into(), 8080)?,
            dual: open(&lab.outside, NODE.into(), 9090)?,
            outbound: open(&lab.node, OUTSIDE.into(), 443)?,
            inbound_v6: open(&lab.outside, NODE_V6.into(), 8080)?,
            outbound_v6: open(&lab.node, OUTSIDE_V6.into(), 443)?,
            udp,
            translated: proxy.then(|| open(&lab.outside, NODE.into(), NODE_PORT)).transpose()?,
            forwarded: proxy.then(|| open(&lab.pod, OUTSIDE.into(), 443)).transpose()?,
        };
        live.check("before any policy")?;
        Ok(live)
    }

    fn check(&mut self, when: &str) -> Result<()> {
        assert_eq!(exchange(&mut self.inbound), answer(NODE_SAYS), "inbound {when}");
        assert_eq!(exchange(&mut self.outbound), answer(OUTSIDE_SAYS), "outbound {when}");
        assert_eq!(exchange(&mut self.inbound_v6), answer(NODE_SAYS), "inbound, IPv6 {when}");
        assert_eq!(exchange(&mut self.outbound_v6), answer(OUTSIDE_SAYS), "outbound, IPv6 {when}");
        echo(&mut self.dual).with_context(|| format!("dual stack {when}"))?;
        udp_exchange(&self.udp).with_context(|| format!("connected UDP {when}"))?;
        if let Some(stream) = &mut self.translated {
            assert_eq!(exchange(stream), answer(POD_SAYS), "translated {when}");
        }
        if let Some(stream) = &mut self.forwarded {
            assert_eq!(exchange(stream), answer(OUTSIDE_SAYS), "forwarded {when}");
        }
        Ok(())
    }
}

/// A bare ACK from `outside` to a listening port of the node, of a connection that never was.
fn forge(outside: &Netns, port: u16) -> Result<bool> {
    forge_from(outside, 45_678, port)
}

fn forge_from(outside: &Netns, from: u16, port: u16) -> Result<bool> {
    let socket = outside
        .run(|| socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::Tcp))??;
    let mut segment = [0_u8; 20];
    segment[..2].copy_from_slice(&from.to_be_bytes());
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment[4..8].copy_from_slice(&1_000_000_u32.to_be_bytes());
    segment[8..12].copy_from_slice(&2_000_000_u32.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 0x10;
    segment[14..16].copy_from_slice(&4096_u16.to_be_bytes());
    let sum = checksum(OUTSIDE, NODE, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    sendto(socket.as_raw_fd(), &segment, &SockaddrIn::new(10, 240, 0, 11, 0), MsgFlags::empty())?;
    // The host answers an ACK that it knows nothing of with a reset: the answer proves that the packet arrived.
    let end = Instant::now() + Duration::from_millis(1500);
    let mut packet = [0_u8; 1500];
    while Instant::now() < end {
        match recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(length) if is_reset(&packet[..length], port, from) => return Ok(true),
            Ok(_) => {}
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    Ok(false)
}

fn is_reset(packet: &[u8], from: u16, to: u16) -> bool {
    let header = packet.first().map_or(0, |b| usize::from(b & 0xf) * 4);
    let Some(tcp) = packet.get(header..header + 14) else { return false };
    tcp[..2] == from.to_be_bytes() && tcp[2..4] == to.to_be_bytes() && tcp[13] & 0x04 != 0
}

fn checksum(source: Ipv4Addr, destination: Ipv4Addr, segment: &[u8]) -> u16 {
    let mut bytes = [source.octets(), destination.octets()].concat();
    bytes.extend([0, 6, 0, segment.len() as u8]);
    bytes.extend(segment);
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

fn first_apply(proxy: bool) -> Result<()> {
    let lab = Lab::new(Proxy::Nftables)?;
    if !proxy {
        // Without a rule that needs it the kernel tracks nothing in this namespace.
        assert!(lab.node.command("nft").args(["flush", "ruleset"]).status()?.success());
    }
    let mut live = Live::begin(&lab, proxy)?;
    assert_eq!(lab.conntrack(OUTSIDE, 8080)?.is_empty(), !proxy, "what this test is about");
    assert!(forge(&lab.outside, 8080)?, "without policy a forged packet arrives");

    // The agent is there before the first host endpoint, as on a node that was just installed.
    let (folder, home) = (Policies::empty()?, Home::new()?);
    let (mut agent, _) = Agent::start_with(&lab.node, &folder, &home, &["--grace", "0"])?;
    live.check("with an agent and no policy")?;
    folder.put("endpoint.yaml", HOST_ENDPOINT)?;
    agent.next_generation()?;
    assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence, "enforced\n{}", agent.log());
    assert_eq!(ask(&lab.outside, NODE_V6, 8080)?, Got::Silence, "enforced\n{}", agent.log());
    live.check("after the first host endpoint").with_context(|| agent.log())?;

    let witness = Witness::open(&home.pin_dir(), &[])?;
    let before = witness.tally()?;
    assert!(!forge(&lab.outside, 8080)?, "a forged packet of no connection arrived");
    let invalid = |after: &Tally| Witness::packets(&before, after, Verdict::Deny, Reason::TcpNoFlow);
    assert_eq!(invalid(&witness.tally()?), 1);

    let status = home.status()?;
    let adoption = &status["adoption"];
    assert_eq!(adoption["errors"].as_array().map(Vec::len), Some(0), "{adoption}");
    assert_eq!(adoption["unreadable"], 0, "{adoption}");
    if proxy {
        // Both sides of the translated one, the forwarded one, and what the sockets would tell too.
        assert!(adoption["conntrack"].as_u64() >= Some(7), "{adoption}");
    } else {
        assert_eq!(
            (&adoption["conntrack"], adoption["sockets"].as_u64() >= Some(4)),
            (&0.into(), true),
            "{adoption}"
        );
    }
    assert_eq!(status["grace"].as_object().map(serde_json::Map::len), Some(0), "{}", status["grace"]);
    // A flow that was taken over is as any other for the next agent.
    agent.kill_9()?;
    let (agent, _) = Agent::start_with(&lab.node, &folder, &home, &["--grace", "0"])?;
    live.check("after a restart").with_context(|| agent.log())
}

#[test]
fn first_policy_on_a_node_with_address_translation_cuts_nothing() {
    run("first_policy_on_a_node_with_address_translation_cuts_nothing", || first_apply(true));
}

#[test]
fn first_policy_on_a_host_without_connection_tracking_cuts_nothing() {
    run("first_policy_on_a_host_without_connection_tracking_cuts_nothing", || first_apply(false));
}

#[test]
fn flow_state_that_was_lost_is_taken_over_again() {
    run("flow_state_that_was_lost_is_taken_over_again", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let mut live = Live::begin(&lab, true)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put("endpoint.yaml", HOST_ENDPOINT)?;
        let (agent, _) = Agent::start_with(&lab.node, &folder, &home, &["--grace", "0"])?;
        live.check("after the first start").with_context(|| agent.log())?;
        agent.kill_9()?;
        // The pins of the flow tables are gone: the next agent makes new ones.
        for entry in std::fs::read_dir(home.pin_dir())? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("flows-v")) {
                std::fs::remove_dir_all(path)?;
            }
        }
        let (agent, _) = Agent::start_with(&lab.node, &folder, &home, &["--grace", "0"])?;
        assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence, "{}", agent.log());
        live.check("after the flow tables were lost").with_context(|| agent.log())
    });
}

/// A workload device carries no programs before a `*` host endpoint covers it: what lives there was not seen, or not
/// by both hooks.
#[test]
fn a_second_device_is_taken_over_while_the_first_is_enforced() {
    run("a_second_device_is_taken_over_while_the_first_is_enforced", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put("endpoint.yaml", HOST_ENDPOINT)?;
        let (mut agent, _) = Agent::start_with(&lab.node, &folder, &home, &["--grace", "0"])?;
        let mut to_node = connect(&lab.pod, NODE, 8080)?.expect("nothing governs the pod's device");
        let mut through = connect(&lab.pod, OUTSIDE, 443)?.expect("nothing governs what is forwarded");
        assert_eq!(exchange(&mut to_node), answer(NODE_SAYS));
        assert_eq!(exchange(&mut through), answer(OUTSIDE_SAYS));
        assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence, "the first device");

        folder.put(
            "second.yaml",
            "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-all, labels: {role: all}}
spec: {node: node1, interfaceName: \"*\"}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: deny}
spec:
  selector: role == 'all'
  preDNAT: true
  applyOnForward: true
  types: [Ingress]
  ingress: [{action: Deny}]
",
        )?;
        agent.next_generation()?;
        assert_eq!(home.status()?["governed"]["cali1"], "node1-all", "{}", agent.log());
        assert_eq!(exchange(&mut to_node), answer(NODE_SAYS), "{}", agent.log());
        assert_eq!(exchange(&mut through), answer(OUTSIDE_SAYS), "{}", agent.log());
        let denied = [
            (&lab.pod, NODE.into(), 8080),
            (&lab.pod, OUTSIDE.into(), 443),
            (&lab.outside, NODE.into(), 8080),
        ];
        assert_eq!(tests::probe::ask_together(&denied)?, vec![Got::Silence; 3], "{}", agent.log());
        Ok(())
    });
}

#[test]
fn grace_is_shown_and_ends() {
    run("grace_is_shown_and_ends", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put("endpoint.yaml", HOST_ENDPOINT)?;
        folder.put(
            "allow.yaml",
            "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: allow}
spec: {selector: role == 'node', types: [Ingress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [8080]}}]}
",
        )?;
        let (agent, _) = Agent::start_with(&lab.node, &folder, &home, &["--grace", "15"])?;
        let until = home.status()?["grace"]["eth0"].as_u64();
        assert!(until.is_some(), "{}\n{}", home.status()?["grace"], agent.log());
        // In grace policy judges what has no flow: a closed port stays closed, an open one answers.
        assert!(forge(&lab.outside, 8080)?, "{}", agent.log());
        assert!(!forge(&lab.outside, 22022)?, "{}", agent.log());
        thread::sleep(Duration::from_secs(16));
        // The flow that the first packet began is known; what never began is not.
        let before = Witness::open(&home.pin_dir(), &[])?.tally()?;
        assert!(!forge_from(&lab.outside, 45_679, 8080)?, "grace has ended\n{}", agent.log());
        let after = Witness::open(&home.pin_dir(), &[])?.tally()?;
        assert_eq!(Witness::packets(&before, &after, Verdict::Deny, Reason::TcpNoFlow), 1);
        Ok(())
    });
}
