//! What the reports of all nodes add up to: which nodes do not enforce, and where each policy is in force. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::kubernetes::report::types::{
    ConditionStatus, DeviceState, NodePolicyStatus, PolicyReport, PolicyState, Report,
};

/// A report of this age is of an agent that is gone, or cannot reach the API server: it writes every five minutes.
pub const STALE: SignedDuration = SignedDuration::from_mins(10);

/// How a node stands; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Standing {
    /// It never reported: nobody is known to enforce anything there.
    NoReport,
    /// Its report is old. What was in force stays, but nobody follows the cluster.
    Stale,
    /// Its agent runs, and nothing is in force yet.
    NothingInForce,
    /// What policy denies passes: audit, a suspension.
    NotDropping,
    /// Something that was asked for is not enforced.
    Degraded,
    Enforced,
}

impl Standing {
    /// In a table.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoReport => "NO REPORT",
            Self::Stale => "STALE",
            Self::NothingInForce => "NOTHING IN FORCE",
            Self::NotDropping => "NOT DROPPING",
            Self::Degraded => "DEGRADED",
            Self::Enforced => "enforced",
        }
    }
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeRow {
    pub node: String,
    pub standing: Standing,
    /// Why it is not `Enforced`.
    pub why: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

/// What is known beside the reports.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Names of its nodes; `None`: they may not be read.
    pub nodes: Option<Vec<String>>,
    /// Of the agents' pods that do not run: node → why. `None`: they may not be read.
    pub agents: Option<BTreeMap<String, Option<String>>>,
}

/// Every node that exists or reports, the worst first.
pub fn nodes(cluster: &Cluster, reports: Vec<NodePolicyStatus>, now: Timestamp) -> Vec<NodeRow> {
    let mut all: BTreeMap<String, Option<Report>> =
        cluster.nodes.iter().flatten().map(|node| (node.clone(), None)).collect();
    for report in reports {
        if let Some(name) = report.metadata.name {
            all.insert(name, report.status);
        }
    }
    let mut rows: Vec<NodeRow> =
        all.into_iter().map(|(node, report)| row(cluster, node, report, now)).collect();
    rows.sort_by(|a, b| (a.standing, &a.node).cmp(&(b.standing, &b.node)));
    rows
}

fn row(cluster: &Cluster, node: String, report: Option<Report>, now: Timestamp) -> NodeRow {
    let mut why = Vec::new();
    let mut worst = Standing::Enforced;
    let mut say = |standing: Standing, text: String| {
        worst = worst.min(standing);
        why.push(text);
    };
    let agent = cluster.agents.as_ref().map(|agents| agents.get(&node));
    match &report {
        None => {
            let pod = match agent {
                Some(None) => ": no agent's pod is there",
                Some(Some(Some(reason))) => &format!(": its agent does not run ({reason})"),
                Some(Some(None)) => ": its agent runs, and has written none (yet)",
                None => "",
            };
            say(Standing::NoReport, format!("no report, so nothing is known to be enforced there{pod}"));
        }
        Some(report) => {
            let old = age(&report.reported_at, now).is_none_or(|age| age > STALE);
            if old {
                let since = if report.reported_at.is_empty() { "ever" } else { &report.reported_at };
                let text =
                    format!("no word from its agent since {since}; what was in force then stays in force");
                let pod = match agent {
                    Some(None) => "; no agent's pod is there",
                    Some(Some(Some(reason))) => &format!("; its agent does not run ({reason})"),
                    _ => "",
                };
                say(Standing::Stale, text + pod);
            }
            of_report(report, &mut say);
        }
    }
    NodeRow { node, standing: worst, why, report }
}

fn of_report(report: &Report, say: &mut impl FnMut(Standing, String)) {
    if report.generation.is_none() {
        say(Standing::NothingInForce, "nothing is in force yet".to_owned());
    }
    if let Some(safety) = &report.safety {
        if safety.audit {
            say(Standing::NotDropping, "audit: what policy denies is counted and passes".to_owned());
        }
        if let Some(until) = &safety.suspended_until {
            say(Standing::NotDropping, format!("suspended until {until}: what policy denies passes"));
        }
        if safety.went_back {
            let text = "a change was not confirmed: the generation before it is in force";
            say(Standing::Degraded, text.to_owned());
        }
    }
    let condition = |name: &str| report.conditions.iter().find(|c| c.type_ == name);
    if let Some(degraded) = condition("Degraded").filter(|c| c.status == ConditionStatus::True) {
        say(Standing::Degraded, format!("{}: {}", degraded.reason, degraded.message));
    } else {
        for name in ["Programmed", "Ready"] {
            if let Some(wrong) = condition(name).filter(|c| c.status != ConditionStatus::True) {
                say(Standing::Degraded, format!("not {name}: {} ({})", wrong.message, wrong.reason));
                break;
            }
        }
    }
    let bare: Vec<&str> = report
        .devices
        .iter()
        .filter(|d| d.state == DeviceState::NotAttached)
        .map(|d| d.name.as_str())
        .collect();
    if !bare.is_empty() {
        say(Standing::Degraded, format!("nothing is attached to {}", bare.join(", ")));
    }
}

