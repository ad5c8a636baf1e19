//! `portcullis validate`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Answer;
use super::output::{print_lines, read_documents, tell};
use crate::policy::Severity;
use crate::resource::Store;

/// Check documents without applying them: every error and warning, with file, line, field and remedy
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// File or folder; `-` is stdin
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    filename: Vec<PathBuf>,
}

pub fn run(args: &ValidateArgs) -> Result<Answer> {
    let mut documents = Vec::new();
    for path in &args.filename {
        documents.extend(read_documents(path)?);
    }
    let report = Store::default().replace(documents);
    let bad = tell(&report.problems);
    let count = |s: Severity| report.problems.iter().filter(|p| p.severity == s).count();
    print_lines([format!(
        "{} valid, {} errors, {} warnings",
        report.accepted.len(),
        count(Severity::Error),
        count(Severity::Warning)
    )])?;
    Ok(if bad { Answer::No } else { Answer::Yes })
}
