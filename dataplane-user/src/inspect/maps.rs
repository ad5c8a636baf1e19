//! Every pinned map: its kind, how full it is, its memory, what it is for.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context, Result};
use aya::maps::MapData;
use dataplane_common::names;
use serde::Serialize;

use super::render::{entries, is_sliced};
use crate::compile::Tables;
use crate::loader::object::{FLOW_MAPS, POLICY_MAPS};
use crate::maps::Pinned;
use crate::state::State;

/// A line of `maps list`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapView {
    pub name: &'static str,
    /// As the kernel calls it; for maps of a generation the kind of the inner map.
    pub kind: String,
    /// Absent where a count says nothing (the event ring, working memory).
    pub entries: Option<u64>,
    /// Most entries of this very map; for the event ring bytes.
    pub limit: u64,
    /// Bytes that the kernel charges for it; for maps of a generation with the inner map in force.
    pub memory: u64,
    pub purpose: &'static str,
}

/// What each map is for.
pub fn purpose(map: &str) -> &'static str {
    match map {
        names::MAP_CONTROL => "which generation is in force; suspension, audit, an apply on trial",
        names::MAP_SETTINGS => "settings of the generation",
        names::MAP_DEVICES => "device -> host endpoint",
        names::MAP_ENDPOINTS => "host endpoint -> its lists",
        names::MAP_LISTS => "list -> its range of rules and its bitmap rows",
        names::MAP_RULES => "compiled rules, in order",
        names::MAP_ROWS => "bitmap rows: which rules of a list a class satisfies",
        names::MAP_ADDR_CLASS => "address -> class",
        names::MAP_PORT_CLASS => "protocol and port -> class",
        names::MAP_OWN_ADDRS => "addresses of this node",
        names::MAP_FRONTENDS => "Service frontends (D3)",
        names::MAP_FAILSAFES => "failsafe ports (D1, D2)",
        names::MAP_INFRA => "peers of known tunnels (D39)",
        names::MAP_COUNTERS => "packets by hook, verdict and reason",
        names::MAP_DEV_COUNTERS => "packets by device, hook, verdict and reason",
        names::MAP_RULE_HITS => "hits by rule and device",
        names::MAP_ETHERTYPES => "packets that are not IP, by ethertype (D20)",
        names::MAP_EVENTS => "the ring of events that `observe` shows (limit in bytes)",
        names::MAP_SCRATCH => "working memory of each CPU",
        names::MAP_FLOWS => "flows that were answered (D18)",
        names::MAP_FLOWS_NEW => "flows that were not answered yet (D18)",
        names::MAP_FLOWS_SAFE => "flows of failsafes that were not answered yet (D18)",
        names::MAP_ROOMS => "who holds a place among unconfirmed flows and fragments (D18)",
        names::MAP_FLOW_EVENTS => "what the flow tables had to give up, counted (D18)",
        names::MAP_FRAGMENTS => "what first fragments got (D36)",
        _ => "?",
    }
}

/// Every map of ours, in the order of the packet's path.
pub fn all() -> impl Iterator<Item = &'static str> {
    POLICY_MAPS.into_iter().chain(FLOW_MAPS)
}

/// The maps that are pinned. `slot`: the generation in force.
pub fn list(pinned: &Pinned, slot: Option<u32>, state: &State) -> Result<Vec<MapView>> {
    let mut out = Vec::new();
    let tables = slot.map(|slot| pinned.tables(slot)).transpose()?;
    let lengths: BTreeMap<&str, usize> = tables.as_ref().map(lengths).into_iter().flatten().collect();
    for name in all().filter(|name| pinned.path(name).is_some()) {
        let outer = pinned.data(name)?;
        let inner = match slot {
            Some(slot) if is_sliced(name) => pinned.inner(name, slot)?,
            Some(_) | None => None,
        };
        let own = inner.as_ref().unwrap_or(&outer);
        let info = own.info().with_context(|| format!("cannot look at map {name}"))?;
        let kind = info.map_type().map_or_else(|_| "?".to_owned(), |kind| format!("{kind:?}"));
        let counted = ![names::MAP_EVENTS, names::MAP_SCRATCH, names::MAP_ROOMS].contains(&name);
        out.push(MapView {
            name,
            kind,
            entries: match lengths.get(name) {
                Some(length) => Some(*length as u64),
                None if counted => Some(entries(pinned, name, slot, state)?.len() as u64),
                None => None,
            },
            limit: info.max_entries().into(),
            memory: memory(&outer) + inner.as_ref().map_or(0, memory),
            purpose: purpose(name),
        });
    }
    Ok(out)
}

/// Entries of the maps of a generation.
pub fn lengths(t: &Tables) -> [(&'static str, usize); 12] {
    [
        (names::MAP_SETTINGS, 1),
        (names::MAP_DEVICES, t.devices.len()),
        (names::MAP_ENDPOINTS, t.endpoints.len()),
        (names::MAP_LISTS, t.lists.len()),
        (names::MAP_RULES, t.rules.len()),
        (names::MAP_ROWS, t.rows.len()),
        (names::MAP_ADDR_CLASS, t.addr_class.len()),
        (names::MAP_PORT_CLASS, t.port_class.len()),
        (names::MAP_OWN_ADDRS, t.own_addrs.len()),
        (names::MAP_FRONTENDS, t.frontends.len()),
        (names::MAP_FAILSAFES, t.failsafes.len()),
        (names::MAP_INFRA, t.infra.len()),
    ]
}

/// Bytes, as the kernel counts them; 0 where it does not tell.
fn memory(map: &MapData) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_has_a_purpose() {
        assert!(all().all(|map| purpose(map) != "?"));
        assert!(lengths(&Tables::default()).iter().all(|(map, _)| is_sliced(map)));
    }
}
