//! What rules asked about peers, and the answers, kept up to date while peers come and go.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::members::Members;
use super::peers::Peer;
use crate::policy::Protocol;
use crate::selector::Selector;

/// A question: who is selected, and, with a port's name, where it is exposed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ask {
    /// (`global()` only, the tree: not its text, because prefixes were applied to the tree). `None`: everybody.
    pub selector: Option<(bool, Selector)>,
    /// Name of a port.
    pub port: Option<String>,
}

/// A part of an answer: (protocol, port) that a name stands for somewhere, or `None` where no name was asked for.
pub(super) type Slot = Option<(Protocol, u16)>;

#[derive(Debug)]
struct Question {
    ask: Ask,
    answer: BTreeMap<Slot, Members>,
    /// By the lists that are being made, or were made last.
    asked: bool,
}

/// Which answers a change touched.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Their content may differ.
    pub slots: BTreeSet<(u32, Slot)>,
    /// A named port stands for another set of numbers now: rules change, not just sets.
    pub reshaped: bool,
}

/// Whose selectors name a label key.
#[derive(Debug, Default)]
struct Watchers {
    any_value: Vec<u32>,
    by_value: HashMap<String, Vec<u32>>,
}

/// All questions, found by what a peer has that they ask for.
#[derive(Debug, Default)]
pub struct Questions {
    all: Vec<Question>,
    known: HashMap<Ask, u32>,
    by_key: HashMap<String, Watchers>,
    by_port: HashMap<String, Vec<u32>>,
    /// May concern anybody.
    of_all: Vec<u32>,
}

impl Questions {
    /// Forgets what was not asked since the last call. Positions are other ones after it.
    pub fn begin(&mut self) {
        let all = std::mem::take(self).all;
        for question in all.into_iter().filter(|q| q.asked) {
            self.insert(Question { asked: false, ..question });
        }
    }

    /// The position of a question asked before.
    pub(super) fn known(&mut self, ask: &Ask) -> Option<u32> {
        let at = *self.known.get(ask)?;
        self.all[at as usize].asked = true;
        Some(at)
    }

    /// A new question. `candidates`: whoever may be in the answer, and others.
    pub(super) fn add<'a>(&mut self, ask: Ask, candidates: impl Iterator<Item = &'a Peer>) -> u32 {
        let mut holders: BTreeMap<Slot, Vec<&[ipnet::IpNet]>> = BTreeMap::new();
        for peer in candidates {
            for slot in ask.slots(peer) {
                holders.entry(slot).or_default().push(&peer.nets);
            }
        }
        let mut answer: BTreeMap<Slot, Members> = BTreeMap::new();
        if ask.port.is_none() {
            answer.insert(None, Members::default());
        }
        for (slot, nets) in holders {
            answer.entry(slot).or_default().add_all(nets.into_iter());
        }
        self.insert(Question { ask, answer, asked: true })
    }

    fn insert(&mut self, question: Question) -> u32 {
        let at = self.all.len() as u32;
        let ask = &question.ask;
        match (&ask.port, ask.selector.as_ref().and_then(|(_, s)| s.narrowing())) {
            (Some(name), _) => self.by_port.entry(name.clone()).or_default().push(at),
            (None, Some((key, values))) => {
                let watchers = self.by_key.entry(key.to_owned()).or_default();
                match values {
                    None => watchers.any_value.push(at),
                    Some(values) => {
                        for value in values.into_iter().collect::<BTreeSet<_>>() {
                            watchers.by_value.entry(value.to_owned()).or_default().push(at);
                        }
                    }
                }
            }
            (None, None) => self.of_all.push(at),
        }
        self.known.insert(ask.clone(), at);
        self.all.push(question);
        at
    }

    /// The answer so far.
    pub(super) fn answer(&self, question: u32) -> &BTreeMap<Slot, Members> {
        &self.all[question as usize].answer
    }

    /// A peer came (`old` is `None`), changed or went (`new` is `None`).
    pub(super) fn changed(&mut self, old: Option<&Peer>, new: Option<&Peer>, touched: &mut Touched) {
        if self.all.is_empty() {
            return;
        }
        let concerned: BTreeSet<u32> = [old, new].into_iter().flatten().flat_map(|p| self.about(p)).collect();
        for at in concerned {
            self.all[at as usize].changed(at, old, new, touched);
        }
    }

    /// Questions whose answer this peer can be in.
    fn about(&self, peer: &Peer) -> Vec<u32> {
        let mut found = self.of_all.clone();
        for (key, value) in &peer.labels {
            let Some(watchers) = self.by_key.get(key) else { continue };
            found.extend(&watchers.any_value);
            found.extend(watchers.by_value.get(value).into_iter().flatten());
        }
        for name in peer.port_names() {
            found.extend(self.by_port.get(name).into_iter().flatten());
        }
        found
    }
}

impl Question {
    fn changed(&mut self, at: u32, old: Option<&Peer>, new: Option<&Peer>, touched: &mut Touched) {
        let slots = |peer: Option<&Peer>| peer.map_or(Vec::new(), |p| self.ask.slots(p));
        let (before, after) = (slots(old), slots(new));
        if before == after && old.map(|p| &p.nets) == new.map(|p| &p.nets) {
            return;
        }
        // First whoever comes, so that what both have never seems to be gone.
        for slot in after {
            let members = self.answer.entry(slot).or_default();
            touched.reshaped |= slot.is_some() && !members.has_holders();
            members.add(new.map_or(&[], |p| &p.nets));
            touched.slots.insert((at, slot));
        }
        for slot in before {
            let Some(members) = self.answer.get_mut(&slot) else { continue };
            members.remove(old.map_or(&[], |p| &p.nets));
            touched.slots.insert((at, slot));
            if slot.is_some() && !members.has_holders() {
                self.answer.remove(&slot);
                touched.reshaped = true;
            }
        }
    }
}

impl Ask {
    /// The parts of the answer that a peer is in. A port that it names twice counts twice.
    fn slots(&self, peer: &Peer) -> Vec<Slot> {
        let selected = self.selector.as_ref().is_none_or(|(global, s)| peer.is_selected(s, *global));
        match &self.port {
            _ if !selected => Vec::new(),
            None => vec![None],
            Some(name) => {
                peer.ports.iter().filter(|(n, _, _)| n == name).map(|(_, p, n)| Some((*p, *n))).collect()
            }
        }
    }
}
