//! Binding, order and frontends, from documents as users write them.

use std::net::IpAddr;

use dataplane_common::abi::{ListKind, frontend_flag};

mod automatic;
mod incremental;
mod order;
mod status;

use super::lists::ListKey;
use super::*;
use crate::policy::{Device, World};
use crate::resource::{Store, documents_from_str};

fn world(yaml: &str) -> World {
    let mut store = Store::default();
    let (documents, problems) = documents_from_str("test.yaml", yaml);
    assert!(problems.is_empty(), "{problems:?}");
    let report = store.apply(documents);
    assert!(!report.has_errors(), "{:?}", report.errors().map(ToString::to_string).collect::<Vec<_>>());
    store.world().clone()
}

fn view(devices: &[(&str, &[&str])]) -> NodeView {
    let lo = ("lo", &["127.0.0.1/8"][..]);
    let devices = devices.iter().copied().chain([lo]).enumerate().map(|(i, (name, nets))| {
        let addresses = nets.iter().map(|n| n.parse().unwrap()).collect();
        let (name, loopback) = (name.to_owned(), name == "lo");
        (name.clone(), Device { name, ifindex: i as u32 + 2, addresses, loopback, ..Device::default() })
    });
    NodeView { name: "node1".to_owned(), devices: devices.collect(), ..NodeView::default() }
}

fn hep(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {{name: {name}, labels: {{a: b}}}}\n\
         spec: {{node: node1, {spec}}}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{selector: has(a), {spec}}}\n"
    )
}

#[test]
fn the_smallest_name_wins_and_the_others_are_told_why() {
    let yaml = hep("b", "interfaceName: eth0")
        + &hep("a", "expectedIPs: [10.0.0.1]")
        + &hep("star", "interfaceName: \"*\"")
        + &hep("pods", "interfaceName: cali1")
        + &hep("gone", "interfaceName: eth9")
        + &hep("loop", "interfaceName: lo");
    let view = view(&[("eth0", &["10.0.0.1/24"]), ("eth1", &["10.9.0.1/24"]), ("cali1", &[])]);
    let facts = Snapshot::build(&world(&yaml), &view).facts;
    let governed: Vec<_> = facts.governed.iter().map(|(d, h)| (d.as_str(), h.as_str())).collect();
    assert_eq!(governed, [("cali1", "star"), ("eth0", "a"), ("eth1", "star")]);
    let lost: BTreeMap<_, _> = facts.lost.iter().map(|l| (l.name.as_str(), &l.reason)).collect();
    assert_eq!(lost["b"], &LostReason::LostTo("a".to_owned(), "eth0".to_owned()));
    assert_eq!(lost["pods"], &LostReason::Workload("cali1".to_owned()));
    assert_eq!(lost["gone"], &LostReason::NoDevice("eth9".to_owned()));
    assert_eq!(lost["loop"], &LostReason::Loopback("lo".to_owned()));
    assert!(facts.unprotected.is_empty());
}

#[test]
fn a_binding_follows_its_address() {
    let world = world(&hep("h", "expectedIPs: [10.0.0.1]"));
    let governed = |devices: &[(&str, &[&str])]| Snapshot::build(&world, &view(devices)).facts.governed;
    let on = |device: &str| BTreeMap::from([(device.to_owned(), "h".to_owned())]);
    assert_eq!(governed(&[("eth0", &["10.0.0.1/24"]), ("bond0", &[])]), on("eth0"));
    assert_eq!(governed(&[("eth0", &[]), ("bond0", &["10.0.0.1/24"])]), on("bond0"));
    assert_eq!(governed(&[("eth0", &[])]), BTreeMap::new());
}

#[test]
fn a_bridge_of_pods_is_a_workload_and_a_veth_with_the_default_route_is_not() {
    let mut view = view(&[("veth1", &[]), ("br0", &["10.3.0.1/24"]), ("veth9", &["10.0.0.1/24"])]);
    view.devices.get_mut("br0").unwrap().bridge_ports = Some(vec!["veth1".to_owned()]);
    view.devices.get_mut("veth9").unwrap().default_route = true;
    let facts = Snapshot::build(&World::default(), &view).facts;
    assert_eq!(facts.workload.iter().collect::<Vec<_>>(), ["br0", "veth1"]);
    assert_eq!(facts.unprotected.iter().collect::<Vec<_>>(), ["veth9"]);
}

