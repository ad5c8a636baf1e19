//! Bitmap rows: for each list and class, which rules of the list this class satisfies (`abi::ListEntry`).

use dataplane_common::abi::ListEntry;

use super::addresses::Addresses;
use super::error::{Error, Limit, check};
use super::expand::{AddressMatch, Expanded, PortCriteria};
use super::ports::{Half, Ports};

/// Appends the rows of one list.
pub fn write(
    rows: &mut Vec<u64>,
    rule_base: u32,
    rules: &[Expanded],
    addresses: &Addresses,
    ports: &Ports,
) -> Result<ListEntry, Error> {
    let words = rules.len().div_ceil(64);
    let classes = [
        addresses.classes.len(),
        addresses.classes.len(),
        ports.destination.classes.len(),
        ports.source.classes.len(),
    ];
    // Before anything is allocated: this is the product that grows.
    let needed = rows.len() + classes.iter().sum::<usize>() * (1 + words);
    check(Limit::RowWords, needed, "rule lists of all host endpoints together")?;
    let mut block = |classes: usize, matching: &dyn Fn(&Expanded) -> Vec<u32>| -> u32 {
        let base = rows.len();
        rows.resize(base + classes * (1 + words), 0);
        for (bit, rule) in rules.iter().enumerate() {
            for class in matching(rule) {
                let row = base + class as usize * (1 + words);
                rows[row] |= 1 << (bit / 64);
                rows[row + 1 + bit / 64] |= 1 << (bit % 64);
            }
        }
        base as u32
    };
    let source_rows = block(classes[0], &|r| address_classes(addresses, &r.source, r.v4, r.v6));
    let destination_rows = block(classes[1], &|r| address_classes(addresses, &r.destination, r.v4, r.v6));
    let dport_rows = block(classes[2], &|r| port_classes(&ports.destination, &r.dport));
    let sport_rows = block(classes[3], &|r| port_classes(&ports.source, &r.sport));
    Ok(ListEntry {
        rule_base,
        rule_count: rules.len() as u32,
        words: words as u32,
        source_rows,
        destination_rows,
        dport_rows,
        sport_rows,
        spare: 0,
    })
}

/// Classes that satisfy one side of a rule. The family is part of a class (R23).
fn address_classes(addresses: &Addresses, side: &AddressMatch, v4: bool, v6: bool) -> Vec<u32> {
    let satisfied = |id: &u32| {
        let class = &addresses.classes[*id as usize];
        let family = match class.family {
            4 => v4,
            6 => v6,
            _ => v4 && v6,
        };
        let has = |set| class.sets.binary_search(set).is_ok();
        family && side.all_of.iter().all(has) && !side.none_of.iter().any(has)
    };
    match side.all_of.iter().map(|set| addresses.members.get(set)).min_by_key(|m| m.map_or(0, Vec::len)) {
        // Only classes in the rarest of the sets can be in all of them.
        Some(Some(members)) => members.iter().copied().filter(satisfied).collect(),
        Some(None) => Vec::new(),
        None => (0..addresses.classes.len() as u32).filter(satisfied).collect(),
    }
}

/// Classes that satisfy port and protocol criteria.
fn port_classes(half: &Half, criteria: &PortCriteria) -> Vec<u32> {
    let ids = |sets: &[super::expand::PortSet]| -> Vec<u32> {
        sets.iter().filter_map(|s| half.sets.get(s)).copied().collect()
    };
    let (all_of, none_of) = (ids(&criteria.all_of), ids(&criteria.none_of));
    // `notPorts` asks for the rule's protocol too (§6); on the destination side `protocol` says so already.
    let satisfied = |id: &u32| {
        let class = &half.classes[*id as usize];
        let has = |set| class.sets.binary_search(set).is_ok();
        criteria.protocol.is_none_or(|p| class.protocol == Some(p))
            && criteria.not_protocol.is_none_or(|p| class.protocol != Some(p))
            && all_of.iter().all(has)
            && !none_of.iter().any(has)
    };
    (0..half.classes.len() as u32).filter(satisfied).collect()
}
