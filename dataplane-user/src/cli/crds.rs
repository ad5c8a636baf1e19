//! `portcullis crds`: custom resources in a cluster.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use super::Answer;
use super::output::print_lines;
use crate::crd::install::{Outcome, Scope, install};
use crate::kubernetes::client::connect;

/// Custom resources of a cluster
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  portcullis crds install

Exit codes: 0 done; 1 refused; 2 wrong usage, or it could not be done.")]
pub struct CrdsArgs {
    #[command(subcommand)]
    what: Crds,
}

#[derive(Debug, Subcommand)]
enum Crds {
    /// Install or update CustomResourceDefinitions and admission policies; never over those of somebody else
    #[command(after_help = "Examples:
  portcullis crds install                      a cluster without Calico
  portcullis crds install --beside-calico      our own kinds only; admission policies warn and refuse nothing

What a Helm release holds is left to Helm, and is refused here when it is of another version.

Exit codes: 0 installed; 1 refused, and nothing was written: Calico is there, or another manager owns a definition; \
                          2 wrong usage, or it could not be done.")]
    Install {
        /// Calico is there: install none of its kinds
        #[arg(long)]
        beside_calico: bool,
        /// How to reach the Kubernetes API. Default: $KUBECONFIG, ~/.kube/config, else the pod's service account
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
        /// Context of the kubeconfig. Default: its current one
        #[arg(long, value_name = "NAME")]
        context: Option<String>,
    },
}

pub(super) fn run(args: &CrdsArgs) -> Result<Answer> {
    let Crds::Install { beside_calico, kubeconfig, context } = &args.what;
    let scope = if *beside_calico { Scope::BesideCalico } else { Scope::WithoutCalico };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        let client = connect(kubeconfig.as_deref(), context.as_deref()).await?;
        install(&client, scope).await
    })?;
    match outcome {
        Outcome::Installed(names) => {
            print_lines(names)?;
            Ok(Answer::Yes)
        }
        Outcome::Refused { reasons, remedy } => {
            for reason in reasons {
                eprintln!("{reason}");
            }
            eprintln!("Nothing was written. {remedy}");
            Ok(Answer::No)
        }
    }
}
