//! `portcullis observe`.

use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::Answer;
use super::run::DEFAULT_STATE_DIR;
use crate::loader::pins::default_pin_dir;
use crate::observe::client::{self, End};
use crate::observe::record::Summary;
use crate::observe::ring::Ring;
use crate::observe::server::Question;
use crate::observe::{Filter, Line, filter};
use crate::state::State;

/// Show packets that were refused, and what `Log` rules met: sampled, with stage, rule, reason and addresses
///
/// While the agent runs it keeps the latest 8192 events, and any number of observers may look at them. Without an
/// agent, one observer at a time reads what the kernel side left; it is gone then.
/// Packets are never held up: a CPU that would tell more than 256 events in a second, or finds no room, leaves them
/// out and counts them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ObserveArgs {
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    filters: FilterArgs,
    /// An age (`10m`, `1h30m`) or a time (`2026-01-02T03:04:05Z`). Default: all that is kept; with -f nothing of it
    #[arg(long, value_name = "AGE|TIME")]
    since: Option<String>,
    #[arg(short, long, value_enum, default_value = "compact")]
    output: ObserveOutput,
    /// Show what `observe -o json` wrote to a file; `-` is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "follow")]
    input_file: Option<PathBuf>,
    /// As given to `run`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// As given to `run`. Default: what the state in --state-dir names
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
    /// End when stdin does: whoever asks from afar is gone then, and a container's process would not be told otherwise
    #[arg(long, hide = true)]
    while_stdin: bool,
}

/// Which events are shown.
#[derive(Clone, Debug, Args)]
pub struct FilterArgs {
    /// `deny`, `would-deny` (passed under a suspension or audit) or `log`; may be given more than once, as may the other filters
    #[arg(long, value_name = "VERDICT", value_delimiter = ',')]
    pub verdict: Vec<String>,
    /// As in docs/reference/reasons.md: `preDNAT`, `normal`, `malformed`
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub stage: Vec<String>,
    /// As in docs/reference/reasons.md: `rule_deny`, `tier_end`
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    pub reason: Vec<String>,
    /// `web`, `gnp/web`, `NetworkPolicy/team/web`
    #[arg(long, value_name = "POLICY", value_delimiter = ',')]
    pub policy: Vec<String>,
    #[arg(long, value_name = "DEV", value_delimiter = ',')]
    pub device: Vec<String>,
}

impl FilterArgs {
    /// Checked; `since` is still in the words of the command line.
    pub fn check(&self, since: Option<&str>) -> Result<Filter> {
        let filter = Filter {
            verdicts: self.verdict.clone(),
            stages: self.stage.clone(),
            reasons: self.reason.clone(),
            policies: self.policy.clone(),
            devices: self.device.clone(),
            since: since.map(|s| filter::parse_since(s, Timestamp::now())).transpose()?,
        };
        filter.check()?;
        Ok(filter)
    }

    /// The same on another command line.
    #[cfg(feature = "kubernetes")]
    pub fn words(&self) -> Vec<String> {
        let options = [
            ("--verdict", &self.verdict),
            ("--stage", &self.stage),
            ("--reason", &self.reason),
            ("--policy", &self.policy),
            ("--device", &self.device),
        ];
        let word = |(option, values): (&str, &Vec<String>)| -> Vec<String> {
            values.iter().map(|value| format!("{option}={value}")).collect()
        };
        options.into_iter().flat_map(word).collect()
    }
}

const EXAMPLES: &str = "Examples:
  portcullis observe -f                             what is refused from now on
  portcullis observe --since 10m --device eth0      the last ten minutes of one device
  portcullis observe -f --policy gnp/web --verdict log
  portcullis observe -f --verdict would-deny        what a suspension or audit lets pass
  portcullis observe -o json > events.jsonl
  portcullis observe --input-file events.jsonl --reason tcp_no_flow

Exit codes: 0 done; 2 wrong usage, or neither an agent nor anything in force was found.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ObserveOutput {
    /// One line each
    Compact,
    /// JSON lines
    Json,
}

