//! A network namespace that goes away with its value, also after a panic.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

/// Names are `pc-PID-NUMBER-ROLE`, so that two runs never meet and a later run can tell which are left over.
const PREFIX: &str = "pc-";

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace, with `lo` up.
    pub fn new(role: &str) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        succeed(Command::new("ip").args(["netns", "add", &name]), "")?;
        let netns = Self { name };
        netns.ip("link set lo up\n")?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs `ip` commands, one a line.
    pub fn ip(&self, lines: &str) -> Result<()> {
        succeed(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), lines)
    }

    /// A command in this namespace. `nsenter`, not `ip netns exec`: the latter mounts a new /sys, which hides
    /// the bpffs below it. The process that is started becomes the program itself, so its id is the program's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg("--").arg(program);
        command
    }

    /// Runs `work` on a thread of its own in this namespace. Sockets made there stay in it wherever they go.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.open()?.run(work)
    }

    /// The namespace for a thread that may outlive this value.
    pub fn open(&self) -> Result<Open> {
        let file = fs::File::open(self.path()).with_context(|| format!("namespace {} is gone", self.name))?;
        Ok(Open(file))
    }

    /// Writes `net.…` settings, e.g. `ipv4/ip_forward`: /proc/sys/net shows the namespace of the thread that opens it.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(name, value)| {
                fs::write(Path::new("/proc/sys/net").join(name), value)
                    .with_context(|| format!("cannot set net/{name} to {value}"))
            })
        })?
    }
}

/// A namespace, held open.
pub struct Open(fs::File);

impl Open {
    /// As [`Netns::run`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(&self.0, CloneFlags::CLONE_NEWNET).context("setns")?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

/// Deletes the namespaces of runs that were killed before they could clean up.
pub fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
        }
    }
}

/// Runs a command with `input`; its own words become the error.
pub(crate) fn succeed(command: &mut Command, input: &str) -> Result<()> {
    let shown = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().with_context(|| format!("cannot start {shown}: run `cargo xtask setup`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing closes its end; its exit code tells.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{shown} failed: {}\ninput was:\n{input}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
