//! The user's kubectl.

use std::env;
use std::ffi::OsString;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::agents::AgentPod;

/// Names the program, where `kubectl` in PATH is not the one.
pub const PROGRAM: &str = "KUBECTL";

/// kubectl, with the words that say which cluster and who asks.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: OsString,
    flags: Vec<String>,
    namespace: String,
    timeout: String,
}

/// Why a `get` gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The cluster has no such kind.
    #[error("the cluster does not serve {0}")]
    NotServed(String),
    /// In kubectl's words: no right, no such object, no cluster.
    #[error("{0}")]
    Refused(String),
    /// kubectl cannot be run.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl Kubectl {
    /// `flags`: those of kubectl that choose the cluster and the user. `namespace`: that of the agents. `timeout`: of each
    /// request that gets objects, as `--request-timeout` has it.
    pub fn new(flags: Vec<String>, namespace: String, timeout: String) -> Self {
        let program = env::var_os(PROGRAM).filter(|p| !p.is_empty()).unwrap_or_else(|| "kubectl".into());
        Self { program, flags, namespace, timeout }
    }

    /// The agents' namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.flags);
        command
    }

    /// `kubectl get WORDS -o json`.
    ///
    /// # Errors
    /// kubectl is not there, or gets nothing; its own words say why.
    pub fn get(&self, words: &[&str]) -> Result<Value, GetError> {
        let what = words.first().copied().unwrap_or_default().to_owned();
        let mut command = self.command();
        command.arg("get").args(words).arg("--request-timeout").arg(&self.timeout);
        if what != "--raw" {
            command.args(["-o", "json"]);
        }
        let text = self.output(&mut command).map_err(|e| match e {
            GetError::Refused(why) if is_not_served(&why) => GetError::NotServed(what),
            other => other,
        })?;
        let value = serde_json::from_str(&text).context("kubectl printed no JSON");
        Ok(value?)
    }

    fn output(&self, command: &mut Command) -> Result<String, GetError> {
        let output = command.stdin(Stdio::null()).output().with_context(|| self.missing())?;
        if !output.status.success() {
            return Err(GetError::Refused(last_words(&String::from_utf8_lossy(&output.stderr))));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `kubectl exec` into an agent's container. `stdin` of the command, when it is piped, is that of the program there.
    pub fn exec(&self, agent: &AgentPod, words: &[String]) -> Command {
        let mut command = self.command();
        command.args(["exec", "--stdin", "--namespace", &self.namespace, &agent.pod]);
        command.args(["--container", &agent.container, "--", &agent.program]).args(words);
        if let (Some(dir), Some(_)) = (&agent.state_dir, words.first()) {
            command.args(["--state-dir", dir]);
        }
        command
    }

    /// Why the program could not be started.
    pub fn missing(&self) -> String {
        format!(
            "cannot run {}: kubectl must be in PATH, or named by ${PROGRAM}",
            self.program.to_string_lossy()
        )
    }

    /// The agents of the cluster, one for each node, by node.
    ///
    /// # Errors
    /// Pods of the namespace may not be listed, or there is no cluster.
    pub fn agents(&self) -> Result<Vec<AgentPod>> {
        let words = ["pods", "--namespace", &self.namespace, "--selector", super::agents::LABEL];
        match self.get(&words) {
            Ok(list) => Ok(super::agents::of_list(&list)),
            Err(GetError::Refused(why)) => {
                bail!("cannot list the agents' pods in namespace {}: {why}", self.namespace)
            }
            Err(e) => Err(e.into()),
        }
    }
}

fn is_not_served(words: &str) -> bool {
    words.contains("doesn't have a resource type") || words.contains("could not find the requested resource")
}

/// What a program said at last, on one line: before that kubectl repeats itself.
pub fn last_words(stderr: &str) -> String {
    let line = stderr.lines().rev().map(str::trim).find(|line| !line.is_empty());
    let line = line.unwrap_or("no word of why");
    line.strip_prefix("error: ")
        .or_else(|| line.strip_prefix("Error from server: "))
        .unwrap_or(line)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_reason() {
        let text = "E1121 memcache.go:265] \"Unhandled Error\"\nerror: You must be logged in\n\n";
        assert_eq!(last_words(text), "You must be logged in");
        assert_eq!(last_words("Error from server (Forbidden): no"), "Error from server (Forbidden): no");
        assert_eq!(last_words(""), "no word of why");
    }

    #[test]
    fn a_kind_that_is_not_served_is_told_from_a_refusal() {
        assert!(is_not_served("the server doesn't have a resource type \"nodepolicystatuses\""));
        assert!(!is_not_served("Error from server (Forbidden): nodepolicystatuses is forbidden"));
    }
}
