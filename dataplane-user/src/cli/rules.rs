//! `portcullis get rules`.

use std::path::Path;

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde_json::json;

use super::Answer;
use super::get::GetOutput;
use super::output::{print_json, print_table};
use super::status::list_name;
use crate::inspect::kernel::{device_name, enter};
use crate::inspect::rules::{RuleView, read};
use crate::observe::filter::names_policy;
use crate::state::{API_VERSION, State};

pub fn run(
    state_dir: &Path,
    device: Option<&str>,
    policy: Option<&str>,
    output: GetOutput,
) -> Result<Answer> {
    let state = State::load(state_dir)?;
    if let Some(device) = device {
        enter(&state)?;
        if !state.governed.contains_key(device) {
            let known: Vec<&str> = state.governed.keys().map(String::as_str).collect();
            bail!("no HostEndpoint governs a device {device}; governed are {}", known.join(", "));
        }
    }
    let on = |ifindex: u32| device.is_none_or(|wanted| device_name(ifindex).as_deref() == Some(wanted));
    let mut rules = read(&state, on)?;
    if let Some(policy) = policy {
        rules.retain(|r| r.policy.as_deref().is_some_and(|p| names_policy(policy, p)));
    }
    match output {
        GetOutput::Json => {
            print_json(&json!({"apiVersion": API_VERSION, "kind": "RuleList", "items": rules}))?;
        }
        GetOutput::Table | GetOutput::Wide => table(&rules, output == GetOutput::Wide)?,
        GetOutput::Yaml | GetOutput::Name => bail!("rules are shown as -o table, wide or json"),
    }
    Ok(if rules.is_empty() { Answer::No } else { Answer::Yes })
}

fn table(rules: &[RuleView], wide: bool) -> Result<()> {
    if rules.is_empty() {
        eprintln!("no such rule is in force");
        return Ok(());
    }
    let now = Timestamp::now();
    let mut header =
        vec!["HOSTENDPOINT", "LIST", "TIER", "POLICY", "RULE", "ACTION", "HITS", "BYTES", "LAST HIT"];
    if wide {
        header.extend(["POSITION", "COMPILED"]);
    }
    let rows = rules.iter().map(|r| {
        let policy = r.policy.as_deref().unwrap_or("-");
        let mut row = vec![
            r.endpoint.clone(),
            list_name(&r.list).to_owned(),
            r.tier.clone(),
            policy.strip_prefix("GlobalNetworkPolicy/").unwrap_or(policy).to_owned(),
            r.index.map_or_else(|| "-".to_owned(), |i| i.to_string()),
            r.action.clone(),
            r.hits.packets.to_string(),
            r.hits.bytes.to_string(),
            r.hits.last(now),
        ];
        if wide {
            row.extend([r.position.to_string(), r.compiled.to_string()]);
        }
        row
    });
    print_table(&header, rows.collect())
}
