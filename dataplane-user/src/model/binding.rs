//! Which host endpoint governs which device (semantics §7, §8; D5, D6, D44, D47).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::{Device, FelixConfiguration, HepInterface, HostEndpoint, Labels, Node, NodeView, World};

/// What governs a device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Governor {
    None,
    /// Every list (untracked only by a named one).
    Host(HostEndpoint),
    /// A workload device under a `*` endpoint: preDNAT and forward lists only (D6).
    Workload(HostEndpoint),
}

impl Governor {
    pub(crate) fn endpoint(&self) -> Option<&HostEndpoint> {
        match self {
            Self::None => None,
            Self::Host(e) | Self::Workload(e) => Some(e),
        }
    }
}

/// All host endpoints of the cluster: written ones, and those that Node objects make.
pub(crate) fn endpoints(world: &World, view: &NodeView) -> BTreeMap<String, HostEndpoint> {
    let mut all = world.host_endpoints.clone();
    if world.kube_controllers.auto_create {
        for node in world.nodes.values() {
            for endpoint in automatic(world, view, node) {
                all.insert(endpoint.name.clone(), endpoint);
            }
        }
    }
    all
}

/// Addresses that a Node object tells, in the order of §8: Calico's own, then InternalIPs. No other type counts.
fn told_addresses(node: &Node) -> Vec<IpAddr> {
    let calico = [
        "IPv4Address",
        "IPv6Address",
        "IPv4IPIPTunnelAddr",
        "IPv4VXLANTunnelAddr",
        "IPv6VXLANTunnelAddr",
        "IPv4WireguardInterfaceAddr",
        "IPv6WireguardInterfaceAddr",
    ];
    let annotation = |name: &&str| node.annotations.get(&format!("projectcalico.org/{name}"));
    let text = calico.iter().filter_map(annotation);
    // `IPv4Address` is written with its prefix length.
    let told = text.filter_map(|t| t.parse().or_else(|_| t.parse().map(|net: IpNet| net.addr())).ok());
    told.chain(node.internal_ips.iter().copied()).collect()
}

fn automatic(world: &World, view: &NodeView, node: &Node) -> Vec<HostEndpoint> {
    let make = |middle: &str, interface: HepInterface, ips: Vec<IpAddr>, labels: &Labels| {
        let mut all = node.labels.clone();
        all.extend(labels.clone());
        all.insert("projectcalico.org/created-by".into(), "calico-kube-controllers".into());
        let mut seen = BTreeSet::new();
        HostEndpoint {
            name: format!("{}-{middle}auto-hep", node.name),
            labels: all,
            annotations: Labels::new(),
            node: node.name.clone(),
            interface,
            expected_ips: ips.into_iter().filter(|ip| seen.insert(*ip)).collect(),
            profiles: vec!["projectcalico-default-allow".into()],
            ports: Vec::new(),
        }
    };
    let told = told_addresses(node);
    let mut made = Vec::new();
    if world.kube_controllers.create_default {
        made.push(make("", HepInterface::All, told.clone(), &Labels::new()));
    }
    let own = node.name == view.name;
    let devices: Vec<&Device> = view.devices.values().filter(|d| own && !d.loopback).collect();
    let on = |device: &Device| device.addresses.iter().map(IpNet::addr).collect::<Vec<_>>();
    for template in world.kube_controllers.templates.iter().filter(|t| t.node_selector.matches(&node.labels))
    {
        let inside = |ip: &IpAddr| {
            template.interface_cidrs.is_empty() || template.interface_cidrs.iter().any(|net| net.contains(ip))
        };
        let name = &template.generate_name;
        match template.interface_pattern.as_ref().filter(|_| own) {
            Some(pattern) => {
                let Ok(pattern) = regex::Regex::new(pattern) else { continue };
                for device in devices.iter().filter(|d| pattern.is_match(&d.name)) {
                    let ips = on(device).into_iter().filter(inside).collect();
                    let interface = HepInterface::Named(device.name.clone());
                    made.push(make(&format!("{name}-{}-", device.name), interface, ips, &template.labels));
                }
            }
            // Also what a pattern makes on other nodes: their devices are not known here, what Node tells is (D44).
            None => {
                let all = told.iter().copied().chain(devices.iter().flat_map(|d| on(d)));
                let ips: Vec<IpAddr> = all.filter(inside).collect();
                if !ips.is_empty() {
                    made.push(make(&format!("{name}-"), HepInterface::ByAddress, ips, &template.labels));
                }
            }
        }
    }
    made
}

