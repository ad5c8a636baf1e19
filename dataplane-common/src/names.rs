//! Names that the kernel shows: maps, programs, pin paths. At most 15 bytes, because the kernel cuts there.

/// Directory of the pins, below a bpffs. Maps lie below it by [`crate::ABI_VERSION`].
pub const PIN_DIR: &str = "/sys/fs/bpf/portcullis";

/// TC program at the ingress of a device.
pub const PROG_TC_INGRESS: &str = "pc_tc_ingress";
/// TC program at the egress of a device.
pub const PROG_TC_EGRESS: &str = "pc_tc_egress";
/// XDP program of a device with an untracked ingress list (D10).
pub const PROG_XDP: &str = "pc_xdp";

/// Single [`crate::abi::Control`].
pub const MAP_CONTROL: &str = "pc_control";
/// generation slot → [`crate::abi::Settings`] array of one.
pub const MAP_SETTINGS: &str = "pc_settings";
/// generation slot → ifindex → [`crate::abi::DeviceEntry`].
pub const MAP_DEVICES: &str = "pc_devices";
/// generation slot → [`crate::abi::EndpointEntry`] array.
pub const MAP_ENDPOINTS: &str = "pc_endpoints";
/// generation slot → [`crate::abi::ListEntry`] array.
pub const MAP_LISTS: &str = "pc_lists";
/// generation slot → [`crate::abi::RuleEntry`] array.
pub const MAP_RULES: &str = "pc_rules";
/// generation slot → bitmap rows (u64 array).
pub const MAP_ROWS: &str = "pc_rows";
/// generation slot → LPM trie, [`crate::abi::AddrKey`] → address class.
pub const MAP_ADDR_CLASS: &str = "pc_addr_class";
/// generation slot → LPM trie, [`crate::abi::PortKey`] → port class.
pub const MAP_PORT_CLASS: &str = "pc_port_class";
/// generation slot → LPM trie, [`crate::abi::AddrKey`] → own address flags.
pub const MAP_OWN_ADDRS: &str = "pc_own_addrs";
/// generation slot → LPM trie, [`crate::abi::FrontendKey`] → frontend flags.
pub const MAP_FRONTENDS: &str = "pc_frontends";
/// generation slot → LPM trie, [`crate::abi::FailsafeKey`] → 1.
pub const MAP_FAILSAFES: &str = "pc_failsafes";
/// generation slot → LPM trie, [`crate::abi::InfraKey`] → 1.
pub const MAP_INFRA: &str = "pc_infra";
/// Confirmed flows: [`crate::flow::FlowKey`] → [`crate::flow::FlowEntry`].
pub const MAP_FLOWS: &str = "pc_flows";
/// Unconfirmed flows, LRU.
pub const MAP_FLOWS_NEW: &str = "pc_flows_new";
/// Flows of failsafes, LRU.
pub const MAP_FLOWS_SAFE: &str = "pc_flows_safe";
/// Who holds a place among unconfirmed flows and fragments: array of [`crate::room::Set`] (D18).
pub const MAP_ROOMS: &str = "pc_rooms";
/// Per CPU array of u64, [`crate::abi::FlowEvent`].
pub const MAP_FLOW_EVENTS: &str = "pc_flow_events";
/// Secret of the hash that picks a flow's place; set at load.
pub const GLOBAL_SEED: &str = "PC_SEED";
/// 1: the kernel has the coarse clock (5.11); set at load.
pub const GLOBAL_COARSE: &str = "PC_COARSE";
/// First-fragment records, LRU: [`crate::flow::FragmentKey`] → [`crate::flow::FragmentEntry`].
pub const MAP_FRAGMENTS: &str = "pc_fragments";
/// Per CPU, [`crate::abi::counter_index`] → [`crate::abi::Counter`].
pub const MAP_COUNTERS: &str = "pc_counters";
/// Per CPU hash, [`crate::abi::DeviceCounterKey`] → [`crate::abi::Counter`].
pub const MAP_DEV_COUNTERS: &str = "pc_dev_counters";
/// Per CPU hash, LRU, [`crate::abi::RuleCounterKey`] → [`crate::abi::RuleHits`].
pub const MAP_RULE_HITS: &str = "pc_rule_hits";
/// Per CPU hash, [`crate::abi::EthertypeKey`] → [`crate::abi::Counter`] (D20).
pub const MAP_ETHERTYPES: &str = "pc_ethertypes";
/// Ring buffer of [`crate::abi::Event`].
pub const MAP_EVENTS: &str = "pc_events";
/// Per CPU, single [`crate::abi::Scratch`]: the packet in work, and after it the last decision (read by tests).
pub const MAP_SCRATCH: &str = "pc_scratch";
