//! One inner map from one table, verified by reading it back.

use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError};

use super::Error;
use crate::compile::Prefix;

/// `BPF_F_INNER_MAP`: arrays of different length may take turns in one slot (kernel 5.10).
const INNER_MAP: u32 = 1 << 12;
/// `BPF_F_NO_PREALLOC`: tries demand it, hashes then use only what they hold.
const NO_PREALLOC: u32 = 1;

/// An array of these values; one zero entry when there are none, because the kernel knows no empty array.
pub fn array<V: Pod + PartialEq>(
    map: &'static str,
    values: &[V],
    zero: &V,
) -> Result<Array<MapData, V>, Error> {
    let length = values.len().max(1) as u32;
    let mut inner = Array::create(length, INNER_MAP).map_err(|e| Error::map(map, "create", e))?;
    // The kernel hands out zeroed memory, so zeroes need no call.
    for (index, value) in values.iter().enumerate().filter(|(_, v)| *v != zero) {
        inner.set(index as u32, value, 0).map_err(|e| Error::map(map, "fill", e))?;
    }
    for (index, value) in values.iter().enumerate() {
        let read = inner.get(&(index as u32), 0).map_err(|e| Error::map(map, "read back", e))?;
        if read != *value {
            return Err(Error::ReadBack { map, entry: index.to_string() });
        }
    }
    Ok(inner)
}

/// A trie of these prefixes.
pub fn trie<K>(
    map: &'static str,
    entries: &BTreeMap<Prefix<K>, u32>,
) -> Result<LpmTrie<MapData, K, u32>, Error>
where
    K: Pod + Ord + std::fmt::Debug,
{
    let room = entries.len().max(1) as u32;
    let mut inner = LpmTrie::create(room, NO_PREALLOC).map_err(|e| Error::map(map, "create", e))?;
    for (prefix, value) in entries {
        inner.insert(&Key::new(prefix.len, prefix.key), value, 0).map_err(|e| Error::map(map, "fill", e))?;
    }
    // A lookup by the prefix itself finds it, or a shorter one if it is missing: with another value, or none.
    for (prefix, value) in entries {
        match inner.get(&Key::new(prefix.len, prefix.key), 0) {
            Ok(read) if read == *value => {}
            Ok(_) | Err(MapError::KeyNotFound) => {
                return Err(Error::ReadBack { map, entry: format!("{prefix:?}") });
            }
            Err(e) => return Err(Error::map(map, "read back", e)),
        }
    }
    Ok(inner)
}

/// A hash of these entries.
pub fn hash<K, V>(map: &'static str, entries: &BTreeMap<K, V>) -> Result<HashMap<MapData, K, V>, Error>
where
    K: Pod + Ord + std::fmt::Debug,
    V: Pod + PartialEq,
{
    let room = entries.len().max(1) as u32;
    let mut inner = HashMap::create(room, NO_PREALLOC).map_err(|e| Error::map(map, "create", e))?;
    for (key, value) in entries {
        inner.insert(key, value, 0).map_err(|e| Error::map(map, "fill", e))?;
    }
    for (key, value) in entries {
        match inner.get(key, 0) {
            Ok(read) if read == *value => {}
            Ok(_) | Err(MapError::KeyNotFound) => {
                return Err(Error::ReadBack { map, entry: format!("{key:?}") });
            }
            Err(e) => return Err(Error::map(map, "read back", e)),
        }
    }
    Ok(inner)
}
