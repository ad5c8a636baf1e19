//! `portcullis kubectl`, which is also `kubectl portcullis`: a program of the name `kubectl-portcullis` in PATH is a command
//! of kubectl, and `kubectl_complete-portcullis` completes it. Both are this program under another name.

mod complete;
mod explain;
mod observe;
mod status;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use super::Answer;
use crate::plugin::kubectl::Kubectl;
use crate::plugin::stream::Children;

/// How the program is called as a plugin.
pub const PLUGIN: &str = "kubectl-portcullis";
/// And for its completion.
const COMPLETION: &str = "kubectl_complete-portcullis";

/// Ask all nodes of a cluster, with your own kubectl and its rights. As a plugin: `kubectl portcullis`
///
/// Nodes are asked by `kubectl exec` in the agents' pods: no agent listens on the network for it.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct KubectlArgs {
    #[command(subcommand)]
    command: KubectlCommand,
}

#[derive(Debug, Parser)]
#[command(name = PLUGIN, bin_name = "kubectl portcullis", version, after_help = HELP)]
/// What all nodes of a cluster enforce, refuse, and would do with a packet
struct Plugin {
    #[command(subcommand)]
    command: KubectlCommand,
}

const HELP: &str = "Examples:
  portcullis kubectl status
  ln -s \"$(command -v portcullis)\" /usr/local/bin/kubectl-portcullis           then: kubectl portcullis status
  ln -s \"$(command -v portcullis)\" /usr/local/bin/kubectl_complete-portcullis  completes it, as kubectl is completed

$KUBECTL names another program than the kubectl in PATH.

Exit codes: 0 done, or the answer is yes; 1 the answer is no; 2 wrong usage, or it could not be done.";

#[derive(Debug, Subcommand)]
enum KubectlCommand {
    Status(status::StatusArgs),
    Explain(explain::ExplainArgs),
    Observe(observe::ObserveArgs),
}

/// Which cluster, and as whom: kubectl's own options, handed on to it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of kubectl")]
struct KubectlFlags {
    /// Namespace of the agents
    #[arg(short, long, value_name = "NAME", default_value = "portcullis")]
    namespace: String,
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    #[arg(short, long, value_name = "URL")]
    server: Option<String>,
    #[arg(long, value_name = "USER")]
    r#as: Option<String>,
    #[arg(long, value_name = "GROUP")]
    as_group: Vec<String>,
    #[arg(long, value_name = "FILE")]
    certificate_authority: Option<String>,
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
    #[arg(long)]
    insecure_skip_tls_verify: bool,
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// For reading objects; streams have none
    #[arg(long, value_name = "TIME", default_value = "20s")]
    request_timeout: String,
}

impl KubectlFlags {
    fn kubectl(&self) -> Kubectl {
        let options = [
            ("--kubeconfig", &self.kubeconfig),
            ("--context", &self.context),
            ("--cluster", &self.cluster),
            ("--user", &self.user),
            ("--server", &self.server),
            ("--as", &self.r#as),
            ("--certificate-authority", &self.certificate_authority),
            ("--tls-server-name", &self.tls_server_name),
            ("--token", &self.token),
        ];
        let mut words: Vec<String> = options
            .into_iter()
            .filter_map(|(option, value)| Some(format!("{option}={}", value.as_ref()?)))
            .collect();
        words.extend(self.as_group.iter().map(|group| format!("--as-group={group}")));
        words.extend(self.insecure_skip_tls_verify.then(|| "--insecure-skip-tls-verify".to_owned()));
        Kubectl::new(words, self.namespace.clone(), self.request_timeout.clone())
    }
}

/// When the program was called by a plugin's name: does its work, and says how it ends.
pub fn as_plugin(mut words: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let called = words.next()?;
    match Path::new(&called).file_name()?.to_str()? {
        PLUGIN => {
            let plugin = Plugin::parse_from(std::iter::once(called).chain(words));
            super::log::start(super::log::LogFormat::Text);
            Some(super::exit_code(dispatch(&plugin.command)))
        }
        COMPLETION => {
            let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
            Some(super::exit_code(complete::run(Plugin::command(), &words)))
        }
        _ => None,
    }
}

pub fn run(args: &KubectlArgs) -> Result<Answer> {
    dispatch(&args.command)
}

fn dispatch(command: &KubectlCommand) -> Result<Answer> {
    match command {
        KubectlCommand::Status(args) => status::run(args),
        KubectlCommand::Explain(args) => explain::run(args),
        KubectlCommand::Observe(args) => observe::run(args),
    }
}

/// Ends every kubectl of ours when we are told to end. A terminal's Ctrl-C reaches them by itself; a signal for us alone,
/// or a connection that hangs, would leave them behind.
fn end_children_with_us() -> Result<Children> {
    let children = Children::default();
    let ours = children.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let listen = |kind: SignalKind| signal(kind);
            let (Ok(mut int), Ok(mut term), Ok(mut hangup)) = (
                listen(SignalKind::interrupt()),
                listen(SignalKind::terminate()),
                listen(SignalKind::hangup()),
            ) else {
                return;
            };
            let number = tokio::select! {
                _ = int.recv() => 2,
                _ = term.recv() => 15,
                _ = hangup.recv() => 1,
            };
            ours.end();
            // As a shell reports a program that died of it.
            std::process::exit(128 + number);
        });
    });
    Ok(children)
}

/// What another machine sent, without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Said of one node, on stderr; `-` is none of them.
fn say_of(node: &str, text: &str) {
    match node {
        "-" => eprintln!("-- {} --", clean(text)),
        _ => eprintln!("-- {}: {} --", clean(node), clean(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_kubectl_are_handed_on() {
        let words =
            "kubectl-portcullis observe --context lab --as=jane --as-group a --as-group b -n kube-system";
        let plugin = Plugin::try_parse_from(words.split(' ')).unwrap();
        let KubectlCommand::Observe(args) = plugin.command else { panic!("another command") };
        let kubectl = format!("{:?}", args.flags.kubectl());
        let wanted = r#"flags: ["--context=lab", "--as=jane", "--as-group=a", "--as-group=b"], namespace: "kube-system""#;
        assert!(kubectl.contains(wanted), "{kubectl}");
    }

    #[test]
    fn a_node_cannot_steer_the_terminal() {
        assert_eq!(clean("eth0\u{1b}[2J\n"), "eth0\u{fffd}[2J\u{fffd}");
    }
}
