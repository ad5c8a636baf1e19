//! Facts → report. Pure: the time and the report before come in by hand.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::conditions::conditions;
use super::facts::{Facts, ObjectFacts, cause_of};
use super::limits::{
    MAX_CHAIN, MAX_DEVICES, MAX_ENDPOINT_DEVICES, MAX_HOST_ENDPOINTS, MAX_OTHER_OBJECTS, MAX_POLICIES,
    MAX_TAKEN_AWAY, MAX_TEXT_CHARS, MAX_TROUBLES,
};
use super::text::{bounded, seconds, shorten, stamp};
use super::types::{
    Counts, DeviceReport, DeviceState, Generation, HookReport, HostEndpointReport, HostEndpointState,
    ObjectReport, PolicyReport, PolicyState, Report, Safety, Source, TakenAwayReport, TroubleReport,
};
use crate::index::status::Acceptance;
use crate::resource::Kind;

/// Device → what runs at its hooks.
pub type Hooks = BTreeMap<String, Vec<HookReport>>;

/// A time that is worked out anew at each look may be so far off.
const TIME_SLACK_SECONDS: u64 = 5;

/// The report of a moment. `before`: the last one that the API server took, of this agent or one before it. `bytes`:
/// what it may take as JSON.
pub fn report(facts: &Facts, hooks: &Hooks, before: Option<&Report>, now: u64, bytes: usize) -> Report {
    let state = &facts.state;
    let mut room = Room { bytes, left_out: Vec::new() };
    let policies = policies(facts);
    let kubernetes = state.kubernetes.as_ref();
    let mut report = Report {
        conditions: conditions(facts, before, now),
        reported_at: stamp(now),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        generation: (state.generation > 0).then(|| Generation {
            number: i64::try_from(state.generation).unwrap_or(i64::MAX),
            since: stamp(state.since),
            hash: facts.applied.as_ref().map(|a| a.hash.clone()),
        }),
        source: Source {
            cluster: kubernetes.and_then(|k| k.cluster.clone()),
            in_sync: facts.in_sync(),
            stale_since: kubernetes.and_then(|k| k.stale_since).map(stamp),
        },
        counts: counts(facts, &policies),
        safety: safety(facts, before, now),
        ..Report::default()
    };
    room.bytes = room.bytes.saturating_sub(size(&report));
    report.troubles = room.keep("troubles", MAX_TROUBLES, troubles(facts));
    report.devices = room.keep("devices", MAX_DEVICES, devices(facts, hooks));
    report.host_endpoints = room.keep("host endpoints", MAX_HOST_ENDPOINTS, host_endpoints(facts));
    report.taken_away = room.keep("places", MAX_TAKEN_AWAY, taken_away(facts));
    report.other_objects = room.keep("other objects", MAX_OTHER_OBJECTS, other_objects(facts));
    report.policies = room.keep("policies", MAX_POLICIES, policies);
    if !room.left_out.is_empty() {
        let parts = room.left_out.join(", ");
        report.truncated = Some(format!("… and {parts}: `portcullis status` on the node has all of them"));
    }
    report
}

/// What may still be said.
struct Room {
    bytes: usize,
    left_out: Vec<String>,
}

impl Room {
    /// The first of a list, as many as there is room for.
    fn keep<T: Serialize>(&mut self, what: &str, most: u64, items: Vec<T>) -> Vec<T> {
        let (all, most) = (items.len(), usize::try_from(most).unwrap_or(usize::MAX));
        let mut kept = Vec::new();
        for item in items.into_iter().take(most) {
            let Some(rest) = self.bytes.checked_sub(size(&item) + 1) else { break };
            self.bytes = rest;
            kept.push(item);
        }
        if kept.len() < all {
            self.left_out.push(format!("{} more {what}", all - kept.len()));
        }
        kept
    }
}

