//! D48 and L-13 on real devices: a tun device has no Ethernet header, and gives the kernel packets in several buffers.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::verdict::{Reason, Verdict};
use tests::{
    can_run,
    netns::Netns,
    process::{Agent, Home, Policies},
    witness::Witness,
};

const DEVICE: &str = "tun7";
/// Bytes of `virtio_net_hdr`.
const VNET_HEADER: usize = 10;
const POLICY: &str = r#"
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: tunnel, labels: {tunnel: "yes"}}
spec: {node: node1, interfaceName: tun7}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: one-port}
spec:
  selector: has(tunnel)
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: UDP, destination: {ports: [5000]}}
"#;

/// The far end of the tunnel, in our hands.
struct Tun(File);

impl Tun {
    /// Call it in the namespace.
    fn open() -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").context("/dev/net/tun")?;
        // SAFETY: all of ifreq is plain data, for which zeros are a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
        // SAFETY: the descriptor is open, and the kernel reads one ifreq from a pointer to one.
        let code = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &request) };
        ensure!(code == 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
        Ok(Self(file))
    }

    /// Gives a packet to the kernel. `linear`: that many bytes in the first buffer, if the packet exceeds a page.
    fn send(&mut self, packet: &[u8], linear: u16) -> Result<()> {
        let mut frame = vec![0; VNET_HEADER];
        frame[2..4].copy_from_slice(&linear.to_ne_bytes());
        frame.extend(packet);
        self.0.write_all(&frame).context("write to tun")
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2).map(|p| u32::from(u16::from_be_bytes([p[0], *p.get(1).unwrap_or(&0)])));
    let mut sum: u32 = pairs.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// IPv4 UDP from 10.77.0.2 to 10.77.0.1. `named`: the length that the header claims beyond the real one.
fn udp(dport: u16, payload: &[u8], options: usize, named: i32) -> Vec<u8> {
    let header = 20 + options;
    let length = header + 8 + payload.len();
    let mut packet = vec![0x40 | (header / 4) as u8, 0];
    packet.extend(((length as i32 + named) as u16).to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1]);
    packet.extend(vec![1; options]);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(40_000_u16.to_be_bytes());
    packet.extend(dport.to_be_bytes());
    packet.extend(((8 + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

fn arrives(socket: &UdpSocket) -> Option<usize> {
    let mut buffer = vec![0; 65536];
    socket.recv(&mut buffer).ok()
}

#[test]
fn a_device_without_link_layer_is_judged_the_same_in_one_buffer_or_many() {
    if can_run("a_device_without_link_layer_is_judged_the_same_in_one_buffer_or_many") {
        body().unwrap();
    }
}

fn body() -> Result<()> {
    let node = Netns::new("tun")?;
    let mut tun = node.run(Tun::open)??;
    node.ip(&format!("addr add 10.77.0.1/24 dev {DEVICE}\nlink set {DEVICE} mtu 9000 up\n"))?;
    let bind = |port: u16, patience: Duration| -> Result<UdpSocket> {
        let socket = node.run(move || UdpSocket::bind(SocketAddr::from(([10, 77, 0, 1], port))))??;
        socket.set_read_timeout(Some(patience))?;
        Ok(socket)
    };
    let (open, closed) = (bind(5000, Duration::from_secs(10))?, bind(5001, Duration::from_millis(500))?);
    let (folder, home) = (Policies::empty()?, Home::new()?);
    folder.put("tunnel.yaml", POLICY)?;
    let (_agent, _) = Agent::start(&node, &folder, &home)?;
    let witness = Witness::open(&home.pin_dir(), &[])?;
    let before = witness.tally()?;

    tun.send(&udp(5000, b"small", 0, 0), 0)?;
    assert_eq!(arrives(&open), Some(5), "small and allowed");
    tun.send(&udp(5001, b"small", 0, 0), 0)?;
    assert_eq!(arrives(&closed), None, "small and not allowed");

    // 21 bytes in the first buffer: the addresses are there, the options and ports are not.
    let large = vec![7; 6000];
    tun.send(&udp(5000, &large, 40, 0), 21)?;
    assert_eq!(arrives(&open), Some(6000), "large, in several buffers, allowed");
    tun.send(&udp(5001, &large, 40, 0), 21)?;
    assert_eq!(arrives(&closed), None, "large, in several buffers, not allowed");
    tun.send(&udp(5000, &large, 40, 0), 1)?;
    assert_eq!(arrives(&open), Some(6000), "not even the IP header is in the first buffer");

    let middle = witness.tally()?;
    let denied = |reason| Witness::packets(&before, &middle, Verdict::Deny, reason);
    assert_eq!(denied(Reason::TierEnd), 2, "two were refused, by policy");
    assert_eq!(denied(Reason::IpLength) + denied(Reason::Short), 0, "and none was misread");

    // One byte more than there is: seen as such only where the header's place is known exactly.
    tun.send(&udp(5000, b"small", 0, 1), 0)?;
    // The kernel may judge it a moment after it was written.
    let misread = || {
        Ok::<_, anyhow::Error>(Witness::packets(&middle, &witness.tally()?, Verdict::Deny, Reason::IpLength))
    };
    let end = Instant::now() + Duration::from_secs(10);
    while misread()? == 0 && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(misread()?, 1);
    Ok(())
}
