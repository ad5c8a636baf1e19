//! Driven by a folder of policies.

use std::{thread, time::Duration};

use anyhow::Result;
use tests::{
    process::{Agent, Home, Policies},
    topology::{Lab, Proxy, policies},
    witness::Witness,
};

use crate::{
    Clock,
    table::{Policy, RULES, chapter},
};

/// Tells it; how many lines were not as expected.
pub fn story(clock: &Clock) -> Result<usize> {
    let lab = Lab::new(Proxy::Nftables)?;
    clock.say(
        "A node (eth0 10.240.0.11) with a pod behind a NodePort, translated in nftables as kube-proxy does.",
    );
    let mut wrong = chapter(&lab, "1. before policy: everybody gets in", Policy::None, None)?;

    let (folder, home) = (Policies::empty()?, Home::new()?);
    folder.put_all(&policies().join("nodeport/base"))?;
    let (mut agent, generation) = Agent::start(&lab.node, &folder, &home)?;
    clock.say(&format!("portcullis run: generation {generation} in force"));
    let witness = Witness::open(&home.pin_dir(), &RULES)?;
    let title = "2. with policies/nodeport/base: only the inside gets in, and ssh, always";
    wrong += chapter(&lab, title, Policy::Base, Some(&witness))?;

    folder.put_all(&policies().join("nodeport/pinhole"))?;
    clock.say(&format!("portcullis run: generation {} in force", agent.next_generation()?));
    let title = "3. live edit: allow-nodeport.yaml was copied into the folder, and TCP 31852 is open";
    wrong += chapter(&lab, title, Policy::Pinhole, Some(&witness))?;

    agent.kill_9()?;
    thread::sleep(Duration::from_millis(300));
    let title = "4. kill -9 of the agent: enforcement goes on";
    wrong += chapter(&lab, title, Policy::Pinhole, Some(&witness))?;
    Ok(wrong)
}
