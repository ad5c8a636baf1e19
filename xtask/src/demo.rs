//! `cargo xtask demo`: sets up, builds, and hands over to the story in `tests/src/bin/demo`.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{
    packages::{self, NAMESPACE_TOOLS},
    run::{self, cargo, command, is_root, say, succeeds, target},
    setup, test,
};

/// `words`: for the story, `--kubernetes`.
pub(crate) fn run(words: &[&str]) -> Result<bool> {
    if !is_root() {
        bail!(
            "the demo makes network namespaces and loads BPF programs; it needs root: sudo -E cargo xtask demo"
        );
    }
    setup::kernel_build()?;
    packages::install(&NAMESPACE_TOOLS)?;
    say("building the agent and the demo");
    let agent = test::build_agent()?;
    run::run(cargo(Duration::from_secs(1200)).args(["build", "--package", "tests", "--bin", "demo"]))?;
    let demo = target().join("debug/demo");
    // The first time the Kubernetes servers are built.
    let limit = Duration::from_secs(if words.is_empty() { 180 } else { 1200 });
    succeeds(command(&demo.display().to_string(), limit).args(words).env("PORTCULLIS_BIN", agent))
}
