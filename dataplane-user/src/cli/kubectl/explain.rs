//! `kubectl portcullis explain`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::thread;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;

use super::{KubectlFlags, clean, end_children_with_us, say_of};
use crate::cli::Answer;
use crate::cli::explain::{Explanation, PacketArgs};
use crate::cli::output::{columns, print_json, print_lines};
use crate::plugin::agents::AgentPod;
use crate::plugin::explain::{Seen, ask, look};
use crate::plugin::kubectl::Kubectl;
use crate::plugin::stream::Children;
use crate::state::API_VERSION;

/// Nodes that are asked at the same time.
const AT_ONCE: usize = 16;

/// Say what policy does on a node with the first packet of a connection, and which rule decides
///
/// The node's agent is asked: it knows the node's devices and addresses, and which version of each object it has in force.
/// Where it cannot be asked the answer is worked out here, from the objects that you may read, and says so.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ExplainArgs {
    /// The node; may be given more than once
    #[arg(long, value_name = "NODE", value_delimiter = ',', required_unless_present = "all_nodes")]
    node: Vec<String>,
    /// Every node of the cluster, as a table
    #[arg(long, conflicts_with = "node")]
    all_nodes: bool,
    #[command(flatten)]
    packet: PacketArgs,
    /// Ask no node: work it out here
    #[arg(long)]
    computed: bool,
    #[arg(short, long, value_enum, default_value = "text")]
    output: ExplainOutput,
    #[command(flatten)]
    flags: KubectlFlags,
}

const HELP: &str = "Examples:
  portcullis kubectl explain --node n1 --in eth0 --from 203.0.113.7 --to 10.240.0.11 --dport 22
  portcullis kubectl explain --all-nodes --in eth0 --from 203.0.113.7 --to 198.51.100.1 --dport 443
  portcullis kubectl explain --node n1 --computed --in eth0 --from 203.0.113.7 --to 10.240.0.11 --dport 22

What is computed here takes the node's addresses from its Node object, all of them on the device of the question; it does not know \
which objects the node has not read yet, nor its settings.

Exit codes: 0 the packet passes, on every node that was asked for; 1 it is denied on one; 2 wrong usage, or it cannot be told \
for one.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExplainOutput {
    Text,
    Json,
}

/// The answer for one node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OfNode {
    node: String,
    /// `agent`; `computed`: worked out here.
    from: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<Explanation>,
    /// Why there is no answer, or why it is computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

pub fn run(args: &ExplainArgs) -> Result<Answer> {
    let question = Question {
        args,
        kubectl: args.flags.kubectl(),
        children: end_children_with_us()?,
        seen: OnceLock::new(),
    };
    let agents = if args.computed { Ok(Vec::new()) } else { question.kubectl.agents() };
    let agents: BTreeMap<String, AgentPod> = match agents {
        Ok(agents) => agents.into_iter().map(|a| (a.node.clone(), a)).collect(),
        Err(e) => {
            say_of("-", &format!("{e:#}"));
            BTreeMap::new()
        }
    };
    let nodes = nodes(args, &question.kubectl, &agents)?;
    let mut answers = Vec::new();
    for chunk in nodes.into_iter().collect::<Vec<_>>().chunks(AT_ONCE) {
        answers.extend(thread::scope(|scope| {
            let asked: Vec<_> = chunk
                .iter()
                .map(|node| {
                    let (question, agent) = (&question, agents.get(node));
                    scope.spawn(move || question.of(node, agent))
                })
                .collect();
            let panicked = |panic| std::panic::resume_unwind(panic);
            asked.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect::<Vec<_>>()
        }));
    }
    match args.output {
        ExplainOutput::Json => {
            print_json(&json!({"apiVersion": API_VERSION, "kind": "NodeExplanations", "items": answers}))?;
        }
        ExplainOutput::Text => print_lines(text(&answers).iter().map(|line| clean(line)))?,
    }
    if answers.iter().any(|a| a.explanation.is_none()) {
        bail!("there is no answer for some node");
    }
    let denied = |a: &OfNode| a.explanation.as_ref().is_some_and(|e| e.answer() == Answer::No);
    Ok(if answers.iter().any(denied) { Answer::No } else { Answer::Yes })
}

