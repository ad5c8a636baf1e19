//! `portcullis apply`: into the watched folder, all or nothing (D45), on trial if asked for.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::Answer;
use super::change::ChangeArgs;
use super::output::{read_documents, tell};
use crate::resource::{Document, StoredObject, documents_from_str};
use crate::safety::plan;
use crate::safety::text::Sources;

/// Put documents into the watched folder, after checking them against all that is there: all of them, or none.
/// Refused when it would cut the connection you are typing on
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ApplyArgs {
    /// File or folder; `-` is stdin
    #[arg(short, long = "filename", value_name = "PATH")]
    filename: PathBuf,
    #[command(flatten)]
    change: ChangeArgs,
}

const HELP: &str = "Examples:
  portcullis apply -f web.yaml --dry-run        what would change, and what `lint` says of it
  portcullis apply -f web.yaml --confirm 2m     undone in 2 min unless `portcullis confirm` follows
  cat web.yaml | portcullis apply -f -

Findings of `portcullis lint` about these documents, or that they bring about, are warnings: they refuse nothing.

Exit codes: 0 done, and with --confirm in force; 1 refused: nothing was changed; 2 wrong usage, or it could not be done.";

pub fn run(args: &ApplyArgs) -> Result<Answer> {
    let (documents, sources) = read(args)?;
    let change = args.change.begin()?;
    let (mut store, before) = plan::objects(&change.locked);
    let world = store.world().clone();
    let report = store.apply(documents);
    if tell(&report.problems) {
        eprintln!("nothing was applied");
        return Ok(Answer::No);
    }
    let applied: Vec<&StoredObject> =
        store.objects().filter(|o| report.accepted.contains(&o.key.to_string())).collect();
    if applied.is_empty() {
        eprintln!("no documents in {}", args.filename.display());
        return Ok(Answer::No);
    }
    let plan = plan::apply(&change.locked, &before, &applied, &sources)?;
    change.carry_out(&plan, &world, &store)
}

fn read(args: &ApplyArgs) -> Result<(Vec<Document>, Sources)> {
    if args.filename.as_os_str() != "-" {
        let documents = read_documents(&args.filename)?;
        let sources = Sources::of(&documents)?;
        return Ok((documents, sources));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
    let name = "<stdin>";
    Ok((documents_from_str(name, &text).0, Sources::stream(name, text)))
}