/// A field of the node's own FelixConfiguration, where it has one that says something, else of `default`.
pub(crate) fn felix<T>(
    world: &World,
    view: &NodeView,
    field: impl Fn(&FelixConfiguration) -> Option<T>,
) -> Option<T> {
    let own = world.felix_of_nodes.get(&view.name).and_then(&field);
    if own.is_some() { own } else { field(&world.felix) }
}

/// D47.
pub(crate) fn is_workload(world: &World, view: &NodeView, name: &str) -> bool {
    let device = view.devices.get(name);
    if device.is_some_and(|d| d.pod) || name.starts_with("cali") {
        return true;
    }
    let named = endpoints(world, view)
        .values()
        .any(|e| e.node == view.name && e.interface == HepInterface::Named(name.to_string()));
    if named || device.is_some_and(|d| d.default_route || d.loopback) {
        return false;
    }
    let configured = felix(world, view, |f| f.interface_prefixes.clone()).unwrap_or_default();
    let mut prefixes: Vec<&str> = configured.iter().map(String::as_str).collect();
    prefixes.extend(["veth", "lxc", "eni", "gke", "azv"]);
    if prefixes.iter().any(|p| name.starts_with(p)) {
        return true;
    }
    // A port is a device of this node, and no bridge: bridges do not stand in bridges.
    let port = |p: &String| {
        view.devices.get(p).is_some_and(|d| d.bridge_ports.is_none()) && is_workload(world, view, p)
    };
    device
        .and_then(|d| d.bridge_ports.as_ref())
        .is_some_and(|ports| !ports.is_empty() && ports.iter().all(port))
}

/// `interfaceExclude` (§7): names, and regular expressions between slashes.
pub(crate) fn is_excluded(world: &World, view: &NodeView, name: &str) -> bool {
    let entries =
        felix(world, view, |f| f.interface_exclude.clone()).unwrap_or_else(|| vec!["kube-ipvs0".into()]);
    entries.iter().any(|entry| match entry.strip_prefix('/').and_then(|e| e.strip_suffix('/')) {
        Some(pattern) => regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(name)),
        None => entry == name,
    })
}

/// Who governs a device.
pub(crate) fn governor(world: &World, view: &NodeView, name: &str) -> Governor {
    let Some(device) = view.devices.get(name) else { return Governor::None };
    if device.loopback && !view.settings.govern_loopback {
        return Governor::None;
    }
    if is_excluded(world, view, name) {
        return Governor::None;
    }
    // A BTreeMap: the smallest name comes first and wins.
    let all = endpoints(world, view);
    let own: Vec<&HostEndpoint> = all.values().filter(|e| e.node == view.name).collect();
    let any = own.iter().find(|e| e.interface == HepInterface::All);
    if is_workload(world, view, name) {
        return any.map_or(Governor::None, |e| Governor::Workload((*e).clone()));
    }
    let specific = own.iter().find(|e| match &e.interface {
        HepInterface::All => false,
        HepInterface::Named(n) => n == name,
        HepInterface::ByAddress => {
            e.expected_ips.iter().any(|ip| device.addresses.iter().any(|net| net.addr() == *ip))
        }
    });
    specific.or(any).map_or(Governor::None, |e| Governor::Host((*e).clone()))
}

/// Whether any device of the node is governed: only then flows are kept (D42).
pub(crate) fn any_governed(world: &World, view: &NodeView) -> bool {
    view.devices.keys().any(|name| governor(world, view, name) != Governor::None)
}