/// `None`: no time.
fn age(time: &str, now: Timestamp) -> Option<SignedDuration> {
    Some(now.duration_since(time.parse().ok()?))
}

/// How a policy stands on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum PolicyStanding {
    /// Refused there, and no version of it ever was in force.
    Rejected,
    /// Its latest version was refused there; an older one is in force.
    KeptLastGood,
    /// The node has an older version than others have.
    Behind,
    /// Accepted, not in force yet.
    Pending,
    /// In force.
    InForce,
    /// It selects no host endpoint that governs a device there.
    NotHere,
}

impl PolicyStanding {
    /// In a table.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Rejected => "REJECTED",
            Self::KeptLastGood => "OLDER VERSION KEPT",
            Self::Behind => "BEHIND",
            Self::Pending => "PENDING",
            Self::InForce => "in force",
            Self::NotHere => "selects nothing here",
        }
    }

    /// It is not in force as its author wrote it.
    pub const fn is_wrong(self) -> bool {
        matches!(self, Self::Rejected | Self::KeptLastGood | Self::Behind | Self::Pending)
    }
}

/// A policy on a node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OnNode {
    pub node: String,
    pub standing: PolicyStanding,
    /// Devices on which it acts there.
    pub devices: u32,
    /// Of the version in force.
    pub generation: Option<i64>,
    pub errors: Vec<String>,
}

/// A policy and all nodes that report it, the worst first.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyRow {
    /// `GlobalNetworkPolicy/web`.
    pub policy: String,
    /// The latest version that any node knows.
    pub latest: Option<i64>,
    /// It acts on no device of any node: a selector that fits nothing, most likely.
    pub acts_nowhere: bool,
    pub nodes: Vec<OnNode>,
}

impl PolicyRow {
    /// Nodes on which it stands like this.
    pub fn count(&self, standing: PolicyStanding) -> usize {
        self.nodes.iter().filter(|n| n.standing == standing).count()
    }

    /// Somewhere it is not in force as its author wrote it, or it is so nowhere.
    pub fn is_wrong(&self) -> bool {
        self.acts_nowhere || self.nodes.iter().any(|n| n.standing.is_wrong())
    }
}

/// Every policy that a node reports.
pub fn policies(rows: &[NodeRow]) -> Vec<PolicyRow> {
    let mut all: BTreeMap<String, Vec<(&str, &PolicyReport)>> = BTreeMap::new();
    for row in rows {
        for policy in row.report.iter().flat_map(|report| &report.policies) {
            all.entry(format!("{}/{}", policy.kind, policy.name)).or_default().push((&row.node, policy));
        }
    }
    let mut out: Vec<PolicyRow> = all.into_iter().map(|(policy, nodes)| of_policy(policy, &nodes)).collect();
    out.sort_by(|a, b| (!a.is_wrong(), &a.policy).cmp(&(!b.is_wrong(), &b.policy)));
    out
}

