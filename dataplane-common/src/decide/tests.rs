//! The decision over tables of vectors: one host endpoint on device 1, own address 10.0.0.1.

extern crate std;

use core::cell::RefCell;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::run;
use crate::abi::{
    DeviceEntry, FAILSAFE_INBOUND, FAILSAFE_OUTBOUND, FlowEvent, Hook, ListEntry, ListKind, PortKey,
    PortRange, RuleAction, RuleEntry, Scratch, own_flag, settings_flag,
};
use crate::addr::Addr;
use crate::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey};
use crate::packet::{Packet, protocol, tcp};
use crate::parse::tests::{Bytes, fragment_v4, icmp_error_v4, icmp_v4, tcp_v4, udp_v4};
use crate::scan::{Classes, SCAN_LIMIT, next_match, scan};
use crate::tables::{FlowTable, NodeState, Room, Rows, Tables};
use crate::verdict::{Decision, Reason, Stage, Verdict};

const OWN: [u8; 4] = [10, 0, 0, 1];
const PEER: [u8; 4] = [203, 0, 113, 7];
const POD: [u8; 4] = [192, 168, 1, 10];
const SECOND: u64 = 1_000_000_000;

/// A list is `(kind, allowed destination ports)`; what is not allowed is denied by a last rule.
#[derive(Default)]
struct World {
    now: RefCell<u64>,
    governed: bool,
    /// The generation has no settings.
    torn: bool,
    /// Scans do not end.
    endless: bool,
    recheck: bool,
    epoch: RefCell<u32>,
    grace_until: u64,
    lists: Vec<(ListKind, Vec<u16>)>,
    failsafes: Vec<(u8, u8, u16)>,
    confirmed_room: usize,
    flows: RefCell<[BTreeMap<FlowKey, FlowEntry>; 3]>,
    fragments: RefCell<BTreeMap<FragmentKey, FragmentEntry>>,
    puts: RefCell<u32>,
    events: RefCell<BTreeMap<FlowEvent, u32>>,
    scratch: RefCell<Scratch>,
}

fn world(lists: Vec<(ListKind, Vec<u16>)>) -> World {
    World { now: RefCell::new(SECOND), governed: true, lists, confirmed_room: 100, ..World::default() }
}

