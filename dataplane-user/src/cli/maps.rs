//! `portcullis maps`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::Answer;
use super::output::{print_json, print_lines, print_table, tell_if_behind};
use super::run::DEFAULT_STATE_DIR;
use crate::inspect::kernel::enter;
use crate::inspect::maps::{all, list};
use crate::inspect::render::entries;
use crate::inspect::verify::verify;
use crate::maps::Pinned;
use crate::maps::pinned::{now_ns, slot_in_force};
use crate::state::{API_VERSION, State};

/// Look at the pinned BPF maps, in the words of policies
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct MapsArgs {
    #[command(subcommand)]
    command: MapsCommand,
}

const EXAMPLES: &str = "Examples:
  portcullis maps list
  portcullis maps dump pc_rules
  portcullis maps dump pc_flows -o json
  portcullis maps verify

`bpftool map dump pinned PATH` prints the same entries as typed words; the maps of generations are inner maps: `bpftool
map dump id ID`.

Exit codes: 0 done; 1 `verify` found differences; 2 wrong usage, or it could not be read.";

const LIST_HELP: &str = "Examples:
  portcullis maps list
  portcullis maps list -o json | jq '.items[] | {name, entries, limit}'

Exit codes: 0 done; 2 wrong usage, or the maps could not be read.";

const DUMP_HELP: &str = "Examples:
  portcullis maps dump rules
  portcullis maps dump pc_addr_class
  portcullis maps dump pc_flows -o json

Exit codes: 0 done; 2 wrong usage, or the map could not be read.";

const VERIFY_HELP: &str = "Examples:
  portcullis maps verify
  portcullis maps verify -o json | jq '.differences'

Exit codes: 0 the kernel holds what the policies say; 1 entries differ; 2 wrong usage, or it cannot be told.";

#[derive(Debug, Subcommand)]
enum MapsCommand {
    /// Every map: its kind, entries, limit, memory, and what it is for
    #[command(after_help = LIST_HELP)]
    List(Common),
    /// The entries of a map; of the generation in force where there is one for each
    #[command(after_help = DUMP_HELP)]
    Dump(DumpArgs),
    /// Derive the tables again from the policies, each in its last good version, and compare. Exit code 1: they differ
    #[command(after_help = VERIFY_HELP)]
    Verify(Common),
}

#[derive(Debug, Args)]
struct Common {
    #[arg(short, long, value_enum, default_value = "table")]
    output: MapsOutput,
    /// As given to `run`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
}

#[derive(Debug, Args)]
struct DumpArgs {
    /// As `maps list` shows it: `pc_rules`, or `rules`
    map: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MapsOutput {
    Table,
    Json,
}

pub fn run(args: &MapsArgs) -> Result<Answer> {
    match &args.command {
        MapsCommand::List(common) => show_list(common),
        MapsCommand::Dump(args) => dump(args),
        MapsCommand::Verify(common) => show_verification(common),
    }
}

struct Place {
    state: State,
    pinned: Pinned,
    slot: Option<u32>,
}

fn open(state_dir: &Path) -> Result<Place> {
    let state = State::load(state_dir)?;
    let pinned = Pinned::new(&state.pin_dir);
    let control = pinned.control()?;
    let slot = slot_in_force(&control, now_ns(&control));
    if let Err(e) = enter(&state) {
        eprintln!("note: devices are shown by number: {e:#}");
    }
    Ok(Place { state, pinned, slot })
}

fn show_list(args: &Common) -> Result<Answer> {
    let place = open(&args.state_dir)?;
    let maps = list(&place.pinned, place.slot, &place.state)?;
    if args.output == MapsOutput::Json {
        print_json(&json!({"apiVersion": API_VERSION, "kind": "MapList", "items": maps}))?;
        return Ok(Answer::Yes);
    }
    let rows = maps.iter().map(|m| {
        vec![
            m.name.to_owned(),
            m.kind.clone(),
            m.entries.map_or_else(|| "-".to_owned(), |n| n.to_string()),
            m.limit.to_string(),
            format!("{} KiB", m.memory.div_ceil(1024)),
            m.purpose.to_owned(),
        ]
    });
    print_table(&["MAP", "KIND", "ENTRIES", "LIMIT", "MEMORY", "WHAT FOR"], rows.collect())?;
    Ok(Answer::Yes)
}

fn dump(args: &DumpArgs) -> Result<Answer> {
    let named = |map: &&str| *map == args.map || map.strip_prefix("pc_") == Some(&args.map);
    let Some(map) = all().find(named) else {
        bail!("{:?} is no map of ours; they are {}", args.map, all().collect::<Vec<_>>().join(", "));
    };
    let place = open(&args.common.state_dir)?;
    let found = entries(&place.pinned, map, place.slot, &place.state)?;
    match args.common.output {
        MapsOutput::Json => {
            print_json(&json!({"apiVersion": API_VERSION, "kind": "MapDump", "map": map, "entries": found}))?;
        }
        MapsOutput::Table => {
            print_table(&["KEY", "VALUE"], found.iter().map(|e| vec![e.key.clone(), e.text()]).collect())?;
        }
    }
    Ok(Answer::Yes)
}

fn show_verification(args: &Common) -> Result<Answer> {
    let state = State::load(&args.state_dir)?;
    tell_if_behind(Some(&state));
    let result = verify(&state, &args.state_dir)?;
    let same = result.differences.is_empty();
    match args.output {
        MapsOutput::Json => {
            let mut value = json!(result);
            value["apiVersion"] = json!(API_VERSION);
            value["kind"] = json!("Verification");
            print_json(&value)?;
        }
        MapsOutput::Table if same => print_lines([format!(
            "generation {}: {} entries in 12 maps are what the policies say",
            result.generation, result.entries
        )])?,
        MapsOutput::Table => {
            let none = || "nothing".to_owned();
            print_lines(result.differences.iter().map(|d| {
                let kernel = d.kernel.clone().unwrap_or_else(none);
                let derived = d.derived.clone().unwrap_or_else(none);
                format!("{} {}\n  in the kernel: {kernel}\n  by the policies: {derived}", d.map, d.key)
            }))?;
            eprintln!(
                "generation {}: {} entries differ. If a file was just changed, try again; otherwise restart the \
                 agent, which writes a new generation, and look who else writes these maps",
                result.generation,
                result.differences.len()
            );
        }
    }
    Ok(if same { Answer::Yes } else { Answer::No })
}
