//! What is ours: addresses, failsafes, other ends of tunnels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_common::abi::own_flag;
use ipnet::{IpNet, Ipv4Net};

use super::binding::DeviceBinding;
use crate::policy::{Failsafe, FelixConfiguration, NodeView, Protocol, World, defaults};

/// Calico's device for IPVS: its addresses are the cluster's, not this node's, so no NodePort is there.
const IPVS_DEVICE: &str = "kube-ipvs0";

/// Own addresses of every device and the broadcast addresses of their subnets, with `own_flag` bits (D1, D3).
pub fn own_addresses(view: &NodeView) -> BTreeMap<IpNet, u32> {
    let mut own: BTreeMap<IpNet, u32> = BTreeMap::new();
    // The kernel answers on all of 127.0.0.0/8, whatever `ip addr` shows.
    let loopback = [
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    for net in loopback {
        own.insert(net, own_flag::OWN);
    }
    let wanted = &view.settings.node_port_addresses;
    for device in view.devices.values() {
        for address in &device.addresses {
            let ip = address.addr();
            let node_ports = !ip.is_loopback()
                && device.name != IPVS_DEVICE
                && (wanted.is_empty() || wanted.iter().any(|n| n.contains(&ip)));
            let flags = own_flag::OWN | if node_ports { own_flag::NODE_PORTS } else { 0 };
            *own.entry(IpNet::from(ip)).or_default() |= flags;
            // Networks of two addresses or one have no broadcast address (RFC 3021).
            if let IpNet::V4(net) = address
                && net.prefix_len() <= 30
                && !ip.is_loopback()
            {
                *own.entry(IpNet::from(IpAddr::V4(net.broadcast()))).or_default() |= own_flag::BROADCAST;
            }
        }
    }
    own
}

/// Whether an address is one of [`own_addresses`], broadcasts left out.
pub fn is_own(own: &BTreeMap<IpNet, u32>, ip: &IpAddr) -> bool {
    ip.is_loopback() || own.get(&IpNet::from(*ip)).is_some_and(|flags| flags & own_flag::OWN != 0)
}

/// D27: where pods, Services and nodes have their addresses, as far as the documents say. Empty unless a device asks.
pub fn internal_ranges(world: &World, devices: &BTreeMap<String, DeviceBinding>) -> BTreeMap<IpNet, u32> {
    let mut ranges = BTreeMap::new();
    if !devices.values().any(|d| d.anti_spoof) {
        return ranges;
    }
    let mut add = |net: IpNet, bits: u32| *ranges.entry(net.trunc()).or_default() |= bits;
    for node in world.nodes.values() {
        node.pod_cidrs.iter().for_each(|net| add(*net, own_flag::INTERNAL));
        node.internal_ips.iter().for_each(|ip| add(IpNet::from(*ip), own_flag::INTERNAL));
    }
    // Host-networked pods send as their node.
    for pod in world.pods.values().filter(|p| !p.host_network && !p.terminated) {
        pod.ips.iter().for_each(|ip| add(IpNet::from(*ip), own_flag::INTERNAL));
    }
    for ip in world.services.values().flat_map(|s| &s.cluster_ips) {
        add(IpNet::from(*ip), own_flag::INTERNAL | own_flag::SERVICE);
    }
    ranges
}

/// As configured, or the defaults (D1).
pub fn failsafe_inbound(felix: &FelixConfiguration) -> Vec<Failsafe> {
    felix.failsafe_inbound.clone().unwrap_or_else(defaults::failsafe_inbound)
}

/// As configured, or the defaults (D1, D2).
pub fn failsafe_outbound(felix: &FelixConfiguration) -> Vec<Failsafe> {
    felix.failsafe_outbound.clone().unwrap_or_else(defaults::failsafe_outbound)
}

/// D39: InternalIPs of the other nodes, for each kind of tunnel that exists here.
pub fn infra_peers(world: &World, view: &NodeView) -> BTreeSet<(IpAddr, Protocol, u16)> {
    if !view.settings.infra_tunnels {
        return BTreeSet::new();
    }
    let others = world.nodes.values().filter(|n| n.name != view.name);
    let peers: BTreeSet<IpAddr> = others.flat_map(|n| n.internal_ips.iter().copied()).collect();
    let tunnels = view.devices.values().filter_map(|d| d.tunnel.as_ref());
    tunnels.flat_map(|t| peers.iter().map(|ip| (*ip, t.protocol, t.port.unwrap_or(0)))).collect()
}
