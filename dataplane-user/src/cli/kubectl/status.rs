//! `kubectl portcullis status`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{KubectlFlags, clean, say_of};
use crate::cli::Answer;
use crate::cli::output::{columns, print_json, print_lines};
use crate::kubernetes::report::types::NodePolicyStatus;
use crate::observe::filter::names_policy;
use crate::plugin::kubectl::{GetError, Kubectl};
use crate::plugin::status::{Cluster, NodeRow, PolicyRow, PolicyStanding, Standing, nodes, policies};
use crate::state::API_VERSION;

/// Where the reports are.
const REPORTS: &str = "nodepolicystatuses.v1alpha1.portcullis.dev";

/// What every node enforces, and first which nodes and policies do not do what was asked for
///
/// Reads the nodes' own reports (NodePolicyStatus) and asks no node. A node without a report, or with one that is older than
/// ten minutes, is shown first: nobody is known to follow the cluster there.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct StatusArgs {
    /// Only these nodes
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    /// On which nodes this policy is in force, at which generation; where it is not, and why. `web`, `gnp/web`
    #[arg(long, value_name = "POLICY", value_delimiter = ',', conflicts_with = "policies")]
    policy: Vec<String>,
    /// Every policy, with the number of nodes on which it is in force, or not
    #[arg(long)]
    policies: bool,
    #[arg(short, long, value_enum, default_value = "table")]
    output: StatusOutput,
    #[command(flatten)]
    flags: KubectlFlags,
}

const HELP: &str = "Examples:
  portcullis kubectl status
  portcullis kubectl status n1 n2 -o wide
  portcullis kubectl status --policies
  portcullis kubectl status --policy gnp/web
  portcullis kubectl status -o json | jq '.nodes[] | select(.standing != \"Enforced\") | .node'

Exit codes: 0 every node enforces what was asked for, or the policy is in force as it was written; 1 one does not (the lines on \
top say which), or it is not somewhere; 2 wrong usage, or it cannot be told.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StatusOutput {
    Table,
    /// With the agents' versions, what is in force, and devices without a host endpoint
    Wide,
    Json,
}

pub fn run(args: &StatusArgs) -> Result<Answer> {
    let kubectl = args.flags.kubectl();
    let (cluster, reports) = read(&kubectl)?;
    let all = nodes(&cluster, reports, Timestamp::now());
    let wanted: BTreeSet<&str> = args.nodes.iter().map(String::as_str).collect();
    if let Some(stranger) = wanted.iter().find(|name| !all.iter().any(|row| row.node == **name)) {
        bail!("there is no node {stranger}");
    }
    // Of all nodes: whether one is behind, or a policy acts nowhere, only all of them tell.
    let mut of_policies = policies(&all);
    let is_chosen = |node: &str| wanted.is_empty() || wanted.contains(node);
    let chosen: Vec<NodeRow> = all.into_iter().filter(|row| is_chosen(&row.node)).collect();
    for policy in &mut of_policies {
        policy.nodes.retain(|n| is_chosen(&n.node));
    }
    of_policies.retain(|policy| !policy.nodes.is_empty());
    if !args.policy.is_empty() {
        for word in &args.policy {
            if !of_policies.iter().any(|p| names_policy(word, &p.policy)) {
                bail!("no node reports a policy {word}");
            }
        }
        of_policies.retain(|p| args.policy.iter().any(|word| names_policy(word, &p.policy)));
    }
    let by_policy = args.policies || !args.policy.is_empty();
    match args.output {
        StatusOutput::Json => print_json(&json!({
            "apiVersion": API_VERSION, "kind": "ClusterStatus", "nodes": chosen, "policies": of_policies,
        }))?,
        _ if args.policies => print_clean(summary(&of_policies))?,
        _ if by_policy => print_clean(node_by_node(&of_policies))?,
        output => print_clean(page(&chosen, &of_policies, output == StatusOutput::Wide))?,
    }
    if cluster.nodes.is_none() {
        bail!("nodes cannot be listed, so those that report nothing are not shown");
    }
    let good = match by_policy {
        true => !of_policies.iter().any(PolicyRow::is_wrong),
        false => chosen.iter().all(|row| row.standing == Standing::Enforced),
    };
    Ok(if good { Answer::Yes } else { Answer::No })
}

fn print_clean(lines: Vec<String>) -> Result<()> {
    print_lines(lines.iter().map(|line| clean(line)))
}

