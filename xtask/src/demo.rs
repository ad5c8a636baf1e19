//! `cargo xtask demo`: sets up, builds, and hands over to the story in `tests/src/bin/demo.rs`.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{
    packages::{self, NAMESPACE_TOOLS},
    run::{self, cargo, command, is_root, say, succeeds, target},
    setup, test,
};

pub(crate) fn run() -> Result<bool> {
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
    succeeds(command(&demo.display().to_string(), Duration::from_secs(180)).env("PORTCULLIS_BIN", agent))
}