#[test]
fn policies_stand_in_their_lists_in_order() {
    let allow = "ingress: [{action: Allow}]";
    // `allow-web` before `allow`: the tie-break compares `name/namespace/kind` (D24).
    let yaml = hep("h", "interfaceName: eth0, profiles: [projectcalico-default-allow]")
        + &policy("allow", &format!("order: 5, {allow}"))
        + &policy("allow-web", &format!("order: 5, {allow}"))
        + &policy("last", allow)
        + &policy("first", &format!("order: -1, {allow}"))
        + &policy("pre", &format!("order: 1, preDNAT: true, applyOnForward: true, {allow}"))
        + &policy("fwd", &format!("order: 1, applyOnForward: true, {allow}"));
    let snapshot = Snapshot::build(&world(&yaml), &view(&[("eth0", &["10.0.0.1/24"])]));
    let names = |kind| -> Vec<&str> {
        let list = snapshot.endpoints[0].lists.get(&ListKey(kind));
        list.iter().flat_map(|l| &l.tiers).flat_map(|t| &t.policies).map(|p| p.id.name.as_str()).collect()
    };
    assert_eq!(names(ListKind::NormalIngress), ["first", "fwd", "allow-web", "allow", "last"]);
    assert_eq!(names(ListKind::PreDnat), ["pre"]);
    assert_eq!(names(ListKind::ForwardIngress), ["fwd"]);
    assert_eq!(names(ListKind::ProfileIngress), ["projectcalico-default-allow"]);
    assert!(names(ListKind::NormalEgress).is_empty() && names(ListKind::UntrackedIngress).is_empty());
    let end = |kind| snapshot.endpoints[0].lists[&ListKey(kind)].tiers[0].end;
    assert_eq!((end(ListKind::NormalIngress), end(ListKind::PreDnat)), (TierEnd::Deny, TierEnd::Pass));
}

#[test]
fn a_selector_that_matches_nothing_matches_nothing_and_is_shown() {
    let yaml = hep("h", "interfaceName: eth0")
        + &policy("p", "ingress: [{action: Allow, source: {selector: \"role == 'ghost'\"}}]");
    let snapshot = Snapshot::build(&world(&yaml), &view(&[("eth0", &["10.0.0.1/24"])]));
    let rule = &snapshot.endpoints[0].lists[&ListKey(ListKind::NormalIngress)].tiers[0].policies[0].rules[0];
    assert_eq!(rule.source.all_of.len(), 1);
    assert!(snapshot.sets.get(rule.source.all_of[0]).is_empty());
    assert_eq!(snapshot.facts.empty_selectors[0].path, "spec.ingress[0].source.selector");
}

#[test]
fn a_frontend_needs_an_endpoint_and_is_local_when_all_are_own() {
    let service = |name: &str, port: u16, backend: &str, ready: bool| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: d}}\n\
             spec: {{type: NodePort, clusterIP: 10.96.0.{}, ports: [{{name: p, port: 80, nodePort: {port}}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: d, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{name: p, port: 8080, protocol: TCP}}]\n\
             endpoints: [{{addresses: [{backend}], conditions: {{ready: {ready}}}}}]\n",
            port - 30000
        )
    };
    let yaml = service("pods", 30001, "192.168.1.10", true)
        + &service("host", 30002, "10.0.0.1", true)
        + &service("none", 30003, "192.168.1.11", false);
    let snapshot = Snapshot::build(&world(&yaml), &view(&[("eth0", &["10.0.0.1/24"])]));
    let at = |ip: &str, port: u16| snapshot.frontends.get(&(ip.parse::<IpAddr>().unwrap(), 6, port)).copied();
    assert_eq!(at("10.0.0.1", 30001), Some(frontend_flag::SERVICE));
    assert_eq!(at("10.96.0.1", 80), Some(frontend_flag::SERVICE));
    assert_eq!(at("10.0.0.1", 30002), Some(frontend_flag::SERVICE | frontend_flag::LOCAL));
    assert_eq!(at("10.0.0.1", 30003), None);
    assert_eq!(at("127.0.0.1", 30001), None);
}
