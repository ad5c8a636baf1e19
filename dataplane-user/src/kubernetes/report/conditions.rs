//! Ready, Programmed and Degraded.

use super::facts::Facts;
use super::limits::MAX_MESSAGE_CHARS;
use super::text::{shorten, stamp};
use super::types::{Condition, ConditionStatus, Report};
use crate::state::cause::Cause;

/// `kubectl wait --for=condition=Ready nps/NODE`.
pub const READY: &str = "Ready";
pub const PROGRAMMED: &str = "Programmed";
pub const DEGRADED: &str = "Degraded";
/// Reason of a condition that is as it should be.
pub const IN_FORCE: &str = "InForce";
/// Reason of Degraded when nothing is.
pub const AS_ASKED: &str = "AsAsked";
/// Reason of Ready when the agent was asked to end.
pub const STOPPED: &str = "AgentStopped";

/// What was read last is not in force.
fn keeps_from_force(cause: Cause) -> bool {
    match cause {
        Cause::NothingInForce
        | Cause::NotAttached
        | Cause::VerifierRejected
        | Cause::LimitExceeded
        | Cause::MapFull
        | Cause::GenerationFailed
        | Cause::TrialExpired
        | Cause::NotInSync => true,
        Cause::Suspended
        | Cause::Audit
        | Cause::AnotherCluster
        | Cause::ApiUnreachable
        | Cause::WatchFailed
        | Cause::KindNotServed
        | Cause::InvalidSelector
        | Cause::InvalidObject
        | Cause::HostEndpointConflict
        | Cause::HostEndpointBindsNothing
        | Cause::NothingGoverned
        | Cause::AgentTrouble => false,
    }
}

/// The cluster is not followed as it should be.
fn keeps_from_following(cause: Cause) -> bool {
    matches!(cause, Cause::AnotherCluster | Cause::ApiUnreachable | Cause::WatchFailed | Cause::KindNotServed)
}

/// All three. What did not change keeps its time.
pub(super) fn conditions(facts: &Facts, before: Option<&Report>, now: u64) -> Vec<Condition> {
    let causes = facts.causes();
    let of = |test: &dyn Fn(Cause) -> bool| -> Vec<&(Cause, String)> {
        causes.iter().filter(|(cause, _)| test(*cause)).collect()
    };
    let state = &facts.state;
    let in_force = format!(
        "generation {} is in force on {} of {} governed devices",
        state.generation,
        state.governed.keys().filter(|d| state.attached.contains(*d)).count(),
        state.governed.len()
    );
    let programmed = verdict(PROGRAMMED, &of(&keeps_from_force), &in_force);
    let mut ready = verdict(READY, &of(&|c| keeps_from_force(c) || keeps_from_following(c)), &in_force);
    if ready.status == ConditionStatus::True && !facts.in_sync() {
        ready = Condition {
            status: ConditionStatus::False,
            reason: Cause::NotInSync.name().to_owned(),
            message: "the cluster is not followed yet".to_owned(),
            ..ready
        };
    }
    if facts.stopped {
        ready = Condition {
            status: ConditionStatus::False,
            reason: STOPPED.to_owned(),
            message: "the agent was asked to end; what is in force stays in force, without updates"
                .to_owned(),
            ..ready
        };
    }
    let degraded = match causes.first() {
        None => condition(DEGRADED, ConditionStatus::False, AS_ASKED, "all that was asked for is enforced"),
        Some((worst, _)) => {
            let all: Vec<&str> = causes.iter().map(|(_, text)| text.as_str()).collect();
            condition(DEGRADED, ConditionStatus::True, worst.name(), &all.join("; "))
        }
    };
    [ready, programmed, degraded].into_iter().map(|new| keep_time(new, before, now)).collect()
}

fn verdict(type_: &str, against: &[&(Cause, String)], good: &str) -> Condition {
    match against.first() {
        None => condition(type_, ConditionStatus::True, IN_FORCE, good),
        Some((worst, _)) => {
            let all: Vec<&str> = against.iter().map(|(_, text)| text.as_str()).collect();
            condition(type_, ConditionStatus::False, worst.name(), &all.join("; "))
        }
    }
}

fn condition(type_: &str, status: ConditionStatus, reason: &str, message: &str) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status,
        reason: reason.to_owned(),
        message: shorten(message, MAX_MESSAGE_CHARS),
        last_transition_time: String::new(),
    }
}

fn keep_time(mut new: Condition, before: Option<&Report>, now: u64) -> Condition {
    let old = before.and_then(|b| b.conditions.iter().find(|c| c.type_ == new.type_));
    new.last_transition_time = match old {
        Some(old) if old.status == new.status => old.last_transition_time.clone(),
        _ => stamp(now),
    };
    new
}
