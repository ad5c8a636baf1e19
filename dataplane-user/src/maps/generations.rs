//! Slots of the outer maps, and the flip (D23).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, ArrayOfMaps, HashMap, InnerMap, Map, MapData, MapError};
use dataplane_common::abi::{
    AddrKey, Control, DeviceEntry, EndpointEntry, FailsafeKey, FrontendKey, InfraKey, ListEntry, PortKey,
    RuleEntry, Settings, control_flag,
};
use dataplane_common::limits::GENERATION_SLOTS;
use dataplane_common::names;

use super::slots::Slots;
use super::{Error, State, Templates, inner};
use crate::compile::Tables;

type ArraySlots<V> = ArrayOfMaps<MapData, Array<MapData, V>>;
type TrieSlots<K> = ArrayOfMaps<MapData, LpmTrie<MapData, K, u32>>;
type HashSlots<K, V> = ArrayOfMaps<MapData, HashMap<MapData, K, V>>;

/// Maps with a slot for each generation.
pub const SLICED: [&str; 12] = [
    names::MAP_SETTINGS,
    names::MAP_DEVICES,
    names::MAP_ENDPOINTS,
    names::MAP_LISTS,
    names::MAP_RULES,
    names::MAP_ROWS,
    names::MAP_ADDR_CLASS,
    names::MAP_PORT_CLASS,
    names::MAP_OWN_ADDRS,
    names::MAP_FRONTENDS,
    names::MAP_FAILSAFES,
    names::MAP_INFRA,
];

/// Where maps come from: the object that was just loaded, or the pins of one that runs.
pub trait Source {
    /// The map of this name.
    fn map(&mut self, name: &'static str) -> Result<Map, Error>;
}

impl Source for Ebpf {
    fn map(&mut self, name: &'static str) -> Result<Map, Error> {
        self.take_map(name).ok_or(Error::Missing(name))
    }
}

/// A generation that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Grows with every apply.
    pub number: u64,
    /// Slot of the outer maps.
    pub slot: u32,
    /// Policy epoch (D15).
    pub epoch: u32,
}

/// The outer maps.
pub struct Generations {
    templates: Templates,
    slots: Slots,
    settings: ArraySlots<Settings>,
    devices: HashSlots<u32, DeviceEntry>,
    endpoints: ArraySlots<EndpointEntry>,
    lists: ArraySlots<ListEntry>,
    rules: ArraySlots<RuleEntry>,
    rows: ArraySlots<u64>,
    addr_class: TrieSlots<AddrKey>,
    port_class: TrieSlots<PortKey>,
    own_addrs: TrieSlots<AddrKey>,
    frontends: TrieSlots<FrontendKey>,
    failsafes: TrieSlots<FailsafeKey>,
    infra: TrieSlots<InfraKey>,
    /// Devices of the generation in force, with their grace.
    current: BTreeMap<u32, DeviceEntry>,
    /// Devices that ran without our programs for a while: the next generation begins their grace anew.
    unseen: BTreeSet<u32>,
    number: u64,
}

/// Takes a map out of its source.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    source: &mut impl Source,
    name: &'static str,
) -> Result<T, Error> {
    T::try_from(source.map(name)?).map_err(|e| Error::map(name, "open", e))
}

