//! One node's events: a kubectl that runs `portcullis observe` in the agent's pod.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdin, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::agents::AgentPod;
use super::kubectl::{Kubectl, last_words};
use crate::observe::Line;

/// What a stream tells.
#[derive(Debug)]
pub enum Told {
    Line(Line),
    /// The last thing; an error in the words of kubectl, or of the program there.
    End(Result<(), String>),
}

/// Every kubectl that runs for us, so that none outlives us.
#[derive(Clone, Debug, Default)]
pub struct Children(Arc<Mutex<BTreeSet<u32>>>);

impl Children {
    /// Ends them.
    pub fn end(&self) {
        for pid in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // One that has ended in this moment needs no signal.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
        }
    }

    /// The whole output of a child, which ends with us.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn wait(&self, child: Child) -> std::io::Result<Output> {
        let pid = child.id();
        self.add(pid);
        let output = child.wait_with_output();
        self.remove(pid);
        output
    }

    fn add(&self, pid: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
    }

    /// Before it is waited for: after that its number may be another's.
    fn remove(&self, pid: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
    }
}

/// A running stream. The program in the pod ends when this is dropped, or when we die: its stdin ends then.
#[derive(Debug)]
pub struct Stream {
    _stdin: Option<ChildStdin>,
}

impl Stream {
    /// Starts it; `tell` gets its lines, then its end, on a thread of its own. When `tell` says false nobody listens any
    /// more.
    ///
    /// # Errors
    /// kubectl cannot be started.
    pub fn open(
        kubectl: &Kubectl,
        agent: &AgentPod,
        words: &[String],
        children: &Children,
        tell: impl Fn(Told) -> bool + Send + 'static,
    ) -> Result<Self> {
        let mut command = kubectl.exec(agent, words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| kubectl.missing())?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("kubectl has no stdout")?;
        let mut stderr = child.stderr.take().context("kubectl has no stderr")?;
        children.add(child.id());
        let children = children.clone();
        let said = thread::spawn(move || {
            let mut text = String::new();
            // What cannot be read is not shown; the exit code says that something is wrong.
            let _ = stderr.read_to_string(&mut text);
            text
        });
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
                // A line of a newer agent that we do not know is no reason to stop.
                let Ok(line) = serde_json::from_str::<Line>(&line) else { continue };
                if !tell(Told::Line(line)) {
                    break;
                }
            }
            children.remove(child.id());
            let status = child.wait();
            let said = said.join().unwrap_or_default();
            let end = match status {
                Ok(status) if status.success() => Ok(()),
                Ok(_) => Err(last_words(&said)),
                Err(e) => Err(e.to_string()),
            };
            tell(Told::End(end));
        });
        Ok(Self { _stdin: stdin })
    }
}
