//! `portcullis run`: the agent.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Answer;
use super::log::LogFormat;
use super::settings;
use crate::agent::source::KubernetesOptions;
use crate::agent::{self, Options, Role};
use crate::config::{Listen, listen_address};
use crate::loader::attach::Mechanism;
use crate::loader::capabilities;
use crate::state::KUBERNETES;

pub use crate::config::DEFAULT_STATE_DIR;

/// Enforce the policies of a folder on this node, and follow its changes
#[derive(Debug, Args)]
#[command(after_help = RUN_HELP)]
pub struct RunArgs {
    /// File of settings; the options below override it. Default: /etc/portcullis/config.yaml, if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of policies, host endpoints and what else they need. Default: /etc/portcullis/policies
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// Take policies from the Kubernetes API instead of a folder
    #[arg(long, conflicts_with = "policies")]
    kubernetes: bool,
    /// How to reach the Kubernetes API. Default: $KUBECONFIG, ~/.kube/config, else the pod's service account
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig. Default: its current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Follow the cluster that answers, even if it is another one than before and holds no HostEndpoint
    #[arg(long)]
    accept_new_cluster: bool,
    /// Name of this node, as `spec.node` of its host endpoints has it. Default: the hostname
    #[arg(long)]
    node: Option<String>,
    /// Where maps and links are pinned, on a bpffs. One agent per folder. Default: below /sys/fs/bpf/portcullis
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
    /// Mount point of the bpffs; one is mounted there when there is none
    #[arg(long, value_name = "DIR")]
    bpffs: Option<PathBuf>,
    /// Where the state is written that `status` reads. Default: /var/lib/portcullis
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How programs are attached. Default: TCX links from Linux 6.6 on, else clsact
    #[arg(long, value_enum)]
    attach: Option<Mechanism>,
    /// Seconds for which packets of connections that began unseen are judged by policy, on a device that becomes
    /// governed. Default: 60
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=3600))]
    grace: Option<u32>,
    /// Where metrics and health are answered: an IP address of this node, or `off`. Default: 127.0.0.1
    #[arg(long, value_name = "ADDRESS", value_parser = HttpAddress::parse)]
    http_address: Option<HttpAddress>,
    /// Port of metrics and health. Default: 10187
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    http_port: Option<u16>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
    /// Node-wide: count what policy denies, drop nothing. Lasts until an agent runs without it
    #[arg(long)]
    audit: bool,
}

impl RunArgs {
    pub(super) fn log_format(&self) -> LogFormat {
        self.log_format
    }
}

/// `None`: off.
#[derive(Clone, Copy, Debug)]
struct HttpAddress(Option<IpAddr>);

impl HttpAddress {
    fn parse(text: &str) -> Result<Self, String> {
        listen_address(text).map(Self)
    }
}

/// Of `portcullis floor`.
pub const FLOOR_HELP: &str = "Examples:
  portcullis floor                                     as portcullis-floor.service runs it
  portcullis floor --config /etc/portcullis/config.yaml

Exit codes: 0 the agent took over, or ended by a signal; 2 wrong usage, settings with errors, or it could not start.";

const RUN_HELP: &str = "Examples:
  portcullis run                                       with /etc/portcullis/config.yaml, if it is there
  portcullis run --policies ./policies --node node1
  portcullis run --audit                               count what policy denies, drop nothing

Ctrl-C or SIGTERM ends the agent; what is in force stays in force. `portcullis detach` ends that.

Exit codes: 0 ended by a signal; 2 wrong usage, settings with errors, or it could not start.";

/// `portcullis floor`: the same line from policy to packet, and the same file of the last good state; it begins before
/// the network is configured, and leaves when the agent comes.
pub fn floor(args: RunArgs) -> Result<Answer> {
    start(args, Role::Floor)
}

pub fn run(args: RunArgs) -> Result<Answer> {
    start(args, Role::Agent)
}

fn start(args: RunArgs, role: Role) -> Result<Answer> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "portcullis must be root here, to load BPF programs and attach them to devices: run it with sudo \
             (`validate`, `get`, `explain` and `test --engine model` work without)"
        );
    }
    let options = options(args, role)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(agent::run(options)).map_err(capabilities::named)?;
    Ok(Answer::Yes)
}

/// The file's settings, and over them what the command line says.
fn options(args: RunArgs, role: Role) -> Result<Options> {
    let mut config = settings::load(args.config.as_deref())?;
    config.settings.grace_seconds = args.grace.unwrap_or(config.settings.grace_seconds);
    // A folder that is named on the command line is meant, whatever the file says.
    let kubernetes = args.kubernetes || config.kubernetes && args.policies.is_none();
    if !kubernetes && (args.kubeconfig.is_some() || args.context.is_some() || args.accept_new_cluster) {
        bail!(
            "--kubeconfig, --context and --accept-new-cluster need --kubernetes, or `kubernetes: true` in the settings"
        );
    }
    let policies = match kubernetes {
        true => KUBERNETES.into(),
        false => absolute(&args.policies.unwrap_or(config.policies))?,
    };
    Ok(Options {
        role,
        node: args.node.or(config.node).map_or_else(hostname, Ok)?,
        policies,
        kubernetes: kubernetes.then(|| KubernetesOptions {
            kubeconfig: args.kubeconfig.or(config.kubeconfig),
            context: args.context,
            accept_new_cluster: args.accept_new_cluster,
        }),
        pin_dir: absolute(&args.pin_dir.unwrap_or(config.pin_dir))?,
        bpffs: args.bpffs.or(config.bpffs),
        state_dir: absolute(&args.state_dir.unwrap_or(config.state_dir))?,
        attach: args.attach.or(config.attach),
        xdp: config.xdp,
        http: Listen {
            address: args.http_address.map_or(config.http.address, |given| given.0),
            port: args.http_port.unwrap_or(config.http.port),
        },
        audit: args.audit,
        settings: config.settings,
    })
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
