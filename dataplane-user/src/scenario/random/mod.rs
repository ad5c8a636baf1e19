//! Random policies against random and hostile packets: the reference model and the kernel programs must agree about
//! every verdict, stage, reason and deciding rule. What they disagree about is made small and written as a scenario.
//!
//! Reading order: `dice` → `pool` (addresses and ports) → `selectors`, `rules`, `policies`, `objects` (documents) →
//! `aim`, `talk`, `turn`, `hostile` (packets) → `generate` (a case) → `judge` → `shrink` → this file (a run).

mod aim;
mod case;
mod dice;
mod generate;
mod hostile;
mod judge;
mod objects;
mod policies;
mod pool;
mod rules;
mod selectors;
mod shrink;
mod talk;
mod text;
mod turn;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use self::case::Case;
use self::judge::Disagreement;

/// Cases at once. The kernel engine mostly waits for RCU grace periods, so this is more than the cores.
const WORKERS: usize = 6;
/// Disagreements that are made small; more of them are counted.
const SHRUNK: usize = 8;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of cases. Case `i` has seed `seed + i`.
    pub cases: usize,
    pub seed: u64,
    /// Packets per case.
    pub packets: usize,
    /// No case begins later than this.
    pub within: Option<Duration>,
    /// How long one disagreement is made smaller.
    pub shrink: Duration,
    /// Where disagreements are written; made if it does not exist.
    pub out: PathBuf,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    pub cases: usize,
    pub packets: usize,
    /// How often the model gave each reason: what the packets reached.
    pub reasons: BTreeMap<String, usize>,
    pub found: Vec<Found>,
    /// Disagreements of a kind that was found already.
    pub repeated: usize,
    /// Disagreements that did not come again. A case is the same packets at the same times, and its end does not depend
    /// on what the machine does meanwhile: something else is left over, or not yet done.
    pub unsteady: Vec<Found>,
}

impl Report {
    /// Whether the engines agreed about every packet of every case.
    pub fn agreed(&self) -> bool {
        self.found.is_empty() && self.unsteady.is_empty() && self.repeated == 0
    }
}

/// A disagreement, written down.
#[derive(Debug)]
pub struct Found {
    pub seed: u64,
    pub file: PathBuf,
    /// What the engines say.
    pub text: String,
}

/// Runs the cases. `Err`: one could not be run or written at all.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let begin = Instant::now();
    let next = AtomicUsize::new(0);
    let results = Mutex::new((Report::default(), Vec::new()));
    let worker = || -> anyhow::Result<()> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= options.cases || options.within.is_some_and(|limit| begin.elapsed() > limit) {
                return Ok(());
            }
            let seed = options.seed.wrapping_add(index as u64);
            let case = generate::case(seed, options.packets);
            let judged = judge::both(&case)?;
            if let Ok(mut results) = results.lock() {
                results.0.cases += 1;
                for reason in judged.reasons {
                    results.0.packets += 1;
                    *results.0.reasons.entry(reason).or_default() += 1;
                }
                results.1.extend(judged.disagreement.map(|d| (seed, case, d)));
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS.min(options.cases)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => anyhow::bail!("a worker panicked: see above"),
        })
    })?;
    let (mut report, mut all) = results.into_inner().unwrap_or_default();
    all.sort_by_key(|(seed, _, _)| *seed);
    write_down(options, all, &mut report)?;
    Ok(report)
}

fn write_down(
    options: &Options,
    all: Vec<(u64, Case, Disagreement)>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut kinds: Vec<Disagreement> = Vec::new();
    for (seed, case, disagreement) in all {
        if kinds.iter().any(|known| known.same_kind(&disagreement)) || kinds.len() == SHRUNK {
            report.repeated += 1;
            continue;
        }
        let again = judge::both(&case)?.disagreement;
        if again.as_ref().is_none_or(|again| !again.same_kind(&disagreement)) {
            report.unsteady.push(unsteady(&options.out, seed, &case, disagreement)?);
            continue;
        }
        let mut small = shrink::shrink(&case, &disagreement, Instant::now() + options.shrink);
        small.name = format!("random-{seed}");
        let text = judge::both(&small)?.disagreement.map_or(disagreement.text.clone(), |d| d.text);
        let file = write(&options.out, seed, &small, std::slice::from_ref(&text))?;
        report.found.push(Found { seed, file, text });
        kinds.push(disagreement);
    }
    Ok(())
}

/// Nothing can be made smaller that does not come again: the case up to there, and what both engines said.
fn unsteady(folder: &Path, seed: u64, case: &Case, once: Disagreement) -> anyhow::Result<Found> {
    let text = format!("step {}, once and not again: {}", once.step, once.text);
    let why: Vec<String> = std::iter::once(text.clone()).chain(once.traces).collect();
    let whole = Case { name: format!("random-{seed}"), spec: shrink::until(case, once.step).spec };
    let file = write(folder, seed, &whole, &why)?;
    Ok(Found { seed, file, text: why.join("\n  ") })
}

fn write(folder: &Path, seed: u64, case: &Case, text: &[String]) -> anyhow::Result<PathBuf> {
    use anyhow::Context;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join(format!("random-{seed}.scenario.yaml"));
    let mut why = vec![format!("Found by `portcullis test --random 1 --seed {seed}`.")];
    why.extend_from_slice(text);
    std::fs::write(&file, case.text(&why)).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}
