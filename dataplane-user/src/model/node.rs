//! What a node knows of itself: its addresses, Service frontends, failsafes, tunnels (D1–D4, D27, D39).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::binding;
use super::frame::Packet;
use super::peers::{self, Peer};
use super::stages::Place;
use crate::policy::{Device, Failsafe, NodeView, Pod, Service, World};

/// D3: what (address, protocol, port) is to Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frontend {
    No,
    /// Treated as forwarded.
    Service,
    /// All its endpoints are own addresses: treated as local.
    Local,
}

/// A world seen from one node.
pub(crate) struct Node<'a> {
    pub world: &'a World,
    pub view: &'a NodeView,
    pub peers: Vec<Peer>,
    pub inbound: Vec<Failsafe>,
    pub outbound: Vec<Failsafe>,
    own: BTreeSet<IpAddr>,
}

fn failsafes(list: &[(u8, u16)]) -> Vec<Failsafe> {
    list.iter().map(|&(protocol, port)| Failsafe { protocol, port, net: None }).collect()
}

fn default_inbound() -> Vec<Failsafe> {
    let mut list = failsafes(&[
        (6, 22),
        (17, 68),
        (6, 179),
        (6, 2379),
        (6, 2380),
        (6, 5473),
        (6, 6443),
        (6, 6666),
        (6, 6667),
    ]);
    list.push(Failsafe { protocol: 17, port: 546, net: "fe80::/10".parse().ok() });
    list
}

fn default_outbound() -> Vec<Failsafe> {
    failsafes(&[
        (17, 53),
        (17, 67),
        (6, 179),
        (6, 2379),
        (6, 2380),
        (6, 5473),
        (6, 6443),
        (6, 6666),
        (6, 6667),
        (17, 547),
    ])
}

impl<'a> Node<'a> {
    pub(crate) fn new(world: &'a World, view: &'a NodeView) -> Self {
        Self {
            world,
            view,
            peers: peers::all(world, view),
            inbound: binding::felix(world, view, |f| f.failsafe_inbound.clone())
                .unwrap_or_else(default_inbound),
            outbound: binding::felix(world, view, |f| f.failsafe_outbound.clone())
                .unwrap_or_else(default_outbound),
            own: view.devices.values().flat_map(|d| d.addresses.iter().map(IpNet::addr)).collect(),
        }
    }

    /// An address of a device, or a loopback one: the kernel answers on all of 127.0.0.0/8.
    pub(crate) fn owns(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.own.contains(&ip)
    }

    /// The address of all routers of an own IPv6 subnet (RFC 4291, 2.6.1), which is every forwarding node's. Point
    /// to point links have none (RFC 6164).
    fn is_router_anycast(&self, ip: IpAddr) -> bool {
        self.view.devices.values().flat_map(|d| &d.addresses).any(|net| match net {
            IpNet::V6(net) => net.prefix_len() < 127 && net.network() == ip,
            IpNet::V4(_) => false,
        })
    }

    pub(crate) fn is_loopback(&self, device: &str) -> bool {
        self.view.devices.get(device).is_some_and(|d| d.loopback)
    }

    /// The limited broadcast, or that of a subnet of this node (/31 and /32 have none).
    pub(crate) fn is_broadcast(&self, ip: IpAddr) -> bool {
        let IpAddr::V4(ip) = ip else { return false };
        ip == Ipv4Addr::BROADCAST
            || self.view.devices.values().flat_map(|d| &d.addresses).any(|net| match net {
                IpNet::V4(net) => net.prefix_len() < 31 && net.broadcast() == ip,
                IpNet::V6(_) => false,
            })
    }

    /// D4.
    pub(crate) fn locally_sent(&self, from: Option<&str>, src: IpAddr) -> bool {
        from.is_none() && (self.owns(src) || src.is_unspecified())
    }

    /// D3. The world routes to the outside whatever the node does not own.
    pub(crate) fn delivered_here(&self, packet: &Packet) -> bool {
        let dst = packet.dst;
        let frontend = packet.ports.map_or(Frontend::No, |p| self.frontend(dst, packet.protocol, p.1));
        let link_local = |ip| matches!(ip, IpAddr::V6(a) if a.is_unicast_link_local());
        let no_source = |ip| matches!(ip, IpAddr::V6(a) if a.is_unicast_link_local() || a.is_multicast());
        match frontend {
            Frontend::Service => false,
            Frontend::Local => true,
            // From a link-local or multicast address no kernel forwards (RFC 4291, 2.5.6 and 2.7).
            Frontend::No => {
                self.owns(dst)
                    || dst.is_multicast()
                    || self.is_broadcast(dst)
                    || link_local(dst)
                    || no_source(packet.src)
                    || self.is_router_anycast(dst)
            }
        }
    }

    fn takes_node_ports(&self, ip: IpAddr) -> bool {
        let nets = &self.view.settings.node_port_addresses;
        self.owns(ip) && (nets.is_empty() || nets.iter().any(|net| net.contains(&ip)))
    }

