//! `kubectl portcullis observe`.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{KubectlFlags, clean, end_children_with_us, say_of};
use crate::cli::Answer;
use crate::cli::observe::{FilterArgs, talk};
use crate::observe::{Line, client};
use crate::plugin::merge::OfNode;
use crate::plugin::observe::{self, Wanted, Whole};

/// Show what all nodes refuse, and what `Log` rules met, in the order of time
///
/// As `portcullis observe`, with the node in front (`node` in JSON). Each node keeps its latest 8192 events. With -f nodes
/// that come later are shown too, and a node whose stream ends is asked again, from where it ended.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ObserveArgs {
    /// Only this node; may be given more than once
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    node: Vec<String>,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    filters: FilterArgs,
    /// An age (`10m`, `1h30m`) by each node's clock, or a time. Default: all that is kept; with -f nothing of it
    #[arg(long, value_name = "AGE|TIME")]
    since: Option<String>,
    #[arg(short, long, value_enum, default_value = "compact")]
    output: ObserveOutput,
    /// Refuse to look at more nodes than this: each takes a connection
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    max_nodes: usize,
    #[command(flatten)]
    pub(super) flags: KubectlFlags,
}

const HELP: &str = "Examples:
  portcullis kubectl observe --since 10m
  portcullis kubectl observe -f --node n1,n2 --stage preDNAT
  portcullis kubectl observe -f -o json | jq -r .node

What cannot be shown is said on stderr, node by node: no agent, an agent that does not run, a node that does not answer.

Exit codes: 0 all nodes were shown; 1 some node could not be; 2 wrong usage, or no agent could be asked.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ObserveOutput {
    /// One line each
    Compact,
    /// JSON lines
    Json,
}

pub fn run(args: &ObserveArgs) -> Result<Answer> {
    // Here, once, and not by each node.
    args.filters.check(args.since.as_deref())?;
    let children = end_children_with_us()?;
    let kubectl = args.flags.kubectl();
    let wanted = Wanted {
        nodes: args.node.iter().cloned().collect(),
        words: args.filters.words(),
        since: args.since.clone(),
        most: args.max_nodes,
    };
    let mut printer = Printer { output: args.output, follow: args.follow, width: 0, shown: BTreeMap::new() };
    let each = |node: &str, line: Line| printer.line(node, &line);
    if args.follow {
        observe::follow(&kubectl, &wanted, &children, each, say_of)?;
        return Ok(Answer::Yes);
    }
    Ok(match observe::kept(&kubectl, &wanted, &children, each, say_of)? {
        Whole::Yes => Answer::Yes,
        Whole::No => Answer::No,
    })
}

struct Printer {
    output: ObserveOutput,
    follow: bool,
    /// Of the longest node's name so far.
    width: usize,
    shown: BTreeMap<String, u64>,
}

impl Printer {
    fn line(&mut self, node: &str, line: &Line) -> Result<()> {
        if self.output == ObserveOutput::Json {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", serde_json::to_string(&OfNode { node, line })?)?;
            return Ok(out.flush()?);
        }
        match line {
            Line::Event(record) => {
                if let Some(Line::Lost(lost)) = client::lost(record) {
                    say_of(node, &format!("{} events lost: {}", lost.lost, lost.why));
                }
                *self.shown.entry(node.to_owned()).or_default() += 1;
                self.width = self.width.max(node.chars().count());
                let mut out = std::io::stdout().lock();
                writeln!(out, "{:<width$}  {}", clean(node), clean(&record.compact()), width = self.width)?;
                out.flush()?;
            }
            Line::Lost(lost) => say_of(node, &format!("{} events lost: {}", lost.lost, lost.why)),
            Line::Summary(_) if self.follow => {}
            Line::Summary(summary) => {
                let shown = self.shown.get(node).copied().unwrap_or_default();
                say_of(node, &talk(summary, shown));
            }
        }
        Ok(())
    }
}
