//! What kube-proxy writes into a node's netfilter, in the shapes of its two modes, for both IP versions.
//!
//! | Service | cluster IP | NodePort | backend |
//! |---|---|---|---|
//! | web | `web`:80/tcp | 31852/tcp | pod:8080, on this node |
//! | far | `far`:80/tcp | 31900/tcp | far pod:8080, on the other node: its client's address is masqueraded |
//! | dns | none | 31854/udp | pod:5353, on this node |

use std::net::IpAddr;

use anyhow::Result;

use crate::{
    netns::{Netns, succeed},
    topology::{FAR_NODE_PORT, NODE_PORT, Proxy, UDP_NODE_PORT},
};

/// The addresses of one IP version.
pub struct Family {
    pub web: IpAddr,
    pub far: IpAddr,
    pub pod: IpAddr,
    pub far_pod: IpAddr,
    /// Clients in it are not masqueraded.
    pub pod_net: &'static str,
}

impl Family {
    fn is_v4(&self) -> bool {
        self.pod.is_ipv4()
    }

    /// As DNAT targets are written.
    fn at(&self, address: IpAddr, port: u16) -> String {
        if self.is_v4() { format!("{address}:{port}") } else { format!("[{address}]:{port}") }
    }
}

/// Writes the rules of one IP version.
pub fn install(node: &Netns, proxy: Proxy, family: &Family) -> Result<()> {
    match proxy {
        Proxy::Nftables => succeed(node.command("nft").args(["-f", "-"]), &nftables(family)),
        Proxy::Iptables => {
            let restore = if family.is_v4() { "iptables-restore" } else { "ip6tables-restore" };
            succeed(&mut node.command(restore), &iptables(family))
        }
        Proxy::Later => Ok(()),
    }
}

/// Verdict maps for cluster addresses and NodePorts, a mark for what must be masqueraded, DNAT to an endpoint.
fn nftables(family: &Family) -> String {
    let (ip, kind, loopback) =
        if family.is_v4() { ("ip", "ipv4_addr", "127.0.0.0/8") } else { ("ip6", "ipv6_addr", "::1") };
    let Family { web, far, pod_net, .. } = family;
    let chains: String = [
        ("web", Some(web), "tcp", family.at(family.pod, 8080)),
        ("far", Some(far), "tcp", family.at(family.far_pod, 8080)),
        ("dns", None, "udp", family.at(family.pod, 5353)),
    ]
    .into_iter()
    .map(|(name, cluster_ip, protocol, endpoint)| {
        let masquerade = cluster_ip.map_or_else(String::new, |address| {
            format!("{ip} daddr {address} {ip} saddr != {pod_net} jump mark-for-masquerade")
        });
        format!(
            "    chain endpoint-{name} {{
        meta l4proto {protocol} dnat to {endpoint}
    }}
    chain service-{name} {{
        {masquerade}
        numgen random mod 1 vmap {{ 0 : goto endpoint-{name} }}
    }}
    chain external-{name} {{
        jump mark-for-masquerade
        goto service-{name}
    }}
"
        )
    })
    .collect();
    format!(
        "table {ip} kube-proxy {{
    chain mark-for-masquerade {{
        meta mark set meta mark or 0x4000
    }}
{chains}    map service-ips {{
        type {kind} . inet_proto . inet_service : verdict
        elements = {{ {web} . tcp . 80 : goto service-web, {far} . tcp . 80 : goto service-far }}
    }}
    map service-nodeports {{
        type inet_proto . inet_service : verdict
        elements = {{ tcp . {NODE_PORT} : goto external-web, tcp . {FAR_NODE_PORT} : goto external-far,
                      udp . {UDP_NODE_PORT} : goto external-dns }}
    }}
    chain services {{
        {ip} daddr . meta l4proto . th dport vmap @service-ips
        fib daddr type local {ip} daddr != {loopback} meta l4proto . th dport vmap @service-nodeports
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

/// KUBE-SERVICES → KUBE-NODEPORTS → KUBE-EXT → KUBE-SVC → KUBE-SEP.
fn iptables(family: &Family) -> String {
    let Family { web, far, pod_net, .. } = family;
    let services = [
        ("WEB", Some(web), "tcp", NODE_PORT, family.at(family.pod, 8080)),
        ("FAR", Some(far), "tcp", FAR_NODE_PORT, family.at(family.far_pod, 8080)),
        ("DNS", None, "udp", UDP_NODE_PORT, family.at(family.pod, 5353)),
    ];
    let mut chains = String::new();
    let mut cluster_ips = String::new();
    let mut node_ports = String::new();
    let mut rules = String::new();
    for (name, cluster_ip, protocol, port, endpoint) in services {
        chains.push_str(&format!(
            ":KUBE-EXT-{name} - [0:0]\n:KUBE-SVC-{name} - [0:0]\n:KUBE-SEP-{name} - [0:0]\n"
        ));
        if let Some(address) = cluster_ip {
            let to = format!("-d {address} -p {protocol} -m {protocol} --dport 80");
            cluster_ips.push_str(&format!("-A KUBE-SERVICES {to} -j KUBE-SVC-{name}\n"));
            rules.push_str(&format!("-A KUBE-SVC-{name} ! -s {pod_net} {to} -j KUBE-MARK-MASQ\n"));
        }
        node_ports.push_str(&format!(
            "-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {port} -j KUBE-EXT-{name}\n"
        ));
        rules.push_str(&format!(
            "-A KUBE-EXT-{name} -j KUBE-MARK-MASQ\n\
             -A KUBE-EXT-{name} -j KUBE-SVC-{name}\n\
             -A KUBE-SVC-{name} -j KUBE-SEP-{name}\n\
             -A KUBE-SEP-{name} -p {protocol} -m {protocol} -j DNAT --to-destination {endpoint}\n"
        ));
    }
    format!(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
{chains}-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
{cluster_ips}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
{node_ports}{rules}-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
"
    )
}
