//! What `cargo xtask test` says at its end: every step with its time, the slowest test programs, and what was skipped.

use std::time::Duration;

use crate::test::Outcome;

/// How many test programs the report names.
const SLOWEST: usize = 8;

/// A step that ran.
pub(crate) struct Done {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    pub(crate) time: Duration,
}

/// One test program and how long its tests took, as it says itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) seconds: f32,
}

pub(crate) fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed(_) => "FAILED",
        Outcome::Skipped(_) => "SKIPPED",
    }
}

/// `skipped` holds one line for each single test that could not run.
pub(crate) fn print(done: &[Done], mut programs: Vec<Program>, skipped: &str) {
    let width = done.iter().map(|step| step.name.len()).max().unwrap_or(0).max(4);
    println!("\n{:<width$} {:<8} {:>6}", "step", "result", "time");
    for step in done {
        println!("{:<width$} {:<8} {:>4.0} s", step.name, word(&step.outcome), step.time.as_secs_f32());
    }
    let total: Duration = done.iter().map(|step| step.time).sum();
    println!("{:<width$} {:<8} {:>4.0} s", "all", "", total.as_secs_f32());
    programs.retain(|program| program.seconds >= 1.0);
    programs.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    if !programs.is_empty() {
        println!("\nslowest test programs (their tests only, without building):");
        for program in programs.iter().take(SLOWEST) {
            println!("{:>6.0} s  {}", program.seconds, program.name);
        }
    }
    println!();
    for step in done {
        match &step.outcome {
            Outcome::Passed => {}
            Outcome::Failed(why) => println!("FAILED  {}: {why}", step.name),
            Outcome::Skipped(why) => println!("SKIPPED {}: {why}", step.name),
        }
    }
    skipped.lines().for_each(|line| println!("SKIPPED {line}"));
    if skipped.is_empty() && !done.iter().any(|step| matches!(step.outcome, Outcome::Skipped(_))) {
        println!("nothing was skipped");
    }
}

/// Reads what `cargo test` prints, line by line: which program runs, and how long its tests took.
#[derive(Default)]
pub(crate) struct Watch {
    current: String,
    pub(crate) programs: Vec<Program>,
}

impl Watch {
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("Running ").or_else(|| line.strip_prefix("Doc-tests ")) {
            // `unittests src/lib.rs (target/debug/deps/portcullis-8837a8c91a386012)`
            let program = rest.rsplit_once('(').map_or(rest, |(_, path)| path.trim_end_matches(')'));
            let name = program.rsplit('/').next().unwrap_or(program);
            self.current = name.rsplit_once('-').map_or(name, |(name, _)| name).to_owned();
        }
        let seconds = line
            .starts_with("test result:")
            .then(|| line.rsplit_once("finished in ")?.1.trim_end_matches('s').parse().ok())
            .flatten();
        if let Some(seconds) = seconds {
            self.programs.push(Program { name: self.current.clone(), seconds });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Program, Watch};

    #[test]
    fn times_are_read_from_what_cargo_prints() {
        let mut watch = Watch::default();
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/portcullis-8837a8c91a386012)",
            "test a ... ok",
            "test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 71 filtered out; finished in 2.51s",
            "   Doc-tests portcullis",
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            watch.line(line);
        }
        let expected = [("portcullis", 2.51), ("portcullis", 0.0)];
        let expected: Vec<Program> = expected
            .iter()
            .map(|(name, seconds)| Program { name: (*name).into(), seconds: *seconds })
            .collect();
        assert_eq!(watch.programs, expected);
    }
}
