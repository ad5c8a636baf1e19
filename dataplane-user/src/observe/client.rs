//! The observer's side.

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::names::KernelNames;
use super::record::{Line, LostRecord, Summary};
use super::ring::Ring;
use super::server::{Question, socket_path};
use crate::maps::Pinned;
use crate::state::State;

/// How often an observer that follows the ring looks at it.
const LOOK: Duration = Duration::from_millis(100);

/// What became of a source of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing more to come.
    Done,
    /// The agent came or went: ask again elsewhere.
    Changed,
}

/// Whether an agent listens.
pub fn agent(state_dir: &Path) -> Option<UnixStream> {
    UnixStream::connect(socket_path(state_dir)).ok()
}

/// Lines from the agent.
pub fn from_agent(
    mut stream: UnixStream,
    question: Question,
    mut each: impl FnMut(Line) -> Result<()>,
) -> Result<End> {
    writeln!(stream, "{}", serde_json::to_string(&question)?).context("cannot ask the agent for events")?;
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { break };
        // A line of a newer agent that we do not know is no reason to stop.
        let Ok(line) = serde_json::from_str::<Line>(&line) else { continue };
        each(line)?;
    }
    Ok(if question.follow { End::Changed } else { End::Done })
}

/// Lines of a file that `observe -o json` wrote; others than ours are refused with their number.
pub fn from_file(input: impl BufRead, name: &str, mut each: impl FnMut(Line) -> Result<()>) -> Result<End> {
    for (number, line) in input.lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {name}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let line = serde_json::from_str::<Line>(&line).with_context(|| {
            format!("{name}:{}: no event; --input-file reads what `observe -o json` wrote", number + 1)
        })?;
        each(line)?;
    }
    Ok(End::Done)
}

/// Reads the ring itself: there is no agent.
pub fn from_ring(
    mut ring: Ring,
    pin_dir: &Path,
    state_dir: &Path,
    follow: bool,
    mut each: impl FnMut(Line) -> Result<()>,
) -> Result<End> {
    let pinned = Pinned::new(pin_dir);
    let mut names = KernelNames::new(pinned.clone(), State::load(state_dir).ok().as_ref());
    let mut summary = Summary { from: "ring".to_owned(), ..Summary::default() };
    loop {
        let mut records = Vec::new();
        ring.drain(&mut names, |record| records.push(record));
        for record in records {
            summary.kept += 1;
            summary.lost += u64::from(record.lost_before);
            each(Line::Event(Box::new(record)))?;
        }
        if !follow {
            summary.lost += pinned.state()?.untold_events()?;
            each(Line::Summary(summary))?;
            return Ok(End::Done);
        }
        if agent(state_dir).is_some() {
            // The lock goes with the ring: the agent is its reader now.
            return Ok(End::Changed);
        }
        std::thread::sleep(LOOK);
    }
}

/// A line about lost events.
pub fn lost(record: &super::EventRecord) -> Option<Line> {
    (record.lost_before > 0).then(|| {
        let why = "over the rate of events per CPU and second, or nobody read the ring".to_owned();
        Line::Lost(LostRecord { lost: u64::from(record.lost_before), why })
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn a_file_is_read_back_and_a_foreign_line_is_named() {
        let good = serde_json::to_string(&Line::Event(Box::new(record()))).unwrap();
        let mut seen = Vec::new();
        let text = format!("{good}\n\n{good}\n");
        from_file(text.as_bytes(), "f", |l| {
            seen.push(l);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen.len(), 2);
        let error = from_file(format!("{good}\nhello\n").as_bytes(), "f", |_| Ok(())).unwrap_err();
        assert!(error.to_string().starts_with("f:2: no event"), "{error}");
    }
}
