//! What rules name, as address sets with ids: in the order in which the lists name them, so ids depend on state alone.

use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;

use super::peers::Peers;
use super::questions::Slot;
use super::services::Backends;
use super::sets::{SetId, Sets, normalized};
use crate::policy::{PeerSelector, Protocol};

/// Who exposes a named port: (protocol, port) → set of addresses.
pub type NamedPorts = BTreeMap<(Protocol, u16), SetId>;

/// Where an answer stands: (question, part) → set.
pub(super) type Answers = HashMap<(u32, Slot), SetId>;

/// Gives ids while lists are made.
pub struct Resolver<'a> {
    peers: &'a mut Peers,
    services: &'a Backends,
    sets: Sets,
    answers: Answers,
    /// Sets of written prefixes, and of Services, by content: they stay what they are until lists are made again.
    fixed: HashMap<Vec<IpNet>, SetId>,
}

impl<'a> Resolver<'a> {
    /// Without any set.
    pub fn new(peers: &'a mut Peers, services: &'a Backends) -> Self {
        peers.questions.begin();
        Self { peers, services, sets: Sets::default(), answers: Answers::new(), fixed: HashMap::new() }
    }
    /// The sets, and which of them answer questions.
    pub(super) fn finish(self) -> (Sets, Answers) {
        (self.sets, self.answers)
    }
    /// A set of written prefixes.
    pub fn nets(&mut self, nets: &[IpNet]) -> SetId {
        let nets = normalized(nets.to_vec());
        if let Some(&id) = self.fixed.get(&nets) {
            return id;
        }
        let id = self.sets.add(nets.clone());
        self.fixed.insert(nets, id);
        id
    }
    /// The addresses that a selector matches.
    pub fn selected(&mut self, selector: &PeerSelector) -> SetId {
        let question = self.peers.ask(Some(selector), None);
        self.answer(question, None)
    }
    /// Who of the selected peers exposes a port of this name.
    pub fn named_port(&mut self, name: &str, selector: Option<&PeerSelector>) -> NamedPorts {
        let question = self.peers.ask(selector, Some(name));
        let ports: Vec<(Protocol, u16)> =
            self.peers.questions.answer(question).keys().copied().flatten().collect();
        ports.into_iter().map(|port| (port, self.answer(question, Some(port)))).collect()
    }
    fn answer(&mut self, question: u32, slot: Slot) -> SetId {
        let answer = &self.peers.questions.answer(question)[&slot];
        let sets = &mut self.sets;
        *self.answers.entry((question, slot)).or_insert_with(|| sets.share(answer.nets().clone()))
    }
    /// Backends of a Service per (protocol, port); empty when it has none.
    pub fn service_ports(&mut self, service: &(String, String)) -> NamedPorts {
        let services = self.services;
        let ports = services.of(service).map(|b| &b.ports);
        ports.into_iter().flatten().map(|(key, nets)| (*key, self.nets(nets))).collect()
    }
    /// Backend addresses of a Service, whatever the port.
    pub fn service_addresses(&mut self, service: &(String, String)) -> SetId {
        let services = self.services;
        self.nets(services.of(service).map_or(&[], |b| &b.addresses))
    }
    /// Whether a Service is unknown, or has no backend.
    pub fn has_no_backend(&self, service: &(String, String)) -> bool {
        self.services.of(service).is_none_or(|b| b.addresses.is_empty())
    }
}
