//! Address classes: two addresses that are in the same sets are of one class (`architecture.md` §3).
//!
//! LPM finds only the longest prefix, so the class of a prefix holds the sets of every prefix that covers it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dataplane_common::abi::{ADDR_PREFIX_BASE, AddrKey};
use dataplane_common::addr::Addr;
use ipnet::IpNet;

use super::Prefix;
use super::error::{Error, Limit, check};
use crate::index::{SetId, Sets};

/// What all addresses of a class share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// 4 or 6; 0 for class 0, which no address of an IP packet gets: both families have a root.
    pub family: u8,
    /// Sorted.
    pub sets: Vec<SetId>,
}

/// Classes by id, and the trie that leads to them.
#[derive(Debug, Default)]
pub struct Addresses {
    pub classes: Vec<Class>,
    /// Set → classes in it, ascending.
    pub members: HashMap<SetId, Vec<u32>>,
    entries: BTreeMap<Prefix<AddrKey>, u32>,
}

impl Addresses {
    /// The trie's entries.
    pub fn into_entries(self) -> BTreeMap<Prefix<AddrKey>, u32> {
        self.entries
    }
}

/// The trie key of a prefix.
pub fn key(net: &IpNet) -> Prefix<AddrKey> {
    Prefix { key: Addr::from(net.network()), len: ADDR_PREFIX_BASE + u32::from(net.prefix_len()) }
}

/// Classes of all addresses with respect to the `used` sets.
pub fn classify(sets: &Sets, used: &BTreeSet<SetId>) -> Result<Addresses, Error> {
    // Sorted by (family, address, length): a covering prefix stands before what it covers.
    let mut direct: BTreeMap<Prefix<AddrKey>, Vec<SetId>> = BTreeMap::new();
    for family in [4, 6] {
        direct.insert(Prefix { key: Addr { family, ..Addr::NONE }, len: ADDR_PREFIX_BASE }, Vec::new());
    }
    for &id in used {
        for net in sets.get(id) {
            direct.entry(key(net)).or_default().push(id);
        }
        check(Limit::Prefixes, direct.len(), "network sets and selectors of all policies together")?;
    }
    let mut out = Interner::default();
    out.class(Class { family: 0, sets: Vec::new() });
    // Covering prefixes of the present one, the innermost last, with their class.
    let mut cover: Vec<(Prefix<AddrKey>, u32)> = Vec::new();
    let mut entries = BTreeMap::new();
    for (prefix, own) in direct {
        while cover.last().is_some_and(|(outer, _)| !covers(outer, &prefix)) {
            cover.pop();
        }
        let inherited = cover.last().map(|(_, class)| *class);
        let mut all: Vec<SetId> = inherited.map_or(Vec::new(), |c| out.classes[c as usize].sets.clone());
        all.extend(own);
        all.sort_unstable();
        all.dedup();
        let class = out.class(Class { family: prefix.key.family, sets: all });
        // A prefix that changes nothing needs no entry.
        if inherited != Some(class) {
            entries.insert(prefix, class);
        }
        cover.push((prefix, class));
    }
    let mut members: HashMap<SetId, Vec<u32>> = HashMap::new();
    for (id, class) in out.classes.iter().enumerate() {
        for set in &class.sets {
            members.entry(*set).or_default().push(id as u32);
        }
    }
    Ok(Addresses { classes: out.classes, members, entries })
}

#[derive(Default)]
struct Interner {
    classes: Vec<Class>,
    ids: HashMap<Class, u32>,
}

impl Interner {
    fn class(&mut self, class: Class) -> u32 {
        if let Some(&id) = self.ids.get(&class) {
            return id;
        }
        let id = self.classes.len() as u32;
        self.classes.push(class.clone());
        self.ids.insert(class, id);
        id
    }
}

/// Whether the first `outer.len` bits agree.
fn covers(outer: &Prefix<AddrKey>, inner: &Prefix<AddrKey>) -> bool {
    if outer.key.family != inner.key.family || outer.len > inner.len {
        return false;
    }
    let bits = outer.len - ADDR_PREFIX_BASE;
    let (whole, rest) = ((bits / 8) as usize, bits % 8);
    outer.key.bytes[..whole] == inner.key.bytes[..whole]
        && (rest == 0 || (outer.key.bytes[whole] ^ inner.key.bytes[whole]) >> (8 - rest) == 0)
}
