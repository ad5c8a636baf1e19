//! Facts → report.

use std::collections::BTreeMap;

use serde_json::json;

use super::{error, facts, key, object, policy, rejected};
use crate::kubernetes::report::build::{Hooks, report};
use crate::kubernetes::report::facts::{Facts, ObjectFacts};
use crate::kubernetes::report::limits::{MAX_POLICIES, MAX_REPORT_BYTES};
use crate::kubernetes::report::types::{
    ConditionStatus, DeviceState, HookReport, HostEndpointState, PolicyState, Report,
};
use crate::resource::Kind;
use crate::state::cause::Cause;

const NOW: u64 = 1_800_000_100;

fn of(facts: &Facts) -> Report {
    report(facts, &Hooks::new(), None, NOW, MAX_REPORT_BYTES)
}

fn condition<'a>(report: &'a Report, type_: &str) -> (ConditionStatus, &'a str, &'a str) {
    let found = report.conditions.iter().find(|c| c.type_ == type_).unwrap();
    (found.status, &found.reason, &found.message)
}

#[test]
fn a_healthy_node_as_a_whole() {
    let hook = HookReport {
        hook: "ingress".into(),
        position: Some(2),
        chain: vec!["cil (tcx)".into(), "portcullis".into()],
    };
    let hooks = BTreeMap::from([("eth0".to_owned(), vec![hook])]);
    let report = report(&facts(vec![policy("web", 3)]), &hooks, None, NOW, MAX_REPORT_BYTES);
    let good = "generation 3 is in force on 1 of 1 governed devices";
    let time = "2027-01-15T08:01:40Z";
    let wanted = json!({
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "InForce", "message": good, "lastTransitionTime": time},
            {"type": "Programmed", "status": "True", "reason": "InForce", "message": good, "lastTransitionTime": time},
            {"type": "Degraded", "status": "False", "reason": "AsAsked",
             "message": "all that was asked for is enforced", "lastTransitionTime": time},
        ],
        "reportedAt": time,
        "agentVersion": env!("CARGO_PKG_VERSION"),
        "generation": {"number": 3, "since": "2027-01-15T08:00:00Z", "hash": "00000000000000aa"},
        "source": {"cluster": "uid-of-cluster", "inSync": true},
        "counts": {"policies": 1, "active": 1, "refused": 0, "governed": 1, "unprotected": 0, "bindsNothing": 0},
        "policies": [{"kind": "GlobalNetworkPolicy", "name": "web", "state": "Active", "observedGeneration": 3,
                      "hostEndpoints": 1, "devices": 1}],
        "hostEndpoints": [{"name": "node1-eth0", "state": "Governs", "devices": ["eth0"], "policies": 1}],
        "devices": [{"name": "eth0", "state": "Governed", "hostEndpoint": "node1-eth0",
                     "hooks": [{"hook": "ingress", "position": 2, "chain": ["cil (tcx)", "portcullis"]}]}],
    });
    assert_eq!(
        serde_json::to_value(&report).unwrap(),
        wanted,
        "{:#}",
        serde_json::to_value(&report).unwrap()
    );
    let back: Report = serde_json::from_value(wanted).unwrap();
    assert_eq!(back, report, "what is written is read back");
}

