//! The lab: one node of a cluster, and everybody who may want something of it.
//!
//! ```text
//!  outside 203.0.113.7 ──┐
//!  peer    1.2.3.4     ──┤ router ── br0 10.240.0.0/24 ──┬── eth0 10.240.0.11  node ── cali1 ── pod 192.168.1.10
//!                        │                                └── inside 10.240.0.12, with a pod 192.168.2.10
//! ```
//! `peer` is a machine of the network that the NodePort policies call internal (1.2.0.0/16); it asks cluster IPs from
//! the clients' addresses of the cluster-IP policies. `inside` stands on the node's own segment, as the cluster's
//! other node. The node translates as kube-proxy does ([`crate::kube_proxy`]). The pod hangs on a device as Calico
//! makes it: no address, proxy ARP, a host route. Everything has IPv6 addresses as well.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    kube_proxy,
    netns::{self, Netns, succeed},
    probe::{Got, Server, Speech, ask, ask_udp},
};

pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 11);
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 12);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
pub const PEER: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);
pub const POD: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
pub const FAR_POD: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 10);
/// Its backend is [`POD`].
pub const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 20, 30, 40);
/// Its backend is [`FAR_POD`].
pub const FAR_CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 20, 30, 41);
/// The address with which `peer` asks [`CLUSTER_IP`].
pub const CLIENT_A: Ipv4Addr = Ipv4Addr::new(50, 60, 1, 1);

pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x11);
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
pub const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0, 0, 0, 0, 0, 0x10);
pub const FAR_POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0, 2, 0, 0, 0, 0x10);
pub const CLUSTER_IP_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x20, 0, 0, 0, 0, 0x40);
pub const FAR_CLUSTER_IP_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x20, 0, 0, 0, 0, 0x41);

/// TCP, to the pod of this node.
pub const NODE_PORT: u16 = 31852;
/// TCP, to the pod of the other node.
pub const FAR_NODE_PORT: u16 = 31900;
/// UDP, to the pod of this node.
pub const UDP_NODE_PORT: u16 = 31854;

pub const POD_SAYS: &str = "hello from the pod";
pub const FAR_POD_SAYS: &str = "hello from the pod of the other node";
pub const NODE_SAYS: &str = "hello from the node";
pub const OUTSIDE_SAYS: &str = "hello from outside";
pub const SSH_SAYS: &str = "SSH-2.0-lab";

/// Who translates NodePorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    Nftables,
    Iptables,
    /// Nobody yet: kube-proxy itself will ([`crate::kubernetes::proxy`]).
    Later,
}

/// Fields are dropped in their order: servers before namespaces.
pub struct Lab {
    _servers: Vec<Server>,
    pub outside: Netns,
    pub peer: Netns,
    pub inside: Netns,
    pub node: Netns,
    pub pod: Netns,
    pub router: Netns,
}

impl Lab {
    pub fn new(proxy: Proxy) -> Result<Self> {
        netns::sweep();
        let router = Netns::new("router")?;
        let node = Netns::new("node")?;
        let pod = Netns::new("pod")?;
        let [outside, peer, inside] = [Netns::new("outside")?, Netns::new("peer")?, Netns::new("inside")?];
        for netns in [&router, &node, &pod, &outside, &peer, &inside] {
            netns.sysctl(&AT_ONCE)?;
        }
        wire_router(&router, &node, &inside, &outside, &peer)?;
        wire_hosts(&router, &inside, &outside, &peer)?;
        wire_node(&node, &pod)?;
        kube_proxy::install(
            &node,
            proxy,
            &kube_proxy::Family {
                web: CLUSTER_IP.into(),
                far: FAR_CLUSTER_IP.into(),
                pod: POD.into(),
                far_pod: FAR_POD.into(),
                pod_net: "192.168.0.0/16",
            },
        )?;
        kube_proxy::install(
            &node,
            proxy,
            &kube_proxy::Family {
                web: CLUSTER_IP_V6.into(),
                far: FAR_CLUSTER_IP_V6.into(),
                pod: POD_V6.into(),
                far_pod: FAR_POD_V6.into(),
                pod_net: "fd00:192::/32",
            },
        )?;
        let servers = vec![
            Server::start(&pod, 8080, Speech::Http(POD_SAYS))?,
            Server::start_udp(&pod, 5353, POD_SAYS)?,
            Server::start(&inside, 8080, Speech::Http(FAR_POD_SAYS))?,
            Server::start(&node, 8080, Speech::Http(NODE_SAYS))?,
            Server::start(&node, 22, Speech::Banner(SSH_SAYS))?,
            Server::start(&outside, 443, Speech::Http(OUTSIDE_SAYS))?,
            Server::start(&outside, 8443, Speech::Http(OUTSIDE_SAYS))?,
        ];
        Ok(Self { _servers: servers, outside, peer, inside, node, pod, router })
    }

