//! Safety for the hand on the keyboard, with real traffic: what is suspended, audited or on trial.

use std::{
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use dataplane_common::verdict::{Reason, Verdict};
use tests::{
    can_run,
    probe::{Got, ask},
    process::{Agent, Home, Policies, agent_program},
    topology::{Lab, NODE, NODE_SAYS, Proxy},
    witness::Witness,
};

const HOST_ENDPOINT: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-eth0, labels: {role: node}}
spec: {node: node1, interfaceName: eth0, expectedIPs: [10.240.0.11]}
";

fn answer(words: &str) -> Got {
    Got::Answer(words.to_owned())
}

fn run(test: &str, body: fn() -> Result<()>) {
    if can_run(test) {
        body().unwrap();
    }
}

/// A node whose host endpoint has no policy: all but the failsafes is denied.
struct Closed {
    lab: Lab,
    folder: Policies,
    home: Home,
}

impl Closed {
    fn new() -> Result<Self> {
        let (lab, folder, home) = (Lab::new(Proxy::Nftables)?, Policies::empty()?, Home::new()?);
        folder.put("endpoint.yaml", HOST_ENDPOINT)?;
        Ok(Self { lab, folder, home })
    }

    fn ask(&self) -> Result<Got> {
        ask(&self.lab.outside, NODE, 8080)
    }

    /// Our command in the node's namespace, without a connection of its operator.
    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.lab.node.command(agent_program()?);
        command.args(words).arg("--pin-dir").arg(self.home.pin_dir());
        Ok(command)
    }

    fn done(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words)?.output()?;
        anyhow::ensure!(output.status.success(), "{words:?}: {}", said(&output));
        Ok(said(&output))
    }

    fn status(&self) -> Result<String> {
        let output = Command::new(agent_program()?)
            .args(["status", "--state-dir"])
            .arg(self.home.state_dir())
            .output()?;
        Ok(said(&output))
    }

    /// Waits until the node's port answers so.
    fn wait_for(&self, wanted: &Got, patience: Duration) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let got = self.ask()?;
            if got == *wanted {
                return Ok(start.elapsed());
            }
            anyhow::ensure!(start.elapsed() < patience, "still {got} after {patience:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_suspension_lets_pass_counts_apart_and_ends_by_itself() {
    run("a_suspension_lets_pass_counts_apart_and_ends_by_itself", || {
        let node = Closed::new()?;
        let (agent, _) = Agent::start(&node.lab.node, &node.folder, &node.home)?;
        // It is the kernel that obeys, not the agent.
        agent.kill_9()?;
        assert_eq!(node.ask()?, Got::Silence);
        let witness = Witness::open(&node.home.pin_dir(), &[])?;
        let before = witness.tally()?;
        let words = node.done(&["suspend", "--for", "4s"])?;
        assert!(words.contains("nothing is dropped for 4 s"), "{words}");
        assert!(node.status()?.contains("SUSPENDED: nothing is dropped for another"), "{}", node.status()?);
        assert_eq!(node.ask()?, answer(NODE_SAYS));
        let after = witness.tally()?;
        assert_eq!(Witness::packets(&before, &after, Verdict::Deny, Reason::ProfileEnd), 0, "not dropped");
        assert!(Witness::spared(&before, &after, Reason::ProfileEnd) > 0, "counted as `would deny`");
        let took = node.wait_for(&Got::Silence, Duration::from_secs(9))?;
        assert!(took > Duration::from_millis(500), "it ended at once: {took:?}");
        assert!(!node.status()?.contains("SUSPENDED"), "{}", node.status()?);

        node.done(&["suspend", "--for", "1h"])?;
        assert_eq!(node.ask()?, answer(NODE_SAYS));
        node.done(&["suspend", "--end"])?;
        assert_eq!(node.ask()?, Got::Silence);
        let refused = node.command(&["suspend", "--for", "25h"])?.output()?;
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        Ok(())
    });
}

#[test]
fn audit_counts_and_drops_nothing_until_an_agent_runs_without_it() {
    run("audit_counts_and_drops_nothing_until_an_agent_runs_without_it", || {
        let node = Closed::new()?;
        let (agent, _) = Agent::start_with(&node.lab.node, &node.folder, &node.home, &["--audit"])?;
        let witness = Witness::open(&node.home.pin_dir(), &[])?;
        let before = witness.tally()?;
        assert_eq!(node.ask()?, answer(NODE_SAYS));
        let after = witness.tally()?;
        assert_eq!(Witness::packets(&before, &after, Verdict::Deny, Reason::ProfileEnd), 0);
        assert!(Witness::spared(&before, &after, Reason::ProfileEnd) > 0);
        let status = node.status()?;
        assert!(status.starts_with("AUDIT: nothing is dropped"), "{status}");
        assert!(status.contains("in force on eth0 (HostEndpoint/node1-eth0); AUDIT"), "{status}");
        assert!(agent.log().contains("AUDIT"), "{}", agent.log());
        agent.kill_9()?;
        let (_agent, _) = Agent::start(&node.lab.node, &node.folder, &node.home)?;
        assert_eq!(node.ask()?, Got::Silence);
        assert!(!node.status()?.contains("AUDIT"));
        Ok(())
    });
}
