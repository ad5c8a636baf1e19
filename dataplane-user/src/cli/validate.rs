//! `portcullis validate`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::Answer;
use super::output::{counted, print_lines, read_documents, tell};
use crate::config;
use crate::lint;
use crate::policy::{Problem, Severity};
use crate::resource::Store;

/// Check documents without applying them: every error and warning, with file, line, field and remedy
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ValidateArgs {
    /// File or folder; `-` is stdin
    #[arg(short, long = "filename", value_name = "PATH", required_unless_present = "config")]
    filename: Vec<PathBuf>,
    /// File of settings, as `run --config` reads it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

const HELP: &str = "Examples:
  portcullis validate -f /etc/portcullis/policies
  kubectl get gnp -o yaml | portcullis validate -f -
  portcullis validate --config /etc/portcullis/config.yaml

Exit codes: 0 valid, with or without warnings; 1 an error was found; 2 wrong usage, or it could not be read.";

pub fn run(args: &ValidateArgs) -> Result<Answer> {
    let bad_settings = args.config.as_deref().map(settings).transpose()?.unwrap_or(false);
    if args.filename.is_empty() {
        return Ok(if bad_settings { Answer::No } else { Answer::Yes });
    }
    let mut documents = Vec::new();
    for path in &args.filename {
        documents.extend(read_documents(path)?);
    }
    let mut store = Store::default();
    let mut report = store.replace(documents);
    let mut found: Vec<Problem> =
        lint::check_documents(store.world()).into_iter().map(Problem::from).collect();
    lint::locate(&mut found, &store);
    report.add(found);
    let bad = tell(&report.problems) | bad_settings;
    let count = |s: Severity| report.problems.iter().filter(|p| p.severity == s).count();
    print_lines([format!(
        "{} valid, {}, {}",
        report.accepted.len(),
        counted(count(Severity::Error), "error"),
        counted(count(Severity::Warning), "warning")
    )])?;
    Ok(if bad { Answer::No } else { Answer::Yes })
}

/// Tells about a file of settings; true when it has an error.
fn settings(path: &Path) -> Result<bool> {
    let reading =
        config::read_file(path).with_context(|| format!("cannot read the settings {}", path.display()))?;
    let bad = tell(&reading.problems);
    print_lines([format!("{}: settings {}", path.display(), if bad { "refused" } else { "valid" })])?;
    Ok(bad)
}
