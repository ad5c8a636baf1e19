//! The scenario's devices, made for real in the private namespace, so that the kernel's own routing answers as the
//! scenario's world does (D3): what the node does not own goes to the outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::route::RouteScope;
use nix::net::if_::if_nametoindex;
use rtnetlink::{Error as NetlinkError, Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::policy::{Device, NodeView, World};

/// The loopback device's number in every namespace.
const LOOPBACK: u32 = 1;
/// How long the kernel may take to make its own routes for addresses that it has.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// Devices of one namespace. Every one is a veth end: what a device is called and what it carries decides how its
/// packets are judged, not what drives it.
pub(super) struct Devices {
    runtime: tokio::runtime::Runtime,
    handle: Handle,
    made: BTreeMap<String, Made>,
    /// Numbers the far ends.
    counter: u32,
}

struct Made {
    ifindex: u32,
    addresses: Vec<IpNet>,
}

impl Devices {
    /// Call it in the namespace: the netlink socket belongs to the namespace it was opened in.
    pub(super) fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = {
            let _inside = runtime.enter();
            let (connection, handle, _) =
                rtnetlink::new_connection().context("cannot open a netlink socket")?;
            runtime.spawn(connection);
            handle
        };
        let this = Self { runtime, handle, made: BTreeMap::new(), counter: 0 };
        for (key, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/forwarding", "1"),
            // An address that waits for duplicate detection is not an address yet.
            ("ipv6/conf/default/accept_dad", "0"),
        ] {
            set_sysctl(key, value)?;
        }
        this.loopback_up()?;
        Ok(this)
    }
    fn loopback_up(&self) -> anyhow::Result<()> {
        let up = LinkUnspec::new_with_index(LOOPBACK).up().build();
        self.runtime.block_on(self.handle.link().set(up).execute()).context("cannot set lo up")
    }
    /// Makes devices and addresses as the view has them, and writes the real numbers into the view.
    pub(super) fn follow(&mut self, view: &mut NodeView) -> anyhow::Result<()> {
        let gone: Vec<String> =
            self.made.keys().filter(|name| !view.devices.contains_key(*name)).cloned().collect();
        for name in gone {
            self.remove(&name)?;
        }
        for device in view.devices.values_mut() {
            if device.loopback {
                device.ifindex = LOOPBACK;
                continue;
            }
            device.ifindex = self.bring_up(device).with_context(|| format!("device {}", device.name))?;
            self.set_addresses(device).with_context(|| format!("addresses of {}", device.name))?;
        }
        self.settle()
    }
    /// The kernel takes up an IPv6 address, and the anycast address of its net, in a task of its own. Before that it
    /// would route differently.
    fn settle(&self) -> anyhow::Result<()> {
        let end = Instant::now() + SETTLES_WITHIN;
        loop {
            let all: Vec<_> = self
                .runtime
                .block_on(self.handle.address().get().execute().try_collect())
                .context("cannot list addresses")?;
            if !all.iter().any(|a| a.header.flags.contains(AddressHeaderFlags::Tentative)) {
                // The task holds the lock of all such changes until it is done; so does this.
                return self.loopback_up();
            }
            anyhow::ensure!(Instant::now() < end, "addresses are still tentative after {SETTLES_WITHIN:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    /// Removes every device.
    pub(super) fn clear(&mut self) -> anyhow::Result<()> {
        let names: Vec<String> = self.made.keys().cloned().collect();
        names.iter().try_for_each(|name| self.remove(name))
    }
    fn bring_up(&mut self, device: &Device) -> anyhow::Result<u32> {
        if let Some(made) = self.made.get(&device.name) {
            return Ok(made.ifindex);
        }
        let peer = format!("pc-far-{}", self.counter);
        self.counter += 1;
        self.runtime.block_on(async {
            self.handle.link().add(LinkVeth::new(&device.name, &peer).up().build()).execute().await?;
            self.handle.link().set(LinkUnspec::new_with_name(&peer).up().build()).execute().await
        })?;
        let ifindex = if_nametoindex(device.name.as_str())?;
        self.made.insert(device.name.clone(), Made { ifindex, addresses: Vec::new() });
        Ok(ifindex)
    }
    fn set_addresses(&mut self, device: &Device) -> anyhow::Result<()> {
        let Some(made) = self.made.get(&device.name) else { return Ok(()) };
        if made.addresses == device.addresses {
            return Ok(());
        }
        if !made.addresses.is_empty() {
            // Simplest to begin anew: the far end goes with it, and addresses with both.
            self.remove(&device.name)?;
            anyhow::ensure!(self.bring_up(device)? != 0, "the device has no number");
        }
        let Some(made) = self.made.get_mut(&device.name) else { return Ok(()) };
        for address in &device.addresses {
            let request = self.handle.address().add(made.ifindex, address.addr(), address.prefix_len());
            exists_is_fine(self.runtime.block_on(request.execute())).with_context(|| address.to_string())?;
        }
        made.addresses.clone_from(&device.addresses);
        Ok(())
    }
    fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        if let Some(made) = self.made.remove(name) {
            self.runtime
                .block_on(self.handle.link().del(made.ifindex).execute())
                .with_context(|| format!("cannot remove device {name}"))?;
        }
        Ok(())
    }
    /// Default routes by the first outside device; this node's pods by its first device that is known to belong to a pod,
    /// else by its first workload device.
    pub(super) fn set_routes(
        &self,
        world: &World,
        view: &NodeView,
        workload: &BTreeSet<String>,
    ) -> anyhow::Result<()> {
        let outside = view.devices.values().filter(|d| !d.loopback && !d.pod && !d.addresses.is_empty());
        // A device that says so itself comes first, then tunnels come last: the outside is no overlay.
        let outside =
            outside.min_by_key(|d| (!d.default_route, d.tunnel.is_some(), d.vlan.is_some(), d.name.clone()));
        if let Some(device) = outside {
            self.route(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0, device.ifindex)?;
            self.route(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0, device.ifindex)?;
        }
        let first = || workload.first().and_then(|name| view.devices.get(name));
        if let Some(inside) = view.devices.values().find(|d| d.pod).or_else(first) {
            let pods =
                world.pods.values().filter(|p| p.node == view.name && !p.host_network && !p.terminated);
            for ip in pods.flat_map(|p| &p.ips) {
                self.route(*ip, if ip.is_ipv4() { 32 } else { 128 }, inside.ifindex)?;
            }
        }
        Ok(())
    }
    fn route(&self, to: IpAddr, prefix: u8, ifindex: u32) -> anyhow::Result<()> {
        let message = match to {
            IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(ip, prefix)
                .output_interface(ifindex)
                .scope(RouteScope::Link)
                .build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(ip, prefix)
                .output_interface(ifindex)
                .build(),
        };
        let request = self.handle.route().add(message).replace();
        exists_is_fine(self.runtime.block_on(request.execute())).with_context(|| format!("{to}/{prefix}"))
    }
}

/// IPv6 link-local addresses come by themselves.
fn exists_is_fine(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(NetlinkError::NetlinkError(e)) if e.raw_code().abs() == libc::EEXIST => Ok(()),
        other => other,
    }
}

fn set_sysctl(key: &str, value: &str) -> anyhow::Result<()> {
    let path = format!("/proc/sys/net/{key}");
    match std::fs::write(&path, value) {
        // A kernel without IPv6 has nothing to set.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.with_context(|| format!("cannot write {path}")),
    }
}
