//! The agent, as others are told of it.

use std::time::UNIX_EPOCH;

use super::accepted::Kept;
use super::enforce::Adopted;
use super::tamper::TakenAway;
use super::{Agent, devices};
use crate::index::Snapshot;
use crate::state::{
    API_VERSION, AdoptionState, EmptySelectorState, EndpointState, HTTP, KeptState, ProblemState, RuleState,
    SettingsState, State, TakenAwayState, now, pid_namespace, process,
};

/// This agent, with `snapshot` in force.
pub(super) fn state(agent: &Agent, snapshot: &Snapshot) -> State {
    let facts = &snapshot.facts;
    let attached = devices::wanted(snapshot)
        .into_iter()
        .filter(|(_, d)| agent.attacher.has(d.ifindex))
        .map(|(n, _)| n.clone())
        .collect();
    State {
        api_version: API_VERSION.into(),
        kind: "Status".into(),
        node: snapshot.node.clone(),
        pid: std::process::id(),
        pid_namespace: pid_namespace(),
        started: process(std::process::id()).map(|(_, started)| started),
        generation: agent.dataplane.generations().number(),
        since: agent.since.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        policies: agent.options.policies.clone(),
        kubernetes: agent.source.kubernetes(&agent.options),
        pin_dir: agent.options.pin_dir.clone(),
        settings: SettingsState::new(&agent.view.settings),
        netns: crate::inspect::kernel::netns_of("self").unwrap_or(0),
        safety: agent.standing(),
        attached_by: agent.attacher.mechanism().to_string(),
        attached,
        xdp: agent.xdp.iter().map(|(device, outcome)| (device.clone(), outcome.into())).collect(),
        governed: facts.governed.clone(),
        unprotected: facts.unprotected.clone(),
        workload: facts.workload.clone(),
        lost: facts.lost.iter().map(|l| (l.name.clone(), l.reason.to_string())).collect(),
        endpoints: endpoints(snapshot),
        empty_selectors: facts
            .empty_selectors
            .iter()
            .map(|e| EmptySelectorState {
                policy: e.policy.as_ref().map_or_else(String::new, ToString::to_string),
                path: e.path.clone(),
                selector: e.text.clone(),
            })
            .collect(),
        idle_policies: facts.idle_policies.iter().map(ToString::to_string).collect(),
        not_for_hosts: facts.not_for_hosts.iter().map(ToString::to_string).collect(),
        misses: facts.misses.iter().map(ToString::to_string).collect(),
        trouble: agent
            .trouble
            .clone()
            .into_iter()
            .chain(agent.source.troubles())
            .chain(agent.answers.trouble().map(|why| (HTTP.to_owned(), why)))
            .collect(),
        causes: agent.causes_now(),
        problems: agent.source.problems().iter().map(ProblemState::from).collect(),
        kept: agent.source.kept().into_iter().map(KeptState::from).collect(),
        last_good_ignored: agent.restored.ignored.clone(),
        last_good_behind: agent.unsaved,
        grace: agent.graces().into_iter().map(|(device, left)| (device, now() + left)).collect(),
        adoption: agent.adopted.as_ref().map(AdoptionState::from),
        taken_away: agent.taken_away.iter().map(|(place, t)| (place.clone(), t.into())).collect(),
        rules: rules(agent),
    }
}

fn endpoints(snapshot: &Snapshot) -> Vec<EndpointState> {
    snapshot
        .endpoints
        .iter()
        .map(|e| EndpointState {
            name: e.name.clone(),
            devices: snapshot
                .facts
                .governed
                .iter()
                .filter(|(_, hep)| **hep == e.name)
                .map(|(d, _)| d.clone())
                .collect(),
            lists: e
                .lists
                .iter()
                .map(|(key, list)| {
                    let policies =
                        list.tiers.iter().flat_map(|t| &t.policies).map(|p| p.id.to_string()).collect();
                    (format!("{:?}", key.0), policies)
                })
                .collect(),
        })
        .collect()
}

fn rules(agent: &Agent) -> Vec<RuleState> {
    let Some(tables) = &agent.tables else { return Vec::new() };
    tables
        .names
        .rules
        .iter()
        .map(|r| RuleState {
            identity: r.identity,
            list: format!("{:?}", r.list),
            tier: r.tier.clone(),
            policy: r.policy.as_ref().map(ToString::to_string),
            index: r.index,
            action: r.action.map(|a| format!("{a:?}")),
            staged: r.staged,
        })
        .collect()
}

impl From<Kept> for KeptState {
    fn from(k: Kept) -> Self {
        Self { object: k.object, file: k.file, accepted: k.accepted, since: k.since, reasons: k.reasons }
    }
}

impl From<&Adopted> for AdoptionState {
    fn from(a: &Adopted) -> Self {
        Self {
            at: a.at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            moved: a.found.moved,
            conntrack: a.found.conntrack,
            sockets: a.found.sockets,
            unreadable: a.found.unreadable,
            errors: a.found.errors.clone(),
        }
    }
}

impl From<&TakenAway> for TakenAwayState {
    fn from(t: &TakenAway) -> Self {
        let last = t.last.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Self { times: t.times, last, what: t.what.clone() }
    }
}
