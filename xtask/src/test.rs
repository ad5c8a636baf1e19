//! `cargo xtask test`: every kind of test as a named step, one line of progress each, and at the end the time of each
//! and what was skipped and why.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    boot, demo, dist,
    packages::{self, NAMESPACE_TOOLS},
    report::{self, Done, Program, Watch},
    run::{self, cargo, command, is_root, printed, root, say, succeeds, target},
    setup, vm,
};

/// What every step may add to the report.
#[derive(Default)]
pub(crate) struct Notes {
    programs: Vec<Program>,
}

type Run = Box<dyn Fn(&mut Notes) -> Result<Outcome>>;

struct Step {
    name: String,
    what: String,
    run: Run,
}

pub(crate) enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// All steps in their order: the cheap ones first. Each file of `tests/tests` is a step of its own, so a new one needs
/// no word here.
fn steps() -> Result<Vec<Step>> {
    let step = |name: &str, what: &str, run: Run| Step { name: name.into(), what: what.into(), run };
    let mut steps = vec![
        step("unit", "cargo test of the workspace", Box::new(unit)),
        step(
            "scenarios",
            "every scenario, by the model and by the kernel programs",
            Box::new(|_| scenarios()),
        ),
        step(
            "random",
            "random policies and packets: model against kernel programs, always the same ones",
            Box::new(|_| random()),
        ),
    ];
    for file in root_tests()? {
        let name = format!("root:{file}");
        let what = format!("tests/tests/{file}.rs, in namespaces");
        steps.push(Step { name, what, run: Box::new(move |notes| root_test(&file, notes)) });
    }
    steps.push(step("demo", "the demo, driven by kubectl", Box::new(|_| demo::step())));
    steps.push(step(
        "package",
        "the .deb: built twice, installed, upgraded, removed, purged",
        Box::new(dist::step),
    ));
    steps.push(step(
        "image",
        "the container image: built twice, checked, its agent run as the DaemonSet runs it",
        Box::new(dist::image_step),
    ));
    steps.push(step("vm", "other kernels, in qemu", Box::new(|_| vm::step())));
    steps.push(step(
        "boot",
        "a VM boots with a packet source waiting: with the floor and without",
        Box::new(|_| boot::step()),
    ));
    Ok(steps)
}

/// Tests that need something packed first, and have steps of their own.
const PACKED: [&str; 2] = ["image", "package"];

/// Names of the tests in `tests/tests`, but for those.
fn root_tests() -> Result<Vec<String>> {
    let folder = root().join("tests/tests");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        // A test of several files is a folder with a `main.rs`.
        if path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file() {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.retain(|name| !PACKED.contains(&name.as_str()));
    names.sort();
    Ok(names)
}

/// Takes the named steps, or all. A name stands for itself and for what it begins with `name:`.
fn chosen(words: &[&str], steps: Vec<Step>) -> Result<Vec<Step>> {
    let names: Vec<&str> = words.iter().copied().filter(|word| *word != "--only").collect();
    let means = |wanted: &str, step: &Step| {
        step.name == wanted || step.name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(':'))
    };
    for name in &names {
        if !steps.iter().any(|step| means(name, step)) {
            let all: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
            bail!("there is no step `{name}`; steps: {}, and `root` for all of `root:…`", all.join(", "));
        }
    }
    Ok(steps
        .into_iter()
        .filter(|step| names.is_empty() || names.iter().any(|name| means(name, step)))
        .collect())
}

