//! The node as the kernel shows it: devices, addresses and default routes by netlink, and word of every change.
//! Read whole each time: a view is never patched, so it cannot drift.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};
use dataplane_common::abi::Hook;
use dataplane_common::packet::protocol;
use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoGeneve, InfoKind, InfoVlan, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::tc::{TcAttribute, TcMessage};
use rtnetlink::{Handle, IpVersion, MulticastGroup, RouteMessageBuilder};

use super::attach::{HOOKS, Mechanism, runs_by_link};
use super::chain::chain;
use crate::policy::{Device, NodeView, Settings, Tunnel};

/// UDP ports that the kernel takes when a tunnel device names none.
const VXLAN_PORT: u16 = 4789;
const GENEVE_PORT: u16 = 6081;
/// IP protocols of tunnels without ports (D39).
const IPIP: u8 = 4;
const SIT: u8 = 41;
const GRE: u8 = 47;

/// A connection to the kernel's network configuration, for views.
pub struct Links {
    handle: Handle,
}

/// Word of changes.
pub struct Changes {
    messages: UnboundedReceiver<Message>,
}

type Message = (
    rtnetlink::packet_core::NetlinkMessage<rtnetlink::packet_route::RouteNetlinkMessage>,
    rtnetlink::sys::SocketAddr,
);

impl Changes {
    /// Waits for the next change of any device, address or route; takes all that are queued with it. False when the
    /// connection ended.
    pub async fn next(&mut self) -> bool {
        if self.messages.next().await.is_none() {
            return false;
        }
        while self.messages.try_recv().is_ok() {}
        true
    }
}

impl Links {
    /// Connects and subscribes at once, so that no change between the first view and the first wait is lost. Needs
    /// a running tokio runtime.
    pub fn connect() -> Result<(Self, Changes)> {
        Self::connect_for(Mechanism::Tcx)
    }

    /// As [`Self::connect`]. The kernel tells when a filter is removed; of a link that is detached it tells nothing.
    pub fn connect_for(mechanism: Mechanism) -> Result<(Self, Changes)> {
        let mut groups = vec![
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        if mechanism == Mechanism::Clsact {
            groups.push(MulticastGroup::Tc);
        }
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).context("cannot open a netlink route socket")?;
        tokio::spawn(connection);
        Ok((Self { handle }, Changes { messages }))
    }

    /// The whole view, now.
    pub async fn view(&self, node: &str) -> Result<NodeView> {
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.context("cannot list network devices")?;
        let addresses: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.context("cannot list addresses")?;
        let mut routes = self.routes(IpVersion::V4).await.context("cannot list IPv4 routes")?;
        // A kernel without IPv6 has no such routes, and that is no error.
        routes.extend(self.routes(IpVersion::V6).await.unwrap_or_default());
        let sockets = Sysctls::read();
        Ok(NodeView {
            name: node.to_owned(),
            devices: devices(&links, &addresses, &routes, &sockets),
            settings: Settings::default(),
        })
    }

    /// Whether this very program runs at a hook of a device.
    pub async fn runs(&self, program: u32, by: Mechanism, hook: Hook, device: &Device) -> Result<bool> {
        if by == Mechanism::Tcx {
            return runs_by_link(program, hook, &device.name);
        }
        let places = chain(&self.handle, &BTreeSet::new(), hook, &device.name, device.ifindex).await?;
        Ok(places.iter().any(|place| place.by == "clsact" && place.program == Some(program)))
    }

    /// ifindex → hooks that run a filter of ours, whichever agent put it there.
    pub async fn filters(&self, view: &NodeView) -> Result<BTreeMap<u32, BTreeSet<Hook>>> {
        let qdiscs: Vec<TcMessage> =
            self.handle.qdisc().get().execute().try_collect().await.context("cannot list qdiscs")?;
        let is_clsact = |a: &TcAttribute| matches!(a, TcAttribute::Kind(kind) if kind == "clsact");
        let with: BTreeSet<u32> = qdiscs
            .iter()
            .filter(|q| q.attributes.iter().any(is_clsact))
            .filter_map(|q| u32::try_from(q.header.index).ok())
            .collect();
        let mut found: BTreeMap<u32, BTreeSet<Hook>> = BTreeMap::new();
        for device in view.devices.values().filter(|d| with.contains(&d.ifindex)) {
            for hook in HOOKS {
                let places =
                    chain(&self.handle, &BTreeSet::new(), hook, &device.name, device.ifindex).await?;
                if places.iter().any(|place| place.by == "clsact" && place.ours) {
                    found.entry(device.ifindex).or_default().insert(hook);
                }
            }
        }
        Ok(found)
    }