#[test]
fn each_policy_says_what_became_of_it() {
    let value = |generation| object("GlobalNetworkPolicy", "kept", generation);
    let kept = ObjectFacts::new(
        key(Kind::GlobalNetworkPolicy, "kept"),
        Some(&value(1)),
        Some(&value(2)),
        &[error("spec.order")],
        Some(1_800_000_050),
    );
    let mut facts = facts(vec![
        policy("a-active", 1),
        policy("b-elsewhere", 1),
        policy("c-pods", 1),
        policy("d-new", 5),
        kept,
        rejected("z-bad", 4),
    ]);
    facts.state.endpoints[0]
        .lists
        .get_mut("NormalIngress")
        .unwrap()
        .retain(|p| !p.ends_with("elsewhere") && !p.ends_with("pods"));
    facts.state.not_for_hosts = vec!["GlobalNetworkPolicy/c-pods".into()];
    // What is in force is of the version before.
    facts.applied.as_mut().unwrap().versions.insert(key(Kind::GlobalNetworkPolicy, "d-new"), Some(4));
    let report = of(&facts);
    let states: Vec<_> = report
        .policies
        .iter()
        .map(|p| (p.name.as_str(), p.state, p.observed_generation, p.latest_generation))
        .collect();
    assert_eq!(
        states,
        [
            ("z-bad", PolicyState::Rejected, None, Some(4)),
            ("kept", PolicyState::KeptLastGood, Some(1), Some(2)),
            ("d-new", PolicyState::Pending, Some(4), Some(5)),
            ("a-active", PolicyState::Active, Some(1), None),
            ("b-elsewhere", PolicyState::SelectsNothingHere, Some(1), None),
            ("c-pods", PolicyState::NotForHosts, Some(1), None),
        ]
    );
    assert_eq!(report.policies[0].errors.len(), 2, "all errors");
    assert_eq!(report.policies[1].since.as_deref(), Some("2027-01-15T08:00:50Z"));
    let (status, reason, message) = condition(&report, "Degraded");
    assert_eq!((status, reason), (ConditionStatus::True, "InvalidSelector"));
    assert!(message.contains("z-bad: spec.selector") && message.contains("kept: spec.order"), "{message}");
    assert_eq!(condition(&report, "Programmed").0, ConditionStatus::True);
    // One that goes on in its last good version acts.
    assert_eq!((report.counts.active, report.counts.refused), (2, 2));
}

#[test]
fn devices_and_host_endpoints_that_enforce_nothing_say_why() {
    let mut facts = facts(Vec::new());
    facts.state.unprotected = ["eth1".to_owned()].into();
    facts.state.attached.clear();
    facts.state.trouble.insert("device eth0".into(), "no such device".into());
    facts.state.lost = BTreeMap::from([
        ("z-second".into(), "device eth0 is governed by node1-eth0, whose name sorts first".into()),
        ("gone".into(), "this node has no device eth9".into()),
    ]);
    facts.lost_to = BTreeMap::from([("z-second".into(), "node1-eth0".into())]);
    let report = of(&facts);
    let devices: Vec<_> =
        report.devices.iter().map(|d| (d.name.as_str(), d.state, d.why.as_deref().unwrap())).collect();
    assert_eq!(
        devices,
        [
            ("eth0", DeviceState::NotAttached, "no such device"),
            ("eth1", DeviceState::Unprotected, "no HostEndpoint covers it"),
        ]
    );
    let endpoints: Vec<_> = report
        .host_endpoints
        .iter()
        .map(|h| (h.name.as_str(), h.state, h.lost_to.as_deref(), h.why.is_some()))
        .collect();
    assert_eq!(
        endpoints,
        [
            ("gone", HostEndpointState::BindsNothing, None, true),
            ("z-second", HostEndpointState::BindsNothing, Some("node1-eth0"), true),
            ("node1-eth0", HostEndpointState::Governs, None, false),
        ]
    );
    assert_eq!(condition(&report, "Ready").1, "NotAttached");
    assert_eq!(condition(&report, "Programmed").1, "NotAttached");
    assert_eq!(condition(&report, "Degraded").1, "NotAttached");
}

