//! `portcullis delete`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::Answer;
use super::apply::replace_in_file;
use super::output::{print_lines, read_documents};
use crate::resource::{ObjectKey, Store};

/// Take an object out of the watched folder
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// `gnp/NAME`, `HostEndpoint/NAME`, `Kind/NAMESPACE/NAME`
    #[arg(value_name = "KIND/NAME")]
    object: String,
    /// Folder that the agent watches
    #[arg(long, value_name = "DIR")]
    policies: PathBuf,
}

pub fn run(args: &DeleteArgs) -> Result<Answer> {
    let Some(key) = ObjectKey::parse(&args.object) else {
        bail!("{:?} names no object: write KIND/NAME, for example gnp/web", args.object);
    };
    let mut store = Store::default();
    store.replace(read_documents(&args.policies)?);
    match store.delete(key.kind.as_str(), &key.namespace, &key.name) {
        Err(problem) => {
            eprintln!("{} {} in {}", problem.object, problem.message, args.policies.display());
            Ok(Answer::No)
        }
        Ok(removed) => {
            let file = replace_in_file(&removed, None)?;
            print_lines([format!("{key} deleted ({})", file.display())])?;
            Ok(Answer::Yes)
        }
    }
}
