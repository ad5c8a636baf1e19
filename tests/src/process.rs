//! The agent as a process of its own, as a node runs it, and the folder of policies that it watches.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{bpffs::BpfFs, netns::Netns};

/// Loading the programs takes the longest; a busy machine with two cores needs its time.
const PATIENCE: Duration = Duration::from_secs(90);

/// The agent's program: `PORTCULLIS_BIN`, or the one beside the test that runs.
pub fn agent_program() -> Result<PathBuf> {
    if let Some(path) = env::var_os("PORTCULLIS_BIN") {
        return Ok(path.into());
    }
    let own = env::current_exe()?;
    let found =
        own.ancestors().skip(1).take(2).map(|folder| folder.join("portcullis")).find(|path| path.is_file());
    found.context("there is no `portcullis` beside this program: cargo build -p dataplane-user")
}

/// A watched folder. Files come whole: written under another name, then renamed.
pub struct Policies {
    folder: TempDir,
}

impl Policies {
    pub fn empty() -> Result<Self> {
        Ok(Self { folder: tempfile::Builder::new().prefix("portcullis-policies-").tempdir()? })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn put(&self, name: &str, text: &str) -> Result<()> {
        // Beside the folder, not in it, on the same file system: the agent never sees the unfinished file.
        let unfinished = self.folder.path().with_extension("unfinished");
        fs::write(&unfinished, text)?;
        fs::rename(&unfinished, self.folder.path().join(name)).with_context(|| format!("cannot put {name}"))
    }

    /// Copies every manifest of one of this repository's folders.
    pub fn put_all(&self, from: &Path) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.put(&name, &fs::read_to_string(&path)?)?;
            }
        }
        Ok(())
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.folder.path().join(name)).with_context(|| format!("cannot remove {name}"))
    }
}

/// What outlives the agent: its pins and its state.
pub struct Home {
    bpf: BpfFs,
    state: TempDir,
}

impl Home {
    pub fn new() -> Result<Self> {
        Ok(Self {
            bpf: BpfFs::mount()?,
            state: tempfile::Builder::new().prefix("portcullis-state-").tempdir()?,
        })
    }

    pub fn pin_dir(&self) -> PathBuf {
        self.bpf.pin_dir()
    }

    /// Where the agent keeps what `status` and `observe` read.
    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// What `portcullis status -o json` says.
    pub fn status(&self) -> Result<serde_json::Value> {
        let output = Command::new(agent_program()?)
            .args(["status", "-o", "json", "--state-dir"])
            .arg(self.state.path())
            .output()?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!("status printed no JSON: {}", String::from_utf8_lossy(&output.stderr).trim())
        })
    }

    /// Waits until the status is as wanted.
    pub fn await_status(&self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            match &status {
                Ok(status) if wanted(status) => return Ok(()),
                _ if Instant::now() > end => bail!("not {what} after {PATIENCE:?}: {status:#?}"),
                _ => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Runs `portcullis WORDS` in the node's namespace, with this state dir.
    pub fn portcullis(&self, node: &Netns, words: &[&str]) -> Result<Said> {
        let mut command = node.command(agent_program()?);
        command.args(words).arg("--state-dir").arg(self.state.path()).stdin(Stdio::null());
        let output = command.output().context("cannot run portcullis")?;
        Ok(Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// What a command answered.
#[derive(Clone, Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A running agent; killed when dropped.
pub struct Agent {
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Agent {
    /// Starts the agent in `netns` as node1, and waits until its first generation is in force.
    pub fn start(netns: &Netns, policies: &Policies, home: &Home) -> Result<(Self, u64)> {
        Self::start_with(netns, policies, home, &[])
    }

    /// With more options for `run`.
    pub fn start_with(
        netns: &Netns,
        policies: &Policies,
        home: &Home,
        options: &[&str],
    ) -> Result<(Self, u64)> {
        let mut agent = Self::spawn(&agent_program()?, netns, policies, home, options)?;
        let generation = agent.next_generation()?;
        Ok((agent, generation))
    }

    /// Starts a program, and waits for nothing.
    pub fn spawn(
        program: &Path,
        netns: &Netns,
        policies: &Policies,
        home: &Home,
        options: &[&str],
    ) -> Result<Self> {
        let folder = policies.path().display().to_string();
        let words = [&["--policies", &folder], options].concat();
        Self::spawn_with(program, netns, home, &words)
    }

    /// Starts a program with these options for `run`, which say where its policies come from; waits for nothing.
    pub fn spawn_with(program: &Path, netns: &Netns, home: &Home, options: &[&str]) -> Result<Self> {
        Self::spawn_on("node1", program, netns, home, options)
    }

    /// As another node.
    pub fn spawn_on(
        node: &str,
        program: &Path,
        netns: &Netns,
        home: &Home,
        options: &[&str],
    ) -> Result<Self> {
        let log = home.state.path().join(format!("agent-{}.log", fs::read_dir(home.state.path())?.count()));
        let inner = netns.command(program);
        // Goes down with us even when we are killed: `setpriv` asks the kernel for that, then becomes nsenter, which
        // becomes the agent.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(inner.get_program()).args(inner.get_args());
        command.args(["run", "--node", node]);
        command.arg("--pin-dir").arg(home.pin_dir()).arg("--state-dir").arg(home.state.path());
        command.args(options);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(&log)?);
        let mut child = command.spawn().context("cannot start the agent: `setpriv` is part of util-linux")?;
        let stdout = child.stdout.take().context("the agent has no stdout")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines, log })
    }

    /// Waits for the next line `generation N in force`.
    pub fn next_generation(&mut self) -> Result<u64> {
        self.next_generation_within(PATIENCE)
    }

    pub fn next_generation_within(&mut self, patience: Duration) -> Result<u64> {
        let end = Instant::now() + patience;
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => match generation(&line) {
                    Some(number) => return Ok(number),
                    None => seen.push(line),
                },
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "no generation in force after {patience:?}; the agent said {seen:?}\n{}",
                        self.log()
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the agent ended ({:?}); it said {seen:?}\n{}", self.child.try_wait(), self.log())
                }
            }
        }
    }

    /// What the agent wrote to stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Stops it, so that it notices nothing, or lets it go on.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).context("cannot signal the agent")
    }

    /// SIGTERM, and waits until it ended.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)
            .context("cannot signal the agent")?;
        self.child.wait()?;
        Ok(())
    }

    /// As `kill -9` does: the agent has no chance to do anything.
    pub fn kill_9(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads `generation N in force`, wherever in a line it stands.
fn generation(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("generation ")?;
    let (number, rest) = rest.split_once(' ')?;
    rest.starts_with("in force").then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::generation;

    #[test]
    fn a_generation_line_is_read() {
        assert_eq!(generation("generation 12 in force"), Some(12));
        assert_eq!(generation("node1: generation 3 in force (4 rules)"), Some(3));
        assert_eq!(generation("generation 3 refused"), None);
    }
}