fn of_policy(policy: String, reports: &[(&str, &PolicyReport)]) -> PolicyRow {
    let latest = reports.iter().filter_map(|(_, p)| p.latest_generation.max(p.observed_generation)).max();
    let mut nodes: Vec<OnNode> = reports
        .iter()
        .map(|(node, report)| OnNode {
            node: (*node).to_owned(),
            standing: match report.state {
                PolicyState::Rejected => PolicyStanding::Rejected,
                PolicyState::KeptLastGood => PolicyStanding::KeptLastGood,
                PolicyState::Pending => PolicyStanding::Pending,
                // Whatever it does there, it does it by an older version.
                _ if report.observed_generation.is_some() && report.observed_generation < latest => {
                    PolicyStanding::Behind
                }
                PolicyState::Active => PolicyStanding::InForce,
                PolicyState::SelectsNothingHere | PolicyState::NotForHosts => PolicyStanding::NotHere,
            },
            devices: report.devices,
            generation: report.observed_generation,
            errors: report.errors.clone(),
        })
        .collect();
    nodes.sort_by(|a, b| (a.standing, &a.node).cmp(&(b.standing, &b.node)));
    let acts_nowhere = nodes.iter().all(|n| n.standing == PolicyStanding::NotHere);
    PolicyRow { policy, latest, acts_nowhere, nodes }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn report(node: &str, status: Value) -> NodePolicyStatus {
        let object = json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyStatus",
            "metadata": {"name": node}, "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    fn well(reported: &str) -> Value {
        json!({
            "reportedAt": reported, "source": {"inSync": true},
            "counts": {"policies": 0, "active": 0, "refused": 0, "governed": 1, "unprotected": 0, "bindsNothing": 0},
            "generation": {"number": 4, "since": "2026-01-01T00:00:00Z"},
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "Followed", "message": "", "lastTransitionTime": ""},
                {"type": "Degraded", "status": "False", "reason": "AsAsked", "message": "", "lastTransitionTime": ""},
            ],
        })
    }

    fn now() -> Timestamp {
        "2026-01-02T00:00:00Z".parse().unwrap()
    }

    const FRESH: &str = "2026-01-01T23:59:00Z";

    #[test]
    fn a_node_that_does_not_enforce_comes_first() {
        let mut degraded = well(FRESH);
        degraded["conditions"][1]["status"] = json!("True");
        degraded["conditions"][1]["reason"] = json!("PolicyRejected");
        let mut suspended = well(FRESH);
        suspended["safety"] = json!({"suspendedUntil": "2026-01-02T01:00:00Z"});
        let mut nothing = well(FRESH);
        nothing["generation"] = Value::Null;
        let reports = vec![
            report("a-well", well(FRESH)),
            report("b-degraded", degraded),
            report("c-suspended", suspended),
            report("d-nothing", nothing),
            report("e-stale", well("2026-01-01T23:00:00Z")),
            report("f-never", json!({"source": {"inSync": false}})),
        ];
        let cluster = Cluster {
            nodes: Some(vec!["a-well".into(), "z-none".into()]),
            agents: Some(BTreeMap::from([("e-stale".into(), Some("CrashLoopBackOff".into()))])),
        };
        let rows = nodes(&cluster, reports, now());
        let seen: Vec<(&str, Standing)> = rows.iter().map(|r| (r.node.as_str(), r.standing)).collect();
        let wanted = [
            ("z-none", Standing::NoReport),
            ("e-stale", Standing::Stale),
            ("f-never", Standing::Stale),
            ("d-nothing", Standing::NothingInForce),
            ("c-suspended", Standing::NotDropping),
            ("b-degraded", Standing::Degraded),
            ("a-well", Standing::Enforced),
        ];
        assert_eq!(seen, wanted);
        assert!(rows[0].why[0].contains("no agent's pod is there"), "{:?}", rows[0].why);
        assert!(rows[1].why[0].contains("CrashLoopBackOff"), "{:?}", rows[1].why);
        assert!(rows[6].why.is_empty(), "{:?}", rows[6].why);
    }

    #[test]
    fn a_policy_that_does_not_apply_is_told_with_its_node() {
        let with = |node: &str, policies: Value| {
            let mut status = well(FRESH);
            status["policies"] = policies;
            report(node, status)
        };
        let policy = |name: &str, state: &str, observed: Option<i64>, errors: &[&str]| {
            json!({
                "kind": "GlobalNetworkPolicy", "name": name, "state": state, "observedGeneration": observed,
                "errors": errors,
            })
        };
        let reports = vec![
            with(
                "n1",
                json!([
                    policy("bad", "Rejected", None, &["spec.order: first"]),
                    policy("lost", "SelectsNothingHere", Some(1), &[]),
                    policy("web", "Active", Some(3), &[]),
                ]),
            ),
            with(
                "n2",
                json!([
                    policy("bad", "KeptLastGood", Some(1), &["spec.order: first"]),
                    policy("lost", "NotForHosts", Some(1), &[]),
                    policy("web", "Active", Some(2), &[]),
                ]),
            ),
            with("n3", json!([policy("web", "SelectsNothingHere", Some(3), &[])])),
        ];
        let rows = policies(&nodes(&Cluster::default(), reports, now()));
        let names: Vec<&str> = rows.iter().map(|r| r.policy.as_str()).collect();
        assert_eq!(names, ["GlobalNetworkPolicy/bad", "GlobalNetworkPolicy/lost", "GlobalNetworkPolicy/web"]);
        let of = |row: &PolicyRow| -> Vec<(String, PolicyStanding)> {
            row.nodes.iter().map(|n| (n.node.clone(), n.standing)).collect()
        };
        use PolicyStanding::{Behind, InForce, KeptLastGood, NotHere, Rejected};
        assert_eq!(of(&rows[0]), [("n1".into(), Rejected), ("n2".into(), KeptLastGood)]);
        assert_eq!(rows[0].nodes[0].errors, ["spec.order: first"]);
        assert!(rows[1].acts_nowhere && rows[1].is_wrong());
        assert_eq!(of(&rows[2]), [("n2".into(), Behind), ("n1".into(), InForce), ("n3".into(), NotHere)]);
        assert_eq!(rows[2].latest, Some(3));
    }
}
