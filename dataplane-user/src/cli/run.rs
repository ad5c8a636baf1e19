//! `portcullis run`: the agent.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Answer;
use crate::agent::{self, Options};
use crate::loader::attach::{Mechanism, default_pin_dir};

/// Where the agent keeps what `status` reads.
pub const DEFAULT_STATE_DIR: &str = "/run/portcullis";

/// Enforce the policies of a folder on this node, and follow its changes
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Folder of policies, host endpoints and what else they need
    #[arg(long, value_name = "DIR")]
    policies: PathBuf,
    /// Name of this node, as `spec.node` of its host endpoints has it. Default: the hostname
    #[arg(long)]
    node: Option<String>,
    /// Where maps and links are pinned, on a bpffs. One agent per folder
    #[arg(long, value_name = "DIR", default_value_os_t = default_pin_dir())]
    pin_dir: PathBuf,
    /// Mount point of the bpffs; one is mounted there when there is none
    #[arg(long, value_name = "DIR")]
    bpffs: Option<PathBuf>,
    /// Where the state is written that `status` reads
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// How programs are attached. Default: TCX links from Linux 6.6 on, else clsact
    #[arg(long, value_enum)]
    attach: Option<Mechanism>,
}

pub fn run(args: RunArgs) -> Result<Answer> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "portcullis run must be root, to load BPF programs and attach them to devices: run it with sudo \
             (`validate`, `get`, `explain` and `test --engine model` work without)"
        );
    }
    let options = Options {
        node: args.node.map_or_else(hostname, Ok)?,
        policies: absolute(&args.policies)?,
        pin_dir: absolute(&args.pin_dir)?,
        bpffs: args.bpffs,
        state_dir: args.state_dir,
        attach: args.attach,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(agent::run(options))?;
    Ok(Answer::Yes)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()))
}

/// This machine's name.
pub fn hostname() -> Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("cannot read the hostname; name the node with --node")?;
    Ok(name.trim().to_owned())
}
