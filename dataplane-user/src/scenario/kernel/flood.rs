//! D18 against the real tables, at their real sizes: floods through `BPF_PROG_TEST_RUN`. About five seconds each.

use std::net::Ipv4Addr;

use dataplane_common::abi::{FlowEvent, Hook};
use dataplane_common::addr::Addr;
use dataplane_common::flow::{FlowEntry, FlowKey, TcpState, flow_flag};
use dataplane_common::limits::{MAX_FLOWS_CONFIRMED, MAX_FLOWS_UNCONFIRMED, MAX_FRAGMENTS};
use dataplane_common::packet::tcp;

use super::KernelEngine;
use super::tests::{engine, governed, send};

const NODE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 11);
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const SYN_ACK: u8 = tcp::SYN | tcp::ACK;
/// More than all unconfirmed flows that there is room for.
const FLOOD: u32 = MAX_FLOWS_UNCONFIRMED + 10_000;

const OPEN: &str = "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: open}, \
                    spec: {selector: has(a), types: [Ingress], ingress: [{action: Allow}]}}";

struct Segment {
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    flags: u8,
    seq: u32,
    ack: u32,
}

impl Segment {
    fn frame(&self) -> Vec<u8> {
        let mut frame =
            vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0];
        frame.extend(self.from.0.octets());
        frame.extend(self.to.0.octets());
        frame.extend(self.from.1.to_be_bytes());
        frame.extend(self.to.1.to_be_bytes());
        frame.extend(self.seq.to_be_bytes());
        frame.extend(self.ack.to_be_bytes());
        frame.extend([0x50, self.flags, 0x20, 0, 0, 0, 0, 0]);
        frame
    }
}

fn syn(from: (Ipv4Addr, u16)) -> Vec<u8> {
    Segment { from, to: (NODE, 8080), flags: tcp::SYN, seq: 99, ack: 0 }.frame()
}
fn answer(to: (Ipv4Addr, u16)) -> Vec<u8> {
    Segment { from: (NODE, 8080), to, flags: SYN_ACK, seq: 500, ack: 100 }.frame()
}
fn data(from: (Ipv4Addr, u16)) -> Vec<u8> {
    Segment { from, to: (NODE, 8080), flags: tcp::ACK, seq: 100, ack: 501 }.frame()
}

fn event(engine: &KernelEngine, event: FlowEvent) -> u64 {
    engine.run(move |lab| Ok(lab.dataplane().state().flow_events()?[&event])).unwrap()
}

/// Established, half-open, then a flood, then: are both still there?
fn survives(flood: impl Fn(u32) -> (Ipv4Addr, u16)) -> (usize, usize) {
    let Some(mut engine) = engine() else { return (100, 100) };
    governed(&mut engine, OPEN);
    let established: Vec<_> = (0..100).map(|n| (CLIENT, 20_000 + n)).collect();
    for end in &established {
        assert_eq!(send(&mut engine, Hook::Ingress, syn(*end)).stage, "normal");
        assert_eq!(send(&mut engine, Hook::Egress, answer(*end)).reason, "flow_reply");
    }
    let half_open: Vec<_> = (0..100).map(|n| (Ipv4Addr::new(198, 51, 100, n), 30_000)).collect();
    for end in &half_open {
        assert_eq!(send(&mut engine, Hook::Ingress, syn(*end)).stage, "normal");
    }
    let before = event(&engine, FlowEvent::UnconfirmedGone);
    for number in 0..FLOOD {
        assert_eq!(send(&mut engine, Hook::Ingress, syn(flood(number))).stage, "normal");
    }
    assert!(event(&engine, FlowEvent::UnconfirmedGone) > before, "what the flood pushed out is counted");
    assert_eq!(event(&engine, FlowEvent::NotRecorded), 0, "a new flow always finds room");
    // A connection that begins in the middle of it.
    let late = (Ipv4Addr::new(192, 0, 2, 1), 40_000);
    assert_eq!(send(&mut engine, Hook::Ingress, syn(late)).stage, "normal");
    assert_eq!(send(&mut engine, Hook::Egress, answer(late)).reason, "flow_reply");
    assert_eq!(send(&mut engine, Hook::Ingress, data(late)).reason, "flow_original");
    let passes = |engine: &mut KernelEngine, hook, frame| send(engine, hook, frame).stage == "flow";
    (
        established.iter().filter(|end| passes(&mut engine, Hook::Ingress, data(**end))).count(),
        half_open.iter().filter(|end| passes(&mut engine, Hook::Egress, answer(**end))).count(),
    )
}

#[test]
fn a_flood_from_one_source_takes_nothing_from_others() {
    // One address has not ports enough, so it is two.
    let source = |n| Ipv4Addr::new(198, 18, 0, 1 + (n / 50_000) as u8);
    let (established, half_open) = survives(|n| (source(n), 1 + (n % 50_000) as u16));
    assert_eq!(established, 100);
    assert!(half_open >= 98, "{half_open} of 100 half-open connections are left");
}

#[test]
fn a_spoofed_flood_takes_no_confirmed_flow() {
    // Every source once: nobody holds most, so the oldest go; what is confirmed stays.
    let (established, _) = survives(|n| (Ipv4Addr::from(0x6440_0000 + n), 1024));
    assert_eq!(established, 100);
}

