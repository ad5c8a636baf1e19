//! The file of the state, and whether who wrote it still runs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::State;
use crate::loader::turnstile::in_use;

const FILE: &str = "status.json";

impl State {
    /// Replaces the file as a whole.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut text = serde_json::to_vec_pretty(self).context("cannot write the state as JSON")?;
        text.push(b'\n');
        let next = dir.join(format!(".{FILE}.next"));
        let mut file =
            fs::File::create(&next).with_context(|| format!("cannot create {}", next.display()))?;
        file.write_all(&text).with_context(|| format!("cannot write {}", next.display()))?;
        fs::rename(&next, &path).with_context(|| format!("cannot replace {}", path.display()))
    }

    /// Whether an agent wrote it, and nobody removed it.
    pub fn is_there(dir: &Path) -> bool {
        dir.join(FILE).is_file()
    }

    /// What an agent wrote last.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = fs::read(&path).with_context(|| {
            format!(
                "cannot read {}: no agent ran with this --state-dir yet (`portcullis run`)",
                path.display()
            )
        })?;
        serde_json::from_slice(&text).with_context(|| {
            format!("{} is of another version; restart the agent with this portcullis", path.display())
        })
    }

    /// Whether the agent that wrote it still runs. One that was stopped (`kill -STOP`), or that is dead and not yet
    /// buried, does not. Of one in a pod, which has another number here, the lock of the pin dir tells.
    pub fn agent_runs(&self) -> bool {
        if self.is_elsewhere() {
            return in_use(&self.pin_dir);
        }
        let lives = |state| !matches!(state, 'T' | 't' | 'Z' | 'X');
        process(self.pid).is_some_and(|(state, started)| lives(state) && Some(started) == self.started)
    }
}

impl State {
    /// Whether process numbers mean others to its writer than to us.
    fn is_elsewhere(&self) -> bool {
        self.pid_namespace != 0 && self.pid_namespace != pid_namespace()
    }
}

/// Number of this process's PID namespace; 0: unknown.
pub(crate) fn pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino())
}

/// State and begin of a process, by the fields 3 and 22 of its `stat` (proc(5)).
pub(crate) fn process(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold blanks and brackets: what follows its last bracket does not.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::tests::state;
    use super::*;

    #[test]
    fn an_agent_runs_while_its_very_process_does() {
        let pid = std::process::id();
        let (alive, started) = process(pid).unwrap();
        assert!(matches!(alive, 'R' | 'S'), "{alive}");
        let runs = |started| State { pid, started, ..state() }.agent_runs();
        assert!(runs(Some(started)));
        assert!(!runs(Some(started + 1)), "another process has the number");
        assert!(!runs(None));
        // Written in a container: numbers mean nothing here, the lock does.
        let folder = tempfile::tempdir().unwrap();
        let far =
            State { pid, started: Some(started), pid_namespace: 1, pin_dir: folder.path().into(), ..state() };
        assert!(!far.agent_runs());
        let lock = fs::File::open(folder.path()).unwrap();
        let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
        assert!(far.agent_runs());
        drop(lock);
        assert!(!far.agent_runs());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let of_child = State { pid: child.id(), started: process(child.id()).map(|p| p.1), ..state() };
        assert!(of_child.agent_runs());
        child.kill().unwrap();
        while process(child.id()).is_some_and(|(state, _)| state != 'Z') {
            std::thread::yield_now();
        }
        assert!(!of_child.agent_runs(), "dead, and not yet buried");
        child.wait().unwrap();
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        state().write(dir.path()).unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), state());
    }
}
