//! Index and compile at the size that the project promises: 1,000 policies, 10,000 rules, 100,000 addresses.
//!
//! `cargo bench -p dataplane-user --bench compile`. Wanted: cold under a second, and under a millisecond of index
//! work when one pod is added.
//!
//! Seen on two busy cores when everything was built again each time: index 0.15 s, index and compile 0.55 s, one pod
//! added 0.16 s of index work.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};
use portcullis::compile::compile;
use portcullis::index::{Index, Snapshot};
use portcullis::policy::{
    Action, Changes, Device, Direction, EntityRule, Family, HepInterface, HostEndpoint, NetworkSet, NodeView,
    Order, PeerSelector, Pod, Policy, PolicyKind, Port, PortRange, Rule, World,
};
use portcullis::resource::{Document, Store};
use portcullis::selector::Selector;
use serde_json::json;

const POLICIES: u32 = 1_000;
const RULES_EACH: u32 = 10;
const SETS: u32 = 100;
const NETS_EACH: u32 = 500;
const PODS: u32 = 50_000;
/// Devices of this node with a host endpoint of their own: each is selected by its share of the policies, since a list
/// holds at most 4096 rules.
const DEVICES: u32 = 4;

fn selector(text: &str) -> Selector {
    Selector::parse(text).expect("a valid selector")
}

fn address(i: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + i))
}

fn rule(policy: u32, index: u32) -> Rule {
    // Every second rule names a label of pods, every other a network set.
    let text = match index % 2 {
        0 => format!("app == 'a{}'", (policy * 7 + index) % 500),
        _ => format!("set == 's{}'", (policy + index) % SETS),
    };
    let peer = PeerSelector { selector: selector(&text), global_only: false, text };
    let port = 1000 + ((policy * 13 + index * 17) % 4000) as u16;
    Rule {
        action: if index % 5 == 4 { Action::Deny } else { Action::Allow },
        ip_version: None,
        protocol: Some(6),
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: EntityRule { selector: Some(peer), ..EntityRule::default() },
        destination: EntityRule {
            ports: vec![Port::Range(PortRange { first: port, last: port + (index % 3) as u16 })],
            ..EntityRule::default()
        },
    }
}

fn policy(i: u32) -> Policy {
    Policy {
        kind: PolicyKind::GlobalNetworkPolicy,
        namespace: None,
        name: format!("policy-{i}"),
        tier: "default".to_owned(),
        order: Order(Some(f64::from(i))),
        selector: selector(&format!("role == 'nic{}'", i % DEVICES)),
        family: Family::Normal,
        types: [Direction::Ingress].into(),
        ingress: (0..RULES_EACH).map(|index| rule(i, index)).collect(),
        egress: Vec::new(),
        on_policy_change: None,
    }
}

fn pod(i: u32) -> Pod {
    Pod {
        namespace: format!("ns{}", i % 200),
        name: format!("pod-{i}"),
        labels: BTreeMap::from([
            ("app".to_owned(), format!("a{}", i % 1000)),
            ("tier".to_owned(), format!("t{}", i % 3)),
        ]),
        node: format!("node{}", i % 500),
        service_account: "default".to_owned(),
        ips: vec![address(i)],
        ..Pod::default()
    }
}

fn set(i: u32) -> NetworkSet {
    let net = |k: u32| {
        let base = 0xc600_0000 + (i * NETS_EACH + k) * 64;
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(base), 28))
    };
    NetworkSet {
        namespace: None,
        name: format!("set-{i}"),
        labels: BTreeMap::from([("set".to_owned(), format!("s{i}"))]),
        nets: (0..NETS_EACH).map(net).collect(),
    }
}

fn world() -> World {
    let mut world = World::default();
    for policy in (0..POLICIES).map(policy) {
        world.policies.insert(policy.tie_break(), policy);
    }
    for set in (0..SETS).map(set) {
        world.network_sets.insert((String::new(), set.name.clone()), set);
    }
    for pod in (0..PODS).map(pod) {
        world.pods.insert((pod.namespace.clone(), pod.name.clone()), pod);
    }
    for i in 0..DEVICES {
        let endpoint = HostEndpoint {
            name: format!("node1-eth{i}"),
            labels: BTreeMap::from([("role".to_owned(), format!("nic{i}"))]),
            annotations: BTreeMap::new(),
            node: "node1".to_owned(),
            interface: HepInterface::Named(format!("eth{i}")),
            expected_ips: vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, i as u8))],
            profiles: Vec::new(),
            ports: Vec::new(),
        };
        world.host_endpoints.insert(endpoint.name.clone(), endpoint);
    }
    world
}

