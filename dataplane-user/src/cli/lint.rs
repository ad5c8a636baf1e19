//! `portcullis lint`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::Answer;
use super::explain::view_by_agent;
use super::output::{counted, print_json, print_lines, read_documents, tell};
use super::run::DEFAULT_STATE_DIR;
use crate::index::{Snapshot, status};
use crate::lint::{self, Code, Finding};
use crate::policy::{Problem, Severity};
use crate::resource::Store;
use crate::state::{API_VERSION, State};

/// Find what is valid and probably not meant: policy that keeps nobody out, rules that never act, lock-outs.
/// Each finding has a page in docs/lint. Exit code 1 when there is one
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct LintArgs {
    /// File or folder; `-` is stdin
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    filename: Vec<PathBuf>,
    /// Look at this machine's own devices and addresses, under this node name, with the settings of the agent that runs here.
    /// Without it: at what the documents say
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[arg(short, long, value_enum, default_value = "text")]
    output: LintOutput,
}

const HELP: &str = "Examples:
  portcullis lint -f /etc/portcullis/policies
  portcullis lint -f web.yaml -f endpoints.yaml -o json
  portcullis lint -f /etc/portcullis/policies --node node1     with this machine's devices

Exit codes: 0 nothing found; 1 there are findings, or documents with errors; 2 wrong usage, or it could not be read.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LintOutput {
    Text,
    Json,
}

pub fn run(args: &LintArgs) -> Result<Answer> {
    let mut documents = Vec::new();
    for path in &args.filename {
        documents.extend(read_documents(path)?);
    }
    let mut store = Store::default();
    let report = store.replace(documents);
    // What is refused is `validate`'s business; here it only must not be forgotten.
    let refused = report.errors().count();
    tell(report.errors());
    let view = match &args.node {
        Some(node) => {
            let agent = State::load(DEFAULT_STATE_DIR.as_ref()).ok();
            Some(view_by_agent(Some(node.clone()), agent.as_ref())?)
        }
        None => None,
    };
    let findings = match &view {
        Some(view) => lint::check(store.world(), view),
        None => lint::check_documents(store.world()),
    };
    let mut problems: Vec<(Option<Finding>, Problem)> =
        report.problems.into_iter().filter(|p| p.severity == Severity::Warning).map(|p| (None, p)).collect();
    problems.extend(findings.into_iter().map(|f| (Some(f.clone()), Problem::from(f))));
    for (_, problem) in problems.iter_mut().filter(|(finding, _)| finding.is_some()) {
        lint::locate(std::slice::from_mut(problem), &store);
    }
    problems.sort_by(|(_, a), (_, b)| (&a.file, a.line, a).cmp(&(&b.file, b.line, b)));
    match args.output {
        LintOutput::Json => {
            let items: Vec<Value> = problems.iter().map(|(f, p)| item(f.as_ref(), p)).collect();
            let mut report = json!({"apiVersion": API_VERSION, "kind": "LintReport", "findings": items});
            if let Some(view) = &view {
                // What became of each object on this machine: accepted or not, who selects it, what of it never acts.
                let objects = status::of(&store, &Snapshot::build(store.world(), view));
                report["objects"] = serde_json::to_value(objects)?;
            }
            print_json(&report)?;
        }
        LintOutput::Text => {
            print_lines(problems.iter().map(|(_, p)| p.to_string()))?;
            let looked = match refused {
                0 => String::new(),
                _ => format!("; {}, above: what has one was not looked at", counted(refused, "error")),
            };
            eprintln!("{}{looked}", counted(problems.len(), "finding"));
        }
    }
    Ok(if refused > 0 || !problems.is_empty() { Answer::No } else { Answer::Yes })
}

/// Of validation's own warnings one has a page; the others have no code.
fn item(finding: Option<&Finding>, problem: &Problem) -> Value {
    let by_page = Code::ALL.into_iter().find(|code| problem.message.contains(&code.page()));
    let code = finding.map(|f| f.code).or(by_page);
    json!({
        "code": code.map(|c| c.to_string()),
        "page": code.map(Code::page),
        "object": problem.object,
        "path": problem.path,
        "value": problem.value,
        "file": problem.file,
        "line": problem.line,
        "why": finding.map_or(&problem.message, |f| &f.why),
        "write": finding.map(|f| &f.write),
    })
}
