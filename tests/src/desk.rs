//! A person's place at the lab: shells on its machines, where the node looks like an installed one. `/etc`, `/run`,
//! `/var/lib` and `/sys/fs/bpf` are its own, in a mount namespace that goes away with the value; so is the hostname
//! `node1`. Nothing of the machine is touched.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    docs::{STOP, Step, lines, matches},
    netns::Netns,
    process::agent_program,
    topology::{Lab, policies},
};

/// For the agent to load its programs, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// For a change to take effect, after which a question is answered differently.
const SETTLING: Duration = Duration::from_secs(45);
/// Commands that only look: asked again until the answer is the expected one.
const QUESTIONS: [&str; 8] = [
    "curl ",
    "portcullis status",
    "portcullis get",
    "portcullis explain",
    "portcullis observe",
    "portcullis maps",
    "portcullis validate",
    "portcullis lint",
];

/// Fields are dropped in their order: what runs, the namespace, then the lab.
pub struct Desk {
    background: Vec<Child>,
    holder: Child,
    folder: TempDir,
    lab: Lab,
}

/// Makes the mounts, then waits. `cp -a` keeps what programs read in /etc.
const HOLDER: &str = "set -e
mount -t tmpfs tmpfs \"$1/mnt\"
cp -a /etc \"$1/mnt/etc\"
mkdir -p \"$1/mnt/etc/portcullis/policies\"
mount --bind \"$1/mnt/etc\" /etc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mount -t bpf bpf /sys/fs/bpf
echo node1 > /proc/sys/kernel/hostname
echo ready
exec sleep infinity
";

impl Desk {
    pub fn new(lab: Lab) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("portcullis-desk-").tempdir()?;
        fs::create_dir(folder.path().join("mnt"))?;
        let home = folder.path().join("home");
        fs::create_dir(&home)?;
        symlink(fs::canonicalize(policies())?, home.join("policies"))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--uts", "--propagation", "private"]);
        command.args(["sh", "-c", HOLDER, "sh"]).arg(folder.path());
        let mut holder = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = holder.stdout.take().context("no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let desk = Self { background: Vec::new(), holder, folder, lab };
        if line.trim() != "ready" {
            bail!("the mounts of the documentation's node could not be made");
        }
        Ok(desk)
    }

    fn machine(&self, name: &str) -> Result<&Netns> {
        Ok(match name {
            "node1" => &self.lab.node,
            "node2" => &self.lab.inside,
            "outside" => &self.lab.outside,
            "peer" => &self.lab.peer,
            "pod" => &self.lab.pod,
            other => bail!("the lab has no machine {other}: node1, node2, outside, peer, pod"),
        })
    }

    /// A shell with this command, on that machine. Its errors go where its output goes.
    fn shell(&self, step: &Step) -> Result<Command> {
        let machine = self.machine(&step.machine)?;
        let place = |namespace: &str| format!("/proc/{}/ns/{namespace}", self.holder.id());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter"]).arg(format!("--net=/run/netns/{}", machine.name()));
        command.arg(format!("--mount={}", place("mnt"))).arg(format!("--uts={}", place("uts")));
        let script = format!("exec 2>&1; cd \"$HOME\"; {}", exec(&step.command));
        command.args(["--", "sh", "-c", &script]).stdin(Stdio::null());
        command.env("PATH", path()?).env("HOME", self.home()).env_remove("RUST_LOG").env("LC_ALL", "C.UTF-8");
        Ok(command)
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// What came, when it is not what the page says.
    pub fn run(&mut self, step: &Step) -> Result<Option<Vec<String>>> {
        let Some(expected) = &step.expected else {
            if step.command == STOP {
                return self.stop().map(|()| None);
            }
            let output = self.shell(step)?.output()?;
            if !output.status.success() {
                bail!("set-up {:?}: {}", step.command, String::from_utf8_lossy(&output.stdout));
            }
            return Ok(None);
        };
        if step.command.starts_with("portcullis run") {
            return self.start(step, expected);
        }
        let end = Instant::now() + SETTLING;
        let asks = QUESTIONS.iter().any(|question| step.command.starts_with(question));
        loop {
            let output = self.shell(step)?.output()?;
            let got = lines(&String::from_utf8_lossy(&output.stdout));
            if matches(expected, &got) {
                return Ok(None);
            }
            if !asks || Instant::now() > end {
                return Ok(Some(got));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// The agent goes on in the background; the page shows what it says when it has begun.
    fn start(&mut self, step: &Step, expected: &[String]) -> Result<Option<Vec<String>>> {
        let log = self.folder.path().join(format!("agent-{}", self.background.len()));
        let child = self.shell(step)?.stdout(fs::File::create(&log)?).spawn()?;
        self.background.push(child);
        let end = Instant::now() + PATIENCE;
        loop {
            let got = lines(&fs::read_to_string(&log)?);
            // What it says first is not all: a page must name a line to wait for.
            if !expected.is_empty() && matches(expected, &got) {
                return Ok(None);
            }
            if Instant::now() > end {
                return Ok(Some(got));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(&mut self) -> Result<()> {
        for mut child in self.background.drain(..) {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
            child.wait()?;
        }
        Ok(())
    }
}

/// Processes whose mounts are those of process `holder`: what a page's set-up left in the background has no parent that
/// would take it along.
fn share_mounts(holder: u32) -> Vec<Pid> {
    let mounts = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let Some(own) = mounts(&holder.to_string()) else { return Vec::new() };
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|process| mounts(&process.to_string()).as_ref() == Some(&own))
        .map(Pid::from_raw)
        .collect()
}

/// The agent becomes the shell's process, so that it goes when that is killed.
fn exec(command: &str) -> String {
    let run = command.starts_with("portcullis run");
    if run { format!("exec {command}") } else { command.to_owned() }
}

/// With the built `portcullis` first.
fn path() -> Result<String> {
    let program = agent_program()?;
    let folder = fs::canonicalize(&program)?.parent().map(Path::to_path_buf).unwrap_or_default();
    Ok(format!("{}:{}", folder.display(), env::var("PATH").unwrap_or_default()))
}

impl Drop for Desk {
    fn drop(&mut self) {
        for process in share_mounts(self.holder.id()) {
            let _ = kill(process, Signal::SIGKILL);
        }
        for child in self.background.iter_mut().chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
