//! `cargo xtask test`: every kind of test, one line of progress each, and at the end what was skipped and why.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    packages::{self, NAMESPACE_TOOLS},
    run::{self, cargo, command, is_root, printed, root, say, succeeds, target},
    setup, vm,
};

type Step = fn() -> Result<Outcome>;

/// Steps by name, in their order: the cheap ones first.
const STEPS: [(&str, Step); 4] =
    [("unit", unit), ("scenarios", scenarios), ("namespaces", namespaces), ("vm", vm::step)];

pub(crate) enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

pub(crate) fn run(names: &[&str]) -> Result<bool> {
    for name in names {
        if !STEPS.iter().any(|(step, _)| step == name) {
            bail!("there is no step `{name}`; steps: unit, scenarios, namespaces, vm");
        }
    }
    let skips = skip_log();
    if skips.exists() {
        fs::remove_file(&skips)?;
    }
    setup::kernel_build()?;
    let mut done = Vec::new();
    for (name, step) in STEPS.iter().filter(|(name, _)| names.is_empty() || names.contains(name)) {
        say(&format!("== {name}"));
        let begin = Instant::now();
        let outcome = step().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        say(&format!("== {name}: {} ({:.0} s)", word(&outcome), begin.elapsed().as_secs_f32()));
        done.push((*name, outcome, begin.elapsed()));
    }
    report(&done);
    Ok(!done.iter().any(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_))))
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed(_) => "FAILED",
        Outcome::Skipped(_) => "SKIPPED",
    }
}

fn report(done: &[(&str, Outcome, Duration)]) {
    println!("\n{:<12} {:<8} {:>6}", "step", "result", "time");
    for (name, outcome, time) in done {
        println!("{name:<12} {:<8} {:>4.0} s", word(outcome), time.as_secs_f32());
    }
    for (name, outcome, _) in done {
        match outcome {
            Outcome::Passed => {}
            Outcome::Failed(why) => println!("FAILED  {name}: {why}"),
            Outcome::Skipped(why) => println!("SKIPPED {name}: {why}"),
        }
    }
    // Single tests that could not run add a line of their own here.
    let single = fs::read_to_string(skip_log()).unwrap_or_default();
    single.lines().for_each(|line| println!("SKIPPED {line}"));
    if single.is_empty() && !done.iter().any(|(_, outcome, _)| matches!(outcome, Outcome::Skipped(_))) {
        println!("nothing was skipped");
    }
}

/// Tests that cannot run here append `test: reason` to the file that `PORTCULLIS_SKIP_LOG` names.
fn skip_log() -> PathBuf {
    target().join("skipped-tests.log")
}

/// One line more for the end of the report.
pub(crate) fn note_skip(line: &str) -> Result<()> {
    say(&format!("SKIPPED {line}"));
    fs::create_dir_all(target())?;
    let mut log = fs::OpenOptions::new().create(true).append(true).open(skip_log())?;
    writeln!(log, "{line}")?;
    Ok(())
}

fn unit() -> Result<Outcome> {
    let mut test = cargo(Duration::from_secs(1800));
    test.args(["test", "--workspace", "--exclude", "dataplane-ebpf", "--exclude", "tests"]);
    test.env("PORTCULLIS_SKIP_LOG", skip_log());
    Ok(if succeeds(&mut test)? { Outcome::Passed } else { Outcome::Failed("cargo test: see above".into()) })
}

/// Builds the agent and says where it is.
pub(crate) fn build_agent() -> Result<PathBuf> {
    run::run(cargo(Duration::from_secs(1200)).args(["build", "--package", "dataplane-user"]))?;
    Ok(target().join("debug/portcullis"))
}

fn scenarios() -> Result<Outcome> {
    let agent = build_agent()?;
    let agent = agent.display().to_string();
    if !root().join("policies").is_dir() {
        return Ok(Outcome::Skipped("there is no folder `policies`".into()));
    }
    if printed(command(&agent, Duration::from_secs(10)).args(["test", "--help"]))
        .is_none_or(|help| help.is_empty())
    {
        return Ok(Outcome::Failed("`portcullis test` is not offered by this build".into()));
    }
    let test = |engine: &str| -> Result<Outcome> {
        let words = ["test", "policies", "--engine", engine];
        let passed = succeeds(command(&agent, Duration::from_secs(900)).args(words))?;
        Ok(match passed {
            true => Outcome::Passed,
            false => Outcome::Failed(format!("engine {engine}: a scenario is wrong; see above")),
        })
    };
    if is_root() {
        return test("both");
    }
    Ok(match test("model")? {
        Outcome::Passed => {
            Outcome::Skipped("the model passed; the kernel engine needs root (BPF_PROG_TEST_RUN)".into())
        }
        other => other,
    })
}

fn namespaces() -> Result<Outcome> {
    if !is_root() {
        return Ok(Outcome::Skipped(
            "network namespaces and BPF need root: sudo -E cargo xtask test namespaces".into(),
        ));
    }
    packages::install(&NAMESPACE_TOOLS)?;
    build_agent()?;
    let mut test = cargo(Duration::from_secs(1200));
    // One at a time: they measure what gets through, and two cores are not many.
    test.args(["test", "--package", "tests", "--", "--test-threads=1"]);
    test.env("PORTCULLIS_SKIP_LOG", skip_log());
    Ok(if succeeds(&mut test)? {
        Outcome::Passed
    } else {
        Outcome::Failed("namespace tests: see above".into())
    })
}
