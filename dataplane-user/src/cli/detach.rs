//! `portcullis detach`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::Answer;
use super::output::print_lines;
use crate::loader::detach::detach;
use crate::loader::pins::default_pin_dir;

/// Stop enforcing: remove every program, link and map of ours from this node
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// As given to `run`
    #[arg(long, value_name = "DIR", default_value_os_t = default_pin_dir())]
    pin_dir: PathBuf,
}

pub fn run(args: &DetachArgs) -> Result<Answer> {
    if !nix::unistd::geteuid().is_root() {
        bail!("portcullis detach must be root: run it with sudo");
    }
    let done = detach(&args.pin_dir)?;
    print_lines([format!(
        "detached: {} links, {} clsact filters and {} pinned maps removed; nothing is enforced",
        done.links, done.filters, done.pins
    )])?;
    Ok(Answer::Yes)
}
