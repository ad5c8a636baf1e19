//! `portcullis confirm`: keep what is on trial, or undo it at once.

use anyhow::Result;
use clap::Args;

use super::Answer;
use super::output::print_lines;
use super::settings::Places;
use crate::safety::Word;
use crate::safety::journal::Locked;
use crate::safety::trial::{Trial, last, undone};

/// Keep what `apply --confirm` put on trial; works without an agent too
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ConfirmArgs {
    /// Go back at once instead
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    places: Places,
}

const HELP: &str = "Examples:
  portcullis confirm
  portcullis confirm --undo

Exit codes: 0 done; 1 nothing is on trial, or it is too late; 2 wrong usage, or it could not be done.";

pub fn run(args: &ConfirmArgs) -> Result<Answer> {
    let config = args.places.resolve_by_agent()?;
    let folder = &config.policies;
    let locked = Locked::wait(folder)?;
    let (Some(trial), Some(mut word)) = (Trial::load(&locked)?, Word::open(&config.pin_dir)?) else {
        let how = last(&locked)?.map(|e| format!("; the last one ended: {}", e.why)).unwrap_or_default();
        eprintln!("no apply is on trial in {}{how}", folder.display());
        return Ok(Answer::No);
    };
    if args.undo {
        let kept = trial.put_back(&locked, "undone by `portcullis confirm --undo`")?;
        if word.standing()?.trial == trial.id {
            word.undo()?;
        }
        print_lines([undone("as asked", &kept)])?;
        return Ok(Answer::Yes);
    }
    let standing = word.standing()?;
    let confirmed = standing.trial == trial.id && standing.confirmed;
    if confirmed || word.confirm(trial.id)? {
        trial.keep(&locked)?;
        print_lines(["confirmed: it stays in force"])?;
        return Ok(Answer::Yes);
    }
    let standing = word.standing()?;
    if standing.trial == trial.id {
        eprintln!("too late: nobody confirmed in time and the policies before it are in force again");
    } else {
        eprintln!("the agent has not put it in force yet: look at `portcullis status`, then confirm again");
    }
    Ok(Answer::No)
}
