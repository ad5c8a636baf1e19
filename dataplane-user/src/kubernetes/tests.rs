//! The cluster's state machine, in any order of its notices.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::discovery::Served;
use super::plan::{Needs, Scope, WatchKey, plan};
use super::{Notice, What};
use crate::resource::Kind;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn watch(kind: Kind, api_version: &str) -> WatchKey {
    WatchKey { kind, api_version: api_version.to_owned(), scope: Scope::All }
}

fn endpoint(name: &str) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint", "metadata": {"name": name}})
}

fn list(cluster: &mut Cluster, key: &WatchKey, id: &str, names: &[&str]) -> bool {
    let notice = |what| Notice { watch: key.clone(), what };
    let mut changed = cluster.notice(notice(What::ListBegins), at(0));
    for name in names {
        changed |= cluster.notice(notice(What::Listed(Arc::new(endpoint(name)))), at(0));
    }
    changed | cluster.notice(notice(What::ListEnds { cluster: id.to_owned() }), at(0))
}

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.documents().iter().map(|d| d.value["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn nothing_counts_before_its_list_is_whole() {
    let key = watch(Kind::HostEndpoint, "projectcalico.org/v3");
    let mut cluster = Cluster::new(None);
    assert!(!cluster.in_sync());
    cluster.replan(BTreeSet::from([key.clone()]));
    let notice = |what| Notice { watch: key.clone(), what };
    assert!(!cluster.notice(notice(What::ListBegins), at(0)));
    assert!(!cluster.notice(notice(What::Listed(Arc::new(endpoint("a")))), at(0)));
    assert!(names(&cluster).is_empty() && !cluster.in_sync());
    assert!(cluster.notice(notice(What::ListEnds { cluster: "c1".into() }), at(0)));
    assert_eq!(names(&cluster), ["a"]);
    assert!(cluster.in_sync());
    assert_eq!(cluster.documents()[0].file, "kubernetes:projectcalico.org/v3/hostendpoints/a");
}

#[test]
fn a_relist_swaps_at_its_end() {
    let key = watch(Kind::HostEndpoint, "projectcalico.org/v3");
    let mut cluster = Cluster::new(None);
    cluster.replan(BTreeSet::from([key.clone()]));
    assert!(list(&mut cluster, &key, "c1", &["a", "b"]));
    assert!(!list(&mut cluster, &key, "c1", &["a", "b"]), "the same list is no change");
    cluster.notice(Notice { watch: key.clone(), what: What::ListBegins }, at(0));
    assert_eq!(names(&cluster), ["a", "b"], "a list in work takes nothing away");
    assert!(list(&mut cluster, &key, "c1", &["b", "c"]));
    assert_eq!(names(&cluster), ["b", "c"]);
    let deleted = What::Deleted(Arc::new(endpoint("b")));
    assert!(cluster.notice(Notice { watch: key, what: deleted }, at(0)));
    assert_eq!(names(&cluster), ["c"]);
}

#[test]
fn a_wiped_store_takes_nothing_away_and_is_said() {
    let key = watch(Kind::HostEndpoint, "projectcalico.org/v3");
    let mut cluster = Cluster::new(None);
    cluster.replan(BTreeSet::from([key.clone()]));
    list(&mut cluster, &key, "c1", &["a"]);
    assert!(!list(&mut cluster, &key, "c2", &[]));
    assert_eq!(names(&cluster), ["a"]);
    assert!(!cluster.in_sync());
    assert!(cluster.troubles()["cluster"].contains("another cluster answers"));
    assert!(list(&mut cluster, &key, "c2", &["x"]), "another cluster with host endpoints is followed");
    assert_eq!(names(&cluster), ["x"]);
    assert!(cluster.troubles().is_empty() && cluster.in_sync());
}

#[test]
fn lists_of_a_cluster_that_is_believed_later_count_then() {
    let endpoints = watch(Kind::HostEndpoint, "projectcalico.org/v3");
    let sets = watch(Kind::GlobalNetworkSet, "projectcalico.org/v3");
    let mut cluster = Cluster::new(Some("c1".into()));
    cluster.replan(BTreeSet::from([endpoints.clone(), sets.clone()]));
    list(&mut cluster, &endpoints, "c1", &["a"]);
    list(&mut cluster, &sets, "c1", &["s1"]);
    // The new cluster's sets come before its host endpoints, which are created one by one.
    assert!(!list(&mut cluster, &sets, "c2", &["s2"]));
    assert!(!list(&mut cluster, &endpoints, "c2", &[]));
    let applied =
        |key: &WatchKey, name| Notice { watch: key.clone(), what: What::Applied(Arc::new(endpoint(name))) };
    assert!(!cluster.notice(applied(&sets, "s3"), at(0)));
    assert_eq!(names(&cluster), ["a", "s1"]);
    assert_eq!(cluster.id(), Some("c1"));
    assert!(cluster.notice(applied(&endpoints, "b"), at(0)));
    assert_eq!(names(&cluster), ["b", "s2", "s3"]);
    assert_eq!(cluster.id(), Some("c2"));
    assert!(cluster.in_sync());
}

#[test]
fn the_known_cluster_that_is_back_is_followed() {
    let key = watch(Kind::HostEndpoint, "projectcalico.org/v3");
    let mut cluster = Cluster::new(Some("c1".into()));
    cluster.replan(BTreeSet::from([key.clone()]));
    list(&mut cluster, &key, "c1", &["a"]);
    list(&mut cluster, &key, "c2", &[]);
    assert!(!cluster.in_sync());
    assert!(list(&mut cluster, &key, "c1", &["a", "b"]));
    assert_eq!(names(&cluster), ["a", "b"]);
    assert!(cluster.in_sync() && cluster.troubles().is_empty());
}

#[test]
fn a_deleted_list_of_the_same_cluster_is_believed() {
    let key = watch(Kind::HostEndpoint, "projectcalico.org/v3");
    let mut cluster = Cluster::new(Some("c1".into()));
    cluster.replan(BTreeSet::from([key.clone()]));
    list(&mut cluster, &key, "c1", &["a"]);
    assert!(list(&mut cluster, &key, "c1", &[]));
    assert!(names(&cluster).is_empty());
}

#[test]
fn a_kind_that_moves_to_another_group_has_no_gap() {
    let old = watch(Kind::HostEndpoint, "crd.projectcalico.org/v1");
    let new = watch(Kind::HostEndpoint, "projectcalico.org/v3");
    let mut cluster = Cluster::new(None);
    cluster.replan(BTreeSet::from([old.clone()]));
    list(&mut cluster, &old, "c1", &["a"]);
    cluster.replan(BTreeSet::from([new.clone()]));
    assert_eq!(names(&cluster), ["a"], "until the new list is whole");
    assert!(!cluster.in_sync());
    list(&mut cluster, &new, "c1", &["a", "b"]);
    assert_eq!(names(&cluster), ["a", "b"]);
    assert_eq!(cluster.counts().len(), 1, "the old watch is gone");
}

#[test]
fn a_kind_that_is_copied_to_another_group_misses_nothing_meanwhile() {
    let old = watch(Kind::HostEndpoint, "crd.projectcalico.org/v1");
    let new = watch(Kind::HostEndpoint, "projectcalico.org/v3");
    let mut cluster = Cluster::new(None);
    cluster.replan(BTreeSet::from([old.clone()]));
    list(&mut cluster, &old, "c1", &["default.a", "b"]);
    cluster.replan(BTreeSet::from([new.clone()]));
    list(&mut cluster, &new, "c1", &[]);
    assert_eq!(names(&cluster), ["b", "default.a"], "nothing was copied yet");
    let trouble = &cluster.troubles()["kind HostEndpoint"];
    assert!(trouble.contains("projectcalico.org/v3 serves it now, and 2 objects"), "{trouble}");
    let applied = |name| Notice { watch: new.clone(), what: What::Applied(Arc::new(endpoint(name))) };
    assert!(cluster.notice(applied("a"), at(1)));
    assert_eq!(names(&cluster), ["a", "b"], "each comes from one group");
    let deleted = Notice { watch: new.clone(), what: What::Deleted(Arc::new(endpoint("a"))) };
    assert!(cluster.notice(deleted, at(2)));
    assert_eq!(names(&cluster), ["b"], "what has come and is deleted is gone");
    assert!(cluster.notice(applied("b"), at(3)));
    assert_eq!(names(&cluster), ["b"]);
    assert_eq!(cluster.counts().len(), 1, "the old watch is gone");
    assert!(cluster.troubles().is_empty());
}

#[test]
fn a_kind_that_is_served_no_more_keeps_its_objects_loudly() {
    let key = watch(Kind::HostEndpoint, "projectcalico.org/v3");
    let node = watch(Kind::Node, "v1");
    let mut cluster = Cluster::new(None);
    cluster.replan(BTreeSet::from([key.clone(), node.clone()]));
    list(&mut cluster, &key, "c1", &["a"]);
    cluster.replan(BTreeSet::from([node]));
    assert_eq!(names(&cluster), ["a"]);
    assert!(cluster.troubles()["kind HostEndpoint"].contains("stay in force"));
}

#[test]
fn trouble_tells_since_when_and_ends() {
    let key = watch(Kind::HostEndpoint, "projectcalico.org/v3");
    let mut cluster = Cluster::new(None);
    cluster.replan(BTreeSet::from([key.clone()]));
    list(&mut cluster, &key, "c1", &["a"]);
    for (second, text) in [(5, "refused"), (9, "no route")] {
        cluster.notice(Notice { watch: key.clone(), what: What::Failed(text.into()) }, at(second));
    }
    assert_eq!(cluster.stale_since(), Some(at(5)));
    assert_eq!(
        cluster.watch_troubles()["watch of projectcalico.org/v3 hostendpoints"],
        "no route (since 1970-01-01T00:00:05Z; what was read before stays in force)"
    );
    assert_eq!(cluster.troubled(), std::slice::from_ref(&key));
    assert_eq!(names(&cluster), ["a"]);
    list(&mut cluster, &key, "c1", &["a"]);
    assert_eq!(cluster.stale_since(), None);
}

fn served(versions: &[(&str, &[&str])]) -> Served {
    let kinds = |kinds: &[&str]| kinds.iter().map(|k| (*k).to_owned()).collect();
    Served::new(versions.iter().map(|(version, names)| ((*version).to_owned(), kinds(names))))
}

#[test]
fn the_newer_group_is_read_where_both_serve_a_kind() {
    let both = served(&[
        ("crd.projectcalico.org/v1", &["HostEndpoint", "GlobalNetworkPolicy"]),
        ("projectcalico.org/v3", &["HostEndpoint"]),
    ]);
    let watches = plan(&both, Needs::default());
    let version = |kind| watches.iter().find(|w| w.kind == kind).map(|w| w.api_version.as_str());
    assert_eq!(version(Kind::HostEndpoint), Some("projectcalico.org/v3"));
    assert_eq!(version(Kind::GlobalNetworkPolicy), Some("crd.projectcalico.org/v1"));
    assert_eq!(version(Kind::Tier), None);
}

#[test]
fn pods_of_other_nodes_are_asked_for_only_when_a_rule_can_select_them() {
    let scope = |needs| plan(&Served::default(), needs).iter().find(|w| w.kind == Kind::Pod).unwrap().scope;
    assert_eq!(scope(Needs::default()), Scope::ThisNode);
    assert_eq!(scope(Needs { all_pods: true }), Scope::All);
}