impl Tables for World {
    fn node(&self) -> Option<NodeState> {
        (!self.torn).then_some(())?;
        Some(NodeState {
            now_ns: *self.now.borrow(),
            generation: 1,
            settings: settings_flag::GOVERNED
                | settings_flag::UNTRACKED
                | if self.recheck { settings_flag::RECHECK } else { 0 },
            epoch: *self.epoch.borrow(),
            record_only_until_ns: 0,
        })
    }
    fn device(&self, ifindex: u32) -> Option<DeviceEntry> {
        (ifindex == 1 && self.governed).then_some(DeviceEntry {
            endpoint: 1,
            flags: 0,
            grace_until_ns: self.grace_until,
        })
    }
    fn list_of(&self, _: u32, kind: ListKind) -> Option<u32> {
        Some(self.lists.iter().position(|(k, _)| *k == kind).map_or(0, |i| i as u32 + 1))
    }
    fn own_addr(&self, addr: &Addr) -> u32 {
        if *addr == Addr::v4(OWN) { own_flag::OWN } else { 0 }
    }
    fn frontend(&self, _: &Addr, _: u8, _: u16) -> u32 {
        0
    }
    fn node_ports(&self, _: u32) -> Option<PortRange> {
        None
    }
    fn failsafe(&self, direction: u8, protocol: u8, port: u16, _: &Addr) -> bool {
        self.failsafes.contains(&(direction, protocol, port))
    }
    fn infra(&self, _: &Addr, _: u8, _: u16) -> bool {
        false
    }
    fn would_forward(&self, packet: &Packet) -> bool {
        packet.tuple.dst == Addr::v4(POD)
    }
    fn lives_elsewhere(&self, _: &Packet) -> bool {
        false
    }
    fn addr_class(&self, _: &Addr) -> u32 {
        0
    }
    fn port_class(&self, key: &PortKey) -> u32 {
        u32::from(u16::from_be_bytes(key.port_be))
    }
    fn scan(&self, list: u32, work: &Scratch) -> u64 {
        if self.endless {
            return SCAN_LIMIT;
        }
        let ports = &self.lists[list as usize].1;
        let port = work.facts.dport_class as u16;
        // Rule 0 of each list allows, rule 1 denies.
        u64::from(list * 2 + u32::from(!ports.contains(&port)))
    }
    fn rule(&self, index: u32) -> Option<RuleEntry> {
        let action = if index.is_multiple_of(2) { RuleAction::Allow } else { RuleAction::Deny };
        Some(RuleEntry { action: action as u8, ..RuleEntry::default() })
    }
    fn flow(&self, table: FlowTable, key: &FlowKey, out: &mut FlowEntry) -> bool {
        self.flows.borrow()[table as usize].get(key).map(|f| *out = *f).is_some()
    }
    fn flow_put(&self, table: FlowTable, key: &FlowKey, entry: &FlowEntry) -> bool {
        *self.puts.borrow_mut() += 1;
        let room = if table == FlowTable::Confirmed { self.confirmed_room } else { usize::MAX };
        let table = &mut self.flows.borrow_mut()[table as usize];
        if table.len() >= room && !table.contains_key(key) {
            return false;
        }
        table.insert(*key, *entry);
        true
    }
    fn flow_begin(&self, room: Room, _: &Addr, key: &FlowKey, entry: &FlowEntry) {
        let _ = self.flow_put(room.table(), key, entry);
    }
    fn flow_touch(&self, table: FlowTable, key: &FlowKey, entry: &FlowEntry, original: bool) {
        if let Some(flow) = self.flows.borrow_mut()[table as usize].get_mut(key) {
            flow.last_seen_ns = entry.last_seen_ns;
            flow.epoch = entry.epoch;
            flow.hooks = entry.hooks;
            if original {
                flow.state_original = entry.state_original;
                flow.original_next_seq = entry.original_next_seq;
            } else {
                flow.state_reply = entry.state_reply;
                flow.reply_next_seq = entry.reply_next_seq;
            }
        }
    }
    fn flow_event(&self, event: FlowEvent) {
        *self.events.borrow_mut().entry(event).or_default() += 1;
    }
    fn flow_remove(&self, table: FlowTable, key: &FlowKey) {
        self.flows.borrow_mut()[table as usize].remove(key);
    }
    fn fragment(&self, key: &FragmentKey, out: &mut FragmentEntry) -> bool {
        self.fragments.borrow().get(key).map(|f| *out = *f).is_some()
    }
    fn fragment_begin(&self, _: &Addr, key: &FragmentKey, entry: &FragmentEntry) {
        self.fragment_put(key, entry);
    }
    fn fragment_put(&self, key: &FragmentKey, entry: &FragmentEntry) {
        self.fragments.borrow_mut().insert(*key, *entry);
    }
}

impl World {
    fn judge(&self, hook: Hook, device: u32, from_device: bool, frame: &Bytes) -> Decision {
        run(frame, self, &mut self.scratch.borrow_mut(), hook, device, from_device)
    }
    fn ingress(&self, frame: &Bytes) -> (Verdict, Stage, Reason) {
        let d = self.judge(Hook::Ingress, 1, true, frame);
        (d.verdict, d.stage, d.reason)
    }
    fn egress(&self, frame: &Bytes) -> (Verdict, Stage, Reason) {
        let d = self.judge(Hook::Egress, 1, false, frame);
        (d.verdict, d.stage, d.reason)
    }
    fn wait(&self, seconds: u64) {
        *self.now.borrow_mut() += seconds * SECOND;
    }
}

const SYN_ACK: u8 = tcp::SYN | tcp::ACK;