    async fn routes(&self, version: IpVersion) -> Result<Vec<RouteMessage>, rtnetlink::Error> {
        let request = match version {
            IpVersion::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            IpVersion::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        };
        let keep = |r: &RouteMessage| {
            r.header.kind == RouteType::Unicast
                && (r.header.destination_prefix_length == 0 || r.header.protocol == RouteProtocol::Ra)
        };
        let all = self.handle.route().get(request).execute();
        // A busy router has a million routes: keep the few that matter while they stream in.
        all.try_filter(|r| futures::future::ready(keep(r))).try_collect().await
    }
}

/// What says that this host takes router advertisements, apart from routes (D7).
struct Sysctls {
    /// Some process holds a raw ICMPv6 socket: a network manager that reads advertisements itself.
    manager: bool,
}

impl Sysctls {
    fn read() -> Self {
        let table = fs::read_to_string("/proc/net/raw6").unwrap_or_default();
        Self { manager: has_raw_icmpv6(&table) }
    }

    /// `accept_ra` of the device: 1 counts only while the device does not forward, 2 always.
    fn accept_ra(&self, device: &str) -> bool {
        let value = |name: &str| {
            let path = format!("/proc/sys/net/ipv6/conf/{device}/{name}");
            fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i32>().ok()).unwrap_or(0)
        };
        match value("accept_ra") {
            2 => true,
            1 => value("forwarding") == 0 || self.manager,
            _ => self.manager,
        }
    }
}

/// `/proc/net/raw6` shows the protocol as the local port. A raw socket of a `ping` is connected or short-lived; one
/// that is bound to nothing and owned by root or a service is what a manager holds.
fn has_raw_icmpv6(table: &str) -> bool {
    let want = format!("{:04X}", protocol::ICMPV6);
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or("");
        let remote = fields.next().unwrap_or("");
        let unconnected = remote.split(':').next().is_some_and(|a| a.bytes().all(|b| b == b'0'));
        local.rsplit(':').next() == Some(&want) && unconnected
    })
}

