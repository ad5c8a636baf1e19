//! The same state gives the same bytes, whatever way led to it.

use super::view;
use crate::compile::compile;
use crate::index::Snapshot;
use crate::resource::{Document, Store, documents_from_str};

fn calico(kind: &str, name: &str, rest: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{rest}}}\n")
}

/// One document each.
fn state() -> Vec<String> {
    let mut all = vec![
        calico("Tier", "first", "order: 10"),
        calico("Tier", "also-first", "order: 10, defaultAction: Pass"),
        calico("FelixConfiguration", "default", "failsafeInboundHostPorts: [{protocol: tcp, port: 22}]"),
        calico(
            "KubeControllersConfiguration",
            "default",
            "controllers: {node: {hostEndpoint: {autoCreate: Enabled}}}",
        ),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: red}}\n".to_owned(),
    ];
    for i in 0..4 {
        all.push(format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: node{i}, labels: {{a: b}}}}\nstatus: {{addresses: [{{type: InternalIP, address: 10.0.0.{}}}]}}\n",
            i + 1
        ));
        all.push(
            calico("GlobalNetworkSet", &format!("set{i}"), &format!("nets: [10.{i}.0.0/16, 10.9.0.0/16]"))
                .replace("metadata: {", &format!("metadata: {{labels: {{set: s{}}}, ", i % 2)),
        );
        all.push(format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{i}, namespace: shop, labels: {{app: web}}}}\nspec: {{nodeName: node1, containers: \
             [{{name: c, ports: [{{name: http, containerPort: {}}}]}}]}}\nstatus: {{podIP: 192.168.0.{i}}}\n",
            8080 + i % 2
        ));
        all.push(format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{i}, namespace: shop}}\nspec: {{clusterIP: 10.96.0.{i}, ports: [{{name: p, port: 80, nodePort: {}}}]}}\n",
            30000 + i
        ));
        all.push(format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{i}, namespace: shop, labels: {{kubernetes.io/service-name: s{i}}}}}\n\
             addressType: IPv4\nports: [{{name: p, port: 8080, protocol: TCP}}]\nendpoints: [{{addresses: [192.168.0.{i}]}}]\n"
        ));
    }
    for (i, tier) in ["first", "also-first", "default", "missing", "default", "first"].iter().enumerate() {
        let flags =
            ["", "applyOnForward: true,", "preDNAT: true, applyOnForward: true, types: [Ingress],"][i % 3];
        // A policy of a missing tier is refused by apply; a folder takes it.
        all.push(calico(
            "GlobalNetworkPolicy",
            &format!("policy-{i}"),
            &format!(
                "tier: {tier}, order: {}, {flags} selector: has(a), ingress: [{{action: Allow, protocol: TCP, source: {{selector: \
                 \"set == 's{}'\"}}, destination: {{ports: [http, 80]}}}}, {{action: Deny, source: {{namespaceSelector: \"team == 'red'\"}}}}]",
                i % 2,
                i % 2
            ),
        ));
    }
    all.push(calico("StagedGlobalNetworkPolicy", "staged", "selector: has(a), ingress: [{action: Deny}]"));
    all
}

fn documents(texts: &[String]) -> Vec<Document> {
    let each = texts.iter().enumerate();
    each.flat_map(|(i, text)| documents_from_str(&format!("{i}.yaml"), text).0).collect()
}

/// What would be written into the maps, as bytes.
fn bytes(store: &Store) -> String {
    let view = view(&[("eth0", &["10.0.0.2/24"]), ("eth1", &["10.8.0.1/24"]), ("cali1", &[])]);
    let snapshot = Snapshot::build(store.world(), &view);
    assert!(snapshot.endpoints.iter().any(|e| !e.lists.is_empty()), "the test must test something");
    format!("{:?}\n{:?}", compile(&snapshot).unwrap(), snapshot.facts)
}

fn of_replace(texts: &[String]) -> String {
    let mut store = Store::default();
    let report = store.replace(documents(texts));
    assert!(!report.has_errors(), "{:?}", report.errors().collect::<Vec<_>>());
    bytes(&store)
}

/// xorshift64, so that a failure comes again.
fn shuffle<T>(items: &mut [T], seed: &mut u64) {
    for i in (1..items.len()).rev() {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        items.swap(i, (*seed % (i as u64 + 1)) as usize);
    }
}

#[test]
fn forward_reversed_and_any_permutation_give_the_same_bytes() {
    let mut texts = state();
    let expected = of_replace(&texts);
    texts.reverse();
    assert_eq!(of_replace(&texts), expected);
    let mut seed = 0x5eed;
    for _ in 0..16 {
        shuffle(&mut texts, &mut seed);
        assert_eq!(of_replace(&texts), expected, "seed {seed:#x}");
    }
}

#[test]
fn one_by_one_all_at_once_and_by_detours_give_the_same_bytes() {
    let texts: Vec<String> = state().into_iter().filter(|t| !t.contains("tier: missing")).collect();
    let squashed = of_replace(&texts);
    // One file for each, added one by one; a tier must stand before its policies, as in a cluster.
    let mut split = Store::default();
    for document in documents(&texts) {
        let report = split.apply(vec![document]);
        assert!(!report.has_errors(), "{:?}", report.errors().collect::<Vec<_>>());
    }
    assert_eq!(bytes(&split), squashed);
    // By detours: everything goes, in a random order, and comes back in another.
    let mut detour = Store::default();
    let mut seed = 0xfeed;
    let mut present = texts.clone();
    for keep in [texts.len(), texts.len() / 2, 0, texts.len() / 3, texts.len()] {
        present.clone_from(&texts);
        shuffle(&mut present, &mut seed);
        present.truncate(keep);
        detour.replace(documents(&present));
    }
    assert_eq!(bytes(&detour), squashed);
    // As one file of many documents.
    let mut one_file = Store::default();
    one_file.replace(documents_from_str("all.yaml", &texts.join("---\n")).0);
    assert_eq!(bytes(&one_file), squashed);
}
