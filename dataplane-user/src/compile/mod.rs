//! Snapshot → tables, as plain vectors and maps that only have to be written. Pure: same snapshot, same bytes.
//!
//! Reading order: `expand` (rules to criteria, tiers to skips) → `addresses` and `ports` (what can be told apart:
//! classes) → `rows` (which rules match which class) → `node` (devices, own addresses, frontends) → `names`.

pub mod addresses;
pub mod error;
pub mod expand;
pub mod names;
pub mod node;
pub mod ports;
pub mod rows;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::{
    AddrKey, DeviceEntry, EndpointEntry, FailsafeKey, FrontendKey, InfraKey, ListEntry, PortKey, RuleEntry,
    Settings,
};
use dataplane_common::limits;

pub use error::{Error, Limit};
pub use names::{Names, RuleName};

use crate::index::Snapshot;

/// An LPM entry's key: the first `len` bits of `key` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix<K> {
    /// The whole key, bits behind `len` zero.
    pub key: K,
    /// Bits.
    pub len: u32,
}

/// One generation, ready for the maps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    /// Without the generation number, which the writer gives.
    pub settings: Settings,
    /// By ifindex.
    pub devices: BTreeMap<u32, DeviceEntry>,
    pub endpoints: Vec<EndpointEntry>,
    pub lists: Vec<ListEntry>,
    pub rules: Vec<RuleEntry>,
    pub rows: Vec<u64>,
    pub addr_class: BTreeMap<Prefix<AddrKey>, u32>,
    pub port_class: BTreeMap<Prefix<PortKey>, u32>,
    pub own_addrs: BTreeMap<Prefix<AddrKey>, u32>,
    pub frontends: BTreeMap<Prefix<FrontendKey>, u32>,
    pub failsafes: BTreeMap<Prefix<FailsafeKey>, u32>,
    pub infra: BTreeMap<Prefix<InfraKey>, u32>,
    /// Not written: tells people what a rule position means.
    pub names: Names,
}

/// Compiles a snapshot, or says which limit it crosses (D22, D50).
pub fn compile(snapshot: &Snapshot) -> Result<Tables, Error> {
    let mut tables = Tables::default();
    let mut names = names::Builder::default();
    let mut expanded = Vec::new();
    for endpoint in &snapshot.endpoints {
        let mut entry = EndpointEntry { flags: node::endpoint_flags(endpoint), ..EndpointEntry::default() };
        for (key, list) in &endpoint.lists {
            let rules = expand::list(&endpoint.name, key.0, list, &mut names)?;
            if rules.is_empty() {
                continue;
            }
            expanded.push(rules);
            error::check(Limit::Lists, expanded.len(), &endpoint.name)?;
            entry.lists[key.0 as usize] = expanded.len() as u32;
        }
        tables.endpoints.push(entry);
    }
    let used: BTreeSet<_> = expanded.iter().flatten().flat_map(expand::Expanded::sets).collect();
    let addresses = addresses::classify(&snapshot.sets, &used)?;
    let ports = ports::classify(expanded.iter().flatten())?;
    for rules in &expanded {
        let first = tables.rules.len() as u32;
        tables.lists.push(rows::write(&mut tables.rows, first, rules, &addresses, &ports)?);
        names.place(first, rules);
        tables.rules.extend(rules.iter().map(|r| r.entry));
        error::check(Limit::Rules, tables.rules.len(), "all policies together")?;
    }
    tables.addr_class = addresses.into_entries();
    tables.port_class = ports.into_entries();
    let has_sport = expanded.iter().flatten().any(expand::Expanded::looks_at_source_port);
    node::fill(&mut tables, snapshot, has_sport)?;
    tables.names = names.finish(snapshot);
    Ok(tables)
}

const _: () = assert!(limits::MAX_RULES_PER_LIST <= 4096, "a row's summary has 64 bits");
