//! Every metric: the scrape, its help texts and the reference page are all written from this table.

use std::fmt::Write as _;

/// What a metric is to whoever reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the agent or its maps begin anew.
    Counter,
    Gauge,
    Histogram,
    /// Always 1; the labels say it.
    Info,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As a scrape has it.
    pub name: &'static str,
    pub kind: Kind,
    /// In their order.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, labels, help }
}

use Kind::{Counter, Gauge, Histogram, Info};

const PACKET: &[&str] = &["iface", "hook", "verdict", "reason"];

/// In the order of a scrape.
pub const METRICS: &[Metric] = &[
    metric(
        "portcullis_packets_total",
        Counter,
        PACKET,
        "Packets that the programs judged. A verdict of WouldDeny was denied and passed, under audit or suspension. Devices of pods are one iface: workload.",
    ),
    metric("portcullis_bytes_total", Counter, PACKET, "Bytes of these packets, from the network header on."),
    metric(
        "portcullis_policy_packets_total",
        Counter,
        &["policy", "rule"],
        "Packets that a rule, or the end of a tier, decided or logged. Only with /metrics?policies.",
    ),
    metric(
        "portcullis_policy_series_omitted",
        Gauge,
        &[],
        "Rules with hits that are missing in portcullis_policy_packets_total, which holds at most 5000. Only with /metrics?policies.",
    ),
    metric(
        "portcullis_events_total",
        Counter,
        &[],
        "Events of packets that the programs told and the agent read.",
    ),
    metric(
        "portcullis_events_lost_total",
        Counter,
        &[],
        "Events that found no room in the ring or were more than 256 on a CPU in a second. Their packets are counted.",
    ),
    metric(
        "portcullis_policies",
        Gauge,
        &["state"],
        "Policies. active: governs a device here. idle: valid, and selects nothing that does. not_for_hosts: selects no host endpoint of any node. selects_nothing: likewise, and acts on nothing else. rejected: its document is refused.",
    ),
    metric(
        "portcullis_endpoints",
        Gauge,
        &["state"],
        "Host endpoints. active: governs a device here. lost: of this node, and binds no device. rejected: its document is refused.",
    ),
    metric(
        "portcullis_rules",
        Gauge,
        &["state"],
        "Rules and ends of tiers of the generation in force. staged: they only count.",
    ),
    metric(
        "portcullis_objects",
        Gauge,
        &["kind", "state"],
        "Objects that are not taken as they stand. rejected: the document is refused. kept: the object goes on in its last good version.",
    ),
    metric(
        "portcullis_devices",
        Gauge,
        &["state"],
        "Devices. governed: by a host endpoint. not_attached: governed, and without our programs, so its policy is NOT enforced. unprotected: a host device that no host endpoint covers. workload: of pods.",
    ),
    metric(
        "portcullis_grace_devices",
        Gauge,
        &[],
        "Devices that became governed so short ago that packets of connections nobody saw begin are judged by policy (D17).",
    ),
    metric(
        "portcullis_failsafe_ports",
        Gauge,
        &["direction"],
        "Failsafe entries (D1, D2). Without inbound ones a policy can lock you out.",
    ),
    metric(
        "portcullis_map_entries",
        Gauge,
        &["map"],
        "Entries of a table. longest_list: rules of the longest list.",
    ),
    metric("portcullis_map_capacity", Gauge, &["map"], "Most entries that this table may have."),
    metric(
        "portcullis_flow_table_events_total",
        Counter,
        &["event"],
        "What the flow tables had to give up (D18). not_recorded: a new flow found no room, so its answer may be refused.",
    ),
    metric("portcullis_compile_duration_seconds", Histogram, &[], "Time to compile a generation."),
    metric(
        "portcullis_apply_duration_seconds",
        Histogram,
        &[],
        "Time to write a generation into the maps, to read it back and to make it active.",
    ),
    metric(
        "portcullis_policy_latency_seconds",
        Histogram,
        &[],
        "From the first notice of a change (file, API, device) until the generation that holds it is in force.",
    ),
    metric(
        "portcullis_generation_number",
        Gauge,
        &[],
        "Number of the generation that the kernel enforces; 0: none, every packet passes.",
    ),
    metric(
        "portcullis_generation_info",
        Info,
        &["attached_by", "source"],
        "How the generation is attached, and where its documents come from.",
    ),
    metric(
        "portcullis_build_info",
        Info,
        &["version", "abi", "flow_abi"],
        "This build, and the layouts of its maps.",
    ),
    metric(
        "portcullis_apply_failures_total",
        Counter,
        &["reason"],
        "Steps that failed, by where. What was in force stayed.",
    ),
    metric(
        "portcullis_in_sync",
        Gauge,
        &[],
        "1: all that the source says, as far as it is valid, is in force, and the source is followed.",
    ),
    metric(
        "portcullis_last_apply_timestamp_seconds",
        Gauge,
        &[],
        "When this agent last made a generation the one in force; absent before it did.",
    ),
    metric(
        "portcullis_not_enforced",
        Gauge,
        &["why"],
        "1: what is denied passes. audit: run --audit. suspended: portcullis suspend.",
    ),
    metric(
        "portcullis_trial",
        Gauge,
        &["state"],
        "1: so it is. waiting: an apply waits for its confirmation. went_back: nobody confirmed, the generation before is in force.",
    ),
    metric(
        "portcullis_taken_away_total",
        Counter,
        &["what"],
        "How often somebody took programs off a device, or removed pins. Both were put back.",
    ),
    metric(
        "portcullis_xdp_devices",
        Gauge,
        &["state"],
        "Devices with untracked policy that denies. attached: it drops at XDP. left: at TC only (D10).",
    ),
    metric(
        "portcullis_kubernetes_in_sync",
        Gauge,
        &[],
        "Where the API is the source. 1: everything watched was read as a whole, and no watch fails.",
    ),
    metric(
        "portcullis_kubernetes_stale_seconds",
        Gauge,
        &[],
        "For how long what is known of the cluster may be out of date; 0: it is not.",
    ),
    metric("portcullis_kubernetes_waiting", Gauge, &[], "Watches that were never read as a whole."),
    metric("portcullis_kubernetes_objects", Gauge, &["watch"], "Objects by what is watched."),
    metric(
        "portcullis_loop_age_seconds",
        Gauge,
        &[],
        "Since the last turn of the agent's loop. It turns every 5 s; /livez is red from 30 s on.",
    ),
    metric(
        "portcullis_scrape_errors",
        Gauge,
        &[],
        "Parts of this scrape that could not be read from the kernel: their series are missing here.",
    ),
    metric("process_start_time_seconds", Gauge, &[], "When the agent began."),
    metric("process_cpu_seconds_total", Counter, &[], "Time on CPUs, user and system."),
    metric("process_resident_memory_bytes", Gauge, &[], "Memory of the agent; maps are not part of it."),
    metric("process_open_fds", Gauge, &[], "Open descriptors."),
];

