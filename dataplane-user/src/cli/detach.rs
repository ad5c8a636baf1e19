//! `portcullis detach`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Answer;
use super::output::print_lines;
use super::settings;
use crate::loader::detach::detach;

/// Stop enforcing: remove every program, link and map of ours from this node
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct DetachArgs {
    /// File of settings, as given to `run`. Default: /etc/portcullis/config.yaml, if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As given to `run`; overrides the settings
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
    /// Then stay until a signal comes: for a pod, which would be started again when it ends
    #[arg(long)]
    stay: bool,
}

const HELP: &str = "Examples:
  portcullis detach                                  after `systemctl stop portcullis`
  portcullis detach --pin-dir /sys/fs/bpf/test
  portcullis detach --stay                           as packaging/kubernetes/portcullis-detach.yaml runs it

Exit codes: 0 nothing is enforced any more; 2 wrong usage, or it could not be done, for instance as an agent runs.";

pub fn run(args: &DetachArgs) -> Result<Answer> {
    if !nix::unistd::geteuid().is_root() {
        bail!("portcullis detach must be root: run it with sudo");
    }
    let pin_dir = match &args.pin_dir {
        Some(dir) => dir.clone(),
        None => settings::load(args.config.as_deref())?.pin_dir,
    };
    let done = detach(&pin_dir)?;
    print_lines([format!(
        "detached: {} links, {} clsact filters and {} pinned maps removed; nothing is enforced",
        done.links, done.filters, done.pins
    )])?;
    if args.stay {
        wait_for_signal()?;
    }
    Ok(Answer::Yes)
}

/// The first process of a container gets no signal that it does not listen for.
fn wait_for_signal() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    })
}
