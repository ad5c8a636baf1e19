//! One inner map from one table, verified by reading it back.

use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError};

use super::Error;
use super::batch;
use super::patience::patiently;
use super::template::{Fresh, typed};
use crate::compile::Prefix;

/// An array of these values; one zero entry when there are none, because the kernel knows no empty array.
pub fn array<V: Pod + PartialEq>(
    fresh: &Fresh<'_>,
    map: &'static str,
    values: &[V],
    zero: &V,
) -> Result<Array<MapData, V>, Error> {
    let length = values.len().max(1) as u32;
    let mut inner: Array<_, V> = typed(map, Map::Array(fresh.create(map, length)?))?;
    // The kernel hands out zeroed memory, so zeroes need no call.
    for (index, value) in values.iter().enumerate().filter(|(_, v)| *v != zero) {
        inner.set(index as u32, value, 0).map_err(|e| Error::map(map, "fill", e))?;
    }
    let read = batch::values(&inner, inner.iter(), map)?;
    for (index, value) in values.iter().enumerate() {
        if read.get(index) != Some(value) {
            return Err(Error::ReadBack { map, entry: index.to_string() });
        }
    }
    Ok(inner)
}

/// A trie of these prefixes.
pub fn trie<K>(
    fresh: &Fresh<'_>,
    map: &'static str,
    entries: &BTreeMap<Prefix<K>, u32>,
) -> Result<LpmTrie<MapData, K, u32>, Error>
where
    K: Pod + Ord + std::fmt::Debug,
{
    let room = entries.len().max(1) as u32;
    let mut inner: LpmTrie<_, K, u32> = typed(map, Map::LpmTrie(fresh.create(map, room)?))?;
    for (prefix, value) in entries {
        patiently(|| inner.insert(&Key::new(prefix.len, prefix.key), value, 0))
            .map_err(|e| Error::map(map, "fill", e))?;
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
pub fn hash<K, V>(
    fresh: &Fresh<'_>,
    map: &'static str,
    entries: &BTreeMap<K, V>,
) -> Result<HashMap<MapData, K, V>, Error>
where
    K: Pod + Ord + std::fmt::Debug,
    V: Pod + PartialEq,
{
    let room = entries.len().max(1) as u32;
    let mut inner: HashMap<_, K, V> = typed(map, Map::HashMap(fresh.create(map, room)?))?;
    for (key, value) in entries {
        patiently(|| inner.insert(key, value, 0)).map_err(|e| Error::map(map, "fill", e))?;
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
