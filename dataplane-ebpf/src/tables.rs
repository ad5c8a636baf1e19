//! The tables of one generation, as the decision asks for them.

use aya_ebpf::btf_maps::lpm_trie::Key;
use dataplane_common::abi::{
    DeviceEntry, FailsafeKey, FlowEvent, FrontendKey, InfraKey, ListEntry, ListKind, PortKey, PortRange,
    RuleAction, RuleCounterKey, RuleEntry, Scratch, quiet,
};
use dataplane_common::addr::Addr;
use dataplane_common::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey};
use dataplane_common::limits::{MAX_EVENTS_PER_SECOND, MAX_NODE_PORT_RANGES};
use dataplane_common::packet::{Packet, Tuple};
use dataplane_common::room::{FRAGMENT_ROOM, share};
use dataplane_common::scan::{Classes, SCAN_BROKEN, next_match, scan};
use dataplane_common::tables::{FlowTable, NodeState, Room, Rows, Tables};

use crate::maps::{self, InnerArray};
use crate::raw;

const ADDR_BITS: u32 = 160;
const PORT_BITS: u32 = 32;
const FRONTEND_BITS: u32 = 192;
const FAILSAFE_BITS: u32 = 192;
const INFRA_BITS: u32 = 192;

/// What the kernel's routing is asked through: the context of the program.
pub trait Routes {
    /// The routing answer for a packet from `source` to `destination` that comes in here: helper's code, and whether it
    /// leaves by the device it came by. `keep`: bits of an IPv6 source that are told, all or none; without branches.
    fn route(&self, tuple: &Tuple, source: &Addr, keep: u32, destination: &Addr) -> (i64, bool);
}

/// One packet's view: the slot was read once (D23).
pub struct Kernel<C> {
    pub context: C,
    pub slot: u32,
    pub now_ns: u64,
    /// Policy epoch of what is in force.
    pub epoch: u32,
    /// `Control::grace_until_ns`.
    pub record_only_until_ns: u64,
}

macro_rules! trie {
    ($map:expr, $slot:expr, $bits:expr, $key:expr) => {
        match $map.get($slot) {
            Some(trie) => trie.get(&Key::new($bits, $key)).copied(),
            None => None,
        }
    };
}

impl<C: Routes> Tables for Kernel<C> {
    #[inline(always)]
    fn node(&self) -> Option<NodeState> {
        let settings = maps::SETTINGS.get_value(self.slot, &0)?;
        Some(NodeState {
            now_ns: self.now_ns,
            generation: settings.generation,
            settings: settings.flags,
            epoch: self.epoch,
            record_only_until_ns: self.record_only_until_ns,
        })
    }

    #[inline(always)]
    fn device(&self, ifindex: u32) -> Option<DeviceEntry> {
        let devices = maps::DEVICES.get(self.slot)?;
        raw::copy_device(devices, ifindex)
    }

    #[inline(always)]
    fn list_of(&self, endpoint: u32, kind: ListKind) -> Option<u32> {
        let entry = maps::ENDPOINTS.get_value(self.slot, &endpoint)?;
        entry.lists.get(kind as usize).copied()
    }

    #[inline(always)]
    fn own_addr(&self, addr: &Addr) -> u32 {
        own_addr(self.slot, addr)
    }

    #[inline(always)]
    fn frontend(&self, addr: &Addr, protocol: u8, port: u16) -> u32 {
        let key = FrontendKey { addr: *addr, port_be: port.to_be_bytes(), protocol, pad: 0 };
        trie!(maps::FRONTENDS, self.slot, FRONTEND_BITS, key).unwrap_or(0)
    }

    #[inline(always)]
    fn node_ports(&self, number: u32) -> Option<PortRange> {
        let settings = maps::SETTINGS.get_value(self.slot, &0)?;
        if number >= settings.node_port_ranges || number as usize >= MAX_NODE_PORT_RANGES {
            return None;
        }
        settings.node_ports.get(number as usize).copied()
    }

    #[inline(always)]
    fn failsafe(&self, direction: u8, protocol: u8, port: u16, peer: &Addr) -> bool {
        failsafe(self.slot, u32::from(direction) << 24 | u32::from(protocol) << 16 | u32::from(port), peer)
    }

    #[inline(always)]
    fn infra(&self, peer: &Addr, protocol: u8, port: u16) -> bool {
        let key = InfraKey { peer: *peer, port_be: port.to_be_bytes(), protocol, pad: 0 };
        trie!(maps::INFRA, self.slot, INFRA_BITS, key).is_some()
    }

