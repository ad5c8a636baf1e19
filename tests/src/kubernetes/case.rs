//! A lab whose node has an API server, and the agent that follows it.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde_json::Value;

use super::{Cluster, servers::Programs};
use crate::{
    can_run,
    probe::Got,
    process::{Agent, Home, agent_program},
    skip,
    topology::{Lab, Proxy, policies},
};

/// For a change to take effect.
const PATIENCE: Duration = Duration::from_secs(90);
/// For one that the agent must look for itself: its pauses grow while the API server is gone.
const LONG: Duration = Duration::from_secs(180);

/// Fields are dropped in their order.
pub struct Case {
    pub cluster: Cluster,
    pub home: Home,
    pub lab: Lab,
}

/// Runs a test with the servers, or says why it does not.
pub fn run(test: &str, body: fn(Case) -> Result<()>) {
    run_with(test, Proxy::Nftables, &[], body);
}

/// The same, with these programs too.
pub fn run_with(test: &str, proxy: Proxy, needs: &[&str], body: fn(Case) -> Result<()>) {
    if !can_run(test) {
        return;
    }
    let programs = match Programs::find().unwrap() {
        Ok(programs) => programs,
        Err(missing) => return skip(test, &missing.0),
    };
    if let Some(missing) = needs.iter().find_map(|program| programs.missing(program)) {
        return skip(test, &missing.0);
    }
    let lab = Lab::new(proxy).unwrap();
    let cluster = Cluster::start(&lab.node, programs).unwrap();
    body(Case { cluster, home: Home::new().unwrap(), lab }).unwrap();
}

impl Case {
    /// Applies the ClusterRole that we ship.
    pub fn allow_the_agent(&self) -> Result<()> {
        let file = policies().join("../packaging/kubernetes/rbac.yaml");
        self.cluster.apply(&fs::read_to_string(file)?)
    }

    pub fn agent(&self, more: &[&str]) -> Result<Agent> {
        let kubeconfig = self.cluster.kubeconfig().display().to_string();
        let words = [&["--kubernetes", "--kubeconfig", &kubeconfig], more].concat();
        Agent::spawn_with(&agent_program()?, &self.lab.node, &self.home, &words)
    }

    /// What an outsider gets from the NodePort.
    pub fn node_port(&self) -> Result<Got> {
        self.lab.ask_node_port(&self.lab.outside)
    }

    /// Asks the NodePort again until the answer is as wanted.
    pub fn becomes(&self, wanted: &Got, agent: &Agent) -> Result<()> {
        self.says(wanted, agent, || self.node_port())
    }

    /// Asks again until the answer is as wanted.
    pub fn says(&self, wanted: &Got, agent: &Agent, ask: impl Fn() -> Result<Got>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let got = ask()?;
            if got == *wanted {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{got} and not {wanted}\n{:#}\n{}", self.home.status()?, agent.log());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn status_becomes(
        &self,
        what: &str,
        agent: &Agent,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let end = Instant::now() + LONG;
        loop {
            match self.home.status() {
                Ok(status) if wanted(&status) => return Ok(status),
                status if Instant::now() > end => bail!("not {what}: {status:#?}\n{}", agent.log()),
                _ => thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    pub fn in_sync(&self, agent: &Agent) -> Result<Value> {
        self.status_becomes("in sync", agent, |s| s["kubernetes"]["inSync"] == true)
    }
}

pub fn answer(words: &str) -> Got {
    Got::Answer(words.to_owned())
}
