//! `portcullis suspend`: count, but do not drop, for a while.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use super::Answer;
use super::output::print_lines;
use super::settings::Places;
use crate::safety::{Word, word::in_words};

/// Longest suspension: what is open by mistake is closed again within a day.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Let what policy denies pass for a while, counted apart as "would deny". Ends by itself, agent or not
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct SuspendArgs {
    /// How long: 90s, 10m, 2h; at most 24h
    #[arg(long = "for", value_name = "TIME", value_parser = duration, required_unless_present = "end", conflicts_with = "end")]
    limit: Option<Duration>,
    /// Enforce again, now
    #[arg(long)]
    end: bool,
    #[command(flatten)]
    places: Places,
}

const HELP: &str = "Examples:
  portcullis suspend --for 10m
  portcullis suspend --end
  portcullis observe -f --verdict would-deny     what it lets pass

Exit codes: 0 done; 1 nothing is enforced here; 2 wrong usage, or it could not be done.";

pub fn run(args: &SuspendArgs) -> Result<Answer> {
    let limit = args.limit.unwrap_or_default();
    if limit > LONGEST {
        bail!("--for takes at most 24h: an opening must not be forgotten; suspend again when it is over");
    }
    let pin_dir = args.places.resolve_anyway()?.pin_dir;
    let Some(mut word) = Word::open(&pin_dir)? else {
        eprintln!("nothing is enforced at {}: there is nothing to suspend", pin_dir.display());
        return Ok(Answer::No);
    };
    word.suspend(limit)?;
    let line = if limit.is_zero() {
        "enforcing again".to_owned()
    } else {
        format!("nothing is dropped for {}; `portcullis suspend --end` ends it", in_words(limit.as_secs()))
    };
    print_lines([line])?;
    Ok(Answer::Yes)
}

/// `90`, `90s`, `10m`, `2h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write 90s, 10m or 2h");
    let (number, factor) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)?;
    if seconds == 0 { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        for wrong in ["", "0s", "-1s", "1d", "m", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