fn syn(dport: u16) -> Bytes {
    tcp_v4(PEER, OWN, 40000, dport, tcp::SYN, 100, 0)
}
fn answer(sport: u16, flags: u8, ack: u32) -> Bytes {
    tcp_v4(OWN, PEER, sport, 40000, flags, 500, ack)
}

#[test]
fn a_connection_from_syn_to_timeout() {
    let w = world(vec![(ListKind::NormalIngress, vec![80])]);
    assert_eq!(w.ingress(&syn(80)), (Verdict::Allow, Stage::Normal, Reason::RuleAllow));
    let ack = tcp_v4(PEER, OWN, 40000, 80, tcp::ACK, 101, 501);
    assert_eq!(w.ingress(&ack), (Verdict::Deny, Stage::Invalid, Reason::TcpBeforeReply));
    assert_eq!(w.egress(&answer(80, SYN_ACK, 7)), (Verdict::Deny, Stage::Invalid, Reason::TcpBadReply));
    assert_eq!(w.egress(&answer(80, SYN_ACK, 101)), (Verdict::Allow, Stage::Flow, Reason::FlowReply));
    assert_eq!(w.ingress(&ack), (Verdict::Allow, Stage::Flow, Reason::FlowOriginal));
    assert_eq!(w.flows.borrow()[0].len(), 1);
    assert_eq!(w.flows.borrow()[1].len(), 0);
    w.wait(431_000);
    assert_eq!(w.egress(&answer(80, tcp::ACK, 102)), (Verdict::Allow, Stage::Flow, Reason::FlowReply));
    w.wait(432_001);
    assert_eq!(w.ingress(&ack), (Verdict::Deny, Stage::Invalid, Reason::TcpNoFlow));
}

#[test]
fn a_spoofed_syn_changes_no_flow_and_a_reset_out_of_sequence_ends_none() {
    let w = world(vec![(ListKind::NormalIngress, vec![80])]);
    let _ = w.ingress(&syn(80));
    let _ = w.egress(&answer(80, SYN_ACK, 101));
    assert_eq!(w.ingress(&tcp_v4(PEER, OWN, 40000, 80, tcp::ACK, 101, 501)).1, Stage::Flow);
    assert_eq!(w.ingress(&tcp_v4(PEER, OWN, 40000, 80, tcp::SYN, 9000, 0)).1, Stage::Normal);
    assert_eq!(w.ingress(&tcp_v4(PEER, OWN, 40000, 80, tcp::RST, 77, 0)).1, Stage::Flow);
    w.wait(1000);
    assert_eq!(w.ingress(&tcp_v4(PEER, OWN, 40000, 80, tcp::ACK, 101, 501)).1, Stage::Flow);
}

#[test]
fn an_admitted_hook_is_not_the_other_one() {
    let w = world(vec![(ListKind::ForwardEgress, vec![])]);
    let forward = |flags, seq, ack| tcp_v4(PEER, POD, 40000, 80, flags, seq, ack);
    assert_eq!(
        w.ingress(&forward(tcp::SYN, 100, 0)),
        (Verdict::Allow, Stage::Forward, Reason::ForwardDefault)
    );
    let at_egress = w.judge(Hook::Egress, 1, true, &forward(tcp::SYN, 100, 0));
    assert_eq!((at_egress.verdict, at_egress.stage), (Verdict::Deny, Stage::Forward));
}

#[test]
fn no_rule_no_profile_is_denied_and_an_ungoverned_device_is_left_alone_but_learnt() {
    let w = world(vec![]);
    assert_eq!(w.ingress(&syn(80)), (Verdict::Deny, Stage::Profile, Reason::ProfileEnd));
    let d = w.judge(Hook::Ingress, 2, true, &syn(80));
    assert_eq!((d.verdict, d.stage), (Verdict::Ungoverned, Stage::None));
    // S-17: the answer leaves by the governed device.
    assert_eq!(w.egress(&answer(80, SYN_ACK, 101)).2, Reason::FlowReply);
}

