//! Selectors to addresses: pods, host endpoints and network sets of the whole cluster (`semantics.md` §2, §6).
//!
//! The answers to the questions that rules asked are kept, and a peer that comes, changes or goes is put right in just
//! those answers that it can be in.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;

use super::labels::{Inherited, endpoint_labels, set_labels};
use super::questions::{Ask, Questions, Touched};
use crate::policy::{Changes, HostEndpoint, Labels, NetworkSet, PeerSelector, Pod, Protocol, World};
use crate::selector::Selector;

/// Something that a rule's selector can match.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Peer {
    pub labels: Labels,
    pub nets: Vec<IpNet>,
    /// A host endpoint or a GlobalNetworkSet: what `global()` leaves.
    pub global: bool,
    /// (name, protocol, port)
    pub ports: Vec<(String, Protocol, u16)>,
}

impl Peer {
    pub fn is_selected(&self, selector: &Selector, global_only: bool) -> bool {
        (self.global || !global_only) && selector.matches(&self.labels)
    }
}

/// Which object a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum PeerKey {
    Pod((String, String)),
    HostEndpoint(String),
    NetworkSet((String, String)),
}

/// Positions of the peers that have one label key.
#[derive(Debug, Default)]
struct Holders {
    all: Vec<u32>,
    by_value: HashMap<String, Vec<u32>>,
}

/// All peers, and the answers to what was asked about them.
#[derive(Debug, Default)]
pub struct Peers {
    peers: Vec<Option<Peer>>,
    places: HashMap<PeerKey, u32>,
    free: Vec<u32>,
    /// Names of the host endpoints among them.
    endpoints: BTreeSet<String>,
    /// Label key → who has it. Made at the first question about a key: few keys are asked for, and peers are many.
    by_key: HashMap<String, Holders>,
    /// Name of a port → who exposes it.
    by_port: HashMap<String, Vec<u32>>,
    pub(super) questions: Questions,
}

impl Peers {
    /// Reads every peer of the world, but for host endpoints.
    pub fn new(world: &World) -> Self {
        let mut this = Self::default();
        let mut inherited = Inherited::new(world);
        let mut touched = Touched::default();
        for (key, pod) in &world.pods {
            this.put(PeerKey::Pod(key.clone()), pod_peer(pod, &mut inherited), &mut touched);
        }
        for (key, set) in &world.network_sets {
            this.put(PeerKey::NetworkSet(key.clone()), Some(set_peer(set, world)), &mut touched);
        }
        this
    }

    /// Reads again what changed, and what inherits from it.
    pub(super) fn update(&mut self, world: &World, changes: &Changes) -> Touched {
        let mut touched = Touched::default();
        let mut pods = changes.pods.clone();
        let mut sets = changes.network_sets.clone();
        for namespace in &changes.namespaces {
            let first = (namespace.clone(), String::new());
            let of_it = |key: &&(String, String)| key.0 == *namespace;
            pods.extend(world.pods.range(&first..).map(|(key, _)| key).take_while(of_it).cloned());
            sets.extend(world.network_sets.range(&first..).map(|(key, _)| key).take_while(of_it).cloned());
        }
        for (namespace, account) in &changes.service_accounts {
            let first = (namespace.clone(), String::new());
            let of_it = world.pods.range(&first..).take_while(|(key, _)| key.0 == *namespace);
            pods.extend(of_it.filter(|(_, p)| p.service_account == *account).map(|(key, _)| key.clone()));
        }
        let mut inherited = Inherited::new(world);
        for key in pods {
            let peer = world.pods.get(&key).and_then(|pod| pod_peer(pod, &mut inherited));
            self.put(PeerKey::Pod(key), peer, &mut touched);
        }
        for key in sets {
            let peer = world.network_sets.get(&key).map(|set| set_peer(set, world));
            self.put(PeerKey::NetworkSet(key), peer, &mut touched);
        }
        touched
    }

    /// These are the host endpoints now.
    pub fn set_endpoints(&mut self, endpoints: &BTreeMap<String, HostEndpoint>, world: &World) {
        // Whoever changes endpoints makes every list again, so what is touched does not matter.
        let mut touched = Touched::default();
        for name in std::mem::take(&mut self.endpoints) {
            if !endpoints.contains_key(&name) {
                self.put(PeerKey::HostEndpoint(name), None, &mut touched);
            }
        }
        for (name, hep) in endpoints {
            let peer = Peer {
                labels: endpoint_labels(hep, world),
                nets: hep.expected_ips.iter().map(|ip| IpNet::from(*ip)).collect(),
                global: true,
                ports: hep.ports.clone(),
            };
            self.put(PeerKey::HostEndpoint(name.clone()), Some(peer), &mut touched);
            self.endpoints.insert(name.clone());
        }
    }