fn size(value: &impl Serialize) -> usize {
    serde_json::to_string(value).map_or(0, |text| text.len())
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn counts(facts: &Facts, policies: &[PolicyReport]) -> Counts {
    let of = |state| number(policies.iter().filter(|p| p.state == state).count());
    let acts = |p: &&PolicyReport| p.state == PolicyState::KeptLastGood && p.devices > 0;
    Counts {
        policies: number(policies.len()),
        active: of(PolicyState::Active) + number(policies.iter().filter(acts).count()),
        refused: number(facts.refused().count()),
        governed: number(facts.state.governed.len()),
        unprotected: number(facts.state.unprotected.len()),
        binds_nothing: number(facts.state.lost.len()),
    }
}

fn safety(facts: &Facts, before: Option<&Report>, now: u64) -> Option<Safety> {
    let standing = &facts.state.safety;
    let suspended_until = standing.suspended_seconds.map(|left| {
        let until = now + left;
        let said = before.and_then(|b| b.safety.as_ref()?.suspended_until.clone());
        said.filter(|said| seconds(said).is_some_and(|s| s.abs_diff(until) <= TIME_SLACK_SECONDS))
            .unwrap_or_else(|| stamp(until))
    });
    let safety = Safety { audit: standing.audit, suspended_until, went_back: standing.went_back };
    (safety != Safety::default()).then_some(safety)
}

/// Is it a policy that hosts may have?
pub(super) fn is_policy(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::GlobalNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
            | Kind::NetworkPolicy
            | Kind::StagedNetworkPolicy
    )
}

fn policies(facts: &Facts) -> Vec<PolicyReport> {
    let state = &facts.state;
    let mut selected: BTreeMap<&str, (BTreeSet<&str>, BTreeSet<&str>)> = BTreeMap::new();
    for endpoint in &state.endpoints {
        for policy in endpoint.lists.values().flatten() {
            let (endpoints, devices) = selected.entry(policy.as_str()).or_default();
            endpoints.insert(&endpoint.name);
            devices.extend(endpoint.devices.iter().map(String::as_str));
        }
    }
    let not_for_hosts: BTreeSet<&str> = state.not_for_hosts.iter().map(String::as_str).collect();
    let mut out: Vec<PolicyReport> = facts
        .objects
        .iter()
        .filter(|o| is_policy(o.key.kind))
        .map(|object| {
            let name = object.key.to_string();
            let (endpoints, devices) = selected.get(name.as_str()).cloned().unwrap_or_default();
            let (observed_generation, latest_generation) = generations(facts, object);
            PolicyReport {
                kind: object.key.kind.as_str().to_owned(),
                name: display_name(object),
                state: match object.acceptance {
                    Acceptance::Rejected => PolicyState::Rejected,
                    Acceptance::KeptLastGood => PolicyState::KeptLastGood,
                    Acceptance::Accepted if !in_force(facts, object) => PolicyState::Pending,
                    Acceptance::Accepted if not_for_hosts.contains(name.as_str()) => PolicyState::NotForHosts,
                    Acceptance::Accepted if devices.is_empty() => PolicyState::SelectsNothingHere,
                    Acceptance::Accepted => PolicyState::Active,
                },
                observed_generation,
                latest_generation,
                since: object.since.map(stamp),
                host_endpoints: number(endpoints.len()),
                devices: number(devices.len()),
                errors: bounded(&object.errors),
            }
        })
        .collect();
    out.sort_by(|a, b| (a.state, &a.kind, &a.name).cmp(&(b.state, &b.kind, &b.name)));
    out
}

/// With its namespace, if it lives in one.
fn display_name(object: &ObjectFacts) -> String {
    match object.key.namespace.as_str() {
        "" => object.key.name.clone(),
        namespace => format!("{namespace}/{}", object.key.name),
    }
}

/// Whether the version that was accepted last is the one in force.
fn in_force(facts: &Facts, object: &ObjectFacts) -> bool {
    let applied = facts.applied.as_ref().and_then(|a| a.versions.get(&object.key));
    applied.is_some_and(|generation| *generation == object.accepted)
}

/// `metadata.generation` in force, and that of the API where it is another one.
fn generations(facts: &Facts, object: &ObjectFacts) -> (Option<i64>, Option<i64>) {
    let observed = facts.applied.as_ref().and_then(|a| a.versions.get(&object.key).copied().flatten());
    (observed, object.latest.filter(|latest| Some(*latest) != observed))
}

fn other_objects(facts: &Facts) -> Vec<ObjectReport> {
    let others = facts.refused().filter(|o| !is_policy(o.key.kind) && o.key.kind != Kind::HostEndpoint);
    others
        .map(|object| {
            let (observed_generation, latest_generation) = generations(facts, object);
            ObjectReport {
                kind: object.key.kind.as_str().to_owned(),
                namespace: object.key.namespace.clone(),
                name: object.key.name.clone(),
                state: match object.acceptance {
                    Acceptance::KeptLastGood => PolicyState::KeptLastGood,
                    Acceptance::Accepted | Acceptance::Rejected => PolicyState::Rejected,
                },
                observed_generation,
                latest_generation,
                since: object.since.map(stamp),
                errors: bounded(&object.errors),
            }
        })
        .collect()
}

