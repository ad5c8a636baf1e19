//! L-13, L-15 and D33: packets larger than any wire carries, as one socket hands them to the other. The device counts each
//! as one packet; beyond the linear area, and with BIG TCP beyond 64 KiB, they must get the verdict of their headers.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tests::{
    can_run,
    netns::Netns,
    probe::{Got, ask},
    process::{Agent, Home, Policies},
    topology::{Lab, NODE, NODE_V6, Proxy},
};

const OPEN: u16 = 9000;
const SHUT: u16 = 9001;
const BYTES: usize = 24 << 20;

const POLICY: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-eth0, labels: {role: node}}
spec: {node: node1, interfaceName: eth0, expectedIPs: [10.240.0.11]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: bulk}
spec:
  selector: role == 'node'
  ingress:
  - {action: Allow, protocol: TCP, destination: {ports: [9000]}}
";

/// (packets, bytes) that the node's device received.
fn received(node: &Netns) -> Result<(u64, u64)> {
    let output = node.command("ip").args(["-s", "-j", "link", "show", "eth0"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let number = |key: &str| -> Option<u64> {
        let rest = text.split("\"rx\":").nth(1)?.split(&format!("\"{key}\":")).nth(1)?;
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
    };
    Ok((number("packets").context("packets")?, number("bytes").context("bytes")?))
}

/// Sends [`BYTES`] from `from` to the node; the mean size of the packets that its device saw.
fn mean_size(lab: &Lab, to: IpAddr) -> Result<u64> {
    let listener = lab.node.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, OPEN)))??;
    let sink = thread::spawn(move || -> std::io::Result<usize> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let (mut all, mut buffer) = (0, vec![0; 1 << 20]);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(all),
                n => all += n,
            }
        }
    });
    let before = received(&lab.node)?;
    let address = SocketAddr::new(to, OPEN);
    let mut stream = lab
        .inside
        .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(20)))?
        .context("connect")?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    let block = vec![0x5a; 1 << 20];
    for _ in 0..BYTES >> 20 {
        stream.write_all(&block).context("what is allowed must arrive")?;
    }
    drop(stream);
    assert_eq!(sink.join().expect("the sink")?, BYTES);
    let after = received(&lab.node)?;
    Ok((after.1 - before.1) / (after.0 - before.0).max(1))
}

/// [`mean_size`], and again when the machine was too slow for packets so large: a socket makes them as large as it sends
/// in a millisecond. What is sent must arrive each time.
fn mean_above(wanted: u64, lab: &Lab, to: IpAddr) -> Result<u64> {
    let mut mean = 0;
    for _ in 0..8 {
        mean = mean_size(lab, to)?;
        if mean > wanted {
            break;
        }
    }
    Ok(mean)
}

fn super_packets_are_judged_by_their_headers() -> Result<()> {
    let lab = Lab::new(Proxy::Nftables)?;
    let (folder, home) = (Policies::empty()?, Home::new()?);
    folder.put("bulk.yaml", POLICY)?;
    let (agent, _) = Agent::start(&lab.node, &folder, &home)?;
    // One segment never gets so large: these are the kernel's super-packets, most of their bytes in fragments.
    let mean = mean_above(8000, &lab, NODE.into())?;
    assert!(mean > 8000, "IPv4: {mean} bytes, not even one super-packet\n{}", agent.log());
    let mean = mean_above(8000, &lab, NODE_V6.into())?;
    assert!(mean > 8000, "IPv6: {mean} bytes");
    println!("IPv6 before BIG TCP: {mean} bytes a packet");
    // BIG TCP: the length field of such a packet is zero (D33).
    let sizes = |device: &str| format!("link set {device} gso_max_size 180000 gro_max_size 180000\n");
    lab.router.ip(&(sizes("br0") + &sizes("to-node") + &sizes("to-inside")))?;
    lab.inside.ip(&sizes("eth0"))?;
    lab.node.ip(&sizes("eth0"))?;
    let mean = mean_above(65_536, &lab, NODE_V6.into())?;
    println!("IPv6 with BIG TCP: {mean} bytes a packet");
    assert!(mean > 65_536, "BIG TCP: {mean} bytes");
    assert_eq!(ask(&lab.inside, NODE, SHUT)?, Got::Silence, "what is not allowed stays shut");
    Ok(())
}

#[test]
fn super_packets() {
    if can_run("super_packets") {
        super_packets_are_judged_by_their_headers().unwrap();
    }
}
