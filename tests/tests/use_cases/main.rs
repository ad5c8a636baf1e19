//! The use cases of `policies/` on a real node: real sockets, real DNAT, both of kube-proxy's shapes, both IP versions.

mod cluster_ips;
mod ipv6;
mod lab;
mod protect_hosts;
mod untracked;

use std::{net::IpAddr, path::Path};

use anyhow::Result;
use tests::{
    can_run,
    netns::Netns,
    probe::{Got, ask_together},
    process::{Agent, Home, Policies},
    topology::{Lab, policies},
};

fn answer(words: &str) -> Got {
    Got::Answer(words.to_owned())
}

fn run(test: &str, body: impl FnOnce() -> Result<()>) {
    if can_run(test) {
        body().unwrap();
    }
}

/// None of these gets an answer, nor a refusal.
#[track_caller]
fn assert_silence(agent: &Agent, questions: &[(&Netns, IpAddr, u16)]) {
    let got = ask_together(questions).unwrap();
    for ((netns, address, port), got) in questions.iter().zip(got) {
        assert_eq!(got, Got::Silence, "{} asks {address} port {port}\n{}", netns.name(), agent.log());
    }
}

/// A folder that holds these parts of `policies/` (folders or files).
fn folder_of(parts: &[&str]) -> Result<Policies> {
    let folder = Policies::empty()?;
    for part in parts {
        add(&folder, &policies().join(part))?;
    }
    Ok(folder)
}

fn add(folder: &Policies, part: &Path) -> Result<()> {
    match part.is_dir() {
        true => folder.put_all(part),
        false => {
            let name = part.file_name().unwrap_or_default().to_string_lossy();
            folder.put(&name, &std::fs::read_to_string(part)?)
        }
    }
}

/// The agent in force on the lab's node. Everything that was tracked before is forgotten.
fn enforce(lab: &Lab, folder: &Policies) -> Result<(Agent, Home)> {
    let home = Home::new()?;
    let (agent, _) = Agent::start(&lab.node, folder, &home)?;
    lab.flush_conntrack()?;
    Ok((agent, home))
}
