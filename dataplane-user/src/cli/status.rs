//! `portcullis status`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::Answer;
use super::output::{print_json, print_lines};
use super::run::DEFAULT_STATE_DIR;
use crate::agent::state::{State, now};

/// What is in force on this node, which devices are not protected, and what is wrong
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[arg(short, long, value_enum, default_value = "table")]
    output: StatusOutput,
    /// As given to `run`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StatusOutput {
    Table,
    Json,
}

/// 1 when something is in trouble or a document is rejected.
pub fn run(args: &StatusArgs) -> Result<Answer> {
    let state = State::load(&args.state_dir)?;
    match args.output {
        StatusOutput::Json => print_json(&state)?,
        StatusOutput::Table => print_lines(lines(&state))?,
    }
    let bad = !state.trouble.is_empty() || state.problems.iter().any(|p| p.severity == "error");
    Ok(if bad { Answer::No } else { Answer::Yes })
}

/// The worst first: what is broken, then what is open, then what holds.
fn lines(state: &State) -> Vec<String> {
    let mut out = crate::safety::banner(&state.pin_dir);
    let errors = state.problems.iter().filter(|p| p.severity == "error").count();
    if errors > 0 {
        out.push(format!("DEGRADED: {errors} errors in documents; their last good versions stay in force"));
    }
    if !state.agent_runs() {
        out.push(
            "NO AGENT: the agent is not running; what it put in force stays in force, without updates".into(),
        );
    }
    out.extend(state.trouble.iter().map(|(place, why)| format!("TROUBLE: {place}: {why}")));
    out.extend(
        state.last_good_ignored.iter().map(|why| format!("NOTE: the last good state was ignored: {why}")),
    );
    out.push(format!(
        "{} for {} s; node {}, programs by {}",
        state.headline(),
        state.age(),
        state.node,
        state.attached_by
    ));
    out.push(String::new());
    let kept = state.kept.iter().map(|k| {
        let ago = |at: u64| format!("{} s ago", now().saturating_sub(at));
        let (since, accepted) = (ago(k.since), ago(k.accepted));
        format!("{}: version accepted {accepted}, kept since {since}: {}", k.object, k.reasons.join("; "))
    });
    section(&mut out, "Kept at their last good version", kept);
    section(&mut out, "Unprotected devices", state.unprotected.iter().cloned());
    for endpoint in &state.endpoints {
        let devices: Vec<&str> = endpoint.devices.iter().map(String::as_str).collect();
        let lists = endpoint.lists.iter().map(|(list, policies)| format!("{list}: {}", policies.join(", ")));
        section(&mut out, &format!("HostEndpoint/{} on {}", endpoint.name, devices.join(", ")), lists);
    }
    let lost = state.lost.iter().map(|(name, why)| format!("HostEndpoint/{name}: {why}"));
    section(&mut out, "Host endpoints that bind nothing", lost);
    let empty = state.empty_selectors.iter().map(|e| format!("{} {}: {}", e.policy, e.path, e.selector));
    section(&mut out, "Selectors that match nothing", empty);
    section(&mut out, "Policies that select nothing here", state.idle_policies.iter().cloned());
    section(&mut out, "Policies not for hosts", state.not_for_hosts.iter().cloned());
    let problems = state.problems.iter().map(|p| {
        let place = if p.line > 0 { format!("{}:{}", p.file, p.line) } else { p.file.clone() };
        let value = if p.value.is_empty() { String::new() } else { format!(" {:?}", p.value) };
        format!("{place}: {}: {} {}{value}: {}", p.severity, p.object, p.path, p.message)
    });
    section(&mut out, "Documents", problems);
    out
}

fn section(out: &mut Vec<String>, title: &str, items: impl Iterator<Item = String>) {
    let mut items = items.peekable();
    if items.peek().is_some() {
        out.push(format!("{title}:"));
        out.extend(items.map(|i| format!("  {i}")));
    }
}
