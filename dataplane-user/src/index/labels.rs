//! The labels that selectors see: an object's own, and what it inherits (`semantics.md` §2).

use std::collections::HashMap;

use crate::policy::{HostEndpoint, Labels, NetworkSet, Pod, World, defaults};

/// The namespace that a pod or network set is in.
const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

/// Labels of a pod, as selectors see them (§2).
pub fn pod_labels(pod: &Pod, world: &World) -> Labels {
    with_own(pod, &inherited_by_pods(&pod.namespace, &pod.service_account, world))
}

/// What the pods of a namespace and service account inherit, worked out once for each.
pub(super) struct Inherited<'a> {
    world: &'a World,
    known: HashMap<(&'a str, &'a str), Labels>,
}

impl<'a> Inherited<'a> {
    pub fn new(world: &'a World) -> Self {
        Self { world, known: HashMap::new() }
    }
    /// As [`pod_labels`].
    pub fn pod_labels(&mut self, pod: &'a Pod) -> Labels {
        let (namespace, account) = (pod.namespace.as_str(), pod.service_account.as_str());
        let world = self.world;
        let inherited = self.known.entry((namespace, account));
        with_own(pod, inherited.or_insert_with(|| inherited_by_pods(namespace, account, world)))
    }
}

/// What the pods of a namespace and service account inherit.
fn inherited_by_pods(namespace: &str, account: &str, world: &World) -> Labels {
    let mut inherited = namespace_labels(namespace, world);
    let key = (namespace.to_owned(), account.to_owned());
    for (k, v) in world.service_accounts.get(&key).map(|a| &a.labels).into_iter().flatten() {
        inherited.insert(format!("pcsa.{k}"), v.clone());
    }
    if !account.is_empty() {
        inherited.insert("pcsa.projectcalico.org/name".to_owned(), account.to_owned());
    }
    inherited
}

fn with_own(pod: &Pod, inherited: &Labels) -> Labels {
    let account = &pod.service_account;
    let mut labels = with_inherited(&pod.labels, inherited);
    // These say where the pod really is; its own labels cannot.
    labels.insert(NAMESPACE_LABEL.to_owned(), pod.namespace.clone());
    labels.insert("projectcalico.org/orchestrator".to_owned(), "k8s".to_owned());
    if !account.is_empty() {
        labels.insert("projectcalico.org/serviceaccount".to_owned(), account.clone());
    }
    labels
}

/// Labels of a network set: its own, and what its namespace gives (§1.5).
pub fn set_labels(set: &NetworkSet, world: &World) -> Labels {
    match &set.namespace {
        Some(namespace) => with_inherited(&set.labels, &namespace_labels(namespace, world)),
        None => set.labels.clone(),
    }
}

/// What objects of a namespace inherit from it (§2).
fn namespace_labels(namespace: &str, world: &World) -> Labels {
    let mut labels = Labels::new();
    for (k, v) in world.namespaces.get(namespace).map(|n| &n.labels).into_iter().flatten() {
        labels.insert(format!("pcns.{k}"), v.clone());
    }
    labels.insert("pcns.projectcalico.org/name".to_owned(), namespace.to_owned());
    labels.insert(NAMESPACE_LABEL.to_owned(), namespace.to_owned());
    labels
}

fn with_inherited(own: &Labels, inherited: &Labels) -> Labels {
    let mut labels = inherited.clone();
    labels.extend(own.clone());
    labels
}

/// Labels of a host endpoint: what its profiles apply, then its own, which win (§2).
pub fn endpoint_labels(hep: &HostEndpoint, world: &World) -> Labels {
    let mut labels = Labels::new();
    // Of two profiles that set one label, the first listed wins.
    for profile in hep.profiles.iter().rev().filter_map(|name| defaults::profile(world, name)) {
        labels.extend(profile.labels_to_apply);
    }
    labels.extend(hep.labels.clone());
    labels
}
