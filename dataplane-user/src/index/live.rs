//! The index of one node over time: what a change can touch is worked out again, and nothing else.
//!
//! Two kinds of changes are told apart. What pods, network sets, namespaces, service accounts and Services change is
//! the content of sets, and that is put right in place. Whatever else changes makes the lists of this node again, from
//! the peers and answers that are there. Either way the outcome is that of [`Index::new`] on the same state: nothing
//! depends on the way that led to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::peers::Peers;
use super::questions::Touched;
use super::resolver::{Answers, Resolver};
use super::services::{Backends, is_forwarded};
use super::sets::{SetId, Sets};
use super::{EmptySelector, Facts, Snapshot, auto, binding, lists, local, services};
use crate::policy::{Changes, NodeView, World, defaults};

/// What one node enforces, kept up to date.
#[derive(Debug)]
pub struct Index {
    view: NodeView,
    peers: Peers,
    backends: Backends,
    /// Pods behind a port map of this node.
    forwarded: BTreeSet<(String, String)>,
    /// Which set of the snapshot an answer is.
    answers: Answers,
    may_be_empty: Vec<(EmptySelector, Option<SetId>)>,
    snapshot: Arc<Snapshot>,
    /// How often lists were made.
    #[cfg(test)]
    pub(super) made: u32,
}

impl Index {
    /// Reads the whole world.
    pub fn new(world: &World, view: &NodeView) -> Self {
        let forwarded = world.pods.iter().filter(|(_, pod)| is_forwarded(pod, view));
        let forwarded = forwarded.map(|(key, _)| key.clone()).collect();
        let (mut peers, backends) = (Peers::new(world), Backends::new(world));
        let lists = Lists::new(world, view, &mut peers, &backends, &forwarded);
        Self {
            view: view.clone(),
            peers,
            backends,
            forwarded,
            answers: lists.answers,
            may_be_empty: lists.may_be_empty,
            snapshot: Arc::new(lists.snapshot),
            #[cfg(test)]
            made: 1,
        }
    }

    /// What holds now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.clone()
    }

    /// The same, for who needs no index any more.
    pub fn into_snapshot(self) -> Snapshot {
        Arc::unwrap_or_clone(self.snapshot)
    }

    /// Brings the index to this world and node. `changes` are those since the world of the last call. Drop the last
    /// snapshot before: what somebody still holds is copied.
    pub fn update(&mut self, world: &World, view: &NodeView, changes: &Changes) -> Arc<Snapshot> {
        let touched = self.peers.update(world, changes);
        let mut ways_in = changes.services;
        for key in &changes.pods {
            let now = world.pods.get(key).is_some_and(|pod| is_forwarded(pod, &self.view));
            let before = if now { !self.forwarded.insert(key.clone()) } else { self.forwarded.remove(key) };
            ways_in |= now || before;
        }
        let mut other_backends = false;
        if changes.services {
            let backends = Backends::new(world);
            other_backends = backends != self.backends;
            self.backends = backends;
        }
        if self.view.name != view.name {
            // Another node: other pods are forwarded.
            *self = Self::new(world, view);
        } else if self.view != *view {
            self.view.clone_from(view);
            self.make_lists(world);
        } else if changes.rest || other_backends || touched.reshaped {
            self.make_lists(world);
        } else {
            self.put_right(world, changes, &touched, ways_in);
        }
        self.snapshot()
    }

    fn make_lists(&mut self, world: &World) {
        let lists = Lists::new(world, &self.view, &mut self.peers, &self.backends, &self.forwarded);
        self.answers = lists.answers;
        self.may_be_empty = lists.may_be_empty;
        self.snapshot = Arc::new(lists.snapshot);
        #[cfg(test)]
        {
            self.made += 1;
        }
    }

    /// The content of sets, frontends and internal ranges.
    fn put_right(&mut self, world: &World, changes: &Changes, touched: &Touched, ways_in: bool) {
        let snapshot = Arc::make_mut(&mut self.snapshot);
        let mut flipped = false;
        for place in &touched.slots {
            let answer = self.peers.questions.answer(place.0).get(&place.1);
            // A question that nobody asks any more waits to be forgotten.
            if let (Some(id), Some(answer)) = (self.answers.get(place), answer) {
                flipped |= snapshot.sets.replace(*id, answer.nets().clone());
            }
        }
        if flipped {
            snapshot.facts.empty_selectors = empty_now(&self.may_be_empty, &snapshot.sets);
        }
        if ways_in {
            snapshot.frontends = services::frontends(world, &snapshot.own, &self.forwarded);
            snapshot.node_ports = services::node_port_ranges(world, &snapshot.node);
        }
        if changes.services || !changes.pods.is_empty() {
            snapshot.internal = local::internal_ranges(world, &snapshot.devices);
        }
    }
}

/// Everything that is made from the peers and backends that are known.
struct Lists {
    answers: Answers,
    may_be_empty: Vec<(EmptySelector, Option<SetId>)>,
    snapshot: Snapshot,
}

impl Lists {
    fn new(
        world: &World,
        view: &NodeView,
        peers: &mut Peers,
        backends: &Backends,
        forwarded: &BTreeSet<(String, String)>,
    ) -> Self {
        let host_endpoints = auto::with_auto_endpoints(world, view);
        let bindings = binding::bind(&host_endpoints, world, view);
        peers.set_endpoints(&host_endpoints, world);
        let mut named = Resolver::new(peers, backends);
        let resolved = lists::resolve(world, &host_endpoints, &bindings, &mut named);
        let (sets, answers) = named.finish();
        let own = local::own_addresses(view);
        let facts = Facts {
            governed: bindings.governed(),
            unprotected: bindings.unprotected(),
            workload: bindings.devices.iter().filter(|(_, d)| d.workload).map(|(n, _)| n.clone()).collect(),
            lost: bindings.lost.clone(),
            empty_selectors: empty_now(&resolved.may_be_empty, &sets),
            idle_policies: resolved.idle,
            not_for_hosts: resolved.not_for_hosts,
            misses: resolved.misses,
            host_endpoints,
        };
        let felix = defaults::felix_of(world, &view.name);
        let snapshot = Snapshot {
            node: view.name.clone(),
            endpoints: resolved.endpoints,
            sets,
            frontends: services::frontends(world, &own, forwarded),
            own,
            internal: local::internal_ranges(world, &bindings.devices),
            failsafe_inbound: local::failsafe_inbound(&felix),
            failsafe_outbound: local::failsafe_outbound(&felix),
            infra: local::infra_peers(world, view),
            node_ports: services::node_port_ranges(world, &view.name),
            on_policy_change: view.settings.on_policy_change,
            grace_seconds: view.settings.grace_seconds,
            devices: bindings.devices,
            facts,
        };
        Self { answers, may_be_empty: resolved.may_be_empty, snapshot }
    }
}

fn empty_now(may_be: &[(EmptySelector, Option<SetId>)], sets: &Sets) -> Vec<EmptySelector> {
    let empty = may_be.iter().filter(|(_, set)| set.is_none_or(|id| sets.get(id).is_empty()));
    let mut found: Vec<EmptySelector> = empty.map(|(selector, _)| selector.clone()).collect();
    found.dedup();
    found
}
