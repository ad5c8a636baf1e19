//! Selectors to addresses: pods, host endpoints and network sets of the whole cluster (`semantics.md` §2, §6).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::sets::{SetId, Sets};
use crate::policy::{HostEndpoint, Labels, NetworkSet, PeerSelector, Pod, Protocol, World, defaults};
use crate::selector::Selector;

/// The namespace that a pod or network set is in.
const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

/// Something that a rule's selector can match.
struct Peer {
    labels: Labels,
    nets: Vec<IpNet>,
    /// A host endpoint or a GlobalNetworkSet: what `global()` leaves.
    global: bool,
    /// (name, protocol, port)
    ports: Vec<(String, Protocol, u16)>,
}

/// Who exposes a named port: (protocol, port) → set of addresses.
pub type NamedPorts = BTreeMap<(Protocol, u16), SetId>;

/// Addresses behind each (protocol, port) of a Service.
type Backends = BTreeMap<(Protocol, u16), Vec<IpNet>>;

/// Positions of the peers that have one label key, ascending.
#[derive(Default)]
struct Holders {
    all: Vec<u32>,
    by_value: HashMap<String, Vec<u32>>,
}

/// All peers, and the sets that selectors made of them so far.
pub struct Peers {
    peers: Vec<Peer>,
    sets: Sets,
    /// Selectors seen: the tree, not its text, because prefixes were applied to the tree; and whether `global()`.
    seen: HashMap<(bool, Selector), SetId>,
    /// Label key → who has it. Made at the first question about a key: few keys are asked for, and peers are many.
    by_key: HashMap<String, Holders>,
    /// Name of a port → who exposes it.
    by_port: HashMap<String, Vec<u32>>,
    /// (namespace, name) → backends per (protocol, port).
    services: BTreeMap<(String, String), Backends>,
    service_addresses: BTreeMap<(String, String), Vec<IpNet>>,
}

