//! Every map of the data path. Names and layouts are those of `dataplane_common::{names, abi, flow}`.
//!
//! A map of the policy is an outer array with one inner map per generation slot. The agent fills fresh inner
//! maps, puts them into a free slot, and one store to `pc_control` makes that slot the active one (D23). Inner
//! maps differ in size between generations: arrays carry `BPF_F_INNER_MAP` for that (kernel 5.10), tries and
//! hashes may differ anyway. Sizes given here for inner maps are only those of the template.

use aya_ebpf::bindings::{BPF_F_INNER_MAP, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{
    Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, LruPerCpuHashMap, PerCpuArray, PerCpuHashMap, RingBuf,
};
use aya_ebpf::macros::btf_map;
use dataplane_common::abi::{
    AddrKey, COUNTERS, Control, Counter, DeviceCounterKey, DeviceEntry, EndpointEntry, EthertypeKey, Event,
    FailsafeKey, FlowEvent, FrontendKey, InfraKey, ListEntry, PortKey, RuleCounterKey, RuleEntry, RuleHits,
    Scratch, Settings,
};
use dataplane_common::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey};
use dataplane_common::limits::{
    EVENT_RING_BYTES, GENERATION_SLOTS, MAX_DEVICE_COUNTERS, MAX_ETHERTYPES, MAX_FLOWS_CONFIRMED,
    MAX_FLOWS_FAILSAFE, MAX_FLOWS_UNCONFIRMED, MAX_FRAGMENTS, MAX_RULE_HITS,
};
use dataplane_common::room::{ALL_SETS, Set};

const SLOTS: usize = GENERATION_SLOTS as usize;

/// Inner array whose length may differ from slot to slot.
pub type InnerArray<T> = Array<T, 1, { BPF_F_INNER_MAP as usize }>;
/// Inner trie; prefixes are allocated one by one.
pub type InnerTrie<K> = LpmTrie<K, u32, 1, { BPF_F_NO_PREALLOC as usize }>;
/// Inner hash; entries are allocated one by one.
pub type InnerHash<K, V> = HashMap<K, V, 1, { BPF_F_NO_PREALLOC as usize }>;

/// The one word that every packet reads first: which slot is active.
#[btf_map(name = "pc_control")]
pub static CONTROL: Array<Control, 1> = Array::new();

/// slot → settings of the generation (array of one).
#[btf_map(name = "pc_settings")]
pub static SETTINGS: ArrayOfMaps<InnerArray<Settings>, SLOTS> = ArrayOfMaps::new();

/// slot → ifindex → device.
#[btf_map(name = "pc_devices")]
pub static DEVICES: ArrayOfMaps<InnerHash<u32, DeviceEntry>, SLOTS> = ArrayOfMaps::new();

/// slot → what governs a device.
#[btf_map(name = "pc_endpoints")]
pub static ENDPOINTS: ArrayOfMaps<InnerArray<EndpointEntry>, SLOTS> = ArrayOfMaps::new();

/// slot → lists: ranges of the global rule order.
#[btf_map(name = "pc_lists")]
pub static LISTS: ArrayOfMaps<InnerArray<ListEntry>, SLOTS> = ArrayOfMaps::new();

/// slot → compiled rules.
#[btf_map(name = "pc_rules")]
pub static RULES: ArrayOfMaps<InnerArray<RuleEntry>, SLOTS> = ArrayOfMaps::new();

/// slot → bitmap rows, see `ListEntry`.
#[btf_map(name = "pc_rows")]
pub static ROWS: ArrayOfMaps<InnerArray<u64>, SLOTS> = ArrayOfMaps::new();

/// slot → address prefix → class: the set of sets that hold the address.
#[btf_map(name = "pc_addr_class")]
pub static ADDR_CLASS: ArrayOfMaps<InnerTrie<AddrKey>, SLOTS> = ArrayOfMaps::new();

/// slot → (side, protocol, port) prefix → class.
#[btf_map(name = "pc_port_class")]
pub static PORT_CLASS: ArrayOfMaps<InnerTrie<PortKey>, SLOTS> = ArrayOfMaps::new();