fn read(kubectl: &Kubectl) -> Result<(Cluster, Vec<NodePolicyStatus>)> {
    let list = match kubectl.get(&[REPORTS]) {
        Ok(list) => list,
        Err(GetError::NotServed(_)) => bail!(
            "this cluster has no NodePolicyStatus, so no node can report: apply \
             packaging/crds/nodepolicystatuses.portcullis.dev.yaml"
        ),
        Err(e) => return Err(e).context("the nodes' reports cannot be read"),
    };
    let mut reports = Vec::new();
    for item in items(&list) {
        match serde_json::from_value::<NodePolicyStatus>(item.clone()) {
            Ok(report) => reports.push(report),
            Err(e) => {
                let name = item["metadata"]["name"].as_str().unwrap_or("-").to_owned();
                say_of(&name, &format!("its report is not understood, and does not count: {e}"));
                // An agent of another version: it is there, and what it enforces is not known.
                let bare = json!({
                    "apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": {"name": name},
                });
                reports.extend(serde_json::from_value::<NodePolicyStatus>(bare));
            }
        }
    }
    let names = |list: Value| -> Vec<String> {
        items(&list).filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect()
    };
    let nodes = kubectl.get(&["nodes"]).map(names);
    if let Err(e) = &nodes {
        say_of("-", &e.to_string());
    }
    // Only a hint at why a node does not report; not everybody may see pods.
    let agents = kubectl.agents().ok();
    let agents = agents.map(|agents| agents.into_iter().map(|a| (a.node, a.not_running)).collect());
    Ok((Cluster { nodes: nodes.ok(), agents }, reports))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// The worst first: nodes that do not enforce, policies that do not apply, then the table.
fn page(rows: &[NodeRow], policies: &[PolicyRow], wide: bool) -> Vec<String> {
    let mut out = Vec::new();
    for row in rows {
        out.extend(row.why.iter().map(|why| format!("{}: node {}: {why}", row.standing.word(), row.node)));
    }
    for policy in policies {
        out.extend(wrong(policy));
    }
    if !out.is_empty() {
        out.push(String::new());
    }
    let mut header =
        vec!["NODE", "STANDING", "GENERATION", "SINCE", "POLICIES", "REFUSED", "UNPROTECTED", "REPORTED"];
    if wide {
        header.extend(["AGENT", "HASH", "UNPROTECTED DEVICES"]);
    }
    let cells = rows.iter().map(|row| {
        let mut cells = vec![row.node.clone(), row.standing.word().to_owned()];
        let Some(report) = &row.report else {
            cells.resize(header.len(), "-".to_owned());
            return cells;
        };
        let generation = report.generation.as_ref();
        cells.push(generation.map_or_else(|| "-".to_owned(), |g| g.number.to_string()));
        cells.push(generation.map_or_else(|| "-".to_owned(), |g| g.since.clone()));
        let counts = [report.counts.active, report.counts.refused, report.counts.unprotected];
        cells.extend(counts.map(|count| count.to_string()));
        cells.push(report.reported_at.clone());
        if wide {
            let unprotected = report.devices.iter().filter(|d| d.host_endpoint.is_none());
            let unprotected: Vec<&str> = unprotected.map(|d| d.name.as_str()).collect();
            cells.push(report.agent_version.clone());
            cells.push(generation.and_then(|g| g.hash.clone()).unwrap_or_else(|| "-".to_owned()));
            cells.push(if unprotected.is_empty() { "-".to_owned() } else { unprotected.join(",") });
        }
        cells
    });
    out.extend(columns(&header, cells.collect()));
    out
}

/// What is wrong with a policy, a line for each way.
fn wrong(policy: &PolicyRow) -> Vec<String> {
    if policy.acts_nowhere {
        return vec![format!("SELECTS NOTHING: {}: no device of any node that reports", policy.policy)];
    }
    let ways = [
        PolicyStanding::Rejected,
        PolicyStanding::KeptLastGood,
        PolicyStanding::Behind,
        PolicyStanding::Pending,
    ];
    let mut out = Vec::new();
    for way in ways {
        let there: Vec<_> = policy.nodes.iter().filter(|n| n.standing == way).collect();
        let Some(first) = there.first() else { continue };
        let names: Vec<&str> = there.iter().map(|n| n.node.as_str()).collect();
        let why = first.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        out.push(format!("{}: {} on {}{why}", way.word(), policy.policy, names.join(", ")));
    }
    out
}

/// Every policy in a line.
fn summary(policies: &[PolicyRow]) -> Vec<String> {
    let mut out: Vec<String> = policies.iter().flat_map(wrong).collect();
    if !out.is_empty() {
        out.push(String::new());
    }
    let rows = policies.iter().map(|policy| {
        let not_as_written = policy.nodes.iter().filter(|n| n.standing.is_wrong()).count();
        vec![
            policy.policy.clone(),
            policy.latest.map_or_else(|| "-".to_owned(), |generation| generation.to_string()),
            policy.count(PolicyStanding::InForce).to_string(),
            not_as_written.to_string(),
            policy.count(PolicyStanding::NotHere).to_string(),
        ]
    });
    out.extend(columns(
        &["POLICY", "GENERATION", "NODES IN FORCE", "NOT AS WRITTEN", "SELECTS NOTHING"],
        rows.collect(),
    ));
    out
}

/// Every node of every policy.
fn node_by_node(policies: &[PolicyRow]) -> Vec<String> {
    let rows = policies.iter().flat_map(|policy| {
        policy.nodes.iter().map(|node| {
            let version =
                |generation: Option<i64>| generation.map_or_else(|| "-".to_owned(), |g| g.to_string());
            vec![
                policy.policy.clone(),
                node.node.clone(),
                node.standing.word().to_owned(),
                version(node.generation),
                version(policy.latest),
                node.devices.to_string(),
                node.errors.first().cloned().unwrap_or_default(),
            ]
        })
    });
    columns(&["POLICY", "NODE", "STANDING", "IN FORCE", "LATEST", "DEVICES", "WHY"], rows.collect())
}
