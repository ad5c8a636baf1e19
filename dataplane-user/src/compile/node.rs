//! The tables that do not come from rules: devices, settings, own addresses, frontends, failsafes, tunnels.

use dataplane_common::abi::{
    ADDR_PREFIX_BASE, DeviceEntry, FAILSAFE_INBOUND, FAILSAFE_OUTBOUND, FailsafeKey, FrontendKey, InfraKey,
    ListKind, PortRange, device_flag, endpoint_flag, settings_flag,
};
use dataplane_common::addr::Addr;

use super::addresses::key;
use super::error::{Error, Limit, check};
use super::{Prefix, Tables};
use crate::index::{DeviceBinding, EndpointLists, Snapshot};
use crate::policy::{Failsafe, OnPolicyChange};

/// Bits of direction, protocol and port in a [`FailsafeKey`].
const FAILSAFE_PREFIX_BASE: u32 = 32;
/// A whole [`FrontendKey`] or [`InfraKey`].
const FULL_KEY: u32 = 192;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// `endpoint_flag` bits.
pub fn endpoint_flags(endpoint: &EndpointLists) -> u32 {
    if endpoint.wildcard { endpoint_flag::WILDCARD } else { 0 }
}

/// Fills everything but rules and classes.
pub fn fill(tables: &mut Tables, snapshot: &Snapshot, has_sport: bool) -> Result<(), Error> {
    check(Limit::Endpoints, snapshot.endpoints.len(), "this node")?;
    check(Limit::Devices, snapshot.devices.len(), "this node")?;
    for device in snapshot.devices.values() {
        tables.devices.insert(device.ifindex, device_entry(device, snapshot));
    }
    tables.own_addrs = snapshot.own.iter().map(|(net, flags)| (key(net), *flags)).collect();
    check(Limit::OwnAddresses, tables.own_addrs.len(), "this node")?;
    internal(tables, snapshot)?;
    for ((ip, protocol, port), flags) in &snapshot.frontends {
        let key =
            FrontendKey { addr: Addr::from(*ip), port_be: port.to_be_bytes(), protocol: *protocol, pad: 0 };
        tables.frontends.insert(Prefix { key, len: FULL_KEY }, *flags);
    }
    check(Limit::Frontends, tables.frontends.len(), "all Services together")?;
    failsafes(tables, FAILSAFE_INBOUND, &snapshot.failsafe_inbound);
    failsafes(tables, FAILSAFE_OUTBOUND, &snapshot.failsafe_outbound);
    check(Limit::Failsafes, tables.failsafes.len(), "FelixConfiguration/default")?;
    for (peer, protocol, port) in &snapshot.infra {
        let key =
            InfraKey { peer: Addr::from(*peer), port_be: port.to_be_bytes(), protocol: *protocol, pad: 0 };
        tables.infra.insert(Prefix { key, len: FULL_KEY }, 1);
    }
    check(Limit::InfraPeers, tables.infra.len(), "all Nodes together")?;
    check(Limit::NodePortRanges, snapshot.node_ports.len(), "FelixConfiguration/default")?;
    settings(tables, snapshot, has_sport);
    Ok(())
}

/// D27. One trie answers for both, and its longest match counts: so an own address inside of a range says so too.
fn internal(tables: &mut Tables, snapshot: &Snapshot) -> Result<(), Error> {
    check(Limit::InternalRanges, snapshot.internal.len(), "Nodes, Pods and Services together")?;
    for own in snapshot.own.keys() {
        let around = snapshot.internal.iter().filter(|(range, _)| range.contains(own));
        let bits = around.fold(0, |bits, (_, more)| bits | more);
        tables.own_addrs.entry(key(own)).and_modify(|flags| *flags |= bits);
    }
    for (range, bits) in &snapshot.internal {
        *tables.own_addrs.entry(key(range)).or_default() |= bits;
    }
    Ok(())
}

fn device_entry(device: &DeviceBinding, snapshot: &Snapshot) -> DeviceEntry {
    let endpoint =
        device.endpoint.as_ref().and_then(|name| snapshot.endpoints.iter().position(|e| e.name == *name));
    let mut flags = 0;
    let mut set = |on: bool, bit: u32| flags |= if on { bit } else { 0 };
    set(device.workload, device_flag::WORKLOAD);
    set(device.accept_ra, device_flag::ACCEPT_RA);
    set(device.no_link_layer, device_flag::NO_LINK_LAYER);
    set(device.anti_spoof, device_flag::ANTI_SPOOF);
    set(device.drop_unknown_ethertypes, device_flag::DROP_UNKNOWN_ETHERTYPES);
    set(device.loopback, device_flag::LOOPBACK);
    DeviceEntry { endpoint: endpoint.map_or(0, |i| i as u32 + 1), flags, grace_until_ns: 0 }
}

fn failsafes(tables: &mut Tables, direction: u8, list: &[Failsafe]) {
    for failsafe in list {
        let (addr, bits) = match &failsafe.net {
            // Both families: the prefix ends before the address.
            None => (Addr::NONE, 0),
            Some(net) => (Addr::from(net.network()), ADDR_PREFIX_BASE + u32::from(net.prefix_len())),
        };
        let port_be = failsafe.port.to_be_bytes();
        let key = FailsafeKey { direction, protocol: failsafe.protocol, port_be, addr };
        tables.failsafes.insert(Prefix { key, len: FAILSAFE_PREFIX_BASE + bits }, 1);
    }
}

fn settings(tables: &mut Tables, snapshot: &Snapshot, has_sport: bool) {
    let settings = &mut tables.settings;
    let mut set = |on: bool, bit: u32| settings.flags |= if on { bit } else { 0 };
    set(snapshot.on_policy_change == OnPolicyChange::Recheck, settings_flag::RECHECK);
    set(!snapshot.facts.governed.is_empty(), settings_flag::GOVERNED);
    set(has_sport, settings_flag::SPORT);
    let untracked = [ListKind::UntrackedIngress, ListKind::UntrackedEgress];
    let has_untracked =
        untracked.iter().any(|kind| tables.endpoints.iter().any(|e| e.lists[*kind as usize] != 0));
    set(has_untracked, settings_flag::UNTRACKED);
    set(!tables.infra.is_empty(), settings_flag::INFRA);
    set(!tables.frontends.is_empty() || !snapshot.node_ports.is_empty(), settings_flag::FRONTENDS);
    settings.node_port_ranges = snapshot.node_ports.len() as u32;
    for (slot, range) in settings.node_ports.iter_mut().zip(&snapshot.node_ports) {
        *slot = PortRange { first: range.first, last: range.last };
    }
    settings.grace_ns = u64::from(snapshot.grace_seconds) * NS_PER_SECOND;
}
