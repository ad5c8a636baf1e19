//! Port classes: (protocol, port) pairs that no rule tells apart, for each side (`architecture.md` §3).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dataplane_common::abi::{PortKey, SIDE_DESTINATION, SIDE_SOURCE};

use super::Prefix;
use super::error::{Error, Limit, check};
use super::expand::{Expanded, PortCriteria, PortSet};
use crate::policy::Protocol;

/// Bits of side and protocol in a [`PortKey`].
const PROTOCOL_BITS: u32 = 16;

/// What all (protocol, port) pairs of a class share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// `None`: a protocol that no rule names.
    pub protocol: Option<Protocol>,
    /// Indexes into [`Half::sets`], sorted.
    pub sets: Vec<u32>,
}

/// Both sides.
#[derive(Debug, Default)]
pub struct Ports {
    pub destination: Half,
    pub source: Half,
}

/// Classes of one side. Class 0: protocols that no rule names.
#[derive(Debug, Default)]
pub struct Half {
    pub classes: Vec<Class>,
    pub sets: BTreeMap<PortSet, u32>,
    entries: BTreeMap<Prefix<PortKey>, u32>,
}

impl Ports {
    /// Entries of the one trie that serves both sides.
    pub fn into_entries(self) -> BTreeMap<Prefix<PortKey>, u32> {
        let mut entries = self.destination.entries;
        entries.extend(self.source.entries);
        entries
    }
}

/// Classes with respect to all port criteria of these rules.
pub fn classify<'a>(rules: impl Iterator<Item = &'a Expanded> + Clone) -> Result<Ports, Error> {
    let destination = half(SIDE_DESTINATION, rules.clone().map(|r| &r.dport))?;
    let source = half(SIDE_SOURCE, rules.map(|r| &r.sport))?;
    let all = destination.entries.len() + source.entries.len();
    check(Limit::PortPrefixes, all, "ports of all policies together")?;
    Ok(Ports { destination, source })
}

fn half<'a>(side: u8, criteria: impl Iterator<Item = &'a PortCriteria>) -> Result<Half, Error> {
    let mut protocols: BTreeSet<Protocol> = BTreeSet::new();
    let mut distinct: BTreeSet<&PortSet> = BTreeSet::new();
    for c in criteria {
        protocols.extend(c.protocol.into_iter().chain(c.not_protocol));
        distinct.extend(c.all_of.iter().chain(&c.none_of));
    }
    protocols.extend(distinct.iter().map(|s| s.protocol));
    let mut out = Half { classes: vec![Class { protocol: None, sets: Vec::new() }], ..Half::default() };
    let mut ids: HashMap<Class, u32> = HashMap::new();
    for set in distinct {
        let id = out.sets.len() as u32;
        out.sets.insert(set.clone(), id);
    }
    for protocol in protocols {
        let plain = intern(&mut out.classes, &mut ids, Class { protocol: Some(protocol), sets: Vec::new() });
        let key = PortKey { side, protocol, port_be: [0; 2] };
        out.entries.insert(Prefix { key, len: PROTOCOL_BITS }, plain);
        for (first, last, sets) in intervals(protocol, &out.sets) {
            let class = intern(&mut out.classes, &mut ids, Class { protocol: Some(protocol), sets });
            for (port, bits) in prefixes(first, last) {
                let key = PortKey { side, protocol, port_be: port.to_be_bytes() };
                out.entries.insert(Prefix { key, len: PROTOCOL_BITS + bits }, class);
            }
        }
        check(Limit::PortPrefixes, out.entries.len(), "ports of all policies together")?;
    }
    Ok(out)
}

fn intern(classes: &mut Vec<Class>, ids: &mut HashMap<Class, u32>, class: Class) -> u32 {
    *ids.entry(class.clone()).or_insert_with(|| {
        classes.push(class);
        classes.len() as u32 - 1
    })
}

/// Maximal runs of ports that are in the same sets; runs in no set are left out. Bounds are inclusive.
fn intervals(protocol: Protocol, sets: &BTreeMap<PortSet, u32>) -> Vec<(u16, u16, Vec<u32>)> {
    // At each port where something begins or ends: sets that come, sets that go.
    let mut edges: BTreeMap<u32, (Vec<u32>, Vec<u32>)> = BTreeMap::new();
    for (set, id) in sets.iter().filter(|(s, _)| s.protocol == protocol) {
        for range in &set.ranges {
            edges.entry(u32::from(range.first)).or_default().0.push(*id);
            edges.entry(u32::from(range.last) + 1).or_default().1.push(*id);
        }
    }
    let mut active: BTreeSet<u32> = BTreeSet::new();
    let mut runs = Vec::new();
    let mut begin = 0;
    for (at, (coming, going)) in edges {
        if !active.is_empty() {
            // `at` is at least 1 here, and at most 65536.
            runs.push((begin as u16, (at - 1) as u16, active.iter().copied().collect()));
        }
        going.iter().for_each(|id| {
            active.remove(id);
        });
        active.extend(coming);
        begin = at;
    }
    runs
}

/// The fewest prefixes that make up an inclusive range: (first port, bits).
pub fn prefixes(first: u16, last: u16) -> Vec<(u16, u32)> {
    let mut found = Vec::new();
    let (mut at, end) = (u32::from(first), u32::from(last));
    while at <= end {
        let aligned = if at == 0 { 16 } else { at.trailing_zeros().min(16) };
        let fitting = (end - at + 1).ilog2();
        let size = aligned.min(fitting);
        found.push((at as u16, 16 - size));
        at += 1 << size;
    }
    found
}
