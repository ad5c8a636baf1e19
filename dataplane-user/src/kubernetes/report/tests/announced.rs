//! Which transitions become Events.

use std::collections::BTreeMap;

use super::{facts, policy, rejected};
use crate::kubernetes::report::announce::{Announcement, EventReason, Known, Regarding};
use crate::kubernetes::report::build::{Hooks, report};
use crate::kubernetes::report::facts::Facts;
use crate::kubernetes::report::limits::MAX_REPORT_BYTES;
use crate::state::TakenAwayState;
use crate::state::cause::Cause;

fn between(before: &Facts, after: &Facts) -> Vec<Announcement> {
    Known::of(before).announce(&Known::of(after), after)
}

fn reasons(announcements: &[Announcement]) -> Vec<&'static str> {
    announcements.iter().map(|a| a.reason.name()).collect()
}

/// Everything that can be wrong at once.
fn terrible() -> Facts {
    let mut facts = facts(vec![policy("web", 1), rejected("bad", 2)]);
    facts.state.unprotected = ["eth1".to_owned()].into();
    facts.state.trouble.insert("maps".into(), "no room".into());
    facts.state.causes.insert("maps".into(), Cause::MapFull);
    facts.state.trouble.insert("cluster".into(), "another cluster answers".into());
    facts.state.safety.suspended_seconds = Some(60);
    facts.state.safety.audit = true;
    facts.state.attached.clear();
    facts.state.lost = BTreeMap::from([("b".into(), "lost".into()), ("c".into(), "no device".into())]);
    facts.lost_to = BTreeMap::from([("b".into(), "a".into())]);
    let taken = TakenAwayState { times: 2, last: 1_800_000_000, what: "the program at ingress".into() };
    facts.state.taken_away = BTreeMap::from([("eth0".into(), taken)]);
    facts
}

#[test]
fn states_are_never_told_twice() {
    for facts in [facts(vec![policy("web", 1)]), terrible()] {
        assert_eq!(between(&facts, &facts), []);
        // Nor by the next agent, which knows the report only.
        let report = report(&facts, &Hooks::new(), None, 1_800_000_100, MAX_REPORT_BYTES);
        assert_eq!(Known::of_report(&report), Known::of(&facts));
    }
}

#[test]
fn everything_that_begins_is_told_once_and_its_end_too() {
    let good = facts(vec![policy("web", 1), policy("bad", 3)]);
    let begins = between(&good, &terrible());
    assert_eq!(
        reasons(&begins),
        [
            "NotAttached",
            "MapFull",
            "Suspended",
            "Audit",
            "AnotherCluster",
            "HostEndpointConflict",
            "HostEndpointBindsNothing",
            "DeviceUnprotected",
            "ProgramsTakenAway",
            "ObjectRejected",
        ]
    );
    let mut over = good.clone();
    over.state.taken_away = terrible().state.taken_away;
    let ends = between(&terrible(), &over);
    assert_eq!(reasons(&ends), ["Recovered", "ObjectAccepted"]);
    assert!(ends[0].note.contains("Suspended") && ends[0].note.contains("nothing of the kind is left"));
    assert_eq!(between(&over, &good), [], "to forget is no transition");
}

#[test]
fn what_is_said_of_an_object_has_one_name_on_all_nodes_and_another_for_each_version() {
    let none = facts(Vec::new());
    let one = between(&none, &facts(vec![rejected("bad", 2)]));
    let mut elsewhere = facts(vec![rejected("bad", 2)]);
    elsewhere.state.node = "node2".into();
    elsewhere.state.generation = 99;
    let other = between(&none, &elsewhere);
    assert!(one[0].fingerprint.is_some());
    assert_eq!(one, other);
    assert!(one[0].note.contains("spec.selector") && one[0].note.contains("spec.ingress[0]"), "all errors");
    let Regarding::Object { uid, name, .. } = &one[0].regarding else { panic!("{one:?}") };
    assert_eq!((uid.as_deref(), name.as_str()), (Some("uid-of-bad"), "bad"));

    let next = between(&facts(vec![rejected("bad", 2)]), &facts(vec![rejected("bad", 3)]));
    assert_eq!(reasons(&next), ["ObjectRejected"]);
    assert_ne!(next[0].fingerprint, one[0].fingerprint);
    // One that is deleted is nobody's news.
    assert_eq!(between(&facts(vec![rejected("bad", 2)]), &none), []);
}

#[test]
fn notes_fit() {
    let mut object = rejected("bad", 1);
    object.errors = vec!["ß".repeat(3000); 20];
    let told = between(&facts(Vec::new()), &facts(vec![object]));
    assert!(told[0].note.len() <= 1024 && told[0].note.ends_with('…'), "{}", told[0].note.len());
}

#[test]
fn reasons_are_words_and_each_is_there_once() {
    let mut names: Vec<&str> = EventReason::all().map(EventReason::name).collect();
    assert!(names.iter().all(|n| n.len() <= 128 && n.chars().all(char::is_alphanumeric)));
    assert!(names.iter().all(|n| n.starts_with(char::is_uppercase)));
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
