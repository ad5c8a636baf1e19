//! What outlives generations: the control word, flows, counters, the last decision of each CPU.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, RingBuf};
use dataplane_common::abi::{
    Control, Counter, DeviceCounterKey, EthertypeKey, FlowEvent, HOOK_XDP, Hook, RuleCounterKey, RuleHits,
    Scratch, counter_index, spared_index, xdp_index,
};
use dataplane_common::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey, flow_flag};
use dataplane_common::names;
use dataplane_common::room::{ALL_SETS, Set};
use dataplane_common::tables::FlowTable;
use dataplane_common::verdict::{Reason, Verdict};
use nix::fcntl::{Flock, FlockArg};
use nix::time::{ClockId, clock_gettime};

use super::Error;
use super::adopt::BOTH_HOOKS;
use super::batch;
use super::generations::{Source, take};
use super::patience::patiently;

/// (hook, verdict, reason), by number.
pub type CounterKey = (u8, u8, u8);

/// How full the tables are that packets fill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    pub confirmed: usize,
    pub unconfirmed: usize,
    pub failsafe: usize,
    pub fragments: usize,
}

/// Maps without generations.
pub struct State {
    control: Array<MapData, Control>,
    flows: HashMap<MapData, FlowKey, FlowEntry>,
    flows_new: HashMap<MapData, FlowKey, FlowEntry>,
    flows_safe: HashMap<MapData, FlowKey, FlowEntry>,
    fragments: HashMap<MapData, FragmentKey, FragmentEntry>,
    rooms: Array<MapData, Set>,
    counters: PerCpuArray<MapData, Counter>,
    dev_counters: PerCpuHashMap<MapData, DeviceCounterKey, Counter>,
    rule_hits: PerCpuHashMap<MapData, RuleCounterKey, RuleHits>,
    flow_events: PerCpuArray<MapData, u64>,
    ethertypes: PerCpuHashMap<MapData, EthertypeKey, Counter>,
    scratch: PerCpuArray<MapData, Scratch>,
    events: Option<RingBuf<MapData>>,
    /// Folder of the pinned control word; none where nothing is pinned.
    pins: Option<PathBuf>,
}

