//! What a rule position means to people, and the identities that counters keep across generations.

use std::collections::{BTreeMap, HashMap, HashSet};

use dataplane_common::abi::{ListKind, RuleEntry};

use super::expand::Expanded;
use crate::index::lists::PolicyId;
use crate::index::{PolicyBlock, Resolved, Snapshot};
use crate::policy::Action;

/// Index into the builder's names.
pub type NameId = u32;

/// A rule, or the end of a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// The list's kind.
    pub list: ListKind,
    /// Tier name; for profiles the profile's.
    pub tier: String,
    /// `None`: the end of a tier.
    pub policy: Option<PolicyId>,
    /// Index in the policy's list; `None`: the end of a tier.
    pub index: Option<u32>,
    /// As written; `None`: the end of a tier.
    pub action: Option<Action>,
    /// Its hits are what a staged policy *would* have done: nothing was enforced.
    pub staged: bool,
    /// [`RuleEntry::identity`].
    pub identity: u32,
}

/// Names of one generation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    /// Distinct rules, in order of first use.
    pub rules: Vec<RuleName>,
    /// Policies by [`RuleEntry::policy`].
    pub policies: Vec<PolicyId>,
    /// Host endpoints by index into `pc_endpoints`.
    pub endpoints: Vec<String>,
    /// Device names by ifindex.
    pub devices: BTreeMap<u32, String>,
    /// Rule position → index into `rules`.
    positions: Vec<NameId>,
    /// [`RuleEntry::identity`] → index into `rules`.
    identities: BTreeMap<u32, NameId>,
}

impl Names {
    /// What stands at a position of the global rule order, as `Decision::rule` gives it.
    pub fn rule(&self, position: u32) -> Option<&RuleName> {
        self.rules.get(*self.positions.get(position as usize)? as usize)
    }
    /// What a counter's identity means.
    pub fn by_identity(&self, identity: u32) -> Option<&RuleName> {
        self.rules.get(*self.identities.get(&identity)? as usize)
    }
}

/// Collects names while lists are expanded.
#[derive(Debug, Default)]
pub struct Builder {
    names: Vec<RuleName>,
    by_text: HashMap<String, NameId>,
    identities: HashSet<u32>,
    policies: Vec<PolicyId>,
    policy_numbers: HashMap<PolicyId, u32>,
    positions: Vec<NameId>,
}

impl Builder {
    /// Policy number, name and identity of a rule.
    pub fn rule(
        &mut self,
        list: ListKind,
        tier: &str,
        policy: &PolicyBlock,
        rule: &Resolved,
    ) -> (u32, NameId, u32) {
        let number = match self.policy_numbers.get(&policy.id) {
            Some(number) => *number,
            None => {
                let number = self.policies.len() as u32;
                self.policies.push(policy.id.clone());
                self.policy_numbers.insert(policy.id.clone(), number);
                number
            }
        };
        let text = format!("{} {tier} {} {}", list as usize, policy.id, rule.index);
        let (name, identity) = self.intern(text, |identity| RuleName {
            list,
            tier: tier.to_owned(),
            policy: Some(policy.id.clone()),
            index: Some(u32::from(rule.index)),
            action: Some(rule.action),
            staged: policy.staged,
            identity,
        });
        (number, name, identity)
    }
    /// Name and identity of a tier's end.
    pub fn tier_end(&mut self, list: ListKind, tier: &str, staged: bool) -> (NameId, u32) {
        let word = if staged { "staged end" } else { "end" };
        self.intern(format!("{} {tier} {word}", list as usize), |identity| RuleName {
            list,
            tier: tier.to_owned(),
            policy: None,
            index: None,
            action: None,
            staged,
            identity,
        })
    }
    fn intern(&mut self, text: String, make: impl FnOnce(u32) -> RuleName) -> (NameId, u32) {
        if let Some(&id) = self.by_text.get(&text) {
            return (id, self.names[id as usize].identity);
        }
        let mut identity = hash(&text);
        // 0 means "none" in a flow entry. A clash moves the later one on, so that counters never mix.
        while identity == 0 || !self.identities.insert(identity) {
            identity = identity.wrapping_add(1);
        }
        let id = self.names.len() as NameId;
        self.names.push(make(identity));
        self.by_text.insert(text, id);
        (id, identity)
    }
    /// Says where a list's rules stand. Lists are placed in the order of their positions.
    pub fn place(&mut self, first: u32, rules: &[Expanded]) {
        debug_assert_eq!(first as usize, self.positions.len());
        self.positions.extend(rules.iter().map(|r| r.name));
    }
    /// The names of a finished generation.
    pub fn finish(self, snapshot: &Snapshot) -> Names {
        let identities = self.names.iter().enumerate().map(|(id, n)| (n.identity, id as NameId)).collect();
        Names {
            rules: self.names,
            policies: self.policies,
            endpoints: snapshot.endpoints.iter().map(|e| e.name.clone()).collect(),
            devices: snapshot.devices.iter().map(|(name, d)| (d.ifindex, name.clone())).collect(),
            positions: self.positions,
            identities,
        }
    }
}

/// FNV-1a: stable over versions of the compiler and of the standard library.
pub fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// Whether an entry is the end of a tier.
pub fn is_tier_end(entry: &RuleEntry) -> bool {
    entry.flags & dataplane_common::abi::rule_flag::TIER_END != 0
}