#[test]
fn flows_that_begin_here_have_room_of_their_own() {
    let Some(mut engine) = engine() else { return };
    governed(&mut engine, OPEN);
    let resolver = (Ipv4Addr::new(203, 0, 113, 53), 6443);
    let dial = |port| Segment { from: (NODE, port), to: resolver, flags: tcp::SYN, seq: 7, ack: 0 }.frame();
    for port in 50_000..50_100 {
        assert_eq!(send(&mut engine, Hook::Egress, dial(port)).reason, "failsafe_outbound");
    }
    for number in 0..FLOOD {
        // Port 22: an inbound failsafe.
        let from = (Ipv4Addr::from(0x6440_0000 + number), 1024);
        let frame = Segment { from, to: (NODE, 22), flags: tcp::SYN, seq: 1, ack: 0 }.frame();
        assert_eq!(send(&mut engine, Hook::Ingress, frame).reason, "failsafe_inbound");
    }
    for port in 50_000..50_100 {
        let answer = Segment { from: resolver, to: (NODE, port), flags: SYN_ACK, seq: 1, ack: 8 }.frame();
        assert_eq!(send(&mut engine, Hook::Ingress, answer).reason, "flow_reply");
    }
}

/// An IPv4 UDP fragment of 16 bytes: the first to port 8080, the later one without ports.
fn fragment(from: Ipv4Addr, id: u16, is_first: bool) -> Vec<u8> {
    let place: u16 = if is_first { 0x2000 } else { 2 };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 36];
    frame.extend(id.to_be_bytes());
    frame.extend(place.to_be_bytes());
    frame.extend([64, 17, 0, 0]);
    frame.extend(from.octets());
    frame.extend(NODE.octets());
    frame.extend([0x9c, 0x40, 0x1f, 0x90, 0, 64, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    frame
}

/// F-10: datagrams whose later fragments are still on their way keep their verdict.
#[test]
fn a_flood_of_fragments_from_one_source_takes_nothing_from_others() {
    let Some(mut engine) = engine() else { return };
    governed(&mut engine, OPEN);
    let others: Vec<_> = (0..100).map(|n| Ipv4Addr::new(198, 51, 100, n)).collect();
    for from in &others {
        assert_eq!(send(&mut engine, Hook::Ingress, fragment(*from, 7, true)).stage, "normal");
    }
    let before = event(&engine, FlowEvent::FragmentGone);
    for id in 0..MAX_FRAGMENTS as u16 + 5_000 {
        assert_eq!(send(&mut engine, Hook::Ingress, fragment(CLIENT, id, true)).stage, "normal");
    }
    assert!(event(&engine, FlowEvent::FragmentGone) > before, "what the flood pushed out is counted");
    let kept = others.iter().filter(|from| {
        send(&mut engine, Hook::Ingress, fragment(**from, 7, false)).reason == "fragment_allowed"
    });
    let kept = kept.count();
    assert!(kept >= 98, "{kept} of 100 datagrams are left");
    // The flood's own oldest are gone, and what has no record is refused.
    assert_eq!(send(&mut engine, Hook::Ingress, fragment(CLIENT, 0, false)).reason, "fragment_unknown");
}

#[test]
fn with_the_confirmed_table_full_flows_work_unconfirmed() {
    let Some(mut engine) = engine() else { return };
    governed(&mut engine, OPEN);
    let filled = engine.run(|lab| {
        let dataplane = lab.dataplane();
        let now = dataplane.now_ns()?;
        let state = dataplane.state();
        for number in 0..MAX_FLOWS_CONFIRMED {
            let low = Addr::from(std::net::IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number)));
            let high = Addr::from(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 99)));
            let key = FlowKey { low, high, low_port: 1, high_port: 2, protocol: 6, ..FlowKey::default() };
            let entry = FlowEntry {
                last_seen_ns: now,
                flags: flow_flag::CONFIRMED,
                state_original: TcpState::Established as u8,
                state_reply: TcpState::Established as u8,
                ..FlowEntry::default()
            };
            state.put_flow(&key, &entry)?;
        }
        Ok(())
    });
    filled.unwrap();
    let before = event(&engine, FlowEvent::ConfirmedFull);
    let end = (CLIENT, 41_000);
    assert_eq!(send(&mut engine, Hook::Ingress, syn(end)).stage, "normal");
    assert_eq!(send(&mut engine, Hook::Egress, answer(end)).reason, "flow_reply");
    for _ in 0..3 {
        assert_eq!(send(&mut engine, Hook::Ingress, data(end)).stage, "normal", "judged at every packet");
        assert_eq!(send(&mut engine, Hook::Egress, answer(end)).reason, "flow_reply");
    }
    assert_eq!(event(&engine, FlowEvent::ConfirmedFull), before + 4);
    engine.run(|lab| Ok(lab.dataplane().state().clear_flows()?)).unwrap();
    assert_eq!(send(&mut engine, Hook::Ingress, syn(end)).stage, "normal");
    assert_eq!(send(&mut engine, Hook::Egress, answer(end)).reason, "flow_reply");
    assert_eq!(send(&mut engine, Hook::Ingress, data(end)).reason, "flow_original", "and it heals");
}

#[test]
fn keys_that_collide_cannot_be_chosen() {
    const BPF_F_ZERO_SEED: u32 = 1 << 6;
    let Some(_engine) = engine() else { return };
    let maps: Vec<_> = aya::maps::loaded_maps()
        .filter_map(Result::ok)
        .filter(|map| map.name_as_str().is_some_and(|name| name.starts_with("pc_")))
        .collect();
    assert!(maps.len() > 20, "{}", maps.len());
    for map in maps {
        assert_eq!(map.map_flags() & BPF_F_ZERO_SEED, 0, "{:?} has a known seed", map.name_as_str());
    }
}
