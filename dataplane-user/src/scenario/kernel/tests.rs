use std::collections::BTreeMap;

use super::*;
use crate::policy::{Device, HepInterface, HostEndpoint};
use crate::resource;
use dataplane_common::abi::{Counter, EthertypeKey, Hook};
use dataplane_common::verdict::Verdict;

pub(super) fn engine() -> Option<KernelEngine> {
    if let Err(why) = KernelEngine::available() {
        eprintln!("skipped: {why}");
        return None;
    }
    Some(KernelEngine::new().unwrap_or_else(|e| panic!("{e:#}")))
}

fn view() -> NodeView {
    let device = |name: &str, net: &str| Device {
        name: name.to_owned(),
        addresses: vec![net.parse().unwrap()],
        loopback: name == "lo",
        ..Device::default()
    };
    let devices = [device("lo", "127.0.0.1/8"), device("eth0", "10.240.0.11/24")];
    let devices = devices.into_iter().map(|d| (d.name.clone(), d)).collect();
    NodeView { name: "node1".to_owned(), devices, ..NodeView::default() }
}

fn hep(interface: HepInterface) -> HostEndpoint {
    HostEndpoint {
        name: "node1-eth0".to_owned(),
        labels: Default::default(),
        annotations: Default::default(),
        node: "node1".to_owned(),
        interface,
        expected_ips: Vec::new(),
        profiles: Vec::new(),
        ports: Vec::new(),
    }
}

/// An Ethernet frame with a TCP SYN from the outside to 10.240.0.11:8080.
pub(super) fn syn() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 203, 0, 113, 7, 10, 240, 0, 11]);
    frame.extend([0x9c, 0x40, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0]);
    frame
}

/// An 802.2 or Ethernet II frame without IP.
fn not_ip(ethertype: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend([0; 46]);
    frame
}

pub(super) fn governed(engine: &mut KernelEngine, policies: &str) {
    let mut store = resource::Store::default();
    let endpoint = "{apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: h, labels: {a: b}}, \
                    spec: {node: node1, interfaceName: eth0}}";
    let (documents, problems) = resource::documents_from_str("test", &format!("{endpoint}\n---\n{policies}"));
    assert!(problems.is_empty(), "{problems:?}");
    let report = store.replace(documents);
    assert!(!report.has_errors(), "{report:?}");
    engine.set_world(store.world(), &view()).unwrap();
}

pub(super) fn send(engine: &mut KernelEngine, hook: Hook, frame: Vec<u8>) -> Outcome {
    engine.judge(&PacketIn { device: "eth0".to_owned(), hook, from: None, frame }).unwrap()
}

/// D20: what is not IP is allowed, and shown by ethertype.
#[test]
fn packets_that_are_not_ip_are_counted_by_ethertype() {
    let Some(mut engine) = engine() else { return };
    governed(&mut engine, "");
    let before = engine.run(|lab| Ok(lab.dataplane().state().ethertypes()?)).unwrap();
    for ethertype in [0x88cc, 0x88cc, 0x8847] {
        assert_eq!(send(&mut engine, Hook::Ingress, not_ip(ethertype)).reason, "not_ip");
    }
    let after = engine.run(|lab| Ok(lab.dataplane().state().ethertypes()?)).unwrap();
    let packets = |ethertype| {
        let key = EthertypeKey { ethertype, hook: Hook::Ingress as u8, verdict: Verdict::Allow as u8 };
        let at = |map: &BTreeMap<_, Counter>| map.get(&key).map_or(0, |c| c.packets);
        at(&after) - at(&before)
    };
    assert_eq!([packets(0x88cc), packets(0x8847), packets(0x0806)], [2, 1, 0]);
}

/// A rule's hits carry the time of the last one.
#[test]
fn a_rule_knows_when_it_was_hit_last() {
    let Some(mut engine) = engine() else { return };
    let policy = "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: hit-me}, \
                  spec: {selector: has(a), types: [Ingress], ingress: [{action: Allow, protocol: TCP}]}}";
    governed(&mut engine, policy);
    let hits = |engine: &KernelEngine| {
        engine
            .run(|lab| {
                let dataplane = lab.dataplane();
                let now = dataplane.now_ns().unwrap();
                let hits = dataplane.state().rule_hits().unwrap();
                Ok((now, hits.into_values().map(|h| (h.last_seen_ns, h.packets)).max().unwrap_or_default()))
            })
            .unwrap()
    };
    const LAG: u64 = 1_000_000_000;
    let (before, _) = hits(&engine);
    assert_eq!(send(&mut engine, Hook::Ingress, syn()).stage, "normal");
    let (after, first) = hits(&engine);
    // The coarse clock of newer kernels lags by up to a tick (10 ms at 100 Hz), and more where the machine stood still.
    assert!(first.0 + LAG >= before && first.0 <= after, "{before} {first:?} {after}");
    engine.advance(Duration::from_secs(60)).unwrap();
    assert_eq!(send(&mut engine, Hook::Ingress, syn()).stage, "normal");
    let (_, second) = hits(&engine);
    assert!(second.0 >= first.0 + 60_000_000_000 - LAG, "{first:?} {second:?}");
    assert_eq!(second.1, first.1 + 1);
}

/// D46.
#[test]
fn without_a_generation_nothing_is_enforced() {
    let Some(mut engine) = engine() else { return };
    governed(&mut engine, "");
    assert_eq!(send(&mut engine, Hook::Ingress, syn()).verdict, "Deny");
    engine.run(|lab| Ok(lab.dataplane().update_control(|control| control.active = 0)?)).unwrap();
    let outcome = send(&mut engine, Hook::Ingress, syn());
    assert_eq!((outcome.verdict.as_str(), outcome.reason.as_str()), ("Ungoverned", "no_generation"));
}

#[test]
fn tables_are_applied_and_packets_judged() {
    let Some(mut engine) = engine() else { return };
    let mut world = World::default();
    engine.set_world(&world, &view()).unwrap();
    let packet = PacketIn { device: "eth0".to_owned(), hook: Hook::Ingress, from: None, frame: syn() };
    let outcome = engine.judge(&packet).unwrap();
    assert_eq!((outcome.verdict.as_str(), outcome.stage.as_str()), ("Ungoverned", "none"));
    let endpoint = hep(HepInterface::Named("eth0".to_owned()));
    world.host_endpoints.insert(endpoint.name.clone(), endpoint);
    engine.set_world(&world, &view()).unwrap();
    let outcome = engine.judge(&packet).unwrap();
    assert_eq!((outcome.verdict.as_str(), outcome.stage.as_str()), ("Deny", "profile"), "{outcome:?}");
}

/// The verifier gives up at a million instructions; older kernels explore more states than this one, so half of that
/// must be left.
#[test]
fn programs_are_far_from_the_verifiers_limit() {
    let Some(engine) = engine() else { return };
    for hook in [Hook::Ingress, Hook::Egress] {
        let counted = engine
            .run(move |lab| {
                let info = lab.dataplane().program(hook)?.info()?;
                Ok((info.verified_instruction_count(), info.size_translated().map(|bytes| bytes / 8)))
            })
            .unwrap();
        println!("{}: verified {:?}, translated {:?}", hook.name(), counted.0, counted.1);
        assert!(counted.0.is_none_or(|count| count < 500_000), "{counted:?}");
    }
}
