//! What the agent knows: its state as `status` shows it, and what it counted.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use dataplane_common::{ABI_VERSION, FLOW_ABI_VERSION, limits, names};

use super::{Found, Value, label};
use crate::resource::Kind;
use crate::state::telemetry::{Sizes, Telemetry};
use crate::state::{State, now};

pub(super) fn collect(found: &mut Found, telemetry: &Telemetry) {
    let numbers = telemetry.numbers();
    let durations = [
        ("portcullis_compile_duration_seconds", numbers.compile),
        ("portcullis_apply_duration_seconds", numbers.apply),
        ("portcullis_policy_latency_seconds", numbers.change),
    ];
    for (name, durations) in durations {
        found.put(name, Vec::new(), Value::Durations(Box::new(durations)));
    }
    // Those that matter most are there before they fail: a counter that appears at 1 has no rate.
    for reason in ["compile", "device", "maps"] {
        found.add("portcullis_apply_failures_total", label("reason", reason), 0);
    }
    for (reason, times) in numbers.failures {
        found.add("portcullis_apply_failures_total", label("reason", reason), times);
    }
    if let Some(applied) = numbers.applied {
        found.number("portcullis_last_apply_timestamp_seconds", Vec::new(), unix(applied));
    }
    found.number("portcullis_loop_age_seconds", Vec::new(), telemetry.turn_age().as_secs_f64());
    let build = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("abi", ABI_VERSION.to_string()),
        ("flow_abi", FLOW_ABI_VERSION.to_string()),
    ];
    found.put("portcullis_build_info", build, Value::Info);
    match telemetry.published() {
        None => found.flag("portcullis_in_sync", Vec::new(), false),
        Some((state, sizes)) => {
            of_state(found, &state);
            of_sizes(found, &sizes);
        }
    }
}

/// Unix seconds.
pub(super) fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn of_state(found: &mut Found, state: &State) {
    found.flag("portcullis_in_sync", Vec::new(), state.in_sync());
    let source = if state.kubernetes.is_some() { "kubernetes" } else { "folder" };
    let info = vec![("attached_by", state.attached_by.clone()), ("source", source.to_owned())];
    found.put("portcullis_generation_info", info, Value::Info);
    let mut gauge = |name, states: &[(&str, usize)]| {
        for (word, count) in states {
            found.number(name, label("state", word), *count as f64);
        }
    };
    let rejected = Objects::rejected(state);
    gauge("portcullis_policies", &policies(state, &rejected));
    gauge(
        "portcullis_endpoints",
        &[
            ("active", state.endpoints.iter().filter(|e| !e.devices.is_empty()).count()),
            ("lost", state.lost.len()),
            ("rejected", rejected.count(|kind| kind == "HostEndpoint")),
        ],
    );
    let staged = state.rules.iter().filter(|r| r.staged).count();
    gauge("portcullis_rules", &[("active", state.rules.len() - staged), ("staged", staged)]);
    let not_attached = state.governed.keys().filter(|d| !state.attached.contains(*d)).count();
    gauge(
        "portcullis_devices",
        &[
            ("governed", state.governed.len()),
            ("not_attached", not_attached),
            ("unprotected", state.unprotected.len()),
            ("workload", state.workload.len()),
        ],
    );
    let at_xdp = state.xdp.values().filter(|x| x.attached.is_some()).count();
    gauge("portcullis_xdp_devices", &[("attached", at_xdp), ("left", state.xdp.len() - at_xdp)]);
    let kept = Objects(state.kept.iter().map(|k| k.object.clone()).collect());
    for (word, objects) in [("rejected", &rejected), ("kept", &kept)] {
        for (kind, count) in objects.by_kind() {
            let labels = vec![("kind", kind.to_owned()), ("state", word.to_owned())];
            found.number("portcullis_objects", labels, count as f64);
        }
    }
    let graces = state.grace.values().filter(|until| **until > now()).count();
    found.number("portcullis_grace_devices", Vec::new(), graces as f64);
    for (what, pins) in [("pins", true), ("program", false)] {
        let times = state.taken_away.iter().filter(|(place, _)| (*place == "pins") == pins);
        let times = times.map(|(_, taken)| taken.times).sum();
        found.count("portcullis_taken_away_total", label("what", what), times);
    }
    if let Some(kubernetes) = &state.kubernetes {
        let stale = kubernetes.stale_since.map_or(0, |since| now().saturating_sub(since));
        found.flag("portcullis_kubernetes_in_sync", Vec::new(), kubernetes.in_sync);
        found.number("portcullis_kubernetes_stale_seconds", Vec::new(), stale as f64);
        found.number("portcullis_kubernetes_waiting", Vec::new(), kubernetes.waiting.len() as f64);
        for (watch, objects) in &kubernetes.watches {
            found.number("portcullis_kubernetes_objects", label("watch", watch), *objects as f64);
        }
    }
}

