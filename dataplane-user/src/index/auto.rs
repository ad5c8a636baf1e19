//! Host endpoints that Calico's kube-controllers would make from Node objects (`semantics.md` §8, D44).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::{AutoTemplate, Device, HepInterface, HostEndpoint, Labels, Node, NodeView, World};

/// The profile of every endpoint made here.
const AUTO_PROFILE: &str = "projectcalico-default-allow";
const CREATED_BY: (&str, &str) = ("projectcalico.org/created-by", "calico-kube-controllers");
/// Longest name of a Kubernetes object.
const MAX_NAME: usize = 253;
/// Annotations in which Calico keeps a node's addresses, in the order of §8.
const ADDRESS_ANNOTATIONS: [&str; 7] = [
    "projectcalico.org/IPv4Address",
    "projectcalico.org/IPv6Address",
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
    "projectcalico.org/IPv6WireguardInterfaceAddr",
];

/// Whether an endpoint was made from a Node.
pub fn is_automatic(endpoint: &HostEndpoint) -> bool {
    endpoint.labels.get(CREATED_BY.0).is_some_and(|value| value == CREATED_BY.1)
}

/// The written endpoints and the automatic ones, of every node. An automatic one wins over a written one of the
/// same name: kube-controllers would revert the edit.
pub fn with_auto_endpoints(world: &World, view: &NodeView) -> BTreeMap<String, HostEndpoint> {
    let mut all = world.host_endpoints.clone();
    if !world.kube_controllers.auto_create {
        return all;
    }
    for node in world.nodes.values() {
        if world.kube_controllers.create_default {
            let name = bounded(format!("{}-auto-hep", node.name));
            all.insert(
                name.clone(),
                endpoint(node, name, HepInterface::All, node_addresses(node), &Labels::new()),
            );
        }
        for template in &world.kube_controllers.templates {
            if template.node_selector.matches(&node.labels) {
                for hep in from_template(node, template, view) {
                    all.insert(hep.name.clone(), hep);
                }
            }
        }
    }
    all
}

fn endpoint(
    node: &Node,
    name: String,
    interface: HepInterface,
    expected_ips: Vec<IpAddr>,
    extra: &Labels,
) -> HostEndpoint {
    let mut labels = node.labels.clone();
    labels.extend(extra.clone());
    labels.insert(CREATED_BY.0.to_owned(), CREATED_BY.1.to_owned());
    HostEndpoint {
        name,
        labels,
        annotations: Labels::new(),
        node: node.name.clone(),
        interface,
        expected_ips,
        profiles: vec![AUTO_PROFILE.to_owned()],
        ports: Vec::new(),
    }
}

fn from_template(node: &Node, template: &AutoTemplate, view: &NodeView) -> Vec<HostEndpoint> {
    let base = format!("{}-{}", node.name, template.generate_name);
    let wanted = |ip: &IpAddr| {
        template.interface_cidrs.is_empty() || template.interface_cidrs.iter().any(|n| n.contains(ip))
    };
    let own = node.name == view.name;
    match (&template.interface_pattern, own) {
        (Some(pattern), true) => {
            // Validation compiled the pattern once already; one that does not compile selects no device.
            let Ok(pattern) = regex::Regex::new(pattern) else { return Vec::new() };
            let matching = view.devices.values().filter(|d| !d.loopback && pattern.is_match(&d.name));
            matching
                .map(|device| {
                    let ips: Vec<_> = device_addresses(device).filter(|ip| wanted(ip)).collect();
                    let name = bounded(format!("{base}-{}-auto-hep", device.name));
                    endpoint(node, name, HepInterface::Named(device.name.clone()), ips, &template.labels)
                })
                .collect()
        }
        // The devices of other nodes are unknown here; their addresses stand in the Node object (D44).
        (Some(_), false) | (None, _) => {
            let mut ips = node_addresses(node);
            if own {
                ips.extend(view.devices.values().filter(|d| !d.loopback).flat_map(device_addresses));
            }
            let ips: Vec<_> = without_repeats(ips).into_iter().filter(wanted).collect();
            if ips.is_empty() {
                return Vec::new();
            }
            vec![endpoint(
                node,
                bounded(format!("{base}-auto-hep")),
                HepInterface::ByAddress,
                ips,
                &template.labels,
            )]
        }
    }
}

fn device_addresses(device: &Device) -> impl Iterator<Item = IpAddr> + '_ {
    device.addresses.iter().map(IpNet::addr)
}

/// Calico's own addresses, then InternalIPs; each once.
fn node_addresses(node: &Node) -> Vec<IpAddr> {
    let annotated = ADDRESS_ANNOTATIONS.iter().filter_map(|key| node.annotations.get(*key));
    // `IPv4Address` carries its prefix length, the tunnel addresses do not.
    let annotated = annotated.filter_map(|text| text.split('/').next()?.trim().parse::<IpAddr>().ok());
    without_repeats(annotated.chain(node.internal_ips.iter().copied()).collect())
}

fn without_repeats(ips: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut seen = std::collections::BTreeSet::new();
    ips.into_iter().filter(|ip| seen.insert(*ip)).collect()
}

/// Names that are too long are cut and told apart by a hash of the whole.
fn bounded(name: String) -> String {
    if name.len() <= MAX_NAME {
        return name;
    }
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let keep: String = name.chars().take(MAX_NAME - 26).collect();
    format!("{keep}-{hash:016x}-auto-hep")
}
