//! The story that `cargo xtask demo` tells: a NodePort of a real node, before policy, with policy, after a live edit, and
//! after the agent was killed. Every line is a real connection through the real kernel; who decided is what the kernel
//! programs counted. Exit 0 only when everything was as expected.
//!
//! With `--kubernetes` the same table is driven by kubectl: a real etcd, kube-apiserver and kube-proxy stand in the node's
//! namespace.

mod cluster;
mod folder;
mod table;

use std::{env, process::ExitCode, time::Instant};

use anyhow::{Result, bail};
use tests::topology::check_tools;

fn main() -> ExitCode {
    let begin = Instant::now();
    let words: Vec<String> = env::args().skip(1).collect();
    let story = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => folder::story,
        ["--kubernetes"] => cluster::story,
        other => {
            eprintln!("demo: no such words: {}; there is --kubernetes", other.join(" "));
            return ExitCode::from(2);
        }
    };
    match ready().and_then(|()| story(&Clock(begin))) {
        Ok(0) => {
            println!(
                "All as expected, in {:.0} s. Everything was cleaned up.",
                begin.elapsed().as_secs_f32()
            );
            ExitCode::SUCCESS
        }
        Ok(wrong) => {
            println!("{wrong} lines were NOT as expected.");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            // For `cargo xtask test`, which says what it skips.
            if error.is::<cluster::NoKubernetes>() { ExitCode::from(3) } else { ExitCode::FAILURE }
        }
    }
}

fn ready() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the demo makes network namespaces and loads BPF programs; it needs root: sudo -E cargo xtask demo"
        );
    }
    check_tools()
}

/// Says what happens, with the seconds since the start in front.
struct Clock(Instant);

impl Clock {
    fn say(&self, text: &str) {
        for line in text.lines() {
            println!("[{:>5.1} s] {line}", self.0.elapsed().as_secs_f32());
        }
    }
}