/// Each policy once.
fn policies(state: &State, rejected: &Objects) -> [(&'static str, usize); 5] {
    let active: BTreeSet<&String> = state.endpoints.iter().flat_map(|e| e.lists.values().flatten()).collect();
    let misses: BTreeSet<&String> = state.misses.iter().collect();
    let not_for_hosts: BTreeSet<&String> =
        state.not_for_hosts.iter().filter(|p| !misses.contains(p)).collect();
    let idle = state.idle_policies.iter().filter(|p| !misses.contains(p) && !not_for_hosts.contains(p));
    [
        ("active", active.len()),
        ("idle", idle.count()),
        ("not_for_hosts", not_for_hosts.len()),
        ("selects_nothing", misses.len()),
        ("rejected", rejected.count(|kind| kind.ends_with("Policy"))),
    ]
}

/// `Kind/name` of objects.
struct Objects(BTreeSet<String>);

impl Objects {
    fn rejected(state: &State) -> Self {
        let errors = state.problems.iter().filter(|p| p.severity == "error");
        // A file that cannot be read has no object.
        let name =
            |object: &str, file: &str| if object.is_empty() { file.to_owned() } else { object.to_owned() };
        Self(errors.map(|p| name(&p.object, &p.file)).collect())
    }
    fn kind(object: &str) -> &'static str {
        let kind = object.split('/').next().unwrap_or_default();
        // Whoever writes a document must not make series: what is none of our kinds is one.
        Kind::all().map(Kind::as_str).find(|known| *known == kind).unwrap_or("other")
    }
    fn count(&self, of: impl Fn(&str) -> bool) -> usize {
        self.0.iter().filter(|object| of(Self::kind(object))).count()
    }
    fn by_kind(&self) -> Vec<(&'static str, usize)> {
        let kinds = Kind::all().map(Kind::as_str).chain(["other"]);
        kinds.map(|kind| (kind, self.count(|k| k == kind))).collect()
    }
}

fn of_sizes(found: &mut Found, sizes: &Sizes) {
    for (direction, count) in ["inbound", "outbound"].into_iter().zip(sizes.failsafes) {
        found.number("portcullis_failsafe_ports", label("direction", direction), count as f64);
    }
    let capacity = |map: &str| match map {
        names::MAP_DEVICES => Some(limits::MAX_DEVICES),
        names::MAP_ENDPOINTS => Some(limits::MAX_ENDPOINTS),
        names::MAP_LISTS => Some(limits::MAX_LISTS),
        names::MAP_RULES => Some(limits::MAX_RULES),
        names::MAP_ROWS => Some(limits::MAX_ROW_WORDS),
        names::MAP_ADDR_CLASS => Some(limits::MAX_PREFIXES),
        names::MAP_PORT_CLASS => Some(limits::MAX_PORT_PREFIXES),
        names::MAP_OWN_ADDRS => Some(limits::MAX_OWN_ADDRESSES),
        names::MAP_FRONTENDS => Some(limits::MAX_FRONTENDS),
        names::MAP_FAILSAFES => Some(limits::MAX_FAILSAFES),
        names::MAP_INFRA => Some(limits::MAX_INFRA_PEERS),
        _ => None,
    };
    for (map, length) in &sizes.lengths {
        if let Some(capacity) = capacity(map) {
            table(found, map, *length, capacity);
        }
    }
    table(found, "longest_list", sizes.longest_list, limits::MAX_RULES_PER_LIST);
}

pub(super) fn table(found: &mut Found, map: &str, entries: usize, capacity: u32) {
    found.number("portcullis_map_entries", label("map", map), entries as f64);
    found.number("portcullis_map_capacity", label("map", map), f64::from(capacity));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::state;

    #[test]
    fn kinds_that_nobody_knows_are_one_series() {
        let names =
            ["GlobalNetworkPolicy/a", "GlobalNetworkPolicy/b", "Evil1/x", "Evil2/x", "/p/broken.yaml"];
        let objects = Objects(names.map(str::to_owned).into());
        let counts = objects.by_kind();
        assert!(counts.contains(&("GlobalNetworkPolicy", 2)) && counts.contains(&("other", 3)), "{counts:?}");
        assert_eq!(counts.iter().map(|(_, n)| n).sum::<usize>(), 5);
    }

    #[test]
    fn a_cluster_that_is_not_followed_is_told() {
        use crate::state::KubernetesState;
        let kubernetes = KubernetesState {
            in_sync: false,
            stale_since: Some(now() - 100),
            waiting: vec!["pods".into()],
            watches: [("v1 nodes".to_owned(), 3)].into(),
            ..KubernetesState::default()
        };
        let mut found = Found::default();
        of_state(&mut found, &State { kubernetes: Some(kubernetes), ..state() });
        let number = |name: &str| match found.0[name].values().next() {
            Some(Value::Number(number)) => *number,
            other => panic!("{other:?}"),
        };
        assert_eq!(number("portcullis_in_sync"), 0.0);
        assert_eq!(number("portcullis_kubernetes_in_sync"), 0.0);
        assert!((100.0..110.0).contains(&number("portcullis_kubernetes_stale_seconds")));
        assert_eq!(number("portcullis_kubernetes_waiting"), 1.0);
        let watch = label("watch", "v1 nodes");
        assert_eq!(found.0["portcullis_kubernetes_objects"][&watch], Value::Number(3.0));
    }

    #[test]
    fn a_policy_is_counted_once_and_by_the_worst() {
        let mut state = state();
        state.misses = vec!["a".into()];
        state.not_for_hosts = vec!["a".into(), "b".into()];
        state.idle_policies = vec!["a".into(), "b".into(), "c".into()];
        let counts = policies(&state, &Objects(BTreeSet::new()));
        let expected =
            [("active", 0), ("idle", 1), ("not_for_hosts", 1), ("selects_nothing", 1), ("rejected", 0)];
        assert_eq!(counts, expected);
    }
}