    /// What `who` gets from the NodePort.
    pub fn ask_node_port(&self, who: &Netns) -> Result<Got> {
        ask(who, NODE, NODE_PORT)
    }

    /// What `who` gets from the NodePort for UDP.
    pub fn ask_udp_node_port(&self, who: &Netns) -> Result<Got> {
        ask_udp(who, NODE, UDP_NODE_PORT)
    }

    /// The node's conntrack entries that begin with a packet from `source` to `port`: an entry means that the
    /// packet came as far as netfilter, where DNAT is done.
    pub fn conntrack(&self, source: impl Into<IpAddr>, port: u16) -> Result<Vec<String>> {
        let source = source.into();
        let family = if source.is_ipv4() { "ipv4" } else { "ipv6" };
        let output =
            self.node.command("conntrack").args(["-L", "-f", family]).output().context("conntrack")?;
        if !output.status.success() {
            bail!("conntrack -L: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter(|line| begins_with(line, source, port)).map(str::to_owned).collect())
    }

    /// Gives the pod's device another name, as another network plugin would.
    pub fn rename_pod_device(&self, name: &str) -> Result<()> {
        if name == "cali1" {
            return Ok(());
        }
        // A device is renamed while it is down, and its routes and IPv6 addresses go with that.
        self.node.ip(&format!(
            "link set cali1 down\n\
             link set cali1 name {name}\n\
             link set {name} up\n\
             route add {POD} dev {name} scope link\n\
             addr add fe80::1/64 dev {name} nodad\n\
             route add {POD_V6}/128 dev {name}\n"
        ))
    }

    /// Forgets every tracked connection of the node.
    pub fn flush_conntrack(&self) -> Result<()> {
        succeed(self.node.command("conntrack").arg("-F"), "")
    }
}

/// The first `src=` and the first `dport=` of a line are those of the original direction.
fn begins_with(line: &str, source: IpAddr, port: u16) -> bool {
    let first = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
    first("src=").and_then(|word| word.parse().ok()) == Some(source)
        && first("dport=") == Some(&port.to_string())
}

fn wire_router(router: &Netns, node: &Netns, inside: &Netns, outside: &Netns, peer: &Netns) -> Result<()> {
    router.ip(&format!(
        "link add br0 type bridge\n\
         addr add 10.240.0.1/24 dev br0\n\
         addr add fd00::1/64 dev br0 nodad\n\
         link set br0 up\n\
         link add to-node type veth peer name eth0 netns {node}\n\
         link add to-inside type veth peer name eth0 netns {inside}\n\
         link set to-node master br0 up\n\
         link set to-inside master br0 up\n\
         link add to-outside type veth peer name eth0 netns {outside}\n\
         addr add 203.0.113.1/24 dev to-outside\n\
         addr add 2001:db8::1/64 dev to-outside nodad\n\
         link set to-outside up\n\
         link add to-peer type veth peer name eth0 netns {peer}\n\
         addr add 1.2.0.1/16 dev to-peer\n\
         addr add fd00:1:2::1/64 dev to-peer nodad\n\
         link set to-peer up\n",
        node = node.name(),
        inside = inside.name(),
        outside = outside.name(),
        peer = peer.name(),
    ))?;
    router.sysctl(&FORWARDING)?;
    node.ip(&host("10.240.0.11/24", "10.240.0.1", "fd00::11/64", "fd00::1"))
}

/// A machine with one device and a default route.
fn host(address: &str, gateway: &str, address_v6: &str, gateway_v6: &str) -> String {
    format!(
        "addr add {address} dev eth0\naddr add {address_v6} dev eth0 nodad\nlink set eth0 up\n\
         route add default via {gateway}\nroute add default via {gateway_v6}\n"
    )
}

fn wire_hosts(router: &Netns, inside: &Netns, outside: &Netns, peer: &Netns) -> Result<()> {
    outside.ip(&host("203.0.113.7/24", "203.0.113.1", "2001:db8::7/64", "2001:db8::1"))?;
    inside.ip(&host("10.240.0.12/24", "10.240.0.1", "fd00::12/64", "fd00::1"))?;
    inside.ip(&format!("addr add {FAR_POD}/32 dev lo\naddr add {FAR_POD_V6}/128 dev lo nodad\n"))?;
    peer.ip(&host("1.2.3.4/16", "1.2.0.1", "fd00:1:2::4/64", "fd00:1:2::1"))?;
    peer.ip(&format!(
        "addr add {CLIENT_A}/32 dev lo\n\
         addr add 70.80.90.5/32 dev lo\n\
         route add {CLUSTER_IP}/32 via 1.2.0.1 src {CLIENT_A}\n\
         route add {FAR_CLUSTER_IP}/32 via 1.2.0.1 src 70.80.90.5\n\
         addr add 2001:db8:50::1/128 dev lo nodad\n\
         route add {CLUSTER_IP_V6}/128 via fd00:1:2::1 src 2001:db8:50::1\n"
    ))?;
    // So that outsiders can aim at a pod and at a cluster address, as they can on a flat network.
    router.ip(&format!(
        "route add 192.168.1.0/24 via {NODE}\n\
         route add 192.168.2.0/24 via {INSIDE}\n\
         route add 10.20.30.0/24 via {NODE}\n\
         route add 50.60.1.1/32 via {PEER}\n\
         route add 70.80.90.5/32 via {PEER}\n\
         route add fd00:192::/64 via {NODE_V6}\n\
         route add fd00:10:20::/64 via {NODE_V6}\n\
         route add 2001:db8:50::1/128 via fd00:1:2::4\n"
    ))
}

/// Link-local addresses are used at once, without duplicate address detection, which takes seconds (others say `nodad`).
const AT_ONCE: [(&str, &str); 4] = [
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
];

/// Reverse path filtering off: with it the kernel would drop what policy must drop.
const FORWARDING: [(&str, &str); 4] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
];

fn wire_node(node: &Netns, pod: &Netns) -> Result<()> {
    node.sysctl(&FORWARDING)?;
    node.ip(&format!(
        "link add cali1 type veth peer name eth0 netns {}\n\
         link set cali1 up\n\
         route add {POD} dev cali1 scope link\n\
         addr add fe80::1/64 dev cali1 nodad\n\
         route add {POD_V6}/128 dev cali1\n\
         route add 192.168.2.0/24 via {INSIDE}\n\
         route add {FAR_POD_V6}/128 via fd00::12\n",
        pod.name()
    ))?;
    node.sysctl(&[("ipv4/conf/cali1/proxy_arp", "1"), ("ipv4/neigh/cali1/proxy_delay", "0")])?;
    pod.ip(&format!(
        "addr add {POD}/32 dev eth0\n\
         addr add {POD_V6}/128 dev eth0 nodad\n\
         link set eth0 up\n\
         route add 169.254.1.1 dev eth0 scope link\n\
         route add default via 169.254.1.1\n\
         route add default via fe80::1 dev eth0\n"
    ))
}

/// The policies of this repository.
pub fn policies() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies"))
}

/// Whether the programs that the lab calls are there.
pub fn check_tools() -> Result<()> {
    for (program, word) in
        [("ip", "-V"), ("nft", "--version"), ("conntrack", "--version"), ("nsenter", "--version")]
    {
        let found = Command::new(program).arg(word).output();
        found.with_context(|| format!("`{program}` does not run; `cargo xtask setup` installs it"))?;
    }
    Ok(())
}
