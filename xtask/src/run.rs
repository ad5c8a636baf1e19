//! Running other programs: always from the workspace root, always with the cargo bin folder in PATH, always
//! with a limit of time.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// One line that says what is being done; everything under it is indented by nothing, so that logs stay greppable.
pub(crate) fn say(what: &str) {
    eprintln!("xtask: {what}");
}

/// A command under a limit of time. `timeout` stands in front of it (coreutils, always there on Linux):
/// in the foreground, so that Ctrl-C reaches the command itself.
pub(crate) fn command(program: &str, limit: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after=10", &limit.as_secs().to_string(), program]);
    command.current_dir(root()).env("PATH", path()).stdin(Stdio::null());
    command
}

/// The proxy of rustup, not the toolchain's own cargo: only the proxy lets bpf-linker find rustc's LLVM.
pub(crate) fn cargo(limit: Duration) -> Command {
    let mut cargo = command("cargo", limit);
    // Set by the cargo that runs us; they would make the inner build differ from one that a person types.
    for name in ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"]
    {
        cargo.env_remove(name);
    }
    cargo
}

/// PATH with cargo's bin folder and the sbin folders: on Debian a plain user's PATH lacks the latter.
fn path() -> String {
    let mut path = env::var("PATH").unwrap_or_default();
    let mut wanted = vec!["/usr/local/sbin".to_owned(), "/usr/sbin".to_owned(), "/sbin".to_owned()];
    if let Some(home) = cargo_home() {
        wanted.insert(0, home.join("bin").display().to_string());
    }
    for folder in wanted {
        if !path.split(':').any(|part| part == folder) {
            path = format!("{path}:{folder}");
        }
    }
    path
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}

/// Runs to the end with the terminal's output. False when it failed by itself; an error when it could not be
/// run or took too long.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let shown = shown(command);
    let status =
        command.status().with_context(|| format!("cannot run `{shown}`: is coreutils' `timeout` there?"))?;
    verdict(status, &shown)
}

/// As [`succeeds`], but a failure is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    if !succeeds(command)? {
        bail!("`{}` failed; its own message stands above", shown(command));
    }
    Ok(())
}

/// What the command prints, or nothing when it fails or is not there.
pub(crate) fn printed(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(crate) fn verdict(status: ExitStatus, shown: &str) -> Result<bool> {
    match status.code() {
        Some(0) => Ok(true),
        // What `timeout` itself returns: the limit was reached, or the program could not be started.
        Some(124 | 137) => bail!("`{shown}` took too long and was ended"),
        Some(126 | 127) => bail!("`{shown}`: no such program; `cargo xtask setup` installs what is missing"),
        _ => Ok(false),
    }
}

/// The command as a person would type it, without our `timeout` in front.
fn shown(command: &Command) -> String {
    let words: Vec<_> = command.get_args().skip(3).map(|word| word.to_string_lossy().into_owned()).collect();
    words.join(" ")
}

pub(crate) fn has_program(name: &str) -> bool {
    path().split(':').any(|folder| Path::new(folder).join(name).is_file())
}

pub(crate) fn is_root() -> bool {
    printed(command("id", Duration::from_secs(5)).arg("-u")).as_deref() == Some("0")
}
