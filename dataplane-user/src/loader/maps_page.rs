//! `docs/reference/maps.md`, held to the object's own declarations.

use std::fmt::Write as _;
use std::path::Path;

use dataplane_common::{limits, names};

use super::object::{FLOW_MAPS, OBJECT, POLICY_MAPS};

/// What a map holds, who writes it, and the named limit of its entries.
struct About {
    name: &'static str,
    holds: &'static str,
    writer: Writer,
    limit: Option<(&'static str, u32)>,
}

#[derive(Clone, Copy)]
enum Writer {
    Agent,
    Programs,
    Both,
}

const fn about(
    name: &'static str,
    writer: Writer,
    limit: Option<(&'static str, u32)>,
    holds: &'static str,
) -> About {
    About { name, holds, writer, limit }
}

macro_rules! limit {
    ($name:ident) => {
        Some((stringify!($name), limits::$name))
    };
}

const MAPS: [About; 25] = [
    about(
        names::MAP_CONTROL,
        Writer::Agent,
        None,
        "The word that every packet reads first: the active slot, the policy epoch, deadlines of grace, confirmation and suspension, audit.",
    ),
    about(
        names::MAP_SETTINGS,
        Writer::Agent,
        None,
        "Settings of the generation: its number, `onPolicyChange`, NodePort ranges, grace.",
    ),
    about(
        names::MAP_DEVICES,
        Writer::Agent,
        limit!(MAX_DEVICES),
        "ifindex → which endpoint governs the device, and what kind of device it is.",
    ),
    about(
        names::MAP_ENDPOINTS,
        Writer::Agent,
        limit!(MAX_ENDPOINTS),
        "What governs a device: its nine lists.",
    ),
    about(
        names::MAP_LISTS,
        Writer::Agent,
        limit!(MAX_LISTS),
        "One list: a range of `pc_rules`, and where its bitmap rows lie in `pc_rows`.",
    ),
    about(
        names::MAP_RULES,
        Writer::Agent,
        limit!(MAX_RULES),
        "Compiled rules: action, policy, index, identity for the hits.",
    ),
    about(
        names::MAP_ROWS,
        Writer::Agent,
        limit!(MAX_ROW_WORDS),
        "Per class and list, one bit for each rule that the class satisfies; 64-bit words.",
    ),
    about(
        names::MAP_ADDR_CLASS,
        Writer::Agent,
        limit!(MAX_PREFIXES),
        "Address prefix → class: which sets hold the address.",
    ),
    about(
        names::MAP_PORT_CLASS,
        Writer::Agent,
        limit!(MAX_PORT_PREFIXES),
        "(side, protocol, port) prefix → class.",
    ),
    about(
        names::MAP_OWN_ADDRS,
        Writer::Agent,
        limit!(MAX_OWN_ADDRESSES),
        "The node's own addresses and subnet broadcasts (D1, D3).",
    ),
    about(
        names::MAP_FRONTENDS,
        Writer::Agent,
        limit!(MAX_FRONTENDS),
        "Service frontends: address, protocol, port (D3).",
    ),
    about(
        names::MAP_FAILSAFES,
        Writer::Agent,
        limit!(MAX_FAILSAFES),
        "Failsafes: direction, protocol, port, net (D1, D2).",
    ),
    about(names::MAP_INFRA, Writer::Agent, limit!(MAX_INFRA_PEERS), "Peers of this node's tunnels (D39)."),
    about(
        names::MAP_FLOWS,
        Writer::Both,
        limit!(MAX_FLOWS_CONFIRMED),
        "Confirmed flows: a reply was seen. Ended by timeouts, or by the connection's own end (D18, D42).",
    ),
    about(
        names::MAP_FLOWS_NEW,
        Writer::Both,
        limit!(MAX_FLOWS_UNCONFIRMED),
        "Flows without a reply yet. A flood evicts only these (D18).",
    ),
    about(
        names::MAP_FLOWS_SAFE,
        Writer::Both,
        limit!(MAX_FLOWS_FAILSAFE),
        "Flows that a failsafe admitted, with room of their own (D18).",
    ),
    about(
        names::MAP_FRAGMENTS,
        Writer::Programs,
        limit!(MAX_FRAGMENTS),
        "What the first fragment of a packet got, for the later ones (D36).",
    ),
    about(
        names::MAP_ROOMS,
        Writer::Programs,
        None,
        "Who holds a place among unconfirmed flows and fragments, so that one source cannot take them all (D18).",
    ),
    about(
        names::MAP_FLOW_EVENTS,
        Writer::Programs,
        None,
        "How often a flow table was full, or an entry made room for another.",
    ),
    about(
        names::MAP_COUNTERS,
        Writer::Programs,
        None,
        "Packets and bytes by hook, verdict and [reason](reasons.md).",
    ),
    about(
        names::MAP_DEV_COUNTERS,
        Writer::Programs,
        limit!(MAX_DEVICE_COUNTERS),
        "The same by device, for `portcullis_packets_total` and `portcullis_bytes_total` of [metrics.md](metrics.md).",
    ),
    about(
        names::MAP_RULE_HITS,
        Writer::Programs,
        limit!(MAX_RULE_HITS),
        "Packets, bytes and last hit by rule and device.",
    ),
    about(
        names::MAP_ETHERTYPES,
        Writer::Programs,
        limit!(MAX_ETHERTYPES),
        "Packets that are not IP, by ethertype (D20).",
    ),
    about(
        names::MAP_EVENTS,
        Writer::Programs,
        limit!(EVENT_RING_BYTES),
        "Sampled events: what became of single packets. The size is in bytes.",
    ),
    about(names::MAP_SCRATCH, Writer::Programs, None, "The packet in work, and after it the last decision."),
];

fn kind(number: u32) -> &'static str {
    match number {
        1 => "hash",
        2 => "array",
        5 => "hash, per CPU",
        6 => "array, per CPU",
        9 => "LRU hash",
        10 => "LRU hash, per CPU",
        11 => "LPM trie",
        27 => "ring buffer",
        other => panic!("map type {other} has no name here"),
    }
}

fn page() -> String {
    let object = aya_obj::Object::parse(OBJECT).expect("the embedded object is read");
    let mut page = format!(
        "# Maps\n\n\
         Written from the kernel object and `dataplane-user/src/loader/maps_page.rs`; a test fails when this page differs.\n\n\
         All maps are pinned: those of the policy below `/sys/fs/bpf/portcullis/vN`, the flow tables below\n\
         `/sys/fs/bpf/portcullis/flows-vN` (N: the version of the layout), so that an upgrade that changes the one keeps the other (D49).\n\
         A map whose type says \"by generation\" is an array of {} slots with one inner map each. The agent fills fresh inner maps, puts them into a free slot,\n\
         and one store to `pc_control` makes that slot active (D23). The limit is checked before anything is written (D50).\n\n\
         To look at one: `bpftool map dump pinned /sys/fs/bpf/portcullis/v*/pc_control`. The maps know their types, so bpftool names the fields.\n\n\
         | map | type | key → value, bytes | limit | written by | what it holds |\n\
         |---|---|---|---|---|---|\n",
        limits::GENERATION_SLOTS
    );
    for map in &MAPS {
        let declared = &object.maps[map.name];
        let (what, inner) = match declared.inner() {
            Some(inner) => (format!("{}, by generation", kind(inner.map_type())), inner),
            None => (kind(declared.map_type()).to_owned(), declared.clone()),
        };
        let sizes = match inner.map_type() {
            27 => "events".to_owned(),
            _ => format!("{} → {}", inner.key_size(), inner.value_size()),
        };
        let limit = match map.limit {
            Some((name, number)) => format!("{number} (`{name}`)"),
            None if declared.inner().is_some() => "1".to_owned(),
            None => declared.max_entries().to_string(),
        };
        let writer = match map.writer {
            Writer::Agent => "agent",
            Writer::Programs => "programs",
            Writer::Both => "programs; the agent removes what timed out",
        };
        writeln!(page, "| `{}` | {what} | {sizes} | {limit} | {writer} | {} |", map.name, map.holds)
            .expect("text grows");
    }
    page
}

#[test]
fn the_page_of_maps_is_current() {
    if OBJECT.is_empty() {
        eprintln!("SKIPPED the_page_of_maps_is_current: this build carries no kernel object");
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/maps.md");
    let page = page();
    if std::env::var_os("PORTCULLIS_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page,
        "{} is not what the object says: PORTCULLIS_WRITE_DOCS=1 cargo test",
        path.display()
    );
}

#[test]
fn every_map_is_on_the_page() {
    let mut pinned: Vec<&str> = POLICY_MAPS.iter().chain(&FLOW_MAPS).copied().collect();
    let mut described: Vec<&str> = MAPS.iter().map(|map| map.name).collect();
    pinned.sort_unstable();
    described.sort_unstable();
    assert_eq!(pinned, described);
}
