//! What the kernel knows: counters of packets, how full the tables of flows are, what is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane_common::abi::{Counted, counted, hook_name};
use dataplane_common::verdict::Verdict;
use dataplane_common::{limits, names};

use super::agent::table;
use super::{Found, Labels, Scraper, label};
use crate::inspect::kernel::device_name;
use crate::maps::pinned::slot_in_force;
use crate::maps::{self, Error, Pinned};
use crate::observe::record::WOULD_DENY;
use crate::safety::Standing;
use crate::state::State;

/// Most series of [`policies`].
const MAX_POLICY_SERIES: usize = 5000;

/// A counter never goes back: what the programs have lost and not yet told is told later, and for a moment it is
/// neither here nor there.
#[derive(Debug, Default)]
pub(super) struct Memory {
    lost: AtomicU64,
}

pub(super) fn collect(found: &mut Found, scraper: &Scraper, with_policies: bool) {
    let state = scraper.sources.telemetry.state();
    let mut maps = scraper.maps.lock().unwrap_or_else(PoisonError::into_inner);
    let pinned = Pinned::new(&scraper.sources.pin_dir);
    if maps.is_none() {
        *maps = pinned.state().ok();
    }
    let mut errors = 0;
    match maps.as_ref() {
        Some(maps) => {
            let mut part = |result: Result<(), Error>| {
                if let Err(error) = result {
                    tracing::debug!("a part of a scrape could not be read: {:#}", anyhow::Error::from(error));
                    errors += 1;
                }
            };
            part(packets(found, maps, state.as_deref()));
            part(flows(found, maps));
            part(standing(found, maps, &pinned));
            part(events(found, maps, scraper));
            if with_policies && let Some(state) = state.as_deref() {
                part(policies(found, maps, state));
            }
        }
        None => errors += 1,
    }
    found.number("portcullis_scrape_errors", Vec::new(), f64::from(errors));
}

fn packets(found: &mut Found, maps: &maps::State, state: Option<&State>) -> Result<(), Error> {
    let mut names: BTreeMap<u32, Option<String>> = BTreeMap::new();
    for (key, counter) in maps.device_counters()? {
        let name = names.entry(key.device).or_insert_with(|| iface(key.device, state));
        // A device that is gone: its series ends.
        let (Some(iface), Some(what)) = (name, counted(key.counter)) else { continue };
        let labels = packet_labels(iface, what);
        found.add("portcullis_packets_total", labels.clone(), counter.packets);
        found.add("portcullis_bytes_total", labels, counter.bytes);
    }
    Ok(())
}

/// Devices of pods come and go with them, so they are one.
fn iface(ifindex: u32, state: Option<&State>) -> Option<String> {
    let name = device_name(ifindex)?;
    let is_workload = state.is_some_and(|s| s.workload.contains(&name));
    Some(if is_workload { "workload".to_owned() } else { name })
}

fn packet_labels(iface: &str, what: Counted) -> Labels {
    vec![
        ("iface", iface.to_owned()),
        ("hook", hook_name(what.hook).to_owned()),
        ("verdict", what.verdict.map_or(WOULD_DENY, Verdict::name).to_owned()),
        ("reason", what.reason.name().to_owned()),
    ]
}

fn flows(found: &mut Found, maps: &maps::State) -> Result<(), Error> {
    let counts = maps.counts();
    for (map, entries, capacity) in [
        (names::MAP_FLOWS, counts.confirmed, limits::MAX_FLOWS_CONFIRMED),
        (names::MAP_FLOWS_NEW, counts.unconfirmed, limits::MAX_FLOWS_UNCONFIRMED),
        (names::MAP_FLOWS_SAFE, counts.failsafe, limits::MAX_FLOWS_FAILSAFE),
        (names::MAP_FRAGMENTS, counts.fragments, limits::MAX_FRAGMENTS),
    ] {
        table(found, map, entries, capacity);
    }
    for (event, times) in maps.flow_events()? {
        found.count("portcullis_flow_table_events_total", label("event", event.name()), times);
    }
    Ok(())
}

fn standing(found: &mut Found, maps: &maps::State, pinned: &Pinned) -> Result<(), Error> {
    let control = maps.control()?;
    let now = maps.now_ns(&control);
    let standing = Standing::of(&control, now);
    let lifted = [("audit", standing.audit), ("suspended", standing.suspended_seconds.is_some())];
    for (why, holds) in lifted {
        found.flag("portcullis_not_enforced", label("why", why), holds);
    }
    for (state, holds) in [("waiting", standing.confirm_seconds.is_some()), ("went_back", standing.went_back)]
    {
        found.flag("portcullis_trial", label("state", state), holds);
    }
    let settings = slot_in_force(&control, now).map(|slot| pinned.settings(slot)).transpose()?.flatten();
    let generation = settings.map_or(0, |s| s.generation);
    found.number("portcullis_generation_number", Vec::new(), generation as f64);
    Ok(())
}

fn events(found: &mut Found, maps: &maps::State, scraper: &Scraper) -> Result<(), Error> {
    let (told, lost) = scraper.sources.telemetry.events();
    found.count("portcullis_events_total", Vec::new(), told);
    let now = lost + maps.untold_events()?;
    let lost = scraper.kernel.lost.fetch_max(now, Ordering::Relaxed).max(now);
    found.count("portcullis_events_lost_total", Vec::new(), lost);
    Ok(())
}

/// By rule, over all devices.
fn policies(found: &mut Found, maps: &maps::State, state: &State) -> Result<(), Error> {
    let mut hits: BTreeMap<u32, u64> = BTreeMap::new();
    for (key, hit) in maps.rule_hits()? {
        *hits.entry(key.identity).or_default() += hit.packets;
    }
    let mut series: BTreeSet<(String, String)> = BTreeSet::new();
    let mut omitted = 0;
    for rule in &state.rules {
        let Some(packets) = hits.get(&rule.identity) else { continue };
        let policy = rule.policy.clone().unwrap_or_else(|| format!("end of tier {}", rule.tier));
        let rule = rule.index.map_or_else(|| format!("{} end", rule.list), |i| format!("{} {i}", rule.list));
        if series.len() >= MAX_POLICY_SERIES && !series.contains(&(policy.clone(), rule.clone())) {
            omitted += 1;
            continue;
        }
        series.insert((policy.clone(), rule.clone()));
        found.add("portcullis_policy_packets_total", vec![("policy", policy), ("rule", rule)], *packets);
    }
    found.number("portcullis_policy_series_omitted", Vec::new(), f64::from(omitted));
    Ok(())
}
