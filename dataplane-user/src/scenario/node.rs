//! The node of a scenario: its devices as netlink would show them, and the pods behind workload devices.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::format::{Interface, LinkLayer, PolicyChange, Spec, TunnelKind, TunnelSpec};
use crate::policy::defaults::node_port_networks;
use crate::policy::{Device, NodeView, OnPolicyChange, Pod, Tunnel, World};

/// The hardware address of a device: locally administered, numbered by ifindex.
pub(crate) fn mac(ifindex: u32) -> [u8; 6] {
    let n = ifindex.to_be_bytes();
    [0x02, 0, n[0], n[1], n[2], n[3]]
}

/// fe80::/64 with the interface identifier of RFC 4291, appendix A.
fn link_local(ifindex: u32) -> IpNet {
    let m = mac(ifindex);
    let mut a = [0; 16];
    a[..2].copy_from_slice(&[0xfe, 0x80]);
    a[8..].copy_from_slice(&[m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]]);
    ipnet::Ipv6Net::new_assert(Ipv6Addr::from(a), 64).into()
}

fn addresses(path: &str, texts: &[String]) -> Result<Vec<IpNet>, String> {
    texts
        .iter()
        .map(|text| {
            text.parse::<IpNet>()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
                .map_err(|_| format!("{path}: {text:?} is no address: write 10.0.0.1/24 or fd00::1/64"))
        })
        .collect()
}

fn tunnel(spec: &TunnelSpec) -> Tunnel {
    let (protocol, port) = match spec.kind {
        TunnelKind::Vxlan => (17, Some(4789)),
        TunnelKind::Geneve => (17, Some(6081)),
        TunnelKind::Wireguard => (17, Some(51820)),
        TunnelKind::Ipip => (4, None),
        TunnelKind::Sit => (41, None),
        TunnelKind::Gre => (47, None),
    };
    Tunnel { protocol, port: port.map(|default| spec.port.unwrap_or(default)) }
}

fn device(path: &str, spec: &Interface, ifindex: u32) -> Result<Device, String> {
    let loopback = spec.name == "lo";
    let mut all = addresses(path, &spec.addresses)?;
    if loopback {
        all.extend(loopback_addresses());
    } else {
        all.push(link_local(ifindex));
    }
    Ok(Device {
        name: spec.name.clone(),
        ifindex,
        addresses: all,
        loopback,
        pod: spec.workload.is_some(),
        accept_ra: spec.accept_ra,
        no_link_layer: spec.link_layer == Some(LinkLayer::None),
        default_route: spec.default_route,
        bridge_ports: spec.bridge_ports.clone(),
        tunnel: spec.tunnel.as_ref().map(tunnel),
        vlan: spec.vlan.as_ref().map(|v| (v.parent.clone(), v.id)),
    })
}

fn loopback_addresses() -> Vec<IpNet> {
    vec![
        ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::LOCALHOST, 8).into(),
        ipnet::Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
    ]
}

/// The node as netlink would show it. `lo` is 1, the others count from 2 in the order of the file.
pub(crate) fn view(spec: &Spec) -> Result<NodeView, (usize, String)> {
    let mut view = NodeView { name: spec.node.clone(), ..NodeView::default() };
    let lo = Device {
        name: "lo".into(),
        ifindex: 1,
        addresses: loopback_addresses(),
        loopback: true,
        ..Device::default()
    };
    view.devices.insert("lo".into(), lo);
    let mut next = 2;
    for (index, interface) in spec.interfaces.iter().enumerate() {
        let (line, path) = (interface.referenced.line() as usize, format!("spec.interfaces[{index}]"));
        let interface = &interface.value;
        let fail = |why: String| (line, why);
        if interface.name.is_empty() || interface.name.len() > 15 {
            return Err(fail(format!(
                "{path}.name {:?} is no device name: 1 to 15 characters",
                interface.name
            )));
        }
        let loopback = interface.name == "lo";
        let made = device(&path, interface, if loopback { 1 } else { next }).map_err(fail)?;
        if view.devices.insert(made.name.clone(), made).is_some() && !loopback {
            return Err(fail(format!("{path}.name {:?} stands twice: take one away", interface.name)));
        }
        next += u32::from(!loopback);
    }
    let settings = &mut view.settings;
    settings.on_policy_change = match spec.on_policy_change {
        PolicyChange::Keep => OnPolicyChange::Keep,
        PolicyChange::Recheck => OnPolicyChange::Recheck,
    };
    if let Some(nets) = &spec.settings.node_port_addresses {
        let nets = addresses("spec.settings.nodePortAddresses", nets).map_err(|why| (0, why))?;
        settings.node_port_addresses = node_port_networks(nets);
    }
    settings.infra_tunnels = spec.settings.infra_tunnels.unwrap_or(settings.infra_tunnels);
    settings.govern_loopback = spec.settings.govern_loopback.unwrap_or(settings.govern_loopback);
    settings.grace_seconds = spec.settings.grace_seconds.unwrap_or(settings.grace_seconds);
    Ok(view)
}

/// The pods of `workload:` devices, unless a document describes them.
pub(crate) fn add_pods(spec: &Spec, world: &mut World) -> Result<(), (usize, String)> {
    for (index, interface) in spec.interfaces.iter().enumerate() {
        let Some(workload) = &interface.value.workload else { continue };
        let path = format!("spec.interfaces[{index}].workload");
        let nets = addresses(&path, &workload.addresses)
            .map_err(|why| (interface.referenced.line() as usize, why))?;
        let ips: Vec<IpAddr> = nets.iter().map(IpNet::addr).collect();
        let pod =
            world.pods.entry((workload.namespace.clone(), workload.name.clone())).or_insert_with(|| Pod {
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
                node: spec.node.clone(),
                ..Pod::default()
            });
        if pod.ips.is_empty() {
            pod.ips = ips;
        }
    }
    Ok(())
}
