//! What people are told of each object.

use super::{hep, policy, view};
use crate::index::status::{self, Acceptance};
use crate::index::{ObjectStatus, Snapshot};
use crate::resource::{Store, documents_from_str};

fn store(files: &[(&str, &str)]) -> Store {
    let mut store = Store::default();
    update(&mut store, files);
    store
}

fn update(store: &mut Store, files: &[(&str, &str)]) {
    let documents = files.iter().flat_map(|(file, text)| documents_from_str(file, text).0);
    store.replace(documents.collect());
}

fn statuses(store: &Store) -> Vec<ObjectStatus> {
    let view = view(&[("eth0", &["10.0.0.1/24"])]);
    status::of(store, &Snapshot::build(store.world(), &view))
}

fn of<'a>(all: &'a [ObjectStatus], object: &str) -> &'a ObjectStatus {
    all.iter().find(|s| s.object == object).unwrap_or_else(|| panic!("{object} is not in {all:?}"))
}

/// Path and reason of everything that does nothing.
fn dead(status: &ObjectStatus) -> Vec<(&str, &str)> {
    status.dead.iter().map(|d| (d.path.as_str(), d.why.as_str())).collect()
}

#[test]
fn who_selects_whom() {
    let yaml = hep("h", "interfaceName: eth0, profiles: [projectcalico-default-allow]")
        + &hep("gone", "interfaceName: eth7")
        + &policy("p", "applyOnForward: true, ingress: [{action: Allow}], egress: [{action: Deny}]")
        + &policy("pods", "").replace("has(a)", "app == 'web'");
    let all = statuses(&store(&[("f", &yaml)]));
    let lists = &of(&all, "GlobalNetworkPolicy/p").acts_on["h"];
    let lists: Vec<&str> = lists.iter().map(String::as_str).collect();
    assert_eq!(lists, ["forward egress", "forward ingress", "normal egress", "normal ingress"]);
    let h = of(&all, "HostEndpoint/h");
    assert!(h.acts_on.contains_key("eth0") && h.used_by.contains("GlobalNetworkPolicy/p"));
    assert_eq!(dead(of(&all, "HostEndpoint/gone")), [("", "binds nothing: this node has no device eth7")]);
    assert!(dead(of(&all, "GlobalNetworkPolicy/pods"))[0].1.contains("not for hosts"));
}

#[test]
fn rules_that_are_shadowed_and_rules_that_match_nothing() {
    let set = "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: office, labels: {set: office}}\n\
               spec: {nets: [10.1.0.0/16, 10.2.0.0/16]}\n---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\n\
               metadata: {name: unused, labels: {set: none}}\nspec: {nets: [10.3.0.0/16]}\n";
    let yaml = hep("h", "interfaceName: eth0")
        + &policy(
            "first",
            "order: 1, ingress: [{action: Allow, protocol: TCP, source: {nets: [10.0.0.0/8]}, destination: {ports: ['1:1024']}}, \
             {action: Log}, {action: Deny, protocol: UDP}]",
        )
        + &policy(
            "second",
            "order: 2, ingress: [{action: Deny, protocol: TCP, source: {selector: \"set == 'office'\"}, destination: {ports: [80, '443:444']}}, \
             {action: Deny, protocol: TCP, source: {nets: [10.0.0.0/7]}, destination: {ports: [80]}}, \
             {action: Allow, protocol: UDP, destination: {ports: [53]}}, {action: Allow, source: {selector: has(ghost)}}, \
             {action: Allow, destination: {ports: [nobody]}}, {action: Allow, protocol: TCP, source: {notNets: [10.0.0.0/8]}}]",
        )
        + set;
    let all = statuses(&store(&[("f", &yaml)]));
    assert_eq!(dead(of(&all, "GlobalNetworkPolicy/first")), []);
    let second = dead(of(&all, "GlobalNetworkPolicy/second"));
    let paths: Vec<&str> = second.iter().map(|d| d.0).collect();
    assert_eq!(
        paths,
        [
            "spec.ingress[0]",
            "spec.ingress[2]",
            "spec.ingress[3].source.selector",
            "spec.ingress[4].destination.ports"
        ],
        "{second:?}"
    );
    assert!(second[0].1.contains("shadowed by GlobalNetworkPolicy/first spec.ingress[0]"), "{second:?}");
    assert!(of(&all, "GlobalNetworkSet/office").used_by.contains("GlobalNetworkPolicy/second"));
    assert_eq!(dead(of(&all, "GlobalNetworkSet/unused")), [("", "no rule's selector matches its labels")]);
}

#[test]
fn a_rule_that_acts_in_one_of_its_lists_is_alive() {
    // In the forward list nothing stands before it.
    let yaml = hep("h", "interfaceName: eth0")
        + &policy("all", "order: 1, ingress: [{action: Allow}]")
        + &policy("both", "order: 2, applyOnForward: true, ingress: [{action: Deny, protocol: TCP}]");
    let all = statuses(&store(&[("f", &yaml)]));
    assert_eq!(dead(of(&all, "GlobalNetworkPolicy/both")), []);
}

#[test]
fn rejected_and_kept_last_good() {
    let good = policy("p", "order: 1, ingress: [{action: Allow}]");
    let mut store = store(&[("a", &good)]);
    let bad = policy("p", "order: x");
    let worse = policy("new", "types: [In]");
    update(&mut store, &[("a", &bad), ("b", &worse)]);
    let all = statuses(&store);
    let kept = of(&all, "GlobalNetworkPolicy/p");
    assert_eq!(kept.acceptance, Acceptance::KeptLastGood);
    assert!(kept.since.is_some_and(|s| s > 0) && kept.refused[0].contains("spec.order"), "{kept:?}");
    let rejected = of(&all, "GlobalNetworkPolicy/new");
    assert_eq!(rejected.acceptance, Acceptance::Rejected);
    assert!(rejected.refused[0].contains("spec.types[0]"), "{rejected:?}");
    // The time does not move while it stays broken, and goes when it is repaired.
    let since = kept.since;
    update(&mut store, &[("a", &bad)]);
    assert_eq!(of(&statuses(&store), "GlobalNetworkPolicy/p").since, since);
    update(&mut store, &[("a", &good)]);
    assert_eq!(of(&statuses(&store), "GlobalNetworkPolicy/p").acceptance, Acceptance::Accepted);
}