    #[inline(always)]
    fn would_forward(&self, packet: &Packet) -> bool {
        let (code, _) = self.context.route(&packet.tuple, &packet.tuple.src, u32::MAX, &packet.tuple.dst);
        raw::forwards(code)
    }

    #[inline(always)]
    fn lives_elsewhere(&self, packet: &Packet) -> bool {
        let to = &packet.tuple.dst;
        // No route begins at such an address: neighbour discovery from another node would seem spoofed.
        let nowhere = u32::from(to.bytes[0] == 0xff) | u32::from(to.is_link_local_v6());
        let (code, back) = self.context.route(&packet.tuple, to, nowhere.wrapping_sub(1), &packet.tuple.src);
        // A device that does not forward is not asked for routes: nothing is known of the source then.
        !(raw::forwarding_is_off(code) || raw::forwards(code) && back)
    }

    #[inline(always)]
    fn addr_class(&self, addr: &Addr) -> u32 {
        addr_class(self.slot, addr)
    }

    #[inline(always)]
    fn port_class(&self, key: &PortKey) -> u32 {
        trie!(maps::PORT_CLASS, self.slot, PORT_BITS, *key).unwrap_or(0)
    }

    #[inline(always)]
    fn scan(&self, list: u32, work: &Scratch) -> u64 {
        // The scan's events read this memory through the map: it must be written by now.
        let facts = &core::hint::black_box(work).facts;
        let addresses = u64::from(facts.source_class) << 32 | u64::from(facts.destination_class);
        let ports = u64::from(facts.sport_class) << 32 | u64::from(facts.dport_class);
        pc_scan(self.slot, list, addresses, ports)
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<RuleEntry> {
        maps::RULES.get_value(self.slot, &index).copied()
    }

    #[inline(always)]
    fn flow(&self, table: FlowTable, key: &FlowKey, out: &mut FlowEntry) -> bool {
        raw::flow(table, key, out)
    }

    #[inline(always)]
    fn flow_begin(&self, room: Room, source: &Addr, key: &FlowKey, entry: &FlowEntry) {
        pc_make_room(room as u32, share(source), self.now_ns);
        if !self.flow_put(room.table(), key, entry) {
            raw::flow_event(FlowEvent::NotRecorded);
        }
    }

    #[inline(always)]
    fn flow_touch(&self, table: FlowTable, key: &FlowKey, entry: &FlowEntry, original: bool) {
        raw::touch(table, key, entry, original);
    }

    #[inline(always)]
    fn flow_event(&self, event: FlowEvent) {
        raw::flow_event(event);
    }

    #[inline(always)]
    fn flow_put(&self, table: FlowTable, key: &FlowKey, entry: &FlowEntry) -> bool {
        match table {
            FlowTable::Confirmed => maps::FLOWS.insert(key, entry, 0),
            FlowTable::Unconfirmed => maps::FLOWS_NEW.insert(key, entry, 0),
            FlowTable::Failsafe => maps::FLOWS_SAFE.insert(key, entry, 0),
        }
        .is_ok()
    }

    #[inline(always)]
    fn flow_remove(&self, table: FlowTable, key: &FlowKey) {
        // Absent is as good as removed.
        let _ = match table {
            FlowTable::Confirmed => maps::FLOWS.remove(key),
            FlowTable::Unconfirmed => maps::FLOWS_NEW.remove(key),
            FlowTable::Failsafe => maps::FLOWS_SAFE.remove(key),
        };
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey, out: &mut FragmentEntry) -> bool {
        raw::fragment(key, out)
    }

    #[inline(always)]
    fn fragment_begin(&self, source: &Addr, key: &FragmentKey, entry: &FragmentEntry) {
        pc_make_room(FRAGMENT_ROOM, share(source), self.now_ns);
        self.fragment_put(key, entry);
    }

    #[inline(always)]
    fn fragment_put(&self, key: &FragmentKey, entry: &FragmentEntry) {
        // Without a record the later fragments are refused: closed.
        let _ = maps::FRAGMENTS.insert(key, entry, 0);
    }
}

// Lookups with several callers: one copy each.

#[inline(never)]
fn own_addr(slot: u32, addr: &Addr) -> u32 {
    trie!(maps::OWN_ADDRS, slot, ADDR_BITS, *addr).unwrap_or(0)
}

#[inline(never)]
fn addr_class(slot: u32, addr: &Addr) -> u32 {
    trie!(maps::ADDR_CLASS, slot, ADDR_BITS, *addr).unwrap_or(0)
}

#[inline(never)]
fn failsafe(slot: u32, what: u32, peer: &Addr) -> bool {
    let key = FailsafeKey {
        direction: (what >> 24) as u8,
        protocol: (what >> 16) as u8,
        port_be: (what as u16).to_be_bytes(),
        addr: *peer,
    };
    trie!(maps::FAILSAFES, slot, FAILSAFE_BITS, key).is_some()
}

struct Slot {
    slot: u32,
    words: &'static InnerArray<u64>,
}

impl Rows for Slot {
    #[inline(always)]
    fn list(&self, index: u32) -> Option<ListEntry> {
        maps::LISTS.get_value(self.slot, &index).copied()
    }