fn devices(
    links: &[LinkMessage],
    addresses: &[AddressMessage],
    routes: &[RouteMessage],
    sysctls: &Sysctls,
) -> BTreeMap<String, Device> {
    let names: BTreeMap<u32, String> =
        links.iter().filter_map(|l| Some((l.header.index, name_of(l)?))).collect();
    let (with_default, with_ra) = route_devices(routes);
    let mut ports: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for link in links {
        if let (Some(bridge), Some(name)) = (controller(link), names.get(&link.header.index)) {
            ports.entry(bridge).or_default().push(name.clone());
        }
    }
    let mut devices = BTreeMap::new();
    for link in links {
        let index = link.header.index;
        let Some(name) = names.get(&index) else { continue };
        let (kind, data) = info(link);
        let is_bridge = kind == Some(&InfoKind::Bridge);
        let device = Device {
            name: name.clone(),
            ifindex: index,
            addresses: addresses_of(index, addresses),
            loopback: link.header.flags.contains(LinkFlags::Loopback),
            pod: false,
            accept_ra: with_ra.contains(&index) || sysctls.accept_ra(name),
            no_link_layer: !has_ethernet(link.header.link_layer_type),
            default_route: with_default.contains(&index),
            bridge_ports: is_bridge.then(|| {
                let mut list = ports.remove(&index).unwrap_or_default();
                list.sort();
                list
            }),
            tunnel: tunnel(kind, data),
            vlan: vlan(link, data, &names),
        };
        devices.insert(name.clone(), device);
    }
    devices
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

fn controller(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

fn info(link: &LinkMessage) -> (Option<&InfoKind>, Option<&InfoData>) {
    let all = || {
        link.attributes
            .iter()
            .filter_map(|a| match a {
                LinkAttribute::LinkInfo(list) => Some(list),
                _ => None,
            })
            .flatten()
    };
    let kind = all().find_map(|i| match i {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    let data = all().find_map(|i| match i {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    (kind, data)
}

fn has_ethernet(kind: LinkLayerType) -> bool {
    matches!(kind, LinkLayerType::Ether | LinkLayerType::Loopback)
}

/// Addresses of one device, each with the prefix that `ip addr` shows.
fn addresses_of(index: u32, all: &[AddressMessage]) -> Vec<IpNet> {
    let mut list: Vec<IpNet> = all
        .iter()
        .filter(|a| a.header.index == index)
        .filter_map(|a| {
            let local = a.attributes.iter().find_map(|x| match x {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            let address = a.attributes.iter().find_map(|x| match x {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            });
            let own: IpAddr = local.or(address)?;
            // On a point-to-point device the prefix is the peer's; only the one address is ours.
            let peer = local.is_some() && address.is_some_and(|a| Some(a) != local);
            let host_bits = if own.is_ipv4() { 32 } else { 128 };
            IpNet::new(own, if peer { host_bits } else { a.header.prefix_len }).ok()
        })
        .collect();
    list.sort();
    list.dedup();
    list
}

/// (devices of default routes, devices of routes learnt from a router advertisement)
fn route_devices(routes: &[RouteMessage]) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (mut default, mut ra) = (BTreeSet::new(), BTreeSet::new());
    for route in routes {
        let out = route.attributes.iter().flat_map(|a| match a {
            RouteAttribute::Oif(index) => vec![*index],
            RouteAttribute::MultiPath(hops) => hops.iter().map(|h| h.interface_index).collect(),
            _ => Vec::new(),
        });
        for index in out {
            if route.header.destination_prefix_length == 0 {
                default.insert(index);
            }
            if route.header.protocol == RouteProtocol::Ra {
                ra.insert(index);
            }
        }
    }
    (default, ra)
}

/// WireGuard's port is not told by route netlink: its outer packets are left to policy.
fn tunnel(kind: Option<&InfoKind>, data: Option<&InfoData>) -> Option<Tunnel> {
    let udp = |port| Some(Tunnel { protocol: protocol::UDP, port: Some(port) });
    let plain = |protocol| Some(Tunnel { protocol, port: None });
    match kind? {
        InfoKind::Vxlan => udp(match data {
            Some(InfoData::Vxlan(list)) => list
                .iter()
                .find_map(|i| match i {
                    InfoVxlan::Port(port) => Some(*port),
                    _ => None,
                })
                .unwrap_or(VXLAN_PORT),
            _ => VXLAN_PORT,
        }),
        InfoKind::Geneve => udp(match data {
            Some(InfoData::Geneve(list)) => list
                .iter()
                .find_map(|i| match i {
                    InfoGeneve::Port(port) => Some(*port),
                    _ => None,
                })
                .unwrap_or(GENEVE_PORT),
            _ => GENEVE_PORT,
        }),
        InfoKind::IpIp => plain(IPIP),
        InfoKind::SitTun => plain(SIT),
        InfoKind::GreTun | InfoKind::GreTun6 | InfoKind::GreTap | InfoKind::GreTap6 => plain(GRE),
        _ => None,
    }
}

fn vlan(link: &LinkMessage, data: Option<&InfoData>, names: &BTreeMap<u32, String>) -> Option<(String, u16)> {
    let Some(InfoData::Vlan(list)) = data else { return None };
    let id = list.iter().find_map(|i| match i {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let parent = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Link(index) => names.get(index).cloned(),
        _ => None,
    })?;
    Some((parent, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_icmpv6_of_a_manager_is_told_from_other_raw_sockets() {
        let head = "  sl  local_address                         remote_address                        st\n";
        let zero = "00000000000000000000000000000000";
        let manager = format!("{head}   58: {zero}:003A {zero}:0000 07 00000000:00000000\n");
        let other = format!("{head}    6: {zero}:0006 {zero}:0000 07 00000000:00000000\n");
        let connected = format!("{head}   58: {zero}:003A 0000000000000000FFFF00000100007F:0000 07 0\n");
        assert!(has_raw_icmpv6(&manager));
        assert!(!has_raw_icmpv6(&other));
        assert!(!has_raw_icmpv6(&connected));
    }

    #[tokio::test]
    async fn the_view_holds_the_loopback_device() {
        let (links, _changes) = Links::connect().expect("netlink");
        let view = links.view("n").await.expect("view");
        let lo = &view.devices["lo"];
        assert!(lo.loopback && !lo.no_link_layer && lo.ifindex > 0);
    }

    #[test]
    fn default_routes_count_for_every_next_hop() {
        let mut route = RouteMessage::default();
        route.attributes.push(RouteAttribute::Oif(7));
        assert_eq!(route_devices(&[route.clone()]).0, BTreeSet::from([7]));
        route.header.destination_prefix_length = 24;
        assert!(route_devices(&[route]).0.is_empty());
    }
}