    /// Asks for the peers that a selector matches, or for those of them that expose a port of this name. The answer
    /// stands in [`Self::questions`].
    pub fn ask(&mut self, selector: Option<&PeerSelector>, port: Option<&str>) -> u32 {
        let ask = Ask {
            selector: selector.map(|s| (s.global_only, s.selector.clone())),
            port: port.map(ToOwned::to_owned),
        };
        if let Some(known) = self.questions.known(&ask) {
            return known;
        }
        let candidates = match (&ask.port, &ask.selector) {
            (Some(name), _) => Some(self.by_port.get(name).cloned().unwrap_or_default()),
            (None, Some((_, selector))) => self.candidates(selector),
            (None, None) => None,
        };
        let peers: Box<dyn Iterator<Item = &Peer>> = match &candidates {
            Some(positions) => Box::new(positions.iter().filter_map(|at| self.peers[*at as usize].as_ref())),
            None => Box::new(self.peers.iter().flatten()),
        };
        self.questions.add(ask, peers)
    }

    /// Positions of those whom the selector may match; `None`: of all.
    fn candidates(&mut self, selector: &Selector) -> Option<Vec<u32>> {
        let (key, values) = selector.narrowing()?;
        if !self.by_key.contains_key(key) {
            let mut holders = Holders::default();
            for (at, peer) in self.peers.iter().enumerate() {
                if let Some(value) = peer.as_ref().and_then(|p| p.labels.get(key)) {
                    holders.add(value, at as u32);
                }
            }
            self.by_key.insert(key.to_owned(), holders);
        }
        let holders = &self.by_key[key];
        let Some(values) = values else { return Some(holders.all.clone()) };
        // A value may be written twice.
        let values: BTreeSet<&str> = values.into_iter().collect();
        let found = values.into_iter().filter_map(|value| holders.by_value.get(value));
        Some(found.flatten().copied().collect())
    }

    /// The peer of this key is this one now.
    fn put(&mut self, key: PeerKey, new: Option<Peer>, touched: &mut Touched) {
        let place = self.places.get(&key).copied();
        let old = place.and_then(|at| self.peers[at as usize].take());
        if old != new {
            self.questions.changed(old.as_ref(), new.as_ref(), touched);
        }
        if let (Some(at), Some(old)) = (place, &old) {
            self.unlist(at, old);
        }
        let Some(new) = new else {
            self.places.remove(&key);
            self.free.extend(place);
            return;
        };
        let at = place.or_else(|| self.free.pop()).unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() as u32 - 1
        });
        for (label, value) in &new.labels {
            if let Some(holders) = self.by_key.get_mut(label) {
                holders.add(value, at);
            }
        }
        for name in new.port_names() {
            self.by_port.entry(name.to_owned()).or_default().push(at);
        }
        self.peers[at as usize] = Some(new);
        if place.is_none() {
            self.places.insert(key, at);
        }
    }

    fn unlist(&mut self, at: u32, peer: &Peer) {
        for (label, value) in &peer.labels {
            if let Some(holders) = self.by_key.get_mut(label) {
                holders.remove(value, at);
            }
        }
        for name in peer.port_names() {
            if let Some(list) = self.by_port.get_mut(name) {
                remove(list, at);
                if list.is_empty() {
                    self.by_port.remove(name);
                }
            }
        }
    }
}

impl Peer {
    /// Each once.
    pub fn port_names(&self) -> BTreeSet<&str> {
        self.ports.iter().map(|(name, _, _)| name.as_str()).collect()
    }
}

impl Holders {
    fn add(&mut self, value: &str, at: u32) {
        self.all.push(at);
        match self.by_value.get_mut(value) {
            Some(list) => list.push(at),
            None => drop(self.by_value.insert(value.to_owned(), vec![at])),
        }
    }
    fn remove(&mut self, value: &str, at: u32) {
        remove(&mut self.all, at);
        if let Some(list) = self.by_value.get_mut(value) {
            remove(list, at);
            if list.is_empty() {
                self.by_value.remove(value);
            }
        }
    }
}

/// Positions are in no order.
fn remove(list: &mut Vec<u32>, at: u32) {
    if let Some(found) = list.iter().position(|other| *other == at) {
        list.swap_remove(found);
    }
}

/// Host-networked pods have no endpoint of their own; addresses of ended pods are free again (§2).
fn pod_peer<'a>(pod: &'a Pod, inherited: &mut Inherited<'a>) -> Option<Peer> {
    if pod.host_network || pod.terminated {
        return None;
    }
    let ports = pod.ports.iter().filter_map(|p| Some((p.name.clone()?, p.protocol, p.port))).collect();
    let nets = pod.ips.iter().map(|ip| IpNet::from(*ip)).collect();
    Some(Peer { labels: inherited.pod_labels(pod), nets, global: false, ports })
}

fn set_peer(set: &NetworkSet, world: &World) -> Peer {
    let labels = set_labels(set, world);
    Peer { labels, nets: set.nets.clone(), global: set.namespace.is_none(), ports: Vec::new() }
}
