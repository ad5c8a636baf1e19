//! What is pinned, read only: the kernel's own truth about what is in force, whoever put it there and whether an
//! agent still runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use dataplane_common::abi::{Control, RuleEntry, Settings};
use dataplane_common::limits::GENERATION_SLOTS;
use dataplane_common::names;

use super::batch;
use super::generations::{Source, take};
use super::slots::pin_path;
use super::state::monotonic_ns;
use super::template::typed;
use super::{Error, State};
use crate::compile::{Prefix, Tables};
use crate::loader::object::{flow_pins, policy_pins};

/// The pins below one pin dir.
#[derive(Clone, Debug)]
pub struct Pinned {
    folders: [PathBuf; 2],
}

impl Source for Pinned {
    fn map(&mut self, name: &'static str) -> Result<Map, Error> {
        let data = self.data(name)?;
        Map::from_map_data(data).map_err(|e| Error::map(name, "open", e))
    }
}

impl Pinned {
    /// Pins below this folder. Opens nothing yet.
    pub fn new(pin_dir: &Path) -> Self {
        Self { folders: [policy_pins(pin_dir), flow_pins(pin_dir)] }
    }
    /// Where a map is pinned, if it is.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.folders.iter().map(|f| f.join(name)).find(|p| p.exists())
    }
    /// The map, untyped.
    pub fn data(&self, name: &'static str) -> Result<MapData, Error> {
        let path = self.path(name).ok_or_else(|| Error::NotPinned(self.folders[0].join(name)))?;
        MapData::from_pin(path).map_err(|e| Error::map(name, "open", e))
    }
    /// Flows, counters, control word.
    pub fn state(&self) -> Result<State, Error> {
        State::take(&mut self.clone(), Some(self.folders[0].clone()))
    }
    /// The control word alone.
    pub fn control(&self) -> Result<Control, Error> {
        let map: Array<MapData, Control> = take(&mut self.clone(), names::MAP_CONTROL)?;
        map.get(&0, 0).map_err(|e| Error::map(names::MAP_CONTROL, "read", e))
    }
    /// Settings of a slot; `None`: the slot holds no generation.
    pub fn settings(&self, slot: u32) -> Result<Option<Settings>, Error> {
        let found: Option<Array<MapData, Settings>> = self.open(names::MAP_SETTINGS, slot)?;
        let Some(inner) = found else { return Ok(None) };
        inner.get(&0, 0).map(Some).map_err(|e| Error::map(names::MAP_SETTINGS, "read", e))
    }
    /// The slot that holds generation `number`, active or not.
    pub fn slot_of(&self, number: u64) -> Result<Option<u32>, Error> {
        for slot in 0..GENERATION_SLOTS {
            if self.settings(slot)?.is_some_and(|s| s.generation == number) {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }
    /// One rule of a slot by its position.
    pub fn rule(&self, slot: u32, position: u32) -> Result<Option<RuleEntry>, Error> {
        let found: Option<Array<MapData, RuleEntry>> = self.open(names::MAP_RULES, slot)?;
        let Some(inner) = found else { return Ok(None) };
        if position >= inner.len() {
            return Ok(None);
        }
        inner.get(&position, 0).map(Some).map_err(|e| Error::map(names::MAP_RULES, "read", e))
    }
    /// Everything that a slot holds, but for names. An array has one zero entry where the tables have none.
    pub fn tables(&self, slot: u32) -> Result<Tables, Error> {
        Ok(Tables {
            settings: self.settings(slot)?.unwrap_or_default(),
            devices: self.hash(names::MAP_DEVICES, slot)?,
            endpoints: self.array(names::MAP_ENDPOINTS, slot)?,
            lists: self.array(names::MAP_LISTS, slot)?,
            rules: self.array(names::MAP_RULES, slot)?,
            rows: self.array(names::MAP_ROWS, slot)?,
            addr_class: self.trie(names::MAP_ADDR_CLASS, slot)?,
            port_class: self.trie(names::MAP_PORT_CLASS, slot)?,
            own_addrs: self.trie(names::MAP_OWN_ADDRS, slot)?,
            frontends: self.trie(names::MAP_FRONTENDS, slot)?,
            failsafes: self.trie(names::MAP_FAILSAFES, slot)?,
            infra: self.trie(names::MAP_INFRA, slot)?,
            names: Default::default(),
        })
    }
    /// The inner map of a slot, untyped; `None`: empty slot.
    pub fn inner(&self, outer: &'static str, slot: u32) -> Result<Option<MapData>, Error> {
        match MapData::from_pin(pin_path(&self.folders[0], outer, slot)) {
            Ok(map) => Ok(Some(map)),
            // An agent that pinned no slots, or somebody removed them: by its number, which takes CAP_SYS_ADMIN.
            Err(_) => {
                let map: aya::maps::ArrayOfMaps<MapData, MapData> = take(&mut self.clone(), outer)?;
                present(outer, map.get(&slot, 0))
            }
        }
    }
    fn open<T>(&self, outer: &'static str, slot: u32) -> Result<Option<T>, Error>
    where
        T: TryFrom<Map, Error = MapError>,
    {
        let Some(data) = self.inner(outer, slot)? else { return Ok(None) };
        let map = Map::from_map_data(data).map_err(|e| Error::map(outer, "open", e))?;
        typed(outer, map).map(Some)
    }
    fn array<V: Pod>(&self, map: &'static str, slot: u32) -> Result<Vec<V>, Error> {
        let found: Option<Array<MapData, V>> = self.open(map, slot)?;
        let Some(inner) = found else { return Ok(Vec::new()) };
        batch::values(&inner, inner.iter(), map)
    }
    fn hash<V: Pod>(&self, map: &'static str, slot: u32) -> Result<BTreeMap<u32, V>, Error> {
        let found: Option<HashMap<MapData, u32, V>> = self.open(map, slot)?;
        let Some(inner) = found else { return Ok(BTreeMap::new()) };
        Ok(batch::entries(&inner, inner.iter(), map)?.into_iter().collect())
    }
    fn trie<K: Pod + Ord>(&self, map: &'static str, slot: u32) -> Result<BTreeMap<Prefix<K>, u32>, Error> {
        let found: Option<LpmTrie<MapData, K, u32>> = self.open(map, slot)?;
        let Some(inner) = found else { return Ok(BTreeMap::new()) };
        let prefix = |key: Key<K>| Prefix { key: key.data(), len: key.prefix_len() };
        let entries = batch::entries(&inner, inner.iter(), map)?;
        Ok(entries.into_iter().map(|(key, value)| (prefix(key), value)).collect())
    }
}

/// The clock of the programs now, ns.
pub fn now_ns(control: &Control) -> u64 {
    monotonic_ns().wrapping_add(control.clock_offset_ns)
}

/// The slot that packets are judged by now. `None`: nothing is in force.
pub fn slot_in_force(control: &Control, now_ns: u64) -> Option<u32> {
    control.in_force(now_ns).0.checked_sub(1)
}

fn present<T>(map: &'static str, got: Result<T, MapError>) -> Result<Option<T>, Error> {
    match got {
        Ok(inner) => Ok(Some(inner)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(Error::map(map, "open", e)),
    }
}