#[test]
fn failsafes_come_first_and_their_answers_need_nothing() {
    let mut w = world(vec![(ListKind::UntrackedIngress, vec![])]);
    w.failsafes = vec![(FAILSAFE_INBOUND, 6, 22), (FAILSAFE_OUTBOUND, 17, 53)];
    assert_eq!(w.ingress(&syn(22)), (Verdict::Allow, Stage::Failsafe, Reason::FailsafeInbound));
    assert_eq!(w.ingress(&syn(80)), (Verdict::Deny, Stage::Untracked, Reason::RuleDeny));
    assert_eq!(w.egress(&answer(22, tcp::ACK, 3)), (Verdict::Allow, Stage::Failsafe, Reason::FailsafeReply));
    let to_pod = tcp_v4(PEER, POD, 40000, 22, tcp::SYN, 1, 0);
    assert_eq!(w.ingress(&to_pod).1, Stage::Untracked);
    assert_eq!(w.egress(&udp_v4(OWN, PEER, 5000, 53)).2, Reason::FailsafeOutbound);
    assert_eq!(w.ingress(&udp_v4(PEER, OWN, 53, 5000)), (Verdict::Allow, Stage::Flow, Reason::FlowReply));
}

#[test]
fn pre_dnat_decides_before_everything_and_service_answers_pass() {
    let w = world(vec![(ListKind::PreDnat, vec![31852]), (ListKind::NormalIngress, vec![])]);
    assert_eq!(w.ingress(&syn(31852)), (Verdict::Allow, Stage::PreDnat, Reason::RuleAllow));
    assert_eq!(w.ingress(&syn(31853)), (Verdict::Deny, Stage::PreDnat, Reason::RuleDeny));
}

#[test]
fn udp_flows_and_their_errors() {
    let w = world(vec![(ListKind::NormalEgress, vec![53])]);
    assert_eq!(w.egress(&udp_v4(OWN, PEER, 5000, 53)).1, Stage::Normal);
    assert_eq!(w.ingress(&icmp_error_v4(PEER, OWN, OWN, PEER, 5000, 53)).2, Reason::FlowRelated);
    // C-6: to another than the quoted source.
    assert_ne!(w.ingress(&icmp_error_v4(PEER, POD, OWN, PEER, 5000, 53)).1, Stage::Flow);
    assert_eq!(w.ingress(&udp_v4(PEER, OWN, 53, 5000)).2, Reason::FlowReply);
    w.wait(121);
    assert_eq!(w.ingress(&udp_v4(PEER, OWN, 53, 5000)).1, Stage::Profile);
}

#[test]
fn echo_has_a_key_space_of_its_own() {
    let w = world(vec![(ListKind::NormalEgress, vec![8 << 8])]);
    assert_eq!(w.egress(&icmp_v4(OWN, PEER, 8, 77)).1, Stage::Normal);
    assert_eq!(w.ingress(&icmp_v4(PEER, OWN, 0, 77)).2, Reason::FlowReply);
    assert_eq!(w.ingress(&icmp_v4(PEER, OWN, 0, 78)).1, Stage::Profile);
    // The peer's own request with the same identifier answers nothing.
    assert_eq!(w.ingress(&icmp_v4(PEER, OWN, 8, 77)).1, Stage::Profile);
}

#[test]
fn fragments_inherit_and_overlaps_kill() {
    let w = world(vec![(ListKind::NormalIngress, vec![53])]);
    let later = |id, offset| fragment_v4(PEER, OWN, 17, id, offset, false, &[0; 16]);
    assert_eq!(w.ingress(&later(1, 24)).2, Reason::FragmentUnknown);
    let first = |dport: u16| {
        let mut l4 = [0u8; 24];
        l4[0..2].copy_from_slice(&5000u16.to_be_bytes());
        l4[2..4].copy_from_slice(&dport.to_be_bytes());
        l4[5] = 40;
        fragment_v4(PEER, OWN, 17, 1, 0, true, &l4)
    };
    assert_eq!(w.ingress(&first(53)).0, Verdict::Allow);
    assert_eq!(w.ingress(&later(1, 24)).2, Reason::FragmentAllowed);
    assert_eq!(w.ingress(&first(22)), (Verdict::Deny, Stage::Malformed, Reason::FragmentRewrite));
    assert_eq!(w.ingress(&later(1, 24)).2, Reason::FragmentDenied);
}