impl Peers {
    /// Reads every peer of the world.
    pub fn new(world: &World, host_endpoints: &BTreeMap<String, HostEndpoint>) -> Self {
        let mut peers = Vec::new();
        // Host-networked pods have no endpoint of their own; addresses of ended pods are free again (§2).
        let mut inherited: HashMap<(&str, &str), Labels> = HashMap::new();
        for pod in world.pods.values().filter(|p| !p.host_network && !p.terminated) {
            let key = (pod.namespace.as_str(), pod.service_account.as_str());
            let inherited = inherited.entry(key).or_insert_with(|| inherited_by_pods(key.0, key.1, world));
            peers.push(pod_peer(pod, inherited));
        }
        for hep in host_endpoints.values() {
            let nets = hep.expected_ips.iter().map(|ip| IpNet::from(*ip)).collect();
            peers.push(Peer {
                labels: endpoint_labels(hep, world),
                nets,
                global: true,
                ports: hep.ports.clone(),
            });
        }
        for set in world.network_sets.values() {
            peers.push(Peer {
                labels: set_labels(set, world),
                nets: set.nets.clone(),
                global: set.namespace.is_none(),
                ports: Vec::new(),
            });
        }
        let mut this = Self {
            peers,
            sets: Sets::default(),
            seen: HashMap::new(),
            by_key: HashMap::new(),
            by_port: HashMap::new(),
            services: BTreeMap::new(),
            service_addresses: BTreeMap::new(),
        };
        for (at, peer) in this.peers.iter().enumerate() {
            for (name, _, _) in &peer.ports {
                this.by_port.entry(name.clone()).or_default().push(at as u32);
            }
        }
        this.read_services(world);
        this
    }
    /// The sets made so far; ids stay valid.
    pub fn into_sets(self) -> Sets {
        self.sets
    }
    /// A set of written prefixes.
    pub fn nets(&mut self, nets: &[IpNet]) -> SetId {
        self.sets.intern(nets.to_vec())
    }
    /// Whether a set holds no address at all.
    pub fn is_empty(&self, set: SetId) -> bool {
        self.sets.get(set).is_empty()
    }
    /// The addresses that a selector matches.
    pub fn selected(&mut self, selector: &PeerSelector) -> SetId {
        let key = (selector.global_only, selector.selector.clone());
        if let Some(&set) = self.seen.get(&key) {
            return set;
        }
        let candidates = self.candidates(&selector.selector);
        let peers: Box<dyn Iterator<Item = &Peer>> = match &candidates {
            Some(positions) => Box::new(positions.iter().map(|at| &self.peers[*at as usize])),
            None => Box::new(self.peers.iter()),
        };
        let matching = peers.filter(|p| p.is_selected(selector));
        let nets = matching.flat_map(|p| p.nets.iter().copied()).collect();
        let set = self.sets.intern(nets);
        self.seen.insert(key, set);
        set
    }
    /// Positions of those whom the selector may match; `None`: of all.
    fn candidates(&mut self, selector: &Selector) -> Option<Vec<u32>> {
        let (key, values) = selector.narrowing()?;
        if !self.by_key.contains_key(key) {
            let mut holders = Holders::default();
            for (at, peer) in self.peers.iter().enumerate() {
                if let Some(value) = peer.labels.get(key) {
                    holders.all.push(at as u32);
                    holders.by_value.entry(value.clone()).or_default().push(at as u32);
                }
            }
            self.by_key.insert(key.to_owned(), holders);
        }
        let holders = &self.by_key[key];
        let Some(values) = values else { return Some(holders.all.clone()) };
        let found = values.iter().filter_map(|value| holders.by_value.get(*value));
        Some(found.flatten().copied().collect())
    }
    /// Who of the selected peers exposes a port of this name.
    pub fn named_port(&mut self, name: &str, selector: Option<&PeerSelector>) -> NamedPorts {
        let mut found: BTreeMap<(Protocol, u16), Vec<IpNet>> = BTreeMap::new();
        let exposing = self.by_port.get(name).into_iter().flatten().map(|at| &self.peers[*at as usize]);
        for peer in exposing.filter(|p| selector.is_none_or(|s| p.is_selected(s))) {
            for (_, protocol, port) in peer.ports.iter().filter(|(n, _, _)| n == name) {
                found.entry((*protocol, *port)).or_default().extend(peer.nets.iter().copied());
            }
        }
        found.into_iter().map(|(key, nets)| (key, self.sets.intern(nets))).collect()
    }
    /// Backends of a Service per (protocol, port); empty when it has none.
    pub fn service_ports(&mut self, service: &(String, String)) -> NamedPorts {
        let Some(ports) = self.services.get(service) else { return NamedPorts::new() };
        ports.iter().map(|(key, nets)| (*key, self.sets.intern(nets.clone()))).collect()
    }
    /// Backend addresses of a Service, whatever the port.
    pub fn service_addresses(&mut self, service: &(String, String)) -> SetId {
        let nets = self.service_addresses.get(service).cloned().unwrap_or_default();
        self.sets.intern(nets)
    }
    /// Whether a Service is unknown, or has no backend.
    pub fn has_no_backend(&self, service: &(String, String)) -> bool {
        self.service_addresses.get(service).is_none_or(Vec::is_empty)
    }
    fn read_services(&mut self, world: &World) {
        for slice in world.endpoint_slices.values() {
            let key = (slice.namespace.clone(), slice.service.clone());
            let addresses = slice.endpoints.iter().flat_map(|e| &e.addresses).map(|ip| IpNet::from(*ip));
            let addresses: Vec<IpNet> = addresses.collect();
            for (_, protocol, port) in &slice.ports {
                let ports = self.services.entry(key.clone()).or_default();
                ports.entry((*protocol, *port)).or_default().extend(&addresses);
            }
            self.service_addresses.entry(key).or_default().extend(&addresses);
        }
    }
}

impl Peer {
    fn is_selected(&self, selector: &PeerSelector) -> bool {
        (self.global || !selector.global_only) && selector.selector.matches(&self.labels)
    }
}

/// Labels of a pod, as selectors see them (§2).
pub fn pod_labels(pod: &Pod, world: &World) -> Labels {
    with_own(pod, &inherited_by_pods(&pod.namespace, &pod.service_account, world))
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

fn pod_peer(pod: &Pod, inherited: &Labels) -> Peer {
    let labels = with_own(pod, inherited);
    let ports = pod.ports.iter().filter_map(|p| Some((p.name.clone()?, p.protocol, p.port))).collect();
    let nets = pod.ips.iter().map(|ip: &IpAddr| IpNet::from(*ip)).collect();
    Peer { labels, nets, global: false, ports }
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
