//! The lab: one node of a cluster, and everybody who may want something of it.
//!
//! ```text
//!  outside 203.0.113.7 ──┐
//!  peer    1.2.3.4     ──┤ router ── br0 10.240.0.0/24 ──┬── eth0 10.240.0.11  node ── cali1 ── pod 192.168.1.10
//!                        │                                └── inside 10.240.0.12
//! ```
//! `peer` is a machine of the network that the NodePort policies call internal (1.2.0.0/16); `inside` stands on the
//! node's own segment. The node translates as kube-proxy does: NodePort 31852 and ClusterIP 10.20.30.40:80 go to
//! the pod's port 8080. The pod hangs on a device as Calico makes it: no address, proxy ARP, a host route.

use std::{net::Ipv4Addr, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    netns::{self, Netns, succeed},
    probe::{Got, Server, Speech, ask},
};

pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 11);
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 12);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
pub const PEER: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);
pub const POD: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
pub const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 20, 30, 40);
pub const NODE_PORT: u16 = 31852;

pub const POD_SAYS: &str = "hello from the pod";
pub const NODE_SAYS: &str = "hello from the node";
pub const OUTSIDE_SAYS: &str = "hello from outside";
pub const SSH_SAYS: &str = "SSH-2.0-lab";

/// Who translates NodePorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    Nftables,
    Iptables,
}

/// Fields are dropped in their order: servers before namespaces.
pub struct Lab {
    _servers: Vec<Server>,
    pub outside: Netns,
    pub peer: Netns,
    pub inside: Netns,
    pub node: Netns,
    pub pod: Netns,
    _router: Netns,
}

impl Lab {
    pub fn new(proxy: Proxy) -> Result<Self> {
        netns::sweep();
        let router = Netns::new("router")?;
        let node = Netns::new("node")?;
        let pod = Netns::new("pod")?;
        let [outside, peer, inside] = [Netns::new("outside")?, Netns::new("peer")?, Netns::new("inside")?];
        wire_router(&router, &node, &inside, &outside, &peer)?;
        wire_node(&node, &pod)?;
        match proxy {
            Proxy::Nftables => succeed(node.command("nft").args(["-f", "-"]), &kube_proxy_nftables())?,
            Proxy::Iptables => succeed(&mut node.command("iptables-restore"), &kube_proxy_iptables())?,
        }
        let servers = vec![
            Server::start(&pod, 8080, Speech::Http(POD_SAYS))?,
            Server::start(&node, 8080, Speech::Http(NODE_SAYS))?,
            Server::start(&node, 22, Speech::Banner(SSH_SAYS))?,
            Server::start(&outside, 443, Speech::Http(OUTSIDE_SAYS))?,
            Server::start(&outside, 8443, Speech::Http(OUTSIDE_SAYS))?,
        ];
        Ok(Self { _servers: servers, outside, peer, inside, node, pod, _router: router })
    }

    /// What `who` gets from the NodePort.
    pub fn ask_node_port(&self, who: &Netns) -> Result<Got> {
        ask(who, NODE, NODE_PORT)
    }

