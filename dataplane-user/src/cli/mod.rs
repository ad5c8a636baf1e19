//! The command line. Data goes to stdout, talk to stderr. Each subcommand is a file of its name.

mod apply;
mod change;
mod confirm;
#[cfg(feature = "kubernetes")]
mod crds;
mod delete;
mod detach;
mod diag;
mod explain;
pub mod generate;
mod get;
#[cfg(feature = "kubernetes")]
mod kubectl;
mod lint;
mod log;
mod maps;
mod observe;
mod output;
mod redact;
mod rules;
mod run;
mod settings;
mod status;
mod suspend;
mod test;
mod validate;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Host firewall for Kubernetes nodes that speaks Calico's policy language
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Examples:
  portcullis lint -f /etc/portcullis/policies      before anything is in force
  portcullis apply -f web.yaml --confirm 2m        undone unless `portcullis confirm` follows
  portcullis status                                what is enforced here, and what is not

Exit codes: 0 done, or the answer is yes (valid, allowed, passed); 1 the answer is no \
                          (invalid, denied, failed); 2 wrong usage, or it could not be done.\n\
                          Logs: RUST_LOG=portcullis=debug; NO_COLOR=1 for no colours on a terminal.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    /// Enforce the last good policy before the network is up, until `run` takes over: for the boot
    #[command(after_help = run::FLOOR_HELP)]
    Floor(run::RunArgs),
    Validate(validate::ValidateArgs),
    Lint(lint::LintArgs),
    Apply(apply::ApplyArgs),
    Delete(delete::DeleteArgs),
    Confirm(confirm::ConfirmArgs),
    Get(get::GetArgs),
    Explain(explain::ExplainArgs),
    Test(test::TestArgs),
    Status(status::StatusArgs),
    Suspend(suspend::SuspendArgs),
    Observe(observe::ObserveArgs),
    #[cfg(feature = "kubernetes")]
    Kubectl(Box<kubectl::KubectlArgs>),
    Maps(maps::MapsArgs),
    Diag(diag::DiagArgs),
    #[cfg(feature = "kubernetes")]
    Crds(crds::CrdsArgs),
    Generate(generate::GenerateArgs),
    Completions(generate::CompletionsArgs),
    Detach(detach::DetachArgs),
}

/// What a command found, when it could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
}

/// Entry of the binary.
pub fn main() -> ExitCode {
    #[cfg(feature = "kubernetes")]
    if let Some(code) = kubectl::as_plugin(std::env::args_os()) {
        return code;
    }
    let cli = Cli::parse();
    // What others say is for whoever typed them.
    let format = if let Command::Run(args) | Command::Floor(args) = &cli.command {
        args.log_format()
    } else {
        log::LogFormat::Text
    };
    log::start(format);
    let result = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Floor(args) => run::floor(args),
        Command::Validate(args) => validate::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::Apply(args) => apply::run(&args),
        Command::Delete(args) => delete::run(&args),
        Command::Confirm(args) => confirm::run(&args),
        Command::Get(args) => get::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Test(args) => return test::run(args).unwrap_or_else(|e| exit_code(Err(e))),
        Command::Status(args) => return status::run(&args).unwrap_or_else(|e| exit_code(Err(e))),
        Command::Suspend(args) => suspend::run(&args),
        Command::Observe(args) => observe::run(&args),
        #[cfg(feature = "kubernetes")]
        Command::Kubectl(args) => kubectl::run(&args),
        Command::Maps(args) => maps::run(&args),
        Command::Diag(args) => diag::run(&args),
        #[cfg(feature = "kubernetes")]
        Command::Crds(args) => crds::run(&args),
        Command::Generate(args) => generate::generate(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Detach(args) => detach::run(&args),
    };
    exit_code(result)
}

fn exit_code(result: Result<Answer>) -> ExitCode {
    match result {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        // `| head` closed the pipe: it has what it wanted.
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|e| e.downcast_ref::<std::io::Error>())
        .any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
