//! What the numbers of an event mean: rules by position, devices by ifindex.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use dataplane_common::abi::{Event, ListKind};
use dataplane_common::verdict::{NO_RULE, Stage};

use crate::compile::{Names, RuleName};
use crate::maps::Pinned;
use crate::state::State;

/// Every list kind.
pub const LIST_KINDS: [ListKind; 9] = [
    ListKind::UntrackedIngress,
    ListKind::UntrackedEgress,
    ListKind::PreDnat,
    ListKind::ForwardIngress,
    ListKind::ForwardEgress,
    ListKind::NormalIngress,
    ListKind::NormalEgress,
    ListKind::ProfileIngress,
    ListKind::ProfileEgress,
];

/// The stage at which a list is judged.
pub const fn stage_of(list: ListKind) -> Stage {
    match list {
        ListKind::UntrackedIngress | ListKind::UntrackedEgress => Stage::Untracked,
        ListKind::PreDnat => Stage::PreDnat,
        ListKind::ForwardIngress | ListKind::ForwardEgress => Stage::Forward,
        ListKind::NormalIngress | ListKind::NormalEgress => Stage::Normal,
        ListKind::ProfileIngress | ListKind::ProfileEgress => Stage::Profile,
    }
}

/// A rule, or the end of a tier, as people know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleLabel {
    pub list: ListKind,
    pub tier: String,
    /// `None`: the end of a tier.
    pub policy: Option<String>,
    pub index: Option<u32>,
}

impl RuleLabel {
    /// Where it is judged.
    pub fn stage(&self) -> &'static str {
        stage_of(self.list).name()
    }
}

impl From<&RuleName> for RuleLabel {
    fn from(name: &RuleName) -> Self {
        Self {
            list: name.list,
            tier: name.tier.clone(),
            policy: name.policy.as_ref().map(ToString::to_string),
            index: name.index,
        }
    }
}

/// Knows what an event's numbers mean.
pub trait Namer {
    /// The rule that the event names, if it names one that is known.
    fn rule(&mut self, event: &Event) -> Option<RuleLabel>;
    /// The device's name.
    fn device(&mut self, event: &Event) -> String;
}

/// Generations whose names are kept: events may be read a while after the next generation came.
const KEPT: usize = 4;

/// The names that the agent knows, by generation. Shared between the agent and the reader of the ring.
#[derive(Clone, Default)]
pub struct Announced(Arc<Mutex<Generations>>);

/// Number and names, oldest first.
type Generations = VecDeque<(u64, Arc<Names>)>;

impl Announced {
    /// To be told before the generation is in force, so that no event comes too early.
    pub fn announce(&self, generation: u64, names: Names) {
        let Ok(mut kept) = self.0.lock() else { return };
        kept.retain(|(number, _)| *number != generation);
        kept.push_back((generation, Arc::new(names)));
        while kept.len() > KEPT {
            kept.pop_front();
        }
    }
    fn of(&self, generation: u64) -> Option<Arc<Names>> {
        let kept = self.0.lock().ok()?;
        kept.iter().find(|(number, _)| *number == generation).map(|(_, names)| Arc::clone(names))
    }
}

/// Names inside the agent; what it has not announced itself (events of an agent before it) is asked elsewhere.
pub struct AgentNames {
    pub announced: Announced,
    pub older: KernelNames,
}

impl Namer for AgentNames {
    fn rule(&mut self, event: &Event) -> Option<RuleLabel> {
        match self.announced.of(event.generation) {
            Some(names) => names.rule(event.decision.rule).map(Into::into),
            None => self.older.rule(event),
        }
    }
    fn device(&mut self, event: &Event) -> String {
        let announced = self.announced.of(event.generation);
        let known = announced.and_then(|names| names.devices.get(&event.device).cloned());
        known.unwrap_or_else(|| self.older.device(event))
    }
}

/// Names without an agent: the rule's identity from the kernel's tables, its meaning from the state file.
pub struct KernelNames {
    pinned: Pinned,
    rules: BTreeMap<u32, RuleLabel>,
    /// generation → slot, as far as asked.
    slots: BTreeMap<u64, Option<u32>>,
}

impl KernelNames {
    /// `state`: what an agent wrote last, if anything.
    pub fn new(pinned: Pinned, state: Option<&State>) -> Self {
        let rules = state.into_iter().flat_map(|s| &s.rules).filter_map(|rule| {
            let list = LIST_KINDS.into_iter().find(|kind| format!("{kind:?}") == rule.list)?;
            let label =
                RuleLabel { list, tier: rule.tier.clone(), policy: rule.policy.clone(), index: rule.index };
            Some((rule.identity, label))
        });
        Self { pinned, rules: rules.collect(), slots: BTreeMap::new() }
    }
}

impl Namer for KernelNames {
    fn rule(&mut self, event: &Event) -> Option<RuleLabel> {
        let position = event.decision.rule;
        if position == NO_RULE {
            return None;
        }
        let slot = match self.slots.get(&event.generation) {
            Some(slot) => (*slot)?,
            None => {
                let slot = self.pinned.slot_of(event.generation).ok().flatten();
                self.slots.insert(event.generation, slot);
                slot?
            }
        };
        let rule = self.pinned.rule(slot, position).ok().flatten()?;
        self.rules.get(&rule.identity).cloned()
    }
    fn device(&mut self, event: &Event) -> String {
        nix::net::if_::if_indextoname(event.device)
            .ok()
            .and_then(|name| name.into_string().ok())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| format!("ifindex {}", event.device))
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::event;
    use super::*;

    #[test]
    fn names_are_those_of_the_generation_that_judged() {
        let announced = Announced::default();
        for generation in 1..=6u64 {
            let mut names = Names::default();
            names.devices.insert(7, format!("eth{generation}"));
            announced.announce(generation, names);
        }
        let older = KernelNames::new(Pinned::new("/nowhere".as_ref()), None);
        let mut names = AgentNames { announced, older };
        let of = |generation| Event { generation, ..event() };
        assert_eq!(names.device(&of(4)), "eth4");
        assert_eq!(names.device(&of(6)), "eth6");
        assert_eq!(names.device(&Event { device: 999_999, ..of(1) }), "ifindex 999999", "forgotten");
        assert_eq!(names.rule(&of(4)), None, "an unknown position names no rule");
    }
}
