//! The compiled rules in the order in which packets meet them, with what they were hit by.

use std::collections::BTreeMap;

use anyhow::Result;
use dataplane_common::abi::{ListEntry, RuleAction, RuleEntry, RuleHits, rule_flag};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::compile::Tables;
use crate::maps::Pinned;
use crate::maps::pinned::{now_ns, slot_in_force};
use crate::observe::names::LIST_KINDS;
use crate::state::{RuleState, State};

/// A rule of one list; rules that the compiler made of one written rule are one.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleView {
    pub endpoint: String,
    /// `PreDnat`, `NormalIngress`
    pub list: String,
    pub tier: String,
    /// Absent at the end of a tier.
    pub policy: Option<String>,
    /// Index in the policy's list.
    pub index: Option<u32>,
    /// As written; at the end of a tier what it does.
    pub action: String,
    /// First compiled position in the list, and how many follow.
    pub position: u32,
    pub compiled: u32,
    #[serde(flatten)]
    pub hits: Hits,
}

/// What a rule was hit by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hits {
    pub packets: u64,
    pub bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_hit: Option<Timestamp>,
}

impl Hits {
    fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.last_hit = self.last_hit.max(other.last_hit);
    }
    /// `never`, `12 s ago`.
    pub fn last(&self, now: Timestamp) -> String {
        let Some(last) = self.last_hit else { return "never".to_owned() };
        ago(now.duration_since(last).as_secs().max(0).unsigned_abs())
    }
}

/// The larger two units are enough for people.
pub fn ago(seconds: u64) -> String {
    format!("{} ago", lasting(seconds))
}

/// `12s`, `3m20s`, `5h10m`, `8d2h`.
pub fn lasting(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Hits by (identity, ifindex).
pub struct AllHits {
    hits: BTreeMap<(u32, u32), Hits>,
}

impl AllHits {
    /// From the pinned maps.
    pub fn read(pinned: &Pinned) -> Result<Self> {
        let maps = pinned.state()?;
        let (now, kernel_now) = (Timestamp::now(), now_ns(&maps.control()?));
        let time = |hit: &RuleHits| {
            let age = i64::try_from(kernel_now.saturating_sub(hit.last_seen_ns)).ok()?;
            now.checked_sub(SignedDuration::from_nanos(age)).ok()
        };
        let hits = maps.rule_hits()?.into_iter().map(|(key, hit)| {
            let hits = Hits { packets: hit.packets, bytes: hit.bytes, last_hit: time(&hit) };
            ((key.identity, key.device), hits)
        });
        Ok(Self { hits: hits.collect() })
    }
    /// Of one rule, on these devices (by ifindex).
    pub fn of(&self, identity: u32, on: impl Fn(u32) -> bool) -> Hits {
        let mut sum = Hits::default();
        let range = (identity, 0)..=(identity, u32::MAX);
        self.hits.range(range).filter(|((_, device), _)| on(*device)).for_each(|(_, h)| sum.add(h));
        sum
    }
    /// Per policy, over all its rules and devices.
    pub fn by_policy(&self, rules: &[RuleState]) -> BTreeMap<String, Hits> {
        let mut sums: BTreeMap<String, Hits> = BTreeMap::new();
        for rule in rules {
            if let Some(policy) = &rule.policy {
                sums.entry(policy.clone()).or_default().add(&self.of(rule.identity, |_| true));
            }
        }
        sums
    }
}

/// All rules in force; hits are those on the devices that an endpoint governs and that `on` takes.
pub fn read(state: &State, on: impl Fn(u32) -> bool) -> Result<Vec<RuleView>> {
    let pinned = Pinned::new(&state.pin_dir);
    let control = pinned.control()?;
    let Some(slot) = slot_in_force(&control, now_ns(&control)) else { return Ok(Vec::new()) };
    let tables = pinned.tables(slot)?;
    let hits = AllHits::read(&pinned)?;
    let names: BTreeMap<u32, &RuleState> = state.rules.iter().map(|r| (r.identity, r)).collect();
    let mut out = Vec::new();
    for (number, endpoint) in tables.endpoints.iter().enumerate() {
        let devices: Vec<u32> = tables
            .devices
            .iter()
            .filter(|(ifindex, d)| d.endpoint as usize == number + 1 && on(**ifindex))
            .map(|(ifindex, _)| *ifindex)
            .collect();
        if devices.is_empty() {
            continue;
        }
        let name =
            state.endpoints.get(number).map_or_else(|| format!("endpoint {number}"), |e| e.name.clone());
        for kind in LIST_KINDS {
            let list =
                endpoint.lists[kind as usize].checked_sub(1).and_then(|i| tables.lists.get(i as usize));
            let Some(list) = list else { continue };
            let hits = |identity| hits.of(identity, |device| devices.contains(&device));
            rows(&mut out, &name, &format!("{kind:?}"), list, &tables, &names, hits);
        }
    }
    Ok(out)
}

fn rows(
    out: &mut Vec<RuleView>,
    endpoint: &str,
    list: &str,
    entry: &ListEntry,
    tables: &Tables,
    names: &BTreeMap<u32, &RuleState>,
    hits: impl Fn(u32) -> Hits,
) {
    let mut last = None;
    for position in 0..entry.rule_count {
        let Some(rule) = tables.rules.get((entry.rule_base + position) as usize) else { break };
        if last == Some(rule.identity)
            && let Some(row) = out.last_mut()
        {
            row.compiled += 1;
            continue;
        }
        last = Some(rule.identity);
        let name = names.get(&rule.identity);
        out.push(RuleView {
            endpoint: endpoint.to_owned(),
            list: list.to_owned(),
            tier: name.map_or_else(|| "?".to_owned(), |n| n.tier.clone()),
            policy: name.and_then(|n| n.policy.clone()),
            index: name.and_then(|n| n.index),
            action: action(rule, name.and_then(|n| n.action.as_deref())),
            position,
            compiled: 1,
            hits: hits(rule.identity),
        });
    }
}

/// As written; what the compiler made of it where nothing is written.
fn action(rule: &RuleEntry, written: Option<&str>) -> String {
    let compiled = [
        (RuleAction::Deny, "Deny"),
        (RuleAction::Allow, "Allow"),
        (RuleAction::Log, "Log"),
        (RuleAction::Skip, "Pass"),
    ];
    let compiled = compiled.iter().find(|(a, _)| *a as u8 == rule.action).map_or("?", |(_, name)| *name);
    let word = written.unwrap_or(compiled);
    match rule.flags {
        flags if flags & rule_flag::STAGED != 0 => format!("{word} (staged)"),
        flags if flags & rule_flag::TIER_END != 0 => format!("{word} (end of tier)"),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_for_people() {
        assert_eq!(ago(5), "5s ago");
        assert_eq!(
            (lasting(61), lasting(3660), lasting(90_000)),
            ("1m1s".into(), "1h1m".into(), "1d1h".into())
        );
        assert_eq!(Hits::default().last(Timestamp::now()), "never");
    }

    #[test]
    fn hits_are_of_one_rule_and_the_devices_asked_for() {
        let hit = |packets| Hits { packets, bytes: 0, last_hit: None };
        let all = AllHits { hits: BTreeMap::from([((7, 1), hit(1)), ((7, 2), hit(10)), ((8, 1), hit(100))]) };
        assert_eq!(all.of(7, |_| true).packets, 11);
        assert_eq!(all.of(7, |device| device == 2).packets, 10);
        assert_eq!(all.of(9, |_| true).packets, 0);
    }
}
