//! `portcullis test`: runs scenario files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::output::{print_json, print_lines};
use crate::model::Model;
use crate::scenario::engine::{Engine, Outcome};
use crate::scenario::kernel::KernelEngine;
use crate::scenario::{
    LoadError, Scenario, ScenarioResult, StepResult, format, random, run as run_scenario, runner,
};

/// Run scenario files: packets against policies, with the verdicts they must get
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct TestArgs {
    /// Who judges. Default: both when this process may use BPF, else model
    #[arg(long, value_enum)]
    engine: Option<EngineChoice>,
    /// How results are printed
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// Scenario files, or folders of them
    #[arg(required_unless_present = "random", value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    random: RandomArgs,
}

const HELP: &str = "Examples:
  portcullis test policies/                            every scenario below a folder
  portcullis test --engine model web.scenario.yaml     without privileges
  portcullis test --engine both -o json policies/
  portcullis test --random 100 --seed 7

Exit codes: 0 all expectations held; 1 some did not; 2 something could not be read or run.";

/// Random policies against random packets, instead of files.
#[derive(Debug, Args)]
struct RandomArgs {
    /// Run N random cases on both engines; what they disagree about is written as scenarios
    #[arg(long, value_name = "N", conflicts_with = "paths")]
    random: Option<usize>,
    /// Seed of the first case; the others follow. The same seed is the same run
    #[arg(long, default_value_t = 1, requires = "random")]
    seed: u64,
    /// Packets per case
    #[arg(long, default_value_t = 120, requires = "random", value_name = "N")]
    packets: usize,
    /// Begin no case after so many seconds
    #[arg(long, requires = "random", value_name = "SECONDS")]
    within: Option<u64>,
    /// Make each disagreement smaller for at most so many seconds
    #[arg(long, default_value_t = 60, requires = "random", value_name = "SECONDS")]
    shrink: u64,
    /// Folder for the disagreements
    #[arg(long, default_value = "found", requires = "random", value_name = "FOLDER")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EngineChoice {
    /// The reference model: no privileges needed
    Model,
    /// The real programs, by BPF_PROG_TEST_RUN
    Kernel,
    /// Both, and they must agree
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// 0: all expectations held; 1: some did not; 2: something could not be read.
pub fn run(args: TestArgs) -> Result<ExitCode> {
    if let Some(cases) = args.random.random {
        return run_random(&args, cases);
    }
    let choice = args.engine.unwrap_or_else(default_engine);
    let (scenarios, mut unreadable) = collect(&args.paths);
    let mut results = Vec::new();
    for scenario in &scenarios {
        let engines = engines(choice);
        let mut engines = match engines {
            Ok(engines) => engines,
            Err(e) => {
                eprintln!("error: the kernel engine cannot start: {e:#}");
                eprintln!("  write --engine model to run without it");
                return Ok(ExitCode::from(2));
            }
        };
        match run_scenario(scenario, &mut engines) {
            Ok(result) => {
                if args.output == Output::Text {
                    print_text(&result)?;
                }
                results.push(result);
            }
            Err(error) => unreadable.push(error),
        }
    }
    let failed = results.iter().filter(|r| !r.passed).count();
    let passed = results.len() - failed;
    match args.output {
        Output::Text => {
            print_lines([format!("{passed} passed, {failed} failed, {} unreadable", unreadable.len())])?;
        }
        Output::Json => print_json(&json_of(&results, passed, failed))?,
    }
    for error in &unreadable {
        eprintln!("error: {error}");
    }
    Ok(match (unreadable.is_empty(), failed) {
        (false, _) => ExitCode::from(2),
        (true, 0) => ExitCode::SUCCESS,
        (true, _) => ExitCode::from(1),
    })
}

/// Both engines judge, always: what they disagree about is what is looked for.
fn run_random(args: &TestArgs, cases: usize) -> Result<ExitCode> {
    if args.engine.is_some_and(|engine| engine != EngineChoice::Both) {
        eprintln!("error: --random compares both engines: take --engine away, or write --engine both");
        return Ok(ExitCode::from(2));
    }
    if let Err(why) = KernelEngine::available() {
        eprintln!("error: --random needs both engines: {why}");
        return Ok(ExitCode::from(2));
    }
    let wanted = &args.random;
    let within = wanted.within.map(Duration::from_secs);
    let options = random::Options {
        cases,
        seed: wanted.seed,
        packets: wanted.packets,
        within,
        shrink: Duration::from_secs(wanted.shrink),
        out: wanted.out.clone(),
    };
    let report = match random::run(&options) {
        Ok(report) => report,
        Err(e) => {
            eprintln!("error: {e:#}");
            return Ok(ExitCode::from(2));
        }
    };
    match args.output {
        Output::Text => {
            let told = [("FOUND", &report.found), ("UNSTEADY", &report.unsteady)];
            print_lines(told.into_iter().flat_map(|(word, all)| {
                all.iter().map(move |one| {
                    format!("{word} {} (seed {})\n  {}", one.file.display(), one.seed, one.text)
                })
            }))?;
            print_lines([format!(
                "{} cases, {} packets, {} reasons: {} disagreements, {} more of the same kinds, {} that did not come again",
                report.cases,
                report.packets,
                report.reasons.len(),
                report.found.len(),
                report.repeated,
                report.unsteady.len()
            )])?;
        }
        Output::Json => print_json(&json_of_random(&report))?,
    }
    Ok(if report.agreed() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn json_of_random(report: &random::Report) -> Value {
    let list = |found: &[random::Found]| -> Value {
        let one =
            |f: &random::Found| json!({"seed": f.seed, "file": f.file.display().to_string(), "text": f.text});
        found.iter().map(one).collect()
    };
    json!({
        "cases": report.cases,
        "packets": report.packets,
        "reasons": report.reasons,
        "found": list(&report.found),
        "repeated": report.repeated,
        "unsteady": list(&report.unsteady),
    })
}

/// Both engines where BPF may be used; the reason on stderr where not.
fn default_engine() -> EngineChoice {
    match KernelEngine::available() {
        Ok(()) => EngineChoice::Both,
        Err(why) => {
            eprintln!("note: only the reference model judges: {why}");
            EngineChoice::Model
        }
    }
}

fn engines(choice: EngineChoice) -> anyhow::Result<Vec<Box<dyn Engine>>> {
    let mut engines: Vec<Box<dyn Engine>> = Vec::new();
    if choice != EngineChoice::Kernel {
        engines.push(Box::new(Model::new()));
    }
    if choice != EngineChoice::Model {
        engines.push(Box::new(KernelEngine::new()?));
    }
    Ok(engines)
}

/// Every scenario of the paths, in order of their names.
fn collect(paths: &[PathBuf]) -> (Vec<Scenario>, Vec<LoadError>) {
    let (mut scenarios, mut errors) = (Vec::new(), Vec::new());
    for path in paths {
        let mut files = Vec::new();
        if path.is_dir() {
            if let Err(e) = walk(path, &mut files) {
                errors.push(e);
            }
        } else {
            files.push((path.clone(), true));
        }
        for (file, named) in files {
            match load(&file, named) {
                Ok(found) => scenarios.extend(found),
                Err(e) => errors.push(e),
            }
        }
        if path.is_dir() && scenarios.is_empty() && errors.is_empty() {
            let message = "holds no Scenario in any *.yaml or *.yml file".into();
            errors.push(LoadError { file: path.clone(), line: 0, message });
        }
    }
    (scenarios, errors)
}

fn walk(folder: &Path, files: &mut Vec<(PathBuf, bool)>) -> Result<(), LoadError> {
    let fail = |e: std::io::Error| LoadError {
        file: folder.into(),
        line: 0,
        message: format!("cannot be read: {e}"),
    };
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(fail)?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .map_err(fail)?;
    entries.sort();
    for entry in entries {
        let hidden = entry.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if entry.is_dir() {
            walk(&entry, files)?;
        } else if entry.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            files.push((entry, false));
        }
    }
    Ok(())
}

/// A file found in a folder may hold resources instead; one named outright must hold a scenario.
fn load(file: &Path, named: bool) -> Result<Vec<Scenario>, LoadError> {
    let fail = |message: String| LoadError { file: file.into(), line: 0, message };
    let text = std::fs::read_to_string(file).map_err(|e| fail(format!("cannot be read: {e}")))?;
    match (format::is_scenario(&text), named) {
        (true, _) => format::parse(file, &text),
        (false, false) => Ok(Vec::new()),
        (false, true) => Err(fail("holds no document of kind Scenario".into())),
    }
}

fn print_text(result: &ScenarioResult) -> Result<()> {
    let mark = if result.passed { "ok  " } else { "FAIL" };
    let mut lines = vec![format!("{mark} {} ({})", result.name, result.file.display())];
    for step in result.steps.iter().filter(|s| !s.passed()) {
        tell_failure(&mut lines, result, step);
    }
    print_lines(lines)
}

fn tell_failure(out: &mut Vec<String>, result: &ScenarioResult, step: &StepResult) {
    let name = if step.name.is_empty() { String::new() } else { format!(" {:?}", step.name) };
    out.push(format!("  {}:{}: step {}{name}", result.file.display(), step.line, step.index));
    out.extend(step.expected.iter().map(|expect| format!("    expected {}", json!(expect))));
    for (engine, outcome) in &step.outcomes {
        out.push(format!("    got      {} ({engine})", runner::describe(outcome)));
    }
    out.extend(step.failures.iter().map(|failure| format!("    {failure}")));
    for (engine, outcome) in &step.outcomes {
        out.extend(outcome.trace.iter().map(|line| format!("      {engine}: {line}")));
    }
}

fn json_of(results: &[ScenarioResult], passed: usize, failed: usize) -> Value {
    let scenarios: Vec<Value> = results
        .iter()
        .map(|r| {
            let steps: Vec<Value> = r.steps.iter().map(json_of_step).collect();
            json!({"file": r.file.display().to_string(), "name": r.name, "passed": r.passed, "steps": steps})
        })
        .collect();
    json!({"scenarios": scenarios, "passed": passed, "failed": failed})
}

fn json_of_step(step: &StepResult) -> Value {
    let mut value = json!({
        "index": step.index,
        "name": step.name,
        "line": step.line,
        "expected": step.expected,
        "passed": step.passed(),
    });
    if !step.failures.is_empty() {
        value["failures"] = json!(step.failures);
    }
    for (engine, outcome) in &step.outcomes {
        value[*engine] = json_of_outcome(outcome);
    }
    value
}

fn json_of_outcome(o: &Outcome) -> Value {
    json!({
        "verdict": o.verdict,
        "stage": o.stage,
        "tier": o.tier,
        "policy": o.policy,
        "rule": o.rule,
        "reason": o.reason,
        "trace": o.trace,
    })
}
