//! Service frontends: where traffic arrives that kube-proxy (or a port map) will redirect (D3).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use dataplane_common::abi::{frontend_flag, own_flag};
use ipnet::IpNet;

use super::local::is_own;
use crate::policy::{EndpointSlice, NodeView, Pod, PortRange, Protocol, ServicePort, World, defaults};

/// (address, protocol, port) → `frontend_flag` bits.
type Frontends = BTreeMap<(IpAddr, Protocol, u16), u32>;

/// (namespace, name)
type Key = (String, String);

/// Where a Service leads, for rules that name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// By (protocol, port), as slices list them.
    pub ports: BTreeMap<(Protocol, u16), Vec<IpNet>>,
    /// Whatever the port.
    pub addresses: Vec<IpNet>,
}

/// Backends of every Service that has an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends(BTreeMap<Key, Backend>);

impl Backends {
    /// Reads every EndpointSlice.
    pub fn new(world: &World) -> Self {
        let mut all: BTreeMap<Key, Backend> = BTreeMap::new();
        for slice in world.endpoint_slices.values() {
            let addresses = slice.endpoints.iter().flat_map(|e| &e.addresses).map(|ip| IpNet::from(*ip));
            let addresses: Vec<IpNet> = addresses.collect();
            let backend = all.entry((slice.namespace.clone(), slice.service.clone())).or_default();
            for (_, protocol, port) in &slice.ports {
                backend.ports.entry((*protocol, *port)).or_default().extend(&addresses);
            }
            backend.addresses.extend(addresses);
        }
        Self(all)
    }
    /// `None`: no slice.
    pub fn of(&self, service: &Key) -> Option<&Backend> {
        self.0.get(service)
    }
}

/// Whether a port map of this node leads to this pod.
pub fn is_forwarded(pod: &Pod, view: &NodeView) -> bool {
    let here = pod.node == view.name && !pod.host_network && !pod.terminated;
    here && pod.ports.iter().any(|port| port.host_port.is_some())
}

/// Every frontend that has an endpoint, and host ports of this node's pods: those `forwarded`.
pub fn frontends(world: &World, own: &BTreeMap<IpNet, u32>, forwarded: &BTreeSet<Key>) -> Frontends {
    let mut slices: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in world.endpoint_slices.values() {
        slices.entry((&slice.namespace, &slice.service)).or_default().push(slice);
    }
    let mut found = Frontends::new();
    let node_port_ips: Vec<IpAddr> = own
        .iter()
        .filter(|(_, flags)| **flags & own_flag::NODE_PORTS != 0)
        .map(|(net, _)| net.addr())
        .collect();
    for service in world.services.values() {
        let slices = slices.get(&(service.namespace.as_str(), service.name.as_str()));
        for port in &service.ports {
            let backends = backends(slices.map_or(&[], Vec::as_slice), port);
            let vips =
                service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips);
            let mut dialled: Vec<(IpAddr, u16)> = vips.map(|ip| (*ip, port.port)).collect();
            if let Some(node_port) = port.node_port {
                dialled.extend(node_port_ips.iter().map(|ip| (*ip, node_port)));
            }
            for (ip, number) in dialled {
                if let Some(flags) = flags_for(&ip, &backends, own) {
                    // Two Services behind one frontend: LOCAL only when both are.
                    found.entry((ip, port.protocol, number)).and_modify(|f| *f &= flags).or_insert(flags);
                }
            }
        }
    }
    for (key, flags) in host_ports(world, own, forwarded) {
        found.insert(key, flags);
    }
    found
}

/// `kubeNodePortRanges`, which only counts as long as no Service is known (D3).
pub fn node_port_ranges(world: &World, node: &str) -> Vec<PortRange> {
    if world.services.is_empty() {
        defaults::felix_of(world, node).node_port_ranges.unwrap_or_default()
    } else {
        Vec::new()
    }
}

/// `None` without a backend of the frontend's family: kube-proxy makes no rule then.
fn flags_for(frontend: &IpAddr, backends: &[IpAddr], own: &BTreeMap<IpNet, u32>) -> Option<u32> {
    let mut family = backends.iter().filter(|b| b.is_ipv4() == frontend.is_ipv4()).peekable();
    family.peek()?;
    let local = family.all(|b| is_own(own, b));
    Some(frontend_flag::SERVICE | if local { frontend_flag::LOCAL } else { 0 })
}

/// Ready endpoints, or, when there are none, those that serve while they terminate (D3).
fn backends(slices: &[&EndpointSlice], port: &ServicePort) -> Vec<IpAddr> {
    let slices = slices.iter().filter(|s| {
        s.ports.iter().any(|(name, protocol, _)| *name == port.name && *protocol == port.protocol)
    });
    let endpoints: Vec<_> = slices.flat_map(|s| &s.endpoints).collect();
    let of_family = |v4: bool| -> Vec<IpAddr> {
        let pick = |wanted: &dyn Fn(&crate::policy::Endpoint) -> bool| -> Vec<IpAddr> {
            let chosen = endpoints.iter().filter(|e| wanted(e));
            chosen.flat_map(|e| e.addresses.iter().copied()).filter(|ip| ip.is_ipv4() == v4).collect()
        };
        let ready = pick(&|e| e.ready);
        if ready.is_empty() { pick(&|e| e.serving && e.terminating) } else { ready }
    };
    let mut all = of_family(true);
    all.extend(of_family(false));
    all
}

/// Host ports of pods that run here behind a port map.
fn host_ports(world: &World, own: &BTreeMap<IpNet, u32>, forwarded: &BTreeSet<Key>) -> Frontends {
    let mut found = Frontends::new();
    for pod in forwarded.iter().filter_map(|key| world.pods.get(key)) {
        for port in &pod.ports {
            let Some(number) = port.host_port else { continue };
            let everywhere = own.iter().filter(|(_, f)| **f & own_flag::OWN != 0).map(|(net, _)| net.addr());
            let dialled: Vec<IpAddr> = match port.host_ip {
                Some(ip) if !ip.is_unspecified() => vec![ip],
                _ => everywhere.filter(|ip| !ip.is_loopback()).collect(),
            };
            for ip in dialled {
                if pod.ips.iter().any(|p| p.is_ipv4() == ip.is_ipv4()) {
                    found.insert((ip, port.protocol, number), frontend_flag::SERVICE);
                }
            }
        }
    }
    found
}
