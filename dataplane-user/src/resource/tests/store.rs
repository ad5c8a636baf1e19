//! Last good versions, atomic apply, and independence of order.

use super::super::{Document, Report, Store, documents_from_str};
use super::{gnp, hep, messages};

fn documents(files: &[(&str, &str)]) -> Vec<Document> {
    files.iter().flat_map(|(file, text)| documents_from_str(file, text).0).collect()
}

fn replace(store: &mut Store, files: &[(&str, &str)]) -> Report {
    store.replace(documents(files))
}

fn named(name: &str, spec: &str) -> String {
    gnp(spec).replace("name: p", &format!("name: {name}"))
}

#[test]
fn a_folder_is_the_desired_state() {
    let mut store = Store::default();
    let report = replace(&mut store, &[("a", &named("a", "order: 1")), ("b", &named("b", "order: 2"))]);
    assert_eq!(report.accepted, ["GlobalNetworkPolicy/a", "GlobalNetworkPolicy/b"]);
    replace(&mut store, &[("a", &named("a", "order: 1"))]);
    assert_eq!(store.list("gnp").len(), 1);
    assert_eq!(store.world().policies.len(), 1);
}

#[test]
fn a_refused_edit_keeps_the_last_good_version_and_says_so() {
    let mut store = Store::default();
    replace(&mut store, &[("a", &named("a", "order: 1"))]);
    let before = store.world().clone();
    let report = replace(&mut store, &[("a", &named("a", "order: x"))]);
    assert_eq!(report.kept_last_good, ["GlobalNetworkPolicy/a"]);
    assert_eq!(store.world(), &before);
    assert_eq!(store.get("gnp", "", "a").unwrap().superseded[0].path, "spec.order");
    let report = replace(&mut store, &[("a", &named("a", "order: 3"))]);
    assert!(report.kept_last_good.is_empty() && store.get("gnp", "", "a").unwrap().superseded.is_empty());
}

#[test]
fn an_unreadable_file_keeps_what_came_from_it() {
    let mut store = Store::default();
    let good = format!("{}---\n{}", named("a", "order: 1"), named("b", "order: 1"));
    replace(&mut store, &[("dir/a.yaml", &good), ("dir/c.yaml", &named("c", "order: 1"))]);
    // `b` is broken beyond reading: its name is unknown. `c` is gone.
    let report = replace(&mut store, &[("dir/a.yaml", &format!("{}---\n- ]", named("a", "order: 2")))]);
    assert_eq!(report.kept_last_good, ["GlobalNetworkPolicy/b"]);
    assert_eq!(store.list("gnp").len(), 2);
    assert!(report.has_errors());
    // The whole folder cannot be read.
    let (broken, _) = documents_from_str("dir", "- ]");
    assert_eq!(store.replace(broken).kept_last_good.len(), 2);
    assert_eq!(store.world().policies.len(), 2);
}

#[test]
fn apply_is_all_or_nothing() {
    let mut store = Store::default();
    let text = format!("{}---\n{}", named("a", "order: 1"), named("b", "order: x"));
    let report = store.apply(documents(&[("f", &text)]));
    assert!(report.has_errors() && report.accepted.is_empty());
    assert!(store.world().policies.is_empty());
    store.apply(documents(&[("f", &named("a", "order: 1"))]));
    store.apply(documents(&[("f", &named("b", "order: 1"))]));
    assert_eq!(store.world().policies.len(), 2, "apply takes nothing away");
}

#[test]
fn twins_are_refused_and_both_places_named_in_any_order() {
    let (a, b) = (("x.yaml", named("a", "order: 1")), ("y.yaml", named("a", "order: 2")));
    let run = |files: &[(&str, &str)]| {
        let mut store = Store::default();
        let report = replace(&mut store, files);
        (messages(&report), store.world().clone())
    };
    let forward = run(&[(a.0, &a.1), (b.0, &b.1)]);
    assert_eq!(forward, run(&[(b.0, &b.1), (a.0, &a.1)]));
    assert!(forward.0.contains("x.yaml:1 and y.yaml:1") && forward.1.policies.is_empty(), "{}", forward.0);
}

#[test]
fn v51_missing_tiers() {
    let tier = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: sec}\nspec: {order: 10}\n";
    let policy = named("a", "tier: sec");
    let mut store = Store::default();
    let report = store.apply(documents(&[("f", &policy)]));
    assert!(messages(&report).contains("no such tier"));
    assert!(!store.apply(documents(&[("f", &format!("{policy}---\n{tier}"))])).has_errors());
    assert!(store.delete("tier", "", "sec").unwrap_err().message.contains("still holds policies (a)"));
    // It vanished from the folder all the same: still enforced.
    let report = replace(&mut store, &[("f", &policy)]);
    assert!(!report.has_errors() && report.warnings().count() == 1);
    assert_eq!(store.world().policies.len(), 1);
}

#[test]
fn delete_and_get() {
    let mut store = Store::default();
    store.apply(documents(&[("f", &hep("node: n, interfaceName: eth0"))]));
    assert_eq!(store.get("hostendpoints", "", "h").unwrap().value["spec"]["node"], "n");
    assert!(store.delete("hep", "", "h").is_ok());
    assert!(store.world().host_endpoints.is_empty());
    assert!(store.delete("hep", "", "h").unwrap_err().to_string().contains("does not exist"));
    assert!(store.delete("nonsense", "", "h").is_err());
}

#[test]
fn other_kinds_are_noted_in_a_folder() {
    let mut store = Store::default();
    let report =
        replace(&mut store, &[("f", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n")]);
    assert!(!report.has_errors());
    assert!(report.notes().any(|note| note.object == "Deployment"));
}