    /// The node's conntrack entries that begin with a packet from `source` to `port`: an entry means that the
    /// packet came as far as netfilter, where DNAT is done.
    pub fn conntrack(&self, source: Ipv4Addr, port: u16) -> Result<Vec<String>> {
        let output =
            self.node.command("conntrack").args(["-L", "-f", "ipv4"]).output().context("conntrack")?;
        if !output.status.success() {
            bail!("conntrack -L: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter(|line| begins_with(line, source, port)).map(str::to_owned).collect())
    }

    /// Forgets every tracked connection of the node.
    pub fn flush_conntrack(&self) -> Result<()> {
        succeed(self.node.command("conntrack").arg("-F"), "")
    }
}

/// The first `src=` and the first `dport=` of a line are those of the original direction.
fn begins_with(line: &str, source: Ipv4Addr, port: u16) -> bool {
    let first = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
    first("src=") == Some(&source.to_string()) && first("dport=") == Some(&port.to_string())
}

fn wire_router(router: &Netns, node: &Netns, inside: &Netns, outside: &Netns, peer: &Netns) -> Result<()> {
    router.ip(&format!(
        "link add br0 type bridge\n\
         addr add 10.240.0.1/24 dev br0\n\
         link set br0 up\n\
         link add to-node type veth peer name eth0 netns {node}\n\
         link add to-inside type veth peer name eth0 netns {inside}\n\
         link set to-node master br0 up\n\
         link set to-inside master br0 up\n\
         link add to-outside type veth peer name eth0 netns {outside}\n\
         addr add 203.0.113.1/24 dev to-outside\n\
         link set to-outside up\n\
         link add to-peer type veth peer name eth0 netns {peer}\n\
         addr add 1.2.0.1/16 dev to-peer\n\
         link set to-peer up\n",
        node = node.name(),
        inside = inside.name(),
        outside = outside.name(),
        peer = peer.name(),
    ))?;
    router.sysctl(&FORWARDING)?;
    let host = |address: &str, gateway: &str| {
        format!("addr add {address} dev eth0\nlink set eth0 up\nroute add default via {gateway}\n")
    };
    node.ip(&host("10.240.0.11/24", "10.240.0.1"))?;
    inside.ip(&host("10.240.0.12/24", "10.240.0.1"))?;
    outside.ip(&host("203.0.113.7/24", "203.0.113.1"))?;
    peer.ip(&host("1.2.3.4/16", "1.2.0.1"))?;
    // So that outsiders can aim at a pod and at a cluster address, as they can on a flat network.
    router.ip("route add 192.168.1.0/24 via 10.240.0.11\nroute add 10.20.30.0/24 via 10.240.0.11\n")
}

/// Reverse path filtering off: with it the kernel would drop what policy must drop.
const FORWARDING: [(&str, &str); 3] =
    [("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "0")];

fn wire_node(node: &Netns, pod: &Netns) -> Result<()> {
    node.sysctl(&FORWARDING)?;
    node.ip(&format!(
        "link add cali1 type veth peer name eth0 netns {}\n\
         link set cali1 up\n\
         route add {POD} dev cali1 scope link\n",
        pod.name()
    ))?;
    node.sysctl(&[("ipv4/conf/cali1/proxy_arp", "1"), ("ipv4/neigh/cali1/proxy_delay", "0")])?;
    pod.ip(&format!(
        "addr add {POD}/32 dev eth0\n\
         link set eth0 up\n\
         route add 169.254.1.1 dev eth0 scope link\n\
         route add default via 169.254.1.1\n"
    ))
}

/// The shape of kube-proxy's nftables mode: verdict maps for cluster addresses and NodePorts, a mark for what must
/// be masqueraded, DNAT to an endpoint.
fn kube_proxy_nftables() -> String {
    format!(
        "table ip kube-proxy {{
    map service-ips {{
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = {{ {CLUSTER_IP} . tcp . 80 : goto service-web }}
    }}
    map service-nodeports {{
        type inet_proto . inet_service : verdict
        elements = {{ tcp . {NODE_PORT} : goto external-web }}
    }}
    chain service-web {{
        ip daddr {CLUSTER_IP} ip saddr != 192.168.0.0/16 jump mark-for-masquerade
        numgen random mod 1 vmap {{ 0 : goto endpoint-web }}
    }}
    chain external-web {{
        jump mark-for-masquerade
        goto service-web
    }}
    chain endpoint-web {{
        meta l4proto tcp dnat to {POD}:8080
    }}
    chain mark-for-masquerade {{
        meta mark set meta mark or 0x4000
    }}
    chain services {{
        ip daddr . meta l4proto . th dport vmap @service-ips
        fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports
    }}
    chain nat-prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        jump services
    }}
    chain nat-output {{
        type nat hook output priority -100; policy accept;
        jump services
    }}
    chain nat-postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        meta mark & 0x4000 == 0 return
        meta mark set meta mark xor 0x4000
        masquerade fully-random
    }}
}}
"
    )
}

/// The shape of kube-proxy's iptables mode.
fn kube_proxy_iptables() -> String {
    format!(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-EXT-WEB - [0:0]
:KUBE-SVC-WEB - [0:0]
:KUBE-SEP-WEB - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -d {CLUSTER_IP}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-WEB
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport {NODE_PORT} -j KUBE-EXT-WEB
-A KUBE-EXT-WEB -j KUBE-MARK-MASQ
-A KUBE-EXT-WEB -j KUBE-SVC-WEB
-A KUBE-SVC-WEB ! -s 192.168.0.0/16 -d {CLUSTER_IP}/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-WEB -j KUBE-SEP-WEB
-A KUBE-SEP-WEB -p tcp -m tcp -j DNAT --to-destination {POD}:8080
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
"
    )
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