pub(crate) fn run(words: &[&str]) -> Result<bool> {
    if words == ["--list"] {
        steps()?.iter().for_each(|step| println!("{:<20} {}", step.name, step.what));
        return Ok(true);
    }
    let steps = chosen(words, steps()?)?;
    let skips = skip_log();
    if skips.exists() {
        fs::remove_file(&skips)?;
    }
    setup::kernel_build()?;
    if is_root() && steps.iter().any(|step| step.name.starts_with("root:")) {
        begin_servers()?;
    }
    let (mut done, mut notes) = (Vec::new(), Notes::default());
    for (number, step) in steps.iter().enumerate() {
        say(&format!("== {} ({} of {}): {}", step.name, number + 1, steps.len(), step.what));
        let begin = Instant::now();
        let outcome = (step.run)(&mut notes).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        let time = begin.elapsed();
        say(&format!("== {}: {} ({:.0} s)", step.name, report::word(&outcome), time.as_secs_f32()));
        done.push(Done { name: step.name.clone(), outcome, time });
    }
    report::print(&done, notes.programs, &fs::read_to_string(skip_log()).unwrap_or_default());
    Ok(!done.iter().any(|step| matches!(step.outcome, Outcome::Failed(_))))
}

/// Begins the build of the Kubernetes servers, which takes minutes on a machine that never had them. It goes on beside
/// the first steps; a test that comes before its end waits.
fn begin_servers() -> Result<()> {
    run::run(cargo(Duration::from_secs(1200)).args(["build", "--package", "tests", "--bin", "servers"]))?;
    let program = target().join("debug/servers").display().to_string();
    // Behind everything that measures time.
    let mut build = command("nice", Duration::from_secs(1800));
    build.args(["-n", "19", &program]).spawn().context("cannot start the build of the servers")?;
    Ok(())
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

fn unit(notes: &mut Notes) -> Result<Outcome> {
    let mut test = cargo(Duration::from_secs(1800));
    test.args(["test", "--workspace", "--exclude", "dataplane-ebpf", "--exclude", "tests"]);
    let outcome = cargo_test(&mut test, notes)?;
    if !matches!(outcome, Outcome::Passed) {
        return Ok(outcome);
    }
    // What the tests in namespaces are made of has tests of its own, which need no root.
    cargo_test(cargo(Duration::from_secs(1800)).args(["test", "--package", "tests", "--lib"]), notes)
}

/// Runs `cargo test`, shows what it says, and notes how long each test program took.
pub(crate) fn cargo_test(test: &mut Command, notes: &mut Notes) -> Result<Outcome> {
    test.env("PORTCULLIS_SKIP_LOG", skip_log());
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    test.stdout(writer.try_clone()?).stderr(writer);
    let mut child = test.spawn().context("cannot start cargo")?;
    // What the command holds of the pipe's end would keep it open for ever.
    test.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut watch = Watch::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        watch.line(&line);
    }
    notes.programs.append(&mut watch.programs);
    Ok(match run::verdict(child.wait()?, "cargo test")? {
        true => Outcome::Passed,
        false => Outcome::Failed("cargo test: see above".into()),
    })
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
    if printed(command(&agent, Duration::from_secs(60)).args(["test", "--help"]))
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

/// A slow machine gets through fewer of the cases.
fn random() -> Result<Outcome> {
    if !is_root() {
        return Ok(Outcome::Skipped("the kernel engine needs root (BPF_PROG_TEST_RUN)".into()));
    }
    let agent = build_agent()?.display().to_string();
    let found = target().join("random-found").display().to_string();
    let words =
        ["test", "--random", "250", "--seed", "1", "--within", "75", "--shrink", "30", "--out", &found];
    let passed = succeeds(command(&agent, Duration::from_secs(1200)).args(words))?;
    Ok(match passed {
        true => Outcome::Passed,
        false => Outcome::Failed(format!("model and kernel disagree; the cases are in {found}")),
    })
}

fn root_test(name: &str, notes: &mut Notes) -> Result<Outcome> {
    if !is_root() {
        return Ok(Outcome::Skipped(format!(
            "network namespaces and BPF need root: sudo -E cargo xtask test --only root:{name}"
        )));
    }
    packages::install(&NAMESPACE_TOOLS)?;
    build_agent()?;
    let mut test = cargo(Duration::from_secs(1200));
    // One at a time: they measure what gets through, and two cores are not many.
    test.args(["test", "--package", "tests", "--test", name, "--", "--test-threads=1"]);
    cargo_test(&mut test, notes)
}