/// Those of this node, and those that were refused, of which nobody knows whose they are.
fn host_endpoints(facts: &Facts) -> Vec<HostEndpointReport> {
    let state = &facts.state;
    let mut names: BTreeSet<&str> = state.endpoints.iter().map(|e| e.name.as_str()).collect();
    names.extend(state.lost.keys().map(String::as_str));
    let objects: BTreeMap<&str, &ObjectFacts> = facts
        .objects
        .iter()
        .filter(|o| o.key.kind == Kind::HostEndpoint)
        .map(|o| (o.key.name.as_str(), o))
        .collect();
    let refused = objects.iter().filter(|(_, o)| o.acceptance != Acceptance::Accepted);
    names.extend(refused.map(|(name, _)| *name));
    let mut out: Vec<HostEndpointReport> = names
        .into_iter()
        .map(|name| {
            let governs = state.endpoints.iter().find(|e| e.name == name);
            let devices: Vec<String> = governs.into_iter().flat_map(|e| e.devices.iter().cloned()).collect();
            let lists = governs.into_iter().flat_map(|e| e.lists.values().flatten());
            let object = objects.get(name);
            let (observed_generation, latest_generation) =
                object.map_or((None, None), |object| generations(facts, object));
            HostEndpointReport {
                name: name.to_owned(),
                state: match object.map(|o| o.acceptance) {
                    Some(Acceptance::Rejected) => HostEndpointState::Rejected,
                    _ if devices.is_empty() => HostEndpointState::BindsNothing,
                    _ => HostEndpointState::Governs,
                },
                observed_generation,
                latest_generation,
                policies: number(lists.collect::<BTreeSet<_>>().len()),
                devices: devices.into_iter().take(MAX_ENDPOINT_DEVICES as usize).collect(),
                lost_to: facts.lost_to.get(name).cloned(),
                why: state.lost.get(name).map(|why| shorten(why, MAX_TEXT_CHARS)),
                errors: object.map(|o| bounded(&o.errors)).unwrap_or_default(),
            }
        })
        .collect();
    out.sort_by(|a, b| (a.state, &a.name).cmp(&(b.state, &b.name)));
    out
}

fn devices(facts: &Facts, hooks: &Hooks) -> Vec<DeviceReport> {
    let state = &facts.state;
    let names: BTreeSet<&String> = state.governed.keys().chain(&state.unprotected).collect();
    let mut out: Vec<DeviceReport> = names
        .into_iter()
        .map(|name| {
            let host_endpoint = state.governed.get(name);
            let trouble = state.trouble.get(&format!("device {name}"));
            let attached = state.attached.contains(name);
            let (state, why) = match host_endpoint {
                None => (DeviceState::Unprotected, Some("no HostEndpoint covers it")),
                Some(_) if attached => (DeviceState::Governed, None),
                Some(_) => (
                    DeviceState::NotAttached,
                    Some(trouble.map_or("the programs are not on it (yet)", String::as_str)),
                ),
            };
            let hooks = hooks.get(name).cloned().unwrap_or_default();
            DeviceReport {
                name: name.clone(),
                state,
                host_endpoint: host_endpoint.cloned(),
                why: why.map(|why| shorten(why, MAX_TEXT_CHARS)),
                hooks: hooks.into_iter().map(short_chain).collect(),
            }
        })
        .collect();
    out.sort_by(|a, b| (a.state, &a.name).cmp(&(b.state, &b.name)));
    out
}

fn short_chain(mut hook: HookReport) -> HookReport {
    let most = MAX_CHAIN as usize;
    if hook.chain.len() > most {
        let more = hook.chain.len() - most + 1;
        hook.chain.truncate(most - 1);
        hook.chain.push(format!("… and {more} more"));
    }
    hook
}

fn troubles(facts: &Facts) -> Vec<TroubleReport> {
    let one = |(place, why): (&String, &String)| TroubleReport {
        place: shorten(place, MAX_TEXT_CHARS),
        reason: cause_of(&facts.state, place).name().to_owned(),
        message: shorten(why, MAX_TEXT_CHARS),
    };
    facts.state.trouble.iter().map(one).collect()
}

fn taken_away(facts: &Facts) -> Vec<TakenAwayReport> {
    let one = |(place, taken): (&String, &crate::state::TakenAwayState)| TakenAwayReport {
        place: place.clone(),
        times: i64::try_from(taken.times).unwrap_or(i64::MAX),
        last: stamp(taken.last),
        what: shorten(&taken.what, MAX_TEXT_CHARS),
    };
    facts.state.taken_away.iter().map(one).collect()
}