/// Those that were named, or all that the API knows of.
fn nodes(
    args: &ExplainArgs,
    kubectl: &Kubectl,
    agents: &BTreeMap<String, AgentPod>,
) -> Result<BTreeSet<String>> {
    if !args.all_nodes {
        return Ok(args.node.iter().cloned().collect());
    }
    let mut nodes: BTreeSet<String> = agents.keys().cloned().collect();
    match kubectl.get(&["nodes"]) {
        Ok(list) => {
            let items = list["items"].as_array().into_iter().flatten();
            nodes.extend(items.filter_map(|n| n["metadata"]["name"].as_str().map(str::to_owned)));
        }
        Err(e) => say_of("-", &format!("nodes without an agent cannot be told: {e}")),
    }
    if nodes.is_empty() {
        bail!("the cluster shows neither a node nor an agent");
    }
    Ok(nodes)
}

struct Question<'a> {
    args: &'a ExplainArgs,
    kubectl: Kubectl,
    children: Children,
    /// The cluster's objects, read once, when they are needed.
    seen: OnceLock<Result<Seen, String>>,
}

impl Question<'_> {
    fn of(&self, node: &str, agent: Option<&AgentPod>) -> OfNode {
        let node = node.to_owned();
        let why = match agent {
            Some(agent) => match ask(&self.kubectl, agent, &self.args.packet.words(), &self.children) {
                Ok(answer) => match serde_json::from_value::<Explanation>(answer) {
                    Ok(e) => return OfNode { node, from: "agent", explanation: Some(e), why: None },
                    Err(e) => format!("its agent's answer is not understood: {e}"),
                },
                Err(why) => format!("its agent was not asked: {why}"),
            },
            None if self.args.computed => "asked for with --computed".to_owned(),
            // Not "allowed": nothing is known to enforce there.
            None => "no agent was found there: what policy says may be enforced by nobody".to_owned(),
        };
        match self.compute(&node) {
            Ok(e) => OfNode { node, from: "computed", explanation: Some(e), why: Some(why) },
            Err(e) => OfNode {
                node,
                from: "computed",
                explanation: None,
                why: Some(format!("{why}; computed here: {e}")),
            },
        }
    }

    fn compute(&self, node: &str) -> Result<Explanation, String> {
        let seen = self.seen.get_or_init(|| {
            let seen = look(&self.kubectl).map_err(|e| format!("{e:#}"))?;
            seen.notes.iter().for_each(|note| say_of("-", note));
            Ok(seen)
        });
        let seen = seen.as_ref().map_err(Clone::clone)?;
        let answer = || {
            let (device, _) = self.args.packet.device()?;
            let devices: Vec<&str> =
                std::iter::once(device).chain(self.args.packet.forwarded_from.as_deref()).collect();
            self.args.packet.judge(seen.store.world(), &seen.view(node, &devices)?)
        };
        answer().map_err(|e: anyhow::Error| format!("{e:#}"))
    }
}

/// One node's explanation in full, or a table of many.
fn text(answers: &[OfNode]) -> Vec<String> {
    let mut out = Vec::new();
    if let [one] = answers {
        let how = if one.from == "agent" { "by its agent" } else { "COMPUTED HERE" };
        out.push(match &one.why {
            Some(why) => format!("node {}, {how} ({why})", one.node),
            None => format!("node {}, {how}", one.node),
        });
        out.extend(one.explanation.iter().flat_map(Explanation::lines));
        return out;
    }
    let row = |a: &OfNode| {
        let of =
            |field: fn(&Explanation) -> String| a.explanation.as_ref().map_or_else(|| "-".to_owned(), field);
        vec![
            a.node.clone(),
            a.explanation.as_ref().map_or_else(|| "UNKNOWN".to_owned(), |e| e.verdict.clone()),
            of(|e| e.stage.clone()),
            of(|e| e.reason.clone()),
            of(|e| match (&e.policy, e.rule) {
                (Some(policy), Some(rule)) => format!("{policy} rule {rule}"),
                (Some(policy), None) => policy.clone(),
                (None, _) => "-".to_owned(),
            }),
            if a.from == "agent" { "agent".to_owned() } else { "COMPUTED HERE".to_owned() },
        ]
    };
    out.extend(columns(
        &["NODE", "VERDICT", "STAGE", "REASON", "DECIDED BY", "ANSWERED BY"],
        answers.iter().map(row).collect(),
    ));
    let whys: Vec<String> =
        answers.iter().filter_map(|a| Some(format!("{}: {}", a.node, a.why.as_ref()?))).collect();
    if !whys.is_empty() {
        out.push(String::new());
        out.extend(whys);
    }
    out
}
