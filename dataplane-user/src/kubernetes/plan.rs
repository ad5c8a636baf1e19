//! What to watch: only what this node's verdicts depend on. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::discovery::Served;
use crate::policy::{Direction, PeerSelector, Rule, World};
use crate::resource::{Group, Kind};

/// A watch: a kind in one of the API groups that serve it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchKey {
    /// What it yields.
    pub kind: Kind,
    /// `projectcalico.org/v3`
    pub api_version: String,
    /// What is asked of it.
    pub scope: Scope,
}

/// How much of a kind is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Every object, whole.
    All,
    /// Names, labels and annotations of every object.
    Metadata,
    /// Pods of this node.
    ThisNode,
}

/// What the policies of the moment look at, beyond what every node needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Some rule selects peers: pods of the whole cluster may be among them.
    pub all_pods: bool,
}

impl Needs {
    /// Of everything that is in force or would be: a policy that selects no host yet may do so at the next label.
    pub fn of(world: &World) -> Self {
        let rules = |direction| world.policies.values().flat_map(move |p| p.rules(direction));
        let all_pods = [Direction::Ingress, Direction::Egress].into_iter().flat_map(rules).any(selects_peers);
        Self { all_pods }
    }
}

fn selects_peers(rule: &Rule) -> bool {
    let of_pods = |s: &Option<PeerSelector>| s.as_ref().is_some_and(|s| !s.global_only);
    [&rule.source, &rule.destination]
        .into_iter()
        .any(|side| of_pods(&side.selector) || of_pods(&side.not_selector))
}

/// The watches for what the cluster serves and the policies need. Of a kind that two groups serve, the newer one
/// (`projectcalico.org/v3`) is read: both show the same objects.
pub fn plan(served: &Served, needs: Needs) -> BTreeSet<WatchKey> {
    let mut watches = BTreeSet::new();
    for kind in Kind::CALICO_FOR_HOSTS {
        if let Some(api_version) = served.version_of(kind) {
            watches.insert(WatchKey { kind, api_version, scope: Scope::All });
        }
    }
    let core = [
        (Kind::Node, Scope::All),
        (Kind::Service, Scope::All),
        (Kind::EndpointSlice, Scope::All),
        (Kind::Namespace, Scope::Metadata),
        (Kind::Pod, if needs.all_pods { Scope::All } else { Scope::ThisNode }),
        // Selectors by service account look at pods; without those there is nothing that they could match.
        (Kind::ServiceAccount, Scope::Metadata),
    ];
    for (kind, scope) in core {
        if kind == Kind::ServiceAccount && !needs.all_pods {
            continue;
        }
        watches.insert(WatchKey { kind, api_version: kind.group().api_version().to_owned(), scope });
    }
    watches
}

/// What is asked for, by kind: two watches of a kind only while one replaces the other.
pub fn by_kind(watches: &BTreeSet<WatchKey>) -> BTreeMap<Kind, Vec<&WatchKey>> {
    let mut kinds: BTreeMap<Kind, Vec<&WatchKey>> = BTreeMap::new();
    for watch in watches {
        kinds.entry(watch.kind).or_default().push(watch);
    }
    kinds
}

/// Is it one of Calico's?
pub fn is_calico(kind: Kind) -> bool {
    kind.group() == Group::Calico
}
