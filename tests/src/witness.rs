//! What the kernel programs themselves counted: the only witness of who decided, and it needs no agent.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray, PerCpuHashMap};
use dataplane_common::{
    ABI_VERSION,
    abi::{Counter, Hook, ListKind, RuleCounterKey, RuleHits, counter_index, spared_index, xdp_index},
    names,
    verdict::{Reason, Verdict},
};
use portcullis::{
    compile::names::hash,
    index::lists::{PolicyId, PolicyOrProfile},
};

pub struct Witness {
    counters: PerCpuArray<MapData, Counter>,
    rule_hits: PerCpuHashMap<MapData, RuleCounterKey, RuleHits>,
    /// Identity → how a person calls the rule.
    rules: BTreeMap<u32, String>,
}

/// Counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// (verdict, reason) by number → packets, both hooks together.
    reasons: BTreeMap<(u8, u8), u64>,
    rules: BTreeMap<u32, u64>,
    /// Reason by number → packets that were denied and passed all the same.
    spared: BTreeMap<u8, u64>,
    /// Packets that XDP dropped.
    xdp: u64,
}

impl Tally {
    /// Packets between two tallies that XDP dropped.
    pub fn xdp(before: &Self, after: &Self) -> u64 {
        after.xdp.saturating_sub(before.xdp)
    }
}

impl Witness {
    /// Opens the pins below the agent's pin folder. `rules` are the ones to be called by name: list, GlobalNetworkPolicy,
    /// number of rules.
    pub fn open(pin_dir: &Path, rules: &[(ListKind, &str, u32)]) -> Result<Self> {
        let folder = pin_dir.join(format!("v{ABI_VERSION}"));
        let open = |name: &str| {
            let path = folder.join(name);
            MapData::from_pin(&path).with_context(|| format!("the agent has pinned no {}", path.display()))
        };
        Ok(Self {
            counters: Map::PerCpuArray(open(names::MAP_COUNTERS)?).try_into()?,
            rule_hits: Map::PerCpuLruHashMap(open(names::MAP_RULE_HITS)?).try_into()?,
            rules: rules.iter().flat_map(|(list, policy, count)| rule_names(*list, policy, *count)).collect(),
        })
    }

    pub fn tally(&self) -> Result<Tally> {
        let mut tally = Tally::default();
        for hook in [Hook::Ingress, Hook::Egress] {
            for reason in Reason::ALL {
                let values = self.counters.get(&spared_index(hook, *reason), 0)?;
                let packets: u64 = values.iter().map(|counter| counter.packets).sum();
                *tally.spared.entry(*reason as u8).or_default() += packets;
            }
            for verdict in [Verdict::Allow, Verdict::Deny] {
                for reason in Reason::ALL {
                    let values = self.counters.get(&counter_index(hook, verdict, *reason), 0)?;
                    let packets: u64 = values.iter().map(|counter| counter.packets).sum();
                    *tally.reasons.entry((verdict as u8, *reason as u8)).or_default() += packets;
                }
            }
        }
        for reason in Reason::ALL {
            let values = self.counters.get(&xdp_index(*reason), 0)?;
            tally.xdp += values.iter().map(|counter| counter.packets).sum::<u64>();
        }
        for item in self.rule_hits.iter() {
            let (key, values) = item?;
            let packets: u64 = values.iter().map(|counter| counter.packets).sum();
            *tally.rules.entry(key.identity).or_default() += packets;
        }
        Ok(tally)
    }

    /// Who decided between two tallies: the rules that were hit; where no rule was, the reasons that are not
    /// merely the rest of a connection.
    pub fn decided(&self, before: &Tally, after: &Tally) -> String {
        let rules: Vec<_> = moved(&before.rules, &after.rules)
            .map(|identity| {
                self.rules.get(identity).cloned().unwrap_or_else(|| format!("rule {identity:08x}"))
            })
            .collect();
        if !rules.is_empty() {
            return rules.join(", ");
        }
        let reasons: Vec<_> = moved(&before.reasons, &after.reasons)
            .filter_map(|(verdict, reason)| Some((*verdict, Reason::from_number(*reason)?)))
            .filter(|(_, reason)| !matches!(reason, Reason::NotIp) && !reason.name().starts_with("flow_"))
            .map(|(verdict, reason)| {
                let verdict = if verdict == Verdict::Deny as u8 { "Deny" } else { "Allow" };
                format!("{} ({verdict})", reason.name())
            })
            .collect();
        if reasons.is_empty() { "nobody".to_owned() } else { reasons.join(", ") }
    }

    /// Packets of a verdict between two tallies, by reason.
    pub fn packets(before: &Tally, after: &Tally, verdict: Verdict, reason: Reason) -> u64 {
        let key = (verdict as u8, reason as u8);
        let at = |tally: &Tally| tally.reasons.get(&key).copied().unwrap_or_default();
        at(after).saturating_sub(at(before))
    }

    /// Packets between two tallies that a reason denied and audit or suspension let pass.
    pub fn spared(before: &Tally, after: &Tally, reason: Reason) -> u64 {
        let at = |tally: &Tally| tally.spared.get(&(reason as u8)).copied().unwrap_or_default();
        at(after).saturating_sub(at(before))
    }
}

fn rule_names(list: ListKind, policy: &str, count: u32) -> impl Iterator<Item = (u32, String)> {
    let id = PolicyId {
        kind: PolicyOrProfile::GlobalNetworkPolicy,
        namespace: String::new(),
        name: policy.to_owned(),
        tier: "default".to_owned(),
    };
    (0..count).map(move |index| {
        (hash(&format!("{} default {id} {index}", list as usize)), format!("{} rule {index}", id.name))
    })
}

fn moved<'a, K: Ord>(
    before: &'a BTreeMap<K, u64>,
    after: &'a BTreeMap<K, u64>,
) -> impl Iterator<Item = &'a K> {
    after
        .iter()
        .filter(|(key, count)| before.get(key).copied().unwrap_or_default() < **count)
        .map(|(key, _)| key)
}