#[test]
fn a_new_epoch_cuts_what_policy_now_denies() {
    let mut w = world(vec![(ListKind::NormalIngress, vec![80])]);
    w.recheck = true;
    let _ = w.ingress(&syn(80));
    let _ = w.egress(&answer(80, SYN_ACK, 101));
    *w.epoch.borrow_mut() += 1;
    assert_eq!(w.egress(&answer(80, tcp::ACK, 101)).2, Reason::FlowReply);
    w.lists[0].1.clear();
    *w.epoch.borrow_mut() += 1;
    assert_eq!(w.egress(&answer(80, tcp::ACK, 101)), (Verdict::Deny, Stage::Flow, Reason::FlowRechecked));
}

#[test]
fn grace_lets_policy_judge_what_did_not_begin_here() {
    let mut w = world(vec![(ListKind::NormalIngress, vec![80])]);
    w.grace_until = 100 * SECOND;
    let data = tcp_v4(PEER, OWN, 40000, 80, tcp::ACK, 7000, 9);
    assert_eq!(w.ingress(&data).1, Stage::Normal);
    assert_eq!(w.egress(&answer(80, tcp::ACK, 7000)).2, Reason::FlowReply);
    w.wait(200);
    assert_eq!(w.ingress(&data).2, Reason::FlowOriginal);
}

#[test]
fn a_full_table_leaves_the_flow_unconfirmed_and_working() {
    let mut w = world(vec![(ListKind::NormalIngress, vec![80])]);
    let _ = w.ingress(&syn(80));
    w.confirmed_room = 0;
    assert_eq!(w.egress(&answer(80, SYN_ACK, 101)).2, Reason::FlowReply);
    let ack = tcp_v4(PEER, OWN, 40000, 80, tcp::ACK, 101, 501);
    assert_eq!(w.ingress(&ack).1, Stage::Normal);
}

/// Two classes per side are enough: rows of class 0 only.
struct List(Vec<RuleEntry>, Vec<u64>, RefCell<Vec<u32>>);

impl Rows for List {
    fn list(&self, _: u32) -> Option<ListEntry> {
        let words = self.1.len() as u32 - 1;
        Some(ListEntry { rule_count: self.0.len() as u32, words, ..ListEntry::default() })
    }
    fn word(&self, index: u32) -> Option<u64> {
        self.1.get(index as usize).copied()
    }
    fn rule(&self, index: u32) -> Option<RuleEntry> {
        self.0.get(index as usize).copied()
    }
    fn next(&self, list: u32, classes: Classes, position: u32) -> u64 {
        next_match(self, list, classes, position)
    }
    fn passed(&self, index: u32, _: &RuleEntry) {
        self.2.borrow_mut().push(index);
    }
}

#[test]
fn the_scan_passes_logs_and_resumes_behind_a_skip() {
    let rule = |action, resume| RuleEntry { action: action as u8, resume, ..RuleEntry::default() };
    let mut rules = vec![rule(RuleAction::Deny, 0); 140];
    rules[1] = rule(RuleAction::Log, 0);
    rules[3] = rule(RuleAction::Skip, 66);
    rules[130] = rule(RuleAction::Allow, 0);
    // Rules 1, 3, 5 (jumped over), 65 (jumped over) and 130 match.
    let rows = vec![0b111, 1 << 1 | 1 << 3 | 1 << 5, 1 << 1, 1 << 2];
    let list = List(rules, rows, RefCell::default());
    assert_eq!(scan(&list, 0, Classes { addresses: 0, ports: 0 }), 130);
    assert_eq!(*list.2.borrow(), [1, 3]);
    // A row that is missing is closed, not open.
    assert_eq!(scan(&list, 0, Classes { addresses: 9, ports: 0 }), crate::scan::SCAN_BROKEN);
}

