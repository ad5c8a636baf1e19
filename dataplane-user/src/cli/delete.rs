//! `portcullis delete`.

use anyhow::{Result, bail};
use clap::Args;

use super::Answer;
use super::change::ChangeArgs;
use crate::resource::ObjectKey;
use crate::safety::plan;

/// Take an object out of the watched folder. Refused when it would cut the connection you are typing on
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct DeleteArgs {
    /// `gnp/NAME`, `HostEndpoint/NAME`, `Kind/NAMESPACE/NAME`
    #[arg(value_name = "KIND/NAME")]
    object: String,
    #[command(flatten)]
    change: ChangeArgs,
}

const HELP: &str = "Examples:
  portcullis delete gnp/web --dry-run
  portcullis delete HostEndpoint/node1-eth0
  portcullis delete NetworkPolicy/team/web --confirm 2m

Exit codes: 0 done, and with --confirm in force; 1 refused, or there is no such object: nothing was changed; 2 wrong
usage, or it could not be done.";

pub fn run(args: &DeleteArgs) -> Result<Answer> {
    let Some(key) = ObjectKey::parse(&args.object) else {
        bail!("{:?} names no object: write KIND/NAME, for example gnp/web", args.object);
    };
    let change = args.change.begin()?;
    let (mut store, _) = plan::objects(&change.locked);
    let world = store.world().clone();
    match store.delete(key.kind.as_str(), &key.namespace, &key.name) {
        Err(problem) => {
            eprintln!("{} {} in {}", problem.object, problem.message, change.locked.folder().display());
            Ok(Answer::No)
        }
        Ok(removed) => {
            let plan = plan::delete(&change.locked, &removed)?;
            change.carry_out(&plan, &world, &store)
        }
    }
}