fn view() -> NodeView {
    let device = |i: u32| {
        let name = format!("eth{i}");
        let address = Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, i as u8), 24);
        let addresses = vec![IpNet::V4(address)];
        (name.clone(), Device { name, ifindex: i + 2, addresses, ..Device::default() })
    };
    NodeView { name: "node1".to_owned(), devices: (0..DEVICES).map(device).collect(), ..NodeView::default() }
}

fn bench(criterion: &mut Criterion) {
    let (world, view) = (world(), view());
    let mut group = criterion.benchmark_group("1000 policies, 10000 rules, 100000 addresses");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(8));
    group.bench_function("cold: index", |b| b.iter(|| Snapshot::build(black_box(&world), &view)));
    let snapshot = Snapshot::build(&world, &view);
    group.bench_function("cold: compile", |b| b.iter(|| compile(black_box(&snapshot)).expect("it fits")));
    group.bench_function("cold: index and compile", |b| {
        b.iter(|| compile(&Snapshot::build(black_box(&world), &view)).expect("it fits"));
    });
    // What the agent does when one pod comes: the index is brought to the world with it, and back.
    let mut grown = world.clone();
    let pod = pod(PODS);
    let key = (pod.namespace.clone(), pod.name.clone());
    let changes = Changes { pods: [key.clone()].into(), ..Changes::default() };
    grown.pods.insert(key, pod);
    let mut index = Index::new(&world, &view);
    let mut worlds = [&grown, &world].into_iter().cycle();
    group.bench_function("one pod added or removed: index", |b| {
        b.iter(|| drop(index.update(worlds.next().expect("a cycle"), &view, black_box(&changes))));
    });
    let one_policy = Changes { rest: true, ..Changes::default() };
    group.bench_function("one policy changed: index", |b| {
        b.iter(|| drop(index.update(&world, &view, black_box(&one_policy))));
    });
    group.bench_function("one pod added: index and compile", |b| {
        b.iter(|| {
            let snapshot = index.update(worlds.next().expect("a cycle"), &view, black_box(&changes));
            compile(&snapshot).expect("it fits")
        });
    });
    group.finish();
}

/// A pod as the API gives it.
fn pod_document(i: u32, phase: &str) -> Document {
    let value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": format!("ns{}", i % 200), "name": format!("pod-{i}"),
                     "labels": {"app": format!("a{}", i % 1000), "tier": format!("t{}", i % 3)}},
        "spec": {"nodeName": format!("node{}", i % 500), "serviceAccountName": "default",
                 "containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": phase, "podIPs": [{"ip": address(i).to_string()}]},
    });
    Document::new(format!("kubernetes:v1/pods/{i}"), 0, value)
}

/// A cluster's documents to the world: what a change of one pod costs.
fn documents(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("10000 pods of the API");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
    let all: Vec<Document> = (0..10_000).map(|i| pod_document(i, "Running")).collect();
    let mut changed = all.clone();
    changed[77] = pod_document(77, "Failed");
    let mut store = Store::default();
    store.replace(all.clone());
    let mut turns = [&changed, &all].into_iter().cycle();
    group.bench_function("one changes", |b| {
        b.iter(|| store.replace(black_box(turns.next().expect("a cycle").clone())));
    });
    // Other values of the same content, as from a folder.
    let mut other = || -> Vec<Document> {
        let copy = |d: &Document| Document::new(&*d.file, 0, serde_json::Value::clone(&d.value));
        turns.next().expect("a cycle").iter().map(copy).collect()
    };
    group.bench_function("one changes, all are read again", |b| {
        b.iter_batched(&mut other, |documents| store.replace(documents), BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group!(benches, bench, documents);
criterion_main!(benches);