impl Generations {
    /// Takes the outer maps out of the loaded object. [`Self::reread`] tells what an agent before left in them.
    /// `policies`: the folder of their pins, if they are pinned.
    pub fn take(ebpf: &mut Ebpf, templates: Templates, policies: Option<PathBuf>) -> Result<Self, Error> {
        Ok(Self {
            templates,
            slots: Slots::take(policies, &SLICED, GENERATION_SLOTS),
            settings: take(ebpf, names::MAP_SETTINGS)?,
            devices: take(ebpf, names::MAP_DEVICES)?,
            endpoints: take(ebpf, names::MAP_ENDPOINTS)?,
            lists: take(ebpf, names::MAP_LISTS)?,
            rules: take(ebpf, names::MAP_RULES)?,
            rows: take(ebpf, names::MAP_ROWS)?,
            addr_class: take(ebpf, names::MAP_ADDR_CLASS)?,
            port_class: take(ebpf, names::MAP_PORT_CLASS)?,
            own_addrs: take(ebpf, names::MAP_OWN_ADDRS)?,
            frontends: take(ebpf, names::MAP_FRONTENDS)?,
            failsafes: take(ebpf, names::MAP_FAILSAFES)?,
            infra: take(ebpf, names::MAP_INFRA)?,
            current: BTreeMap::new(),
            unseen: BTreeSet::new(),
            number: 0,
        })
    }
    /// Reads what is in force. The number never falls, so that no two generations share one.
    pub fn reread(&mut self, state: &State) -> Result<(), Error> {
        let control = state.control()?;
        if let Some(slot) = control.active.checked_sub(1) {
            self.number = self.number.max(self.number_of(slot)?);
        }
        let (in_force, _) = control.in_force(state.now_ns(&control));
        let Some(slot) = in_force.checked_sub(1) else { return Ok(()) };
        self.number = self.number.max(self.number_of(slot)?);
        let devices = match self.slots.open(names::MAP_DEVICES, slot)? {
            Some(devices) => devices,
            None => self.devices.get(&slot, 0).map_err(|e| Error::map(names::MAP_DEVICES, "open", e))?,
        };
        let read: Result<_, _> = devices.iter().collect();
        self.current = read.map_err(|e| Error::map(names::MAP_DEVICES, "read", e))?;
        Ok(())
    }
    fn number_of(&self, slot: u32) -> Result<u64, Error> {
        let settings: Array<_, Settings> = match self.slots.open(names::MAP_SETTINGS, slot)? {
            Some(settings) => settings,
            None => self.settings.get(&slot, 0).map_err(|e| Error::map(names::MAP_SETTINGS, "open", e))?,
        };
        Ok(settings.get(&0, 0).map_err(|e| Error::map(names::MAP_SETTINGS, "read", e))?.generation)
    }
    /// Writes the tables into a free slot, verifies them, and makes them the generation in force. On any error
    /// the generation before stays in force, untouched (D22). While an apply waits for its confirmation, what it
    /// goes back to keeps its slot. `trial`: begin such a wait.
    pub fn apply(
        &mut self,
        tables: &Tables,
        state: &mut State,
        trial: Option<(u64, Duration)>,
    ) -> Result<Generation, Error> {
        let before = state.control()?;
        let slot = free_slot(&before);
        let number = self.number + 1;
        let devices = self.with_grace(tables, &before, state.now_ns(&before));
        let settings = Settings { generation: number, ..tables.settings };
        self.write(slot, tables, &settings, &devices)?;
        let epoch = state.change_control(|control, now_ns| {
            flip(control, slot, trial, now_ns);
            control.epoch
        })?;
        self.number = number;
        self.current = devices;
        self.unseen.clear();
        Ok(Generation { number, slot, epoch })
    }
    fn write(
        &mut self,
        slot: u32,
        tables: &Tables,
        settings: &Settings,
        devices: &BTreeMap<u32, DeviceEntry>,
    ) -> Result<(), Error> {
        let fresh = &self.templates.for_slot(slot, &self.slots);
        put(
            &mut self.settings,
            names::MAP_SETTINGS,
            slot,
            inner::array(fresh, names::MAP_SETTINGS, &[*settings], &Settings::default())?,
        )?;
        put(&mut self.devices, names::MAP_DEVICES, slot, inner::hash(fresh, names::MAP_DEVICES, devices)?)?;
        let map = names::MAP_ENDPOINTS;
        put(
            &mut self.endpoints,
            map,
            slot,
            inner::array(fresh, map, &tables.endpoints, &EndpointEntry::default())?,
        )?;
        let map = names::MAP_LISTS;
        put(&mut self.lists, map, slot, inner::array(fresh, map, &tables.lists, &ListEntry::default())?)?;
        let map = names::MAP_RULES;
        put(&mut self.rules, map, slot, inner::array(fresh, map, &tables.rules, &RuleEntry::default())?)?;
        put(&mut self.rows, names::MAP_ROWS, slot, inner::array(fresh, names::MAP_ROWS, &tables.rows, &0)?)?;
        put(
            &mut self.addr_class,
            names::MAP_ADDR_CLASS,
            slot,
            inner::trie(fresh, names::MAP_ADDR_CLASS, &tables.addr_class)?,
        )?;
        put(
            &mut self.port_class,
            names::MAP_PORT_CLASS,
            slot,
            inner::trie(fresh, names::MAP_PORT_CLASS, &tables.port_class)?,
        )?;
        put(
            &mut self.own_addrs,
            names::MAP_OWN_ADDRS,
            slot,
            inner::trie(fresh, names::MAP_OWN_ADDRS, &tables.own_addrs)?,
        )?;
        put(
            &mut self.frontends,
            names::MAP_FRONTENDS,
            slot,
            inner::trie(fresh, names::MAP_FRONTENDS, &tables.frontends)?,
        )?;
        put(
            &mut self.failsafes,
            names::MAP_FAILSAFES,
            slot,
            inner::trie(fresh, names::MAP_FAILSAFES, &tables.failsafes)?,
        )?;
        put(&mut self.infra, names::MAP_INFRA, slot, inner::trie(fresh, names::MAP_INFRA, &tables.infra)?)
    }
    /// D17: a device that was known and becomes governed gets its grace; a running one goes on. A node's very
    /// first generation begins none here: adoption decides that, for the whole node (`Control::grace_until_ns`).
    fn with_grace(&self, tables: &Tables, before: &Control, now_ns: u64) -> BTreeMap<u32, DeviceEntry> {
        let mut devices = tables.devices.clone();
        if before.active == 0 {
            return devices;
        }
        for (ifindex, device) in devices.iter_mut().filter(|(_, d)| d.endpoint != 0) {
            device.grace_until_ns = match self.current.get(ifindex) {
                Some(old) if old.endpoint != 0 && !self.unseen.contains(ifindex) => old.grace_until_ns,
                Some(_) | None => now_ns.saturating_add(tables.settings.grace_ns),
            };
        }
        devices
    }
    /// Frees what neither the active nor the generation before it needs. Not part of `apply`: each store to an outer
    /// map waits for an RCU grace period. A packet that still reads such a slot keeps its inner map alive until it
    /// is done. Failing here costs memory, nothing else.
    pub fn free_retired(&mut self, control: &Control) {
        for slot in (0..GENERATION_SLOTS).filter(|s| *s + 1 != control.active && *s + 1 != control.fallback) {
            if !self.slots.has(names::MAP_SETTINGS, slot) {
                continue; // Never used.
            }
            let empty = Tables::default();
            if let Err(error) = self.write(slot, &empty, &Settings::default(), &BTreeMap::new()) {
                tracing::warn!(slot, %error, "cannot free an old generation");
            }
        }
    }
    /// Pins inner maps again whose pins are gone. Says how many.
    pub fn pin_again(&self) -> io::Result<usize> {
        self.slots.pin_again()
    }
    /// Governed devices, and until when their grace runs (kernel clock, ns).
    pub fn devices(&self) -> &BTreeMap<u32, DeviceEntry> {
        &self.current
    }
    /// The next generation takes every device for one that becomes governed.
    pub fn forget_devices(&mut self) {
        self.current.clear();
    }
    /// What began on this device meanwhile was not seen: its grace begins anew with the next generation (D17).
    pub fn was_unseen(&mut self, ifindex: u32) {
        self.unseen.insert(ifindex);
    }
    /// Devices of [`Self::was_unseen`], until the next generation.
    pub fn unseen(&self) -> &BTreeSet<u32> {
        &self.unseen
    }
    /// Number of the generation in force; 0: none.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// Makes a slot the active one. Commands may have written the word since the tables were begun: only what the flip
/// is about changes.
fn flip(control: &mut Control, slot: u32, trial: Option<(u64, Duration)>, now_ns: u64) {
    let (in_force, epoch) = control.in_force(now_ns);
    if !control.waits() {
        control.fallback = in_force;
    }
    if let Some((id, limit)) = trial {
        control.fallback = in_force;
        control.trial = id;
        control.flags &= !(control_flag::CONFIRMED | control_flag::UNDONE);
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        control.confirm_until_ns = now_ns.saturating_add(limit).max(1);
    }
    control.active = slot + 1;
    control.epoch = epoch.wrapping_add(1);
}

/// A slot that is neither active nor the fallback.
fn free_slot(control: &Control) -> u32 {
    let used = |slot: &u32| slot + 1 == control.active || slot + 1 == control.fallback;
    let first = control.active % GENERATION_SLOTS;
    // Four slots, at most two in use: there is always one.
    (0..GENERATION_SLOTS).map(|i| (first + i) % GENERATION_SLOTS).find(|s| !used(s)).unwrap_or(first)
}

fn put<V: InnerMap>(
    outer: &mut ArrayOfMaps<MapData, V>,
    map: &'static str,
    slot: u32,
    inner: V,
) -> Result<(), Error> {
    outer.set(slot, &inner, 0).map_err(|e| Error::map(map, "set a slot of", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_trial_goes_back_to_outlives_every_flip_in_between() {
        let mut control = Control { active: 1, epoch: 4, fallback: 3, ..Control::default() };
        flip(&mut control, 1, Some((77, Duration::from_secs(2))), 1_000);
        assert_eq!((control.active, control.fallback, control.epoch, control.trial), (2, 1, 5, 77));
        assert_eq!(control.confirm_until_ns, 2_000_001_000);
        for slot in [2, 3, 1] {
            assert_ne!(free_slot(&control), control.fallback - 1);
            flip(&mut control, slot, None, 2_000);
            assert_eq!((control.active, control.fallback), (slot + 1, 1));
        }
        // After the deadline a flip changes nothing that is in force.
        flip(&mut control, 2, None, 2_000_001_000);
        assert_eq!(control.in_force(2_000_001_000).0, 1);
    }

    #[test]
    fn the_next_slot_is_never_in_use() {
        for active in 0..=GENERATION_SLOTS {
            for fallback in 0..=GENERATION_SLOTS {
                let slot = free_slot(&Control { active, fallback, ..Control::default() });
                assert!(slot < GENERATION_SLOTS);
                assert!(slot + 1 != active && slot + 1 != fallback, "{active} {fallback} {slot}");
            }
        }
    }
}