impl State {
    /// Takes the maps out of the loaded object, or opens them where they are pinned. `pins`: the folder where the
    /// control word is pinned.
    pub fn take(source: &mut impl Source, pins: Option<PathBuf>) -> Result<Self, Error> {
        Ok(Self {
            control: take(source, names::MAP_CONTROL)?,
            flows: take(source, names::MAP_FLOWS)?,
            flows_new: take(source, names::MAP_FLOWS_NEW)?,
            flows_safe: take(source, names::MAP_FLOWS_SAFE)?,
            fragments: take(source, names::MAP_FRAGMENTS)?,
            rooms: take(source, names::MAP_ROOMS)?,
            counters: take(source, names::MAP_COUNTERS)?,
            dev_counters: take(source, names::MAP_DEV_COUNTERS)?,
            rule_hits: take(source, names::MAP_RULE_HITS)?,
            flow_events: take(source, names::MAP_FLOW_EVENTS)?,
            ethertypes: take(source, names::MAP_ETHERTYPES)?,
            scratch: take(source, names::MAP_SCRATCH)?,
            events: Some(take(source, names::MAP_EVENTS)?),
            pins,
        })
    }
    /// The control word.
    pub fn control(&self) -> Result<Control, Error> {
        self.control.get(&0, 0).map_err(|e| Error::map(names::MAP_CONTROL, "read", e))
    }
    /// Stores the control word. `active` and `epoch` share one 8-byte word, so no packet sees one without the other.
    pub fn set_control(&mut self, control: &Control) -> Result<(), Error> {
        self.control.set(0, control, 0).map_err(|e| Error::map(names::MAP_CONTROL, "write", e))
    }
    /// Reads, changes and stores the control word while nobody else does: `portcullis confirm` and `suspend` write
    /// it too. The change gets the clock of the programs, ns.
    pub fn change_control<T>(&mut self, change: impl FnOnce(&mut Control, u64) -> T) -> Result<T, Error> {
        let _lock = self.pins.as_deref().map(lock_control).transpose()?;
        let mut control = self.control()?;
        let now_ns = self.now_ns(&control);
        let result = change(&mut control, now_ns);
        self.set_control(&control)?;
        Ok(result)
    }
    /// The clock that the kernel program sees, ns.
    pub fn now_ns(&self, control: &Control) -> u64 {
        monotonic_ns().wrapping_add(control.clock_offset_ns)
    }
    /// Confirmed flows, for adoption (D17).
    pub fn put_flow(&mut self, key: &FlowKey, entry: &FlowEntry) -> Result<(), Error> {
        patiently(|| self.flows.insert(key, entry, 0)).map_err(|e| Error::map(names::MAP_FLOWS, "write", e))
    }
    /// Entries of the tables of confirmed flows, unconfirmed ones, those of failsafes, and of first fragments.
    pub fn counts(&self) -> FlowCounts {
        FlowCounts {
            confirmed: batch::count(&self.flows, self.flows.keys()),
            unconfirmed: batch::count(&self.flows_new, self.flows_new.keys()),
            failsafe: batch::count(&self.flows_safe, self.flows_safe.keys()),
            fragments: batch::count(&self.fragments, self.fragments.keys()),
        }
    }
    /// Events that CPUs left out and have not yet told with a later one.
    pub fn untold_events(&self) -> Result<u64, Error> {
        let per_cpu = self.scratch.get(&0, 0).map_err(|e| Error::map(names::MAP_SCRATCH, "read", e))?;
        Ok(per_cpu.iter().map(|s| u64::from(s.event_lost)).sum())
    }
    /// Takes over a flow that lived before we saw it (D17). One that is known stays as it is, but for the hooks: it
    /// passed at them. False when it was known.
    pub fn adopt_flow(&mut self, key: &FlowKey, entry: &FlowEntry) -> Result<bool, Error> {
        let known = |e: MapError| match e {
            MapError::KeyNotFound => Ok(None),
            e => Err(Error::map(names::MAP_FLOWS, "read", e)),
        };
        // A failsafe's flow needs nothing else (D18).
        if self.flows_safe.get(key, 0).is_ok() {
            return Ok(false);
        }
        match self.flows.get(key, 0).map(Some).or_else(known)? {
            Some(old) if old.hooks & BOTH_HOOKS == BOTH_HOOKS => Ok(false),
            Some(old) => self.put_flow(key, &FlowEntry { hooks: BOTH_HOOKS, ..old }).map(|()| false),
            None => self.put_flow(key, entry).map(|()| true),
        }
    }
    /// Takes over a flow from an earlier layout (D49), into the table where it stood; what was learnt of it since counts
    /// too. False: nothing was to be written.
    pub fn take_over_flow(
        &mut self,
        table: FlowTable,
        key: &FlowKey,
        entry: &FlowEntry,
    ) -> Result<bool, Error> {
        let mut known = None;
        for (at, map, name) in self.flow_tables() {
            match map.get(key, 0) {
                Ok(found) => known = known.or(Some((at, found))),
                Err(MapError::KeyNotFound) => {}
                Err(e) => return Err(Error::map(name, "read", e)),
            }
        }
        let merged = known.map_or(*entry, |(_, known)| merge(entry, &known));
        let confirmed = merged.flags & flow_flag::CONFIRMED != 0;
        let wanted = if table == FlowTable::Unconfirmed && confirmed { FlowTable::Confirmed } else { table };
        if known.is_some_and(|(at, known)| at == wanted && same_state(&known, &merged)) {
            return Ok(false);
        }
        for (at, map, name) in self.flow_tables() {
            if at == wanted {
                patiently(|| map.insert(key, merged, 0)).map_err(|e| Error::map(name, "write", e))?;
            }
        }
        if let Some((stale, _)) = known.filter(|(at, _)| *at != wanted) {
            for (_, map, name) in self.flow_tables().into_iter().filter(|(at, ..)| *at == stale) {
                gone_is_fine(map.remove(key)).map_err(|e| Error::map(name, "clean", e))?;
            }
        }
        Ok(true)
    }
    fn flow_tables(&mut self) -> [(FlowTable, &mut HashMap<MapData, FlowKey, FlowEntry>, &'static str); 3] {
        [
            (FlowTable::Confirmed, &mut self.flows, names::MAP_FLOWS),
            (FlowTable::Unconfirmed, &mut self.flows_new, names::MAP_FLOWS_NEW),
            (FlowTable::Failsafe, &mut self.flows_safe, names::MAP_FLOWS_SAFE),
        ]
    }
    /// Takes over the record of a first fragment.
    pub fn put_fragment(&mut self, key: &FragmentKey, record: &FragmentEntry) -> Result<(), Error> {
        self.fragments.insert(key, record, 0).map_err(|e| Error::map(names::MAP_FRAGMENTS, "write", e))
    }
    /// Every confirmed flow.
    pub fn flows(&self) -> Result<Vec<(FlowKey, FlowEntry)>, Error> {
        batch::entries(&self.flows, self.flows.iter(), names::MAP_FLOWS)
    }
    /// How many flows stand in a table.
    pub fn count_flows(&self, table: FlowTable) -> usize {
        match table {
            FlowTable::Confirmed => self.flows.keys().count(),
            FlowTable::Unconfirmed => self.flows_new.keys().count(),
            FlowTable::Failsafe => self.flows_safe.keys().count(),
        }
    }
    /// Every unconfirmed flow.
    pub fn flows_new(&self) -> Result<Vec<(FlowKey, FlowEntry)>, Error> {
        batch::entries(&self.flows_new, self.flows_new.iter(), names::MAP_FLOWS_NEW)
    }
    /// Every flow that a failsafe admitted.
    pub fn flows_safe(&self) -> Result<Vec<(FlowKey, FlowEntry)>, Error> {
        batch::entries(&self.flows_safe, self.flows_safe.iter(), names::MAP_FLOWS_SAFE)
    }
    /// Every record of a first fragment.
    pub fn fragments(&self) -> Result<Vec<(FragmentKey, FragmentEntry)>, Error> {
        batch::entries(&self.fragments, self.fragments.iter(), names::MAP_FRAGMENTS)
    }
    /// Removes a confirmed flow, if it is still there.
    pub fn remove_flow(&mut self, key: &FlowKey) -> Result<(), Error> {
        gone_is_fine(self.flows.remove(key)).map_err(|e| Error::map(names::MAP_FLOWS, "clean", e))
    }
    /// Forgets every flow and fragment. For tests: it cuts what is running.
    pub fn clear_flows(&mut self) -> Result<(), Error> {
        for (map, name) in [
            (&mut self.flows, names::MAP_FLOWS),
            (&mut self.flows_new, names::MAP_FLOWS_NEW),
            (&mut self.flows_safe, names::MAP_FLOWS_SAFE),
        ] {
            clear(map, name)?;
        }
        clear(&mut self.fragments, names::MAP_FRAGMENTS)?;
        // A place whose flow is gone would later show out a new flow of the same name.
        for set in 0..ALL_SETS {
            self.rooms.set(set, Set::default(), 0).map_err(|e| Error::map(names::MAP_ROOMS, "clean", e))?;
        }
        Ok(())
    }
    /// Counters that are not zero, summed over CPUs.
    pub fn counters(&self) -> Result<BTreeMap<CounterKey, Counter>, Error> {
        let mut found = BTreeMap::new();
        let mut read = |hook: u8, verdict: Verdict, reason: Reason, index: u32| {
            let per_cpu =
                self.counters.get(&index, 0).map_err(|e| Error::map(names::MAP_COUNTERS, "read", e))?;
            let sum = sum(per_cpu.iter());
            if sum.packets > 0 {
                found.insert((hook, verdict as u8, reason as u8), sum);
            }
            Ok(())
        };
        for reason in Reason::ALL {
            for hook in [Hook::Ingress, Hook::Egress] {
                for verdict in [Verdict::Ungoverned, Verdict::Allow, Verdict::Deny] {
                    read(hook as u8, verdict, *reason, counter_index(hook, verdict, *reason))?;
                }
            }
            read(HOOK_XDP, Verdict::Deny, *reason, xdp_index(*reason))?;
        }
        Ok(found)
    }
    /// Packets that were denied and passed all the same (audit, suspension), by hook and reason.
    pub fn spared(&self) -> Result<BTreeMap<(Hook, &'static str), Counter>, Error> {
        let mut found = BTreeMap::new();
        for hook in [Hook::Ingress, Hook::Egress] {
            for reason in Reason::ALL {
                let per_cpu = self
                    .counters
                    .get(&spared_index(hook, *reason), 0)
                    .map_err(|e| Error::map(names::MAP_COUNTERS, "read", e))?;
                let sum = sum(per_cpu.iter());
                if sum.packets > 0 {
                    found.insert((hook, reason.name()), sum);
                }
            }
        }
        Ok(found)
    }
    /// Packets by device and counter, summed over CPUs.
    pub fn device_counters(&self) -> Result<BTreeMap<DeviceCounterKey, Counter>, Error> {
        let read = batch::one_by_one(self.dev_counters.iter(), names::MAP_DEV_COUNTERS)?;
        Ok(read.into_iter().map(|(key, per_cpu)| (key, sum(per_cpu.iter()))).collect())
    }
    /// Forgets what was counted on devices that are gone: their numbers do not come again.
    pub fn forget_devices(&mut self, is_there: impl Fn(u32) -> bool) -> Result<(), Error> {
        let keys = batch::one_by_one(self.dev_counters.keys(), names::MAP_DEV_COUNTERS)?;
        for key in keys.iter().filter(|key| !is_there(key.device)) {
            gone_is_fine(self.dev_counters.remove(key))
                .map_err(|e| Error::map(names::MAP_DEV_COUNTERS, "clean", e))?;
        }
        Ok(())
    }
    /// Hits per rule identity and device, summed over CPUs; `last_seen_ns` is that of the latest CPU, to be compared
    /// with [`State::now_ns`].
    pub fn rule_hits(&self) -> Result<BTreeMap<RuleCounterKey, RuleHits>, Error> {
        let read = batch::one_by_one(self.rule_hits.iter(), names::MAP_RULE_HITS)?;
        Ok(read.into_iter().map(|(key, per_cpu)| (key, sum_hits(per_cpu.iter()))).collect())
    }
    /// Packets that are not IP by ethertype (D20), summed over CPUs. The map holds at most `MAX_ETHERTYPES` keys: what
    /// `counters` has more of under `not_ip` and `unknown_ethertype` is of other ethertypes.
    pub fn ethertypes(&self) -> Result<BTreeMap<EthertypeKey, Counter>, Error> {
        let read = batch::one_by_one(self.ethertypes.iter(), names::MAP_ETHERTYPES)?;
        Ok(read.into_iter().map(|(key, per_cpu)| (key, sum(per_cpu.iter()))).collect())
    }
    /// What happened to the flow tables (D18), summed over CPUs.
    pub fn flow_events(&self) -> Result<BTreeMap<FlowEvent, u64>, Error> {
        let read = |event: FlowEvent| {
            let per_cpu = self
                .flow_events
                .get(&(event as u32), 0)
                .map_err(|e| Error::map(names::MAP_FLOW_EVENTS, "read", e))?;
            Ok((event, per_cpu.iter().sum()))
        };
        FlowEvent::ALL.into_iter().map(read).collect()
    }
    /// What the last packet on a CPU left: its parsed form and decision.
    pub fn scratch(&self, cpu: usize) -> Result<Option<Scratch>, Error> {
        let per_cpu = self.scratch.get(&0, 0).map_err(|e| Error::map(names::MAP_SCRATCH, "read", e))?;
        Ok(per_cpu.get(cpu).copied())
    }
    /// Zeroes the scratch of every CPU, so that a stale decision cannot be taken for a new one.
    pub fn clear_scratch(&mut self) -> Result<(), Error> {
        let cpus = aya::util::nr_cpus()
            .map_err(|(_, e)| Error::map(names::MAP_SCRATCH, "size", MapError::IoError(e)))?;
        let zero = aya::maps::PerCpuValues::try_from(vec![Scratch::default(); cpus])
            .map_err(|e| Error::map(names::MAP_SCRATCH, "size", MapError::IoError(e)))?;
        self.scratch.set(0, zero, 0).map_err(|e| Error::map(names::MAP_SCRATCH, "write", e))
    }
    /// The event ring, once.
    pub fn take_events(&mut self) -> Option<RingBuf<MapData>> {
        self.events.take()
    }
}

/// A flow as its earlier table has it, with what this build's programs saw of it beside that (D49). They may have met it
/// in the middle, and then took the wrong end for its beginning.
fn merge(old: &FlowEntry, seen: &FlowEntry) -> FlowEntry {
    let mut merged = FlowEntry { last_seen_ns: old.last_seen_ns.max(seen.last_seen_ns), ..*old };
    let low = flow_flag::ORIGINAL_IS_LOW;
    if old.flags & low != seen.flags & low {
        return merged;
    }
    merged.flags |= seen.flags & flow_flag::CONFIRMED;
    merged.hooks |= seen.hooks;
    merged.state_original = old.state_original.max(seen.state_original);
    merged.state_reply = old.state_reply.max(seen.state_reply);
    if seen.device == old.device && seen.epoch == old.epoch {
        // Moved before: what goes on since then is in what the programs wrote.
        merged.original_next_seq = seen.original_next_seq;
        merged.reply_next_seq = seen.reply_next_seq;
    }
    merged
}

/// Whether two entries admit the same packets: what only moves with each packet is not looked at.
fn same_state(a: &FlowEntry, b: &FlowEntry) -> bool {
    let bare = |e: &FlowEntry| FlowEntry { last_seen_ns: 0, original_next_seq: 0, reply_next_seq: 0, ..*e };
    bare(a) == bare(b)
}

/// How long another writer of the control word may take: a busy machine stops it in the middle.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// The control word's writers exclude each other by a lock on the folder of its pin: bpffs holds no plain files.
pub fn lock_control(pins: &Path) -> Result<Flock<File>, Error> {
    let fail = |e: std::io::Error| Error::map(names::MAP_CONTROL, "lock", MapError::IoError(e));
    let end = Instant::now() + LOCK_PATIENCE;
    let mut folder = File::open(pins).map_err(fail)?;
    loop {
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, errno)) if Instant::now() >= end => return Err(fail(errno.into())),
            Err((back, _)) => folder = back,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The clock of `bpf_ktime_get_ns`, without an offset.
pub fn monotonic_ns() -> u64 {
    // The monotonic clock is always there; zero would only end a grace early.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |t| (t.tv_sec() as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec() as u64))
}

fn sum<'a>(per_cpu: impl Iterator<Item = &'a Counter>) -> Counter {
    per_cpu.fold(Counter::default(), |a, b| Counter {
        packets: a.packets.wrapping_add(b.packets),
        bytes: a.bytes.wrapping_add(b.bytes),
    })
}

fn sum_hits<'a>(per_cpu: impl Iterator<Item = &'a RuleHits>) -> RuleHits {
    per_cpu.fold(RuleHits::default(), |a, b| RuleHits {
        packets: a.packets.wrapping_add(b.packets),
        bytes: a.bytes.wrapping_add(b.bytes),
        last_seen_ns: a.last_seen_ns.max(b.last_seen_ns),
    })
}

fn gone_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn clear<K: aya::Pod, V: aya::Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<(), Error> {
    let keys: Vec<K> = map.keys().filter_map(Result::ok).collect();
    for key in keys {
        gone_is_fine(map.remove(&key)).map_err(|e| Error::map(name, "clean", e))?;
    }
    Ok(())
}
