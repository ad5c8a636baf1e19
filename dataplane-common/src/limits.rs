//! Every bound of the data path and of the compiler, in one place (D50). Compile checks them before a map is
//! written; the kernel program uses them as loop bounds.

/// Rules of one list (one endpoint, stage and direction), compiled: tier ends and the expansion of named ports
/// and services included.
pub const MAX_RULES_PER_LIST: u32 = 4096;
/// 64-rule words of one list row. The row's first word is its summary: bit `w` says that word `w` is not zero.
pub const MAX_WORDS_PER_LIST: u32 = MAX_RULES_PER_LIST / 64;
/// Compiled rules of one list that do not end the scan (Log, Pass, skip). Each costs a step.
pub const MAX_CONTINUE_RULES_PER_LIST: u32 = 63;
/// Steps of one list scan: every word once, and every non-final rule once.
pub const MAX_SCAN_STEPS: u32 = MAX_WORDS_PER_LIST + MAX_CONTINUE_RULES_PER_LIST + 1;
/// Compiled rules of all lists of a node.
pub const MAX_RULES: u32 = 1 << 18;
/// Lists of a node.
pub const MAX_LISTS: u32 = 4096;
/// Host endpoints that govern a device of this node.
pub const MAX_ENDPOINTS: u32 = 1024;
/// Devices that a generation knows.
pub const MAX_DEVICES: u32 = 4096;
/// Address prefixes of all sets of a generation.
pub const MAX_PREFIXES: u32 = 1 << 21;
/// Port prefixes of a generation.
pub const MAX_PORT_PREFIXES: u32 = 1 << 17;
/// 64-bit words of the bitmap rows of a generation (256 MiB).
pub const MAX_ROW_WORDS: u32 = 1 << 25;
/// Own addresses, broadcast addresses included.
pub const MAX_OWN_ADDRESSES: u32 = 1 << 14;
/// Addresses and ranges of pods, Services and nodes (D27).
pub const MAX_INTERNAL_RANGES: u32 = 1 << 18;
/// Service frontends (D3).
pub const MAX_FRONTENDS: u32 = 1 << 18;
/// Failsafe entries, both directions.
pub const MAX_FAILSAFES: u32 = 1 << 12;
/// (own address, peer address, protocol, port) tuples of known tunnels (D39).
pub const MAX_INFRA_PEERS: u32 = 1 << 16;
/// Node-port ranges given by FelixConfiguration (D3).
pub const MAX_NODE_PORT_RANGES: usize = 4;
/// Slots of the outer maps: active, next, and two that wait for their grace period.
pub const GENERATION_SLOTS: u32 = 4;
/// Confirmed flows.
pub const MAX_FLOWS_CONFIRMED: u32 = 1 << 18;
/// Unconfirmed flows (half-open, one-way): a flood evicts only these. `pc_rooms` has places for three quarters of them
/// ([`crate::room::SETS`]), so this table is never full by itself.
pub const MAX_FLOWS_UNCONFIRMED: u32 = 1 << 16;
/// Flows that a failsafe admitted, with room of their own (D18).
pub const MAX_FLOWS_FAILSAFE: u32 = 1 << 14;
/// Records of first fragments (D36).
pub const MAX_FRAGMENTS: u32 = 1 << 14;
/// Rules with hits, times devices; the longest unused ones go first.
pub const MAX_RULE_HITS: u32 = 1 << 16;
/// (device, hook, verdict, reason) that are counted apart; what finds no room is counted for the node all the same.
pub const MAX_DEVICE_COUNTERS: u32 = 1 << 13;
/// (ethertype, hook, verdict) that are counted apart (D20). What finds no room is counted all the same, as
/// `not_ip` or `unknown_ethertype`: the difference is shown as "other".
pub const MAX_ETHERTYPES: u32 = 256;
/// Bytes of the event ring.
pub const EVENT_RING_BYTES: u32 = 1 << 20;
/// Events per CPU and second; the rest is counted as lost. Never one event per dropped packet in a flood.
pub const MAX_EVENTS_PER_SECOND: u32 = 256;

/// VLAN tags that may stand in the packet's bytes (D28).
pub const MAX_VLAN_TAGS: u32 = 2;
/// IPv6 extension headers (D33).
pub const MAX_EXTENSION_HEADERS: u32 = 8;
/// Bytes of the IPv6 extension header chain (D33).
pub const MAX_EXTENSION_BYTES: u32 = 256;
/// IPv4 options walked: at most 40 bytes, one byte each.
pub const MAX_IPV4_OPTIONS: u32 = 40;

const _: () = assert!(MAX_WORDS_PER_LIST <= 64, "the summary of a row is one 64-bit word");
const _: () = {
    use crate::room::{SETS, WAYS};
    let ways = WAYS as u32;
    assert!((SETS[0] + SETS[1]) * ways < MAX_FLOWS_UNCONFIRMED, "rooms give way before the table does");
    assert!((SETS[2] + SETS[3]) * ways < MAX_FLOWS_FAILSAFE, "rooms give way before the table does");
    assert!(SETS[4] * ways < MAX_FRAGMENTS, "rooms give way before the table does");
};
const _: () = assert!(GENERATION_SLOTS.is_power_of_two());
