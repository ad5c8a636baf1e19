use super::*;
use crate::policy::{Device, HepInterface, HostEndpoint};
use dataplane_common::abi::Hook;

fn engine() -> Option<KernelEngine> {
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
fn syn() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 203, 0, 113, 7, 10, 240, 0, 11]);
    frame.extend([0x9c, 0x40, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0]);
    frame
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