    #[inline(always)]
    fn word(&self, index: u32) -> Option<u64> {
        self.words.get(index).copied()
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<RuleEntry> {
        maps::RULES.get_value(self.slot, &index).copied()
    }

    #[inline(always)]
    fn passed(&self, index: u32, rule: &RuleEntry) {
        pc_passed(index, rule.identity, u32::from(rule.action));
    }

    #[inline(always)]
    fn next(&self, list: u32, classes: Classes, position: u32) -> u64 {
        pc_next(self.slot, list, classes.addresses, classes.ports, position)
    }
}

// Global functions: the verifier sees each of them once, whoever calls it, with numbers that it knows nothing
// about. Kernel 5.10 has only numbers as arguments of such functions.

/// The scan of one list.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pc_scan(slot: u32, list: u32, addresses: u64, ports: u64) -> u64 {
    let Some(words) = maps::ROWS.get(slot) else { return SCAN_BROKEN };
    scan(&Slot { slot, words }, list, Classes { addresses, ports })
}

/// The next match in a list.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pc_next(slot: u32, list: u32, addresses: u64, ports: u64, position: u32) -> u64 {
    let Some(words) = maps::ROWS.get(slot) else { return SCAN_BROKEN };
    next_match(&Slot { slot, words }, list, Classes { addresses, ports }, position)
}

/// Takes a place in a room for the flow or fragmented datagram in work, and shows the one out that has to leave (D18).
/// Returns nothing of use.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pc_make_room(room: u32, share: u32, now_ns: u64) -> u32 {
    let Some(work) = raw::scratch() else { return 0 };
    // What is not there has left already: confirmed, or at its end.
    let (evicted, event) = if room == FRAGMENT_ROOM {
        let key = &work.fragment_key;
        let evict = |gone: &FragmentKey| maps::FRAGMENTS.remove(gone).is_ok();
        (raw::make_room(room, share, key, now_ns, evict), FlowEvent::FragmentGone)
    } else {
        let safe = room >= Room::FailsafeInbound as u32;
        let evict = |gone: &FlowKey| {
            if safe { maps::FLOWS_SAFE.remove(gone) } else { maps::FLOWS_NEW.remove(gone) }.is_ok()
        };
        let event = if safe { FlowEvent::FailsafeGone } else { FlowEvent::UnconfirmedGone };
        (raw::make_room(room, share, &work.key, now_ns, evict), event)
    };
    if evicted {
        raw::flow_event(event);
    }
    0
}

/// A rule that matched without ending the scan: counted, and told if it is a Log rule. Returns nothing of use:
/// global functions must return a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pc_passed(index: u32, identity: u32, action: u32) -> u32 {
    let Some(work) = raw::scratch() else { return 0 };
    if work.quiet != quiet::OFF {
        work.quiet = quiet::MISSED;
        return 0;
    }
    count_rule(work, identity);
    if action == u32::from(RuleAction::Log as u8) {
        event(work, 1, index);
    }
    0
}

/// Counts a hit of a rule.
#[inline(always)]
pub fn count_rule(work: &Scratch, identity: u32) {
    let key = RuleCounterKey { identity, device: work.facts.device };
    raw::count_rule(&key, work.packet.len, work.facts.now_ns);
}

/// Tells userspace, at most [`MAX_EVENTS_PER_SECOND`] times per CPU and second.
#[inline(always)]
pub fn event(work: &mut Scratch, log: u8, rule: u32) {
    let second = work.facts.now_ns / 1_000_000_000;
    if work.event_second != second {
        work.event_second = second;
        work.event_count = 0;
    }
    if work.event_count < MAX_EVENTS_PER_SECOND
        && raw::send(work, work.facts.device, work.facts.hook, log, rule)
    {
        work.event_count += 1;
        work.event_lost = 0;
    } else {
        work.event_lost = work.event_lost.saturating_add(1);
    }
}
