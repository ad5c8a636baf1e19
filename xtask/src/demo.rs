//! `cargo xtask demo`: sets up, builds, and hands over to the story in `tests/src/bin/demo`.

use std::{process::ExitStatus, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    packages::{self, NAMESPACE_TOOLS},
    run::{self, cargo, command, is_root, say, target},
    setup,
    test::{self, Outcome},
};

/// `words`: for the story, `--kubernetes`.
pub(crate) fn run(words: &[&str]) -> Result<bool> {
    if !is_root() {
        bail!(
            "the demo makes network namespaces and loads BPF programs; it needs root: sudo -E cargo xtask demo"
        );
    }
    run::verdict(told(words)?, "demo")
}

/// As a step of `cargo xtask test`: with Kubernetes, since its table is the plain demo's too.
pub(crate) fn step() -> Result<Outcome> {
    if !is_root() {
        return Ok(Outcome::Skipped("network namespaces and BPF need root".into()));
    }
    let status = told(&["--kubernetes"])?;
    Ok(match status.code() {
        Some(NO_KUBERNETES) => Outcome::Skipped("no Kubernetes; the demo's last line says why".into()),
        _ if run::verdict(status, "demo --kubernetes")? => Outcome::Passed,
        _ => Outcome::Failed("the demo's table is not as expected; see above".into()),
    })
}

/// How the story ends when it has no servers.
const NO_KUBERNETES: i32 = 3;

fn told(words: &[&str]) -> Result<ExitStatus> {
    setup::kernel_build()?;
    packages::install(&NAMESPACE_TOOLS)?;
    say("building the agent and the demo");
    let agent = test::build_agent()?;
    run::run(cargo(Duration::from_secs(1200)).args(["build", "--package", "tests", "--bin", "demo"]))?;
    let demo = target().join("debug/demo");
    // The first time the Kubernetes servers are built.
    let limit = Duration::from_secs(if words.is_empty() { 180 } else { 1200 });
    let mut demo = command(&demo.display().to_string(), limit);
    demo.args(words).env("PORTCULLIS_BIN", agent).status().context("cannot run the demo")
}