#[test]
fn the_worst_is_the_reason_and_all_are_in_the_message() {
    let mut facts = facts(vec![rejected("bad", 1)]);
    facts.state.trouble.insert("compile".into(), "too many rules".into());
    facts.state.causes.insert("compile".into(), Cause::LimitExceeded);
    facts.state.trouble.insert("watch of v1 pods".into(), "forbidden".into());
    facts.state.kubernetes.as_mut().unwrap().in_sync = false;
    let report = of(&facts);
    assert_eq!(
        condition(&report, "Programmed"),
        (ConditionStatus::False, "LimitExceeded", "compile: too many rules")
    );
    let (_, reason, message) = condition(&report, "Ready");
    assert_eq!((reason, message), ("LimitExceeded", "compile: too many rules; watch of v1 pods: forbidden"));
    let (_, reason, message) = condition(&report, "Degraded");
    assert_eq!(reason, "LimitExceeded");
    assert!(message.contains("GlobalNetworkPolicy/bad"), "{message}");
    assert_eq!(report.troubles[0].reason, "LimitExceeded");
    // An agent that ends is not ready, whatever is in force.
    facts.stopped = true;
    assert_eq!(condition(&of(&facts), "Ready").1, "AgentStopped");
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let good = facts(vec![policy("web", 1)]);
    let first = of(&good);
    let mut bad = good.clone();
    bad.state.trouble.insert("maps".into(), "no room".into());
    let second = report(&bad, &Hooks::new(), Some(&first), NOW + 60, MAX_REPORT_BYTES);
    let mut worse = bad.clone();
    worse.state.causes.insert("maps".into(), Cause::MapFull);
    let third = report(&worse, &Hooks::new(), Some(&second), NOW + 120, MAX_REPORT_BYTES);
    let times = |r: &Report| -> Vec<String> {
        r.conditions.iter().map(|c| c.last_transition_time[11..19].to_owned()).collect()
    };
    assert_eq!(times(&first), ["08:01:40"; 3]);
    assert_eq!(times(&second), ["08:02:40"; 3]);
    assert_eq!(times(&third), ["08:02:40"; 3], "another reason is no other status");
    assert_eq!(condition(&third, "Degraded").1, "MapFull");
}

#[test]
fn a_suspension_has_one_end() {
    let mut facts = facts(Vec::new());
    facts.state.safety.suspended_seconds = Some(600);
    let first = of(&facts);
    assert_eq!(condition(&first, "Degraded").1, "Suspended");
    facts.state.safety.suspended_seconds = Some(571);
    let later = report(&facts, &Hooks::new(), Some(&first), NOW + 30, MAX_REPORT_BYTES);
    assert_eq!(later.safety, first.safety, "a second of rounding is no change");
    facts.state.safety.suspended_seconds = Some(3600);
    let longer = report(&facts, &Hooks::new(), Some(&later), NOW + 40, MAX_REPORT_BYTES);
    assert_ne!(longer.safety, first.safety);
}

/// etcd takes 1.5 MB, and so does nobody's patience.
#[test]
fn a_report_is_bounded_and_says_what_it_leaves_out() {
    let size = |report: &Report| serde_json::to_string(report).unwrap().len();
    let ordinary = of(&facts((0..1000).map(|n| policy(&format!("policy-{n:04}"), 1)).collect()));
    assert_eq!((ordinary.policies.len(), ordinary.truncated.as_deref()), (1000, None));
    assert!(size(&ordinary) < 200_000, "{}", size(&ordinary));

    let most = usize::try_from(MAX_POLICIES).unwrap();
    let many = of(&facts((0..most + 7).map(|n| policy(&format!("p{n}"), 1)).collect()));
    assert!(size(&many) < MAX_REPORT_BYTES);
    assert_eq!(many.counts.policies as usize, most + 7);
    assert!(many.truncated.unwrap().starts_with("… and 7 more policies: `portcullis status`"));

    let mut bad: Vec<ObjectFacts> = (0..1500).map(|n| rejected(&"n".repeat(100 + n % 100), 1)).collect();
    for object in &mut bad {
        object.errors = vec!["ß".repeat(5000); 30];
    }
    bad.push(policy("good", 1));
    let terrible = of(&facts(bad));
    assert!(size(&terrible) <= MAX_REPORT_BYTES + 500, "{}", size(&terrible));
    assert!(terrible.policies.len() < 1000);
    assert_eq!(terrible.counts.policies, 1501);
    assert!(terrible.policies.iter().all(|p| p.errors.len() <= 10));
    assert!(terrible.truncated.is_some());
    let half = report(&facts(vec![policy("a", 1); 3000]), &Hooks::new(), None, NOW, 50_000);
    assert!(size(&half) < 50_500, "{}", size(&half));
}
