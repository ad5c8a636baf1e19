//! Labels of everything that has an address, and the addresses behind a selector (semantics §2, §6).

use std::net::IpAddr;

use ipnet::IpNet;

use super::binding;
use crate::policy::{HostEndpoint, Labels, NodeView, PeerSelector, World};

/// Something that a rule's selector may mean.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub labels: Labels,
    pub nets: Vec<IpNet>,
    /// Named ports: (name, protocol, port).
    pub ports: Vec<(String, u8, u16)>,
    /// Host endpoints and GlobalNetworkSets: what `global()` means.
    pub global: bool,
}

impl Peer {
    fn holds(&self, ip: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&ip))
    }
}

/// Labels of a host endpoint: its own, and those its profiles apply; own values win.
pub(crate) fn endpoint_labels(world: &World, endpoint: &HostEndpoint) -> Labels {
    let mut labels = Labels::new();
    for name in endpoint.profiles.iter().rev() {
        if let Some(profile) = world.profiles.get(name) {
            labels.extend(profile.labels_to_apply.clone());
        } else if let Some(namespace) =
            name.strip_prefix("kns.").filter(|n| world.namespaces.contains_key(*n))
        {
            labels.extend(namespace_labels(world, namespace));
        } else if let Some((namespace, account)) = name.strip_prefix("ksa.").and_then(|n| n.split_once('.'))
            && let Some(account) = world.service_accounts.get(&(namespace.into(), account.into()))
        {
            labels.extend(account.labels.iter().map(|(k, v)| (format!("pcsa.{k}"), v.clone())));
            labels.insert("pcsa.projectcalico.org/name".into(), account.name.clone());
        }
    }
    labels.extend(endpoint.labels.clone());
    labels
}

/// What an object inherits from its namespace.
fn namespace_labels(world: &World, namespace: &str) -> Labels {
    let mut labels = Labels::new();
    if let Some(found) = world.namespaces.get(namespace) {
        labels.extend(found.labels.iter().map(|(k, v)| (format!("pcns.{k}"), v.clone())));
    }
    labels.insert("pcns.projectcalico.org/name".into(), namespace.into());
    labels
}

/// Every peer of the cluster.
pub(crate) fn all(world: &World, view: &NodeView) -> Vec<Peer> {
    let mut peers = Vec::new();
    for pod in world.pods.values().filter(|p| !p.host_network && !p.terminated) {
        let mut labels = namespace_labels(world, &pod.namespace);
        let account = (pod.namespace.clone(), pod.service_account.clone());
        if let Some(account) = world.service_accounts.get(&account) {
            labels.extend(account.labels.iter().map(|(k, v)| (format!("pcsa.{k}"), v.clone())));
        }
        if !pod.service_account.is_empty() {
            labels.insert("pcsa.projectcalico.org/name".into(), pod.service_account.clone());
        }
        labels.extend(pod.labels.clone());
        labels.insert("projectcalico.org/namespace".into(), pod.namespace.clone());
        labels.insert("projectcalico.org/orchestrator".into(), "k8s".into());
        if !pod.service_account.is_empty() {
            labels.insert("projectcalico.org/serviceaccount".into(), pod.service_account.clone());
        }
        let ports = pod.ports.iter().filter_map(|p| Some((p.name.clone()?, p.protocol, p.port))).collect();
        peers.push(Peer {
            labels,
            nets: pod.ips.iter().copied().map(IpNet::from).collect(),
            ports,
            global: false,
        });
    }
    for endpoint in binding::endpoints(world, view).values() {
        peers.push(Peer {
            labels: endpoint_labels(world, endpoint),
            nets: endpoint.expected_ips.iter().copied().map(IpNet::from).collect(),
            ports: endpoint.ports.clone(),
            global: true,
        });
    }
    for set in world.network_sets.values() {
        let mut labels = set.namespace.as_ref().map_or_else(Labels::new, |ns| namespace_labels(world, ns));
        labels.extend(set.labels.clone());
        if let Some(namespace) = &set.namespace {
            labels.insert("projectcalico.org/namespace".into(), namespace.clone());
        }
        let global = set.namespace.is_none();
        peers.push(Peer { labels, nets: set.nets.clone(), ports: Vec::new(), global });
    }
    peers
}

fn selected(peer: &Peer, selector: &PeerSelector) -> bool {
    (peer.global || !selector.global_only) && selector.selector.matches(&peer.labels)
}

/// Whether an address belongs to something that the selector selects.
pub(crate) fn in_set(peers: &[Peer], selector: &PeerSelector, ip: IpAddr) -> bool {
    peers.iter().any(|peer| peer.holds(ip) && selected(peer, selector))
}

/// Whether (address, protocol, port) is a port called `name` of something that the selector, if any, selects.
pub(crate) fn has_port(
    peers: &[Peer],
    within: Option<&PeerSelector>,
    name: &str,
    (ip, protocol, port): (IpAddr, u8, u16),
) -> bool {
    peers
        .iter()
        .filter(|peer| peer.holds(ip) && within.is_none_or(|s| selected(peer, s)))
        .any(|peer| peer.ports.iter().any(|(n, proto, p)| n == name && *proto == protocol && *p == port))
}

/// Whether the address (and, where asked, protocol and port) is a backend of a Service.
pub(crate) fn is_backend(
    world: &World,
    (namespace, name): &(String, String),
    ip: IpAddr,
    port: Option<(u8, u16)>,
) -> bool {
    world.endpoint_slices.values().filter(|s| s.namespace == *namespace && s.service == *name).any(|slice| {
        slice.endpoints.iter().any(|e| e.addresses.contains(&ip))
            && port.is_none_or(|(proto, port)| slice.ports.iter().any(|(_, q, p)| *q == proto && *p == port))
    })
}
