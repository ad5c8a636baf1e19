//! Harness of what needs root: namespaces with real sockets and real DNAT ([`topology`]), the agent as a
//! process ([`process`]), and clients that say what they got ([`probe`]). The tests and the demo share it.

pub mod alerts;
pub mod boot;
pub mod bpffs;
pub mod desk;
pub mod docs;
pub mod helm;
pub mod http;
pub mod kube_proxy;
pub mod kubernetes;
pub mod netns;
pub mod openmetrics;
pub mod pod;
pub mod probe;
pub mod process;
pub mod small;
pub mod topology;
pub mod witness;

use std::{env, fs::OpenOptions, io::Write as _};

/// Whether a test that needs root and namespaces can run here.
pub fn can_run(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    skip(test, "network namespaces and BPF need root (sudo -E cargo xtask test namespaces)");
    false
}

/// Says on the terminal that a test cannot run here, and in the file of `PORTCULLIS_SKIP_LOG`, which `cargo xtask test`
/// prints at the end: a skip must never look like a pass.
pub fn skip(test: &str, why: &str) {
    let line = format!("{test}: {why}\n");
    eprint!("SKIPPED {line}");
    if let Some(path) = env::var_os("PORTCULLIS_SKIP_LOG")
        && let Ok(mut log) = OpenOptions::new().create(true).append(true).open(path)
    {
        // The line on the terminal is there already; a log that cannot be written loses nothing else.
        let _ = log.write_all(line.as_bytes());
    }
}