/// The metric of this name.
pub fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|m| m.name == name)
}

const HEAD: &str = "\
# Metrics and health

Written from `dataplane-user/src/http/metrics/catalog.rs`; a test fails when this page differs.

The agent answers on `127.0.0.1:10187`; the [settings](settings.md) `httpAddress` and `httpPort`, or `--http-address` and `--http-port`, say where else, and `httpAddress: off` nowhere.
It answers from a thread of its own, to GET only, over connections of one question each: at most 32 at a time, 10 s each; when there are more, the oldest gives way. A port in use is told by `portcullis status` (`TROUBLE: http`), tried again every two seconds, and stops no enforcement.

| path | answer |
|---|---|
| `/livez`, `/healthz` | 200 while the agent's loop turns, 503 when it has not for 30 s. `?within=SECONDS`: with another patience. An agent that hangs may be killed: what is in force stays in force. |
| `/readyz` | 200 when everything that the source says was in force once, every governed device carries the programs, and the kernel enforces the generation that the agent wrote; else 503 with one line for each thing that is missing. `?verbose` shows what holds too. |
| `/metrics` | OpenMetrics 1.0. `/metrics?policies` has the hits of each rule too. |

## Who may ask

There is no password, and no TLS. On `127.0.0.1` only programs of this node ask. With `httpAddress` an address of the node, whoever reaches that port can read these numbers, the names of devices and, from `/readyz`, what went wrong.
The node's own policy applies to that port as to any other: nothing from outside reaches it unless a rule allows it. For Prometheus on 10.1.2.3:

```yaml
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: prometheus}
spec:
  order: 10
  selector: role == 'node'
  types: [Ingress]
  ingress:
  - action: Allow
    protocol: TCP
    source: {nets: [10.1.2.3/32]}
    destination: {ports: [10187]}
```

A kubelet asks from its own node; that traffic does not pass the policy of a device.

## Metrics

Packets are read from the kernel's counters at the scrape and summed over CPUs; they outlive the agent, and begin anew with a new layout of the maps (`portcullis_build_info`) or a reboot. What the agent counts begins with it.
No label holds an address, a port or a name of a pod. [Reasons](reasons.md) have the names that `observe` and `explain` use.
`packaging/prometheus` holds rules for alerts and a dashboard.

| metric | type | labels | meaning |
|---|---|---|---|
";

/// `docs/reference/metrics.md`.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for m in METRICS {
        let labels: Vec<String> = m.labels.iter().map(|l| format!("`{l}`")).collect();
        let kind = match m.kind {
            Counter => "counter",
            Gauge => "gauge",
            Histogram => "histogram",
            Info => "info",
        };
        // Writing into a string cannot fail.
        let _ = writeln!(page, "| `{}` | {kind} | {} | {} |", m.name, labels.join(" "), m.help);
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn names_are_as_openmetrics_wants_them() {
        let names: BTreeSet<&str> = METRICS.iter().map(|m| m.name).collect();
        assert_eq!(names.len(), METRICS.len(), "a name twice");
        let family = |name: &'static str| name.trim_end_matches("_total").trim_end_matches("_info");
        let families: BTreeSet<&str> = METRICS.iter().map(|m| family(m.name)).collect();
        assert_eq!(families.len(), METRICS.len(), "OpenMetrics: one family, one type");
        for m in METRICS {
            assert_eq!(m.kind == Counter, m.name.ends_with("_total"), "{}", m.name);
            assert_eq!(m.kind == Info, m.name.ends_with("_info"), "{}", m.name);
            assert!(m.name.starts_with("portcullis_") || m.name.starts_with("process_"), "{}", m.name);
            assert!(!m.help.contains(['\n', '\\', '"', '|']), "{}", m.name);
        }
    }

    #[test]
    fn the_page_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/metrics.md");
        if std::env::var_os("PORTCULLIS_BLESS").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == page(),
            "{} is not what the code says: PORTCULLIS_BLESS=1 cargo test",
            path.display()
        );
    }
}