#[test]
fn a_torn_generation_is_refused() {
    let mut w = world(vec![]);
    w.torn = true;
    assert_eq!(w.ingress(&syn(22)), (Verdict::Deny, Stage::None, Reason::TableMissing));
}

#[test]
fn a_scan_that_does_not_end_is_refused() {
    let mut w = world(vec![(ListKind::PreDnat, vec![80])]);
    w.endless = true;
    assert_eq!(w.ingress(&syn(80)), (Verdict::Deny, Stage::PreDnat, Reason::ScanLimit));
}

#[test]
fn a_full_confirmed_table_leaves_the_flow_unconfirmed_and_counts_it() {
    let mut w = world(vec![(ListKind::NormalIngress, vec![80])]);
    w.confirmed_room = 0;
    let _ = w.ingress(&syn(80));
    assert_eq!(w.flows.borrow()[1].len(), 1);
    assert_eq!(w.egress(&answer(80, SYN_ACK, 101)).2, Reason::FlowReply);
    let ack = tcp_v4(PEER, OWN, 40000, 80, tcp::ACK, 101, 501);
    assert_eq!(w.ingress(&ack), (Verdict::Allow, Stage::Normal, Reason::RuleAllow));
    assert_eq!(w.events.borrow()[&FlowEvent::ConfirmedFull], 1);
}

#[test]
fn an_established_packet_writes_its_flow_in_place() {
    let w = world(vec![(ListKind::NormalIngress, vec![80])]);
    let _ = w.ingress(&syn(80));
    let _ = w.egress(&answer(80, SYN_ACK, 101));
    let ack = tcp_v4(PEER, OWN, 40000, 80, tcp::ACK, 101, 501);
    let _ = w.ingress(&ack);
    let puts = *w.puts.borrow();
    w.wait(7);
    assert_eq!(w.ingress(&ack).2, Reason::FlowOriginal);
    assert_eq!(w.egress(&answer(80, tcp::ACK, 101)).2, Reason::FlowReply);
    assert_eq!(*w.puts.borrow(), puts, "no update of the table");
    assert!(w.flows.borrow()[0].values().all(|f| f.last_seen_ns == 8 * SECOND));
}

/// D10: XDP drops what TC denies by the untracked list, and leaves the rest, fragments with it, to TC.
#[test]
fn xdp_anticipates_the_untracked_list_and_nothing_else() {
    let lists = vec![(ListKind::UntrackedIngress, vec![80]), (ListKind::NormalIngress, vec![])];
    let mut w = world(lists);
    w.failsafes = vec![(FAILSAFE_INBOUND, protocol::TCP, 22), (FAILSAFE_OUTBOUND, protocol::TCP, 443)];
    let martian = tcp_v4([127, 0, 0, 1], OWN, 40000, 81, tcp::SYN, 100, 0);
    let from_failsafe = tcp_v4(PEER, OWN, 443, 81, tcp::ACK, 100, 0);
    let first = fragment_v4(PEER, OWN, protocol::UDP, 7, 0, true, &[0, 1, 0, 81, 0, 8, 0, 0]);
    let cases = [
        (syn(81), true),
        (udp_v4(PEER, POD, 40000, 53), true),
        (syn(80), false),
        (syn(22), false),
        (martian, false),
        (from_failsafe, false),
        (first, false),
    ];
    for (number, (frame, dropped)) in cases.iter().enumerate() {
        let mut work = Scratch::default();
        assert_eq!(super::denied_untracked(frame, &w, &mut work, 1), *dropped, "case {number}");
        assert!(!super::denied_untracked(frame, &w, &mut Scratch::default(), 2), "case {number}, ungoverned");
        if *dropped {
            assert_eq!(work.decision, w.judge(Hook::Ingress, 1, true, frame), "case {number}");
        }
    }
    let state = w.flows.borrow().iter().map(BTreeMap::len).sum::<usize>() + w.fragments.borrow().len();
    assert_eq!(state, 0, "XDP leaves no state, nor what is untracked");
}