/// slot → own addresses and subnet broadcasts → `own_flag` bits.
#[btf_map(name = "pc_own_addrs")]
pub static OWN_ADDRS: ArrayOfMaps<InnerTrie<AddrKey>, SLOTS> = ArrayOfMaps::new();

/// slot → Service frontends → `frontend_flag` bits (D3).
#[btf_map(name = "pc_frontends")]
pub static FRONTENDS: ArrayOfMaps<InnerTrie<FrontendKey>, SLOTS> = ArrayOfMaps::new();

/// slot → failsafes → 1 (D1, D2).
#[btf_map(name = "pc_failsafes")]
pub static FAILSAFES: ArrayOfMaps<InnerTrie<FailsafeKey>, SLOTS> = ArrayOfMaps::new();

/// slot → tunnel peers → 1 (D39).
#[btf_map(name = "pc_infra")]
pub static INFRA: ArrayOfMaps<InnerTrie<InfraKey>, SLOTS> = ArrayOfMaps::new();

/// Confirmed flows. No LRU: only timeouts and the connection's own end remove one (D18).
#[btf_map(name = "pc_flows")]
pub static FLOWS: HashMap<
    FlowKey,
    FlowEntry,
    { MAX_FLOWS_CONFIRMED as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Unconfirmed flows: a flood evicts only these (D18).
#[btf_map(name = "pc_flows_new")]
pub static FLOWS_NEW: LruHashMap<FlowKey, FlowEntry, { MAX_FLOWS_UNCONFIRMED as usize }> = LruHashMap::new();

/// Flows that a failsafe admitted, with room of their own (D18).
#[btf_map(name = "pc_flows_safe")]
pub static FLOWS_SAFE: LruHashMap<FlowKey, FlowEntry, { MAX_FLOWS_FAILSAFE as usize }> = LruHashMap::new();

/// What first fragments got (D36).
#[btf_map(name = "pc_fragments")]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry, { MAX_FRAGMENTS as usize }> = LruHashMap::new();

/// Who holds a place among unconfirmed flows and fragments (D18).
#[btf_map(name = "pc_rooms")]
pub static ROOMS: Array<Set, { ALL_SETS as usize }> = Array::new();

/// What happens to flow tables, by `FlowEvent`.
#[btf_map(name = "pc_flow_events")]
pub static FLOW_EVENTS: PerCpuArray<u64, { FlowEvent::ALL.len() }> = PerCpuArray::new();

/// Packets and bytes by hook, verdict and reason.
#[btf_map(name = "pc_counters")]
pub static COUNTS: PerCpuArray<Counter, { COUNTERS as usize }> = PerCpuArray::new();

/// The same by device. Entries are there beforehand, so that not even the first packet is missed.
#[btf_map(name = "pc_dev_counters")]
pub static DEV_COUNTS: PerCpuHashMap<DeviceCounterKey, Counter, { MAX_DEVICE_COUNTERS as usize }> =
    PerCpuHashMap::new();

/// Packets, bytes and last hit by rule identity and device.
#[btf_map(name = "pc_rule_hits")]
pub static RULE_HITS: LruPerCpuHashMap<RuleCounterKey, RuleHits, { MAX_RULE_HITS as usize }> =
    LruPerCpuHashMap::new();

/// Packets that are not IP, by ethertype (D20). No LRU: a neighbour that tries every ethertype takes no counts away.
#[btf_map(name = "pc_ethertypes")]
pub static ETHERTYPES: PerCpuHashMap<
    EthertypeKey,
    Counter,
    { MAX_ETHERTYPES as usize },
    { BPF_F_NO_PREALLOC as usize },
> = PerCpuHashMap::new();

/// Sampled events.
#[btf_map(name = "pc_events")]
pub static EVENTS: RingBuf<Event, { EVENT_RING_BYTES as usize }> = RingBuf::new();

/// The packet in work, and after it the last decision.
#[btf_map(name = "pc_scratch")]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
