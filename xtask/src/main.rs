//! `cargo xtask`: everything that a newcomer types. Each command sets up what it needs, says what it does,
//! and ends with an exit code that tells the truth.

mod boot;
mod cpio;
mod demo;
mod dist;
mod packages;
mod report;
mod run;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

const HELP: &str = "\
Portcullis, the one front door.

usage: cargo xtask COMMAND

  setup                       install what is missing (rust-src, bpf-linker, Debian packages)
  demo                        a real NodePort, protected on this kernel, in namespaces: before, after, live edit, kill -9
  demo --kubernetes           the same table, driven by kubectl: with a real API server and kube-proxy (needs Go, or KUBEBUILDER_ASSETS)
  test [--only STEP…]         every test, or the named steps; `test --list` names them
  dist                        the release as a Debian package, in target/dist
  dist image                  the release as a container image, with its bill of materials; needs no container engine
  vm [--kernel 5.10|6.1]…     load and attach on another kernel, in qemu (both without --kernel)

Needs root for demo and for the steps root, package and vm. What cannot run is named, with the reason and the remedy.";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [] | ["help" | "-h" | "--help"] => {
            println!("{HELP}");
            Ok(true)
        }
        ["setup"] => setup::everything().map(|()| true),
        ["demo"] => demo::run(&[]),
        ["demo", "--kubernetes"] => demo::run(&["--kubernetes"]),
        ["test", steps @ ..] => test::run(steps),
        ["dist"] => dist::run(),
        ["dist", "image"] => dist::image(),
        ["vm", options @ ..] => vm::run(options),
        [other, ..] => {
            Err(anyhow::anyhow!("there is no command `{other}` or it takes no such words\n\n{HELP}"))
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