pub fn run(args: &ObserveArgs) -> Result<Answer> {
    let filter = args.filters.check(args.since.as_deref())?;
    if args.while_stdin {
        end_with_stdin();
    }
    let mut printer = Printer { filter, output: args.output, shown: 0, follow: args.follow };
    match &args.input_file {
        Some(path) if path.as_os_str() == "-" => {
            client::from_file(std::io::stdin().lock(), "<stdin>", |l| printer.line(l))?;
        }
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.display().to_string();
            client::from_file(BufReader::new(file), &name, |l| printer.line(l))?;
        }
        None => live(args, &mut printer)?,
    }
    Ok(Answer::Yes)
}

fn end_with_stdin() {
    std::thread::spawn(|| {
        // An error is an end too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(0);
    });
}

/// Asks the agent, or reads the ring, and changes over when the agent comes or goes.
fn live(args: &ObserveArgs, printer: &mut Printer) -> Result<()> {
    let mut question = Question { kept: !args.follow || args.since.is_some(), follow: args.follow };
    let mut waiting = false;
    loop {
        let end = match client::agent(&args.state_dir) {
            Some(stream) => client::from_agent(stream, question, |l| printer.line(l))?,
            None => match Ring::open(&pin_dir(args))? {
                Some(ring) => {
                    eprintln!("no agent answers in {}: reading the kernel's ring", args.state_dir.display());
                    client::from_ring(ring, &pin_dir(args), &args.state_dir, args.follow, |l| {
                        printer.line(l)
                    })?
                }
                None if args.follow => {
                    if !waiting {
                        eprintln!("no agent, and another observer reads the kernel's ring: waiting");
                    }
                    waiting = true;
                    std::thread::sleep(std::time::Duration::from_millis(500));
                    continue;
                }
                None => anyhow::bail!(
                    "no agent answers in {}, and another process reads the kernel's ring: stop that observer, or \
                     start the agent, which serves any number of them",
                    args.state_dir.display()
                ),
            },
        };
        // What was kept has been shown.
        question.kept = false;
        if end == End::Done {
            return Ok(());
        }
    }
}

fn pin_dir(args: &ObserveArgs) -> PathBuf {
    let from_state = || State::load(&args.state_dir).ok().map(|s| s.pin_dir);
    args.pin_dir.clone().or_else(from_state).unwrap_or_else(default_pin_dir)
}

struct Printer {
    filter: Filter,
    output: ObserveOutput,
    shown: u64,
    follow: bool,
}

impl Printer {
    fn line(&mut self, line: Line) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let json = self.output == ObserveOutput::Json;
        // Whatever the filter: nobody knows what the lost ones were.
        if let (true, false, Line::Event(record)) = (self.follow, json, &line)
            && let Some(Line::Lost(lost)) = client::lost(record)
        {
            eprintln!("-- {} events lost: {} --", lost.lost, lost.why);
        }
        match &line {
            Line::Event(record) if self.filter.shows(record) => {
                self.shown += 1;
                if json {
                    writeln!(out, "{}", serde_json::to_string(&line)?)?;
                } else {
                    writeln!(out, "{}", record.compact())?;
                }
                out.flush()?;
            }
            Line::Event(_) => {}
            Line::Lost(_) | Line::Summary(_) if json => {
                writeln!(out, "{}", serde_json::to_string(&line)?)?;
                out.flush()?;
            }
            Line::Lost(lost) => eprintln!("-- {} events lost: {} --", lost.lost, lost.why),
            Line::Summary(_) if self.follow => {}
            Line::Summary(summary) => eprintln!("{}", talk(summary, self.shown)),
        }
        Ok(())
    }
}

pub fn talk(summary: &Summary, shown: u64) -> String {
    let mut text = format!("{shown} of {} events shown", summary.kept);
    if summary.forgotten > 0 {
        text += &format!("; {} older ones are no longer kept", summary.forgotten);
    }
    text + &format!("; {} were lost (over the rate, or no room)", summary.lost)
}