    pub(crate) fn frontend(&self, ip: IpAddr, protocol: u8, port: u16) -> Frontend {
        let mut found = Frontend::No;
        for service in self.world.services.values() {
            for p in service.ports.iter().filter(|p| p.protocol == protocol) {
                let vip =
                    service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips);
                let dialled = (p.port == port && vip.into_iter().any(|v| *v == ip))
                    || (p.node_port == Some(port) && self.takes_node_ports(ip));
                if !dialled {
                    continue;
                }
                let backends = self.backends(service, &p.name, protocol, ip.is_ipv4());
                if backends.is_empty() {
                    continue;
                }
                if !backends.iter().all(|b| self.owns(*b)) {
                    return Frontend::Service;
                }
                found = Frontend::Local;
            }
        }
        if self.host_port(ip, protocol, port) {
            return Frontend::Service;
        }
        if self.world.services.is_empty() && matches!(protocol, 6 | 17 | 132) && self.owns(ip) {
            let ranges =
                binding::felix(self.world, self.view, |f| f.node_port_ranges.clone()).unwrap_or_default();
            if ranges.iter().any(|r| (r.first..=r.last).contains(&port)) {
                return Frontend::Service;
            }
        }
        found
    }

    /// As kube-proxy counts: the ready ones, else those that still serve while terminating.
    fn backends(&self, service: &Service, port: &str, protocol: u8, v4: bool) -> Vec<IpAddr> {
        let slices = self.world.endpoint_slices.values().filter(|s| {
            s.namespace == service.namespace
                && s.service == service.name
                && s.ports.iter().any(|(name, proto, _)| name == port && *proto == protocol)
        });
        let (mut ready, mut leaving) = (Vec::new(), Vec::new());
        for endpoint in slices.flat_map(|s| &s.endpoints) {
            let addresses = endpoint.addresses.iter().copied().filter(|a| a.is_ipv4() == v4);
            if endpoint.ready {
                ready.extend(addresses);
            } else if endpoint.serving && endpoint.terminating {
                leaving.extend(addresses);
            }
        }
        if ready.is_empty() { leaving } else { ready }
    }

    fn host_port(&self, ip: IpAddr, protocol: u8, port: u16) -> bool {
        let pods = self.world.pods.values();
        pods.filter(|p| p.node == self.view.name && !p.host_network && !p.terminated).any(|pod| {
            pod.ips.iter().any(|a| a.is_ipv4() == ip.is_ipv4())
                && pod.ports.iter().any(|p| {
                    let here = match p.host_ip.filter(|h| !h.is_unspecified()) {
                        Some(host) => host == ip,
                        None => self.owns(ip),
                    };
                    p.protocol == protocol && p.host_port == Some(port) && here
                })
        })
    }

    /// D39: between an own address and another node's InternalIP, over a tunnel that exists here.
    pub(crate) fn infra(&self, own: IpAddr, peer: IpAddr, packet: &Packet) -> bool {
        let port = packet.ports.map(|p| p.1);
        self.view.settings.infra_tunnels
            && self.owns(own)
            && self.world.nodes.values().any(|n| n.name != self.view.name && n.internal_ips.contains(&peer))
            && self.view.devices.values().filter_map(|d| d.tunnel.as_ref()).any(|tunnel| {
                tunnel.protocol == packet.protocol && tunnel.port.is_none_or(|p| port == Some(p))
            })
    }

    /// D7: the device says so, or the annotation of its endpoint.
    pub(crate) fn accepts_ra(&self, place: &Place<'_>) -> bool {
        self.view.devices.get(place.device).is_some_and(|d| d.accept_ra) || annotated(place, "accept-ra")
    }

    /// D27: an internal source that lives elsewhere than behind this device.
    pub(crate) fn spoofed(&self, place: &Place<'_>, packet: &Packet) -> bool {
        if !annotated(place, "anti-spoof") {
            return false;
        }
        let src = packet.src;
        let pod = self.world.pods.values().find(|p| !p.host_network && !p.terminated && p.ips.contains(&src));
        let service = self.world.services.values().any(|s| s.cluster_ips.contains(&src));
        let node = self
            .world
            .nodes
            .values()
            .any(|n| n.internal_ips.contains(&src) || n.pod_cidrs.iter().any(|net| net.contains(&src)));
        // No route leads to a Service.
        service || ((pod.is_some() || node) && !self.lives_behind(place.device, src))
    }

    /// Whether the node would send to `ip` by this device. Routes are not told; what a node has anyway is: its own pods
    /// behind its workload devices, its networks on link, the rest behind the outside device.
    fn lives_behind(&self, device: &str, ip: IpAddr) -> bool {
        let devices = || self.view.devices.values().filter(|d| !d.loopback);
        let workload = |d: &&Device| binding::is_workload(self.world, self.view, &d.name);
        let own_pod =
            |p: &Pod| p.node == self.view.name && !p.host_network && !p.terminated && p.ips.contains(&ip);
        if self.world.pods.values().any(own_pod) {
            if let Some(first) = devices().find(|d| d.pod) {
                return first.name == device;
            }
            // Nothing says which device is whose.
            if devices().any(|d| workload(&d)) {
                return devices().any(|d| d.name == device && workload(&d));
            }
        }
        let on_link =
            |d: &Device| d.addresses.iter().filter(|net| net.contains(&ip)).map(IpNet::prefix_len).max();
        if let Some(longest) = devices().filter_map(on_link).max() {
            return devices().any(|d| d.name == device && on_link(d) == Some(longest));
        }
        let outside = devices()
            .filter(|d| !d.pod && !d.addresses.is_empty())
            .min_by_key(|d| (!d.default_route, d.tunnel.is_some(), d.vlan.is_some(), d.name.clone()));
        outside.is_some_and(|d| d.name == device)
    }
}

/// Whether the endpoint carries `portcullis.dev/NAME: "true"` (D40).
pub(crate) fn annotated(place: &Place<'_>, name: &str) -> bool {
    let key = format!("portcullis.dev/{name}");
    place.governor.endpoint().and_then(|e| e.annotations.get(&key)).is_some_and(|v| v == "true")
}
