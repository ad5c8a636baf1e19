//! Host endpoints made from Node objects follow them (D44): relabelled, readdressed, removed.

use std::sync::Arc;

use super::*;
use crate::index::Index;

const CONTROLLERS: &str = "---\napiVersion: projectcalico.org/v3\nkind: KubeControllersConfiguration\n\
    metadata: {name: default}\nspec: {controllers: {node: {hostEndpoint: {autoCreate: Enabled,\n\
    templates: [{generateName: edge, nodeSelector: has(edge), labels: {front: 'yes'}}]}}}}\n";

fn node(name: &str, labels: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n\
         status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
    )
}

/// Nodes of a cluster, one document each, and an index that is brought along.
struct Followed {
    store: Store,
    index: Index,
}

impl Followed {
    /// What holds with these nodes now, which is what an index that is made of nothing else says.
    fn with(&mut self, nodes: &[String]) -> Arc<Snapshot> {
        let policy = policy("p", "ingress: [{action: Allow, source: {selector: front == 'yes'}}]");
        let objects = [CONTROLLERS.to_owned(), policy].into_iter().chain(nodes.iter().cloned());
        let documents =
            objects.enumerate().flat_map(|(n, text)| documents_from_str(&format!("{n}"), &text).0);
        let report = self.store.replace(documents.collect());
        assert!(!report.has_errors(), "{:?}", report.errors().collect::<Vec<_>>());
        let changes = self.store.take_changes();
        let view = view(&[("eth0", &["10.0.0.1/24"])]);
        let snapshot = self.index.update(self.store.world(), &view, &changes);
        let cold = Snapshot::build(self.store.world(), &view);
        assert_eq!(snapshot.facts.host_endpoints, cold.facts.host_endpoints);
        snapshot
    }
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.facts.host_endpoints.keys().map(String::as_str).collect()
}

/// What policy lets in: addresses of the set behind `front == 'yes'`.
fn let_in(snapshot: &Snapshot) -> Vec<String> {
    let nets = snapshot.sets.iter().flat_map(|(_, nets)| nets.iter());
    nets.map(ToString::to_string).collect()
}

/// Whether the policy, which selects has(a), is in a list here.
fn is_judged(snapshot: &Snapshot) -> bool {
    snapshot.endpoints.iter().any(|e| e.lists.contains_key(&ListKey(ListKind::NormalIngress)))
}

#[test]
fn an_automatic_endpoint_follows_its_node() {
    let view = view(&[("eth0", &["10.0.0.1/24"])]);
    let store = Store::default();
    let index = Index::new(store.world(), &view);
    let mut followed = Followed { store, index };
    let own = |labels| node("node1", labels, "10.0.0.1");
    let other = |labels| node("node2", labels, "10.0.0.2");

    let found = followed.with(&[own("a: b"), other("edge: '1'")]);
    assert_eq!(names(&found), ["node1-auto-hep", "node2-auto-hep", "node2-edge-auto-hep"]);
    assert_eq!(found.facts.governed["eth0"], "node1-auto-hep");
    assert_eq!(found.facts.host_endpoints["node1-auto-hep"].labels["a"], "b");
    assert!(is_judged(&found));
    assert_eq!(let_in(&found), ["10.0.0.2/32"]);

    // Relabelled: the policy selects it no more, and the other is no edge node.
    let found = followed.with(&[own("c: d"), other("c: d")]);
    assert_eq!(names(&found), ["node1-auto-hep", "node2-auto-hep"]);
    let labels = &found.facts.host_endpoints["node1-auto-hep"].labels;
    assert_eq!((labels.get("a"), labels["c"].as_str()), (None, "d"));
    assert_eq!(let_in(&found), [""; 0]);
    assert!(!is_judged(&found));

    // Its address moves, and at last the node goes: with it goes who was let in, and what governed here.
    let found = followed.with(&[own("a: b"), node("node2", "edge: '1'", "10.0.0.9")]);
    assert_eq!(let_in(&found), ["10.0.0.9/32"]);
    let found = followed.with(&[own("a: b")]);
    assert_eq!((names(&found), let_in(&found)), (vec!["node1-auto-hep"], Vec::new()));
    let found = followed.with(&[other("a: b")]);
    assert_eq!(names(&found), ["node2-auto-hep"]);
    assert_eq!(found.facts.governed, BTreeMap::new());
    assert!(found.facts.unprotected.contains("eth0"));
}
