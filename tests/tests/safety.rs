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

/// For what ends by itself.
const PATIENCE: Duration = Duration::from_secs(60);

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
    fn wait_for(&self, wanted: &Got, patience: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let got = self.ask()?;
            if got == *wanted {
                return Ok(());
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
        let words = node.done(&["suspend", "--for", "1h"])?;
        assert!(words.contains("nothing is dropped for 1 h"), "{words}");
        assert!(node.status()?.contains("SUSPENDED: nothing is dropped for another"), "{}", node.status()?);
        assert_eq!(node.ask()?, answer(NODE_SAYS));
        let after = witness.tally()?;
        assert_eq!(Witness::packets(&before, &after, Verdict::Deny, Reason::ProfileEnd), 0, "not dropped");
        assert!(Witness::spared(&before, &after, Reason::ProfileEnd) > 0, "counted as `would deny`");
        let start = Instant::now();
        node.done(&["suspend", "--for", "4s"])?;
        node.wait_for(&Got::Silence, PATIENCE)?;
        assert!(start.elapsed() > Duration::from_secs(4), "it ended too early: {:?}", start.elapsed());
        assert!(!node.status()?.contains("SUSPENDED"), "{}", node.status()?);
        let seen = node.done(&["observe"])?;
        assert!(seen.contains("Z WouldDeny profile/profile_end "), "what passed: {seen}");
        assert!(seen.contains("Z Deny      profile/profile_end "), "what was dropped: {seen}");

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
        assert!(agent.log().contains("AUDIT"), "{}", agent.log());
        agent.kill_9()?;
        let (_agent, _) = Agent::start(&node.lab.node, &node.folder, &node.home)?;
        assert_eq!(node.ask()?, Got::Silence);
        assert!(!node.status()?.contains("AUDIT"));
        Ok(())
    });
}

const ALLOW: &str = "\
# Open for a moment.
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: open}
spec:
  selector: role == 'node'
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: TCP, destination: {ports: [8080]}}  # the node's server
";

const NO_FAILSAFES: &str = "\
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {failsafeInboundHostPorts: [], failsafeOutboundHostPorts: []}
";

impl Closed {
    /// apply or delete, with or without an ssh connection of its operator.
    fn change(&self, words: &[&str], operator: Option<&str>) -> Result<Output> {
        let mut command = self.command(words)?;
        command.arg("--policies").arg(self.folder.path()).arg("--state-dir").arg(self.home.state_dir());
        match operator {
            Some(connection) => command.env("SSH_CONNECTION", connection),
            None => command.env_remove("SSH_CONNECTION").env_remove("SSH_CLIENT"),
        };
        Ok(command.output()?)
    }

    fn apply(&self, text: &str, more: &[&str]) -> Result<Output> {
        let file = self.home.state_dir().join("apply.yaml");
        std::fs::write(&file, text)?;
        let words = [&["apply", "-f", file.to_str().unwrap_or_default()], more].concat();
        self.change(&words, Some("203.0.113.7 51000 10.240.0.11 22"))
    }

    fn confirm(&self, more: &[&str]) -> Result<Output> {
        let words =
            [&["confirm", "--state-dir", self.home.state_dir().to_str().unwrap_or_default()], more].concat();
        Ok(self.command(&words)?.output()?)
    }

    fn files(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.folder.path())? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        Ok(names)
    }
}

#[test]
fn what_nobody_confirms_is_undone_without_an_agent() {
    run("what_nobody_confirms_is_undone_without_an_agent", || {
        let node = Closed::new()?;
        let (agent, _) = Agent::start(&node.lab.node, &node.folder, &node.home)?;
        assert_eq!(node.ask()?, Got::Silence);
        // Time for all that is asked meanwhile, also of a slow machine.
        let trial = Duration::from_secs(12);
        let start = Instant::now();
        let applied = node.apply(ALLOW, &["--confirm", "12s"])?;
        assert!(applied.status.success(), "{}\n{}", said(&applied), agent.log());
        agent.kill_9()?;
        assert_eq!(node.ask()?, answer(NODE_SAYS), "on trial");
        assert!(node.status()?.contains("ON TRIAL: the last apply is undone in"), "{}", node.status()?);
        let second = node.apply(ALLOW, &[])?;
        assert_eq!(second.status.code(), Some(2), "no second one meanwhile: {}", said(&second));
        node.wait_for(&Got::Silence, PATIENCE)?;
        assert!(start.elapsed() > trial, "it went back too early: {:?}", start.elapsed());
        assert_eq!(node.files()?, ["endpoint.yaml", "globalnetworkpolicy-open.yaml"]);
        assert!(node.status()?.contains("WENT BACK"), "{}", node.status()?);
        let late = node.confirm(&[])?;
        assert_eq!(late.status.code(), Some(1), "{}", said(&late));
        assert!(said(&late).contains("too late"), "{}", said(&late));
        // The next agent puts the folder back too, and goes on from there.
        let (agent, _) = Agent::start(&node.lab.node, &node.folder, &node.home)?;
        assert_eq!(node.files()?, ["endpoint.yaml"]);
        assert_eq!(node.ask()?, Got::Silence, "{}", agent.log());
        assert!(agent.log().contains("nobody confirmed it in time"), "{}", agent.log());
        assert!(!node.status()?.contains("WENT BACK"), "{}", node.status()?);
        Ok(())
    });
}

#[test]
fn confirmed_it_stays_and_undone_it_goes_at_once() {
    run("confirmed_it_stays_and_undone_it_goes_at_once", || {
        let node = Closed::new()?;
        let (mut agent, _) = Agent::start(&node.lab.node, &node.folder, &node.home)?;
        let applied = node.apply(ALLOW, &["--confirm", "1h"])?;
        assert!(applied.status.success(), "{}\n{}", said(&applied), agent.log());
        assert_eq!(node.ask()?, answer(NODE_SAYS));
        let undone = node.confirm(&["--undo"])?;
        assert!(undone.status.success(), "{}", said(&undone));
        assert_eq!(node.ask()?, Got::Silence, "{}", agent.log());
        assert_eq!(node.files()?, ["endpoint.yaml"]);

        let applied = node.apply(ALLOW, &["--confirm", "8s"])?;
        let deadline = Instant::now() + Duration::from_secs(8);
        assert!(applied.status.success(), "{}\n{}", said(&applied), agent.log());
        let confirmed = node.confirm(&[])?;
        assert!(confirmed.status.success(), "{}", said(&confirmed));
        thread::sleep(deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(500));
        assert_eq!(node.ask()?, answer(NODE_SAYS), "{}", agent.log());
        assert_eq!(std::fs::read_to_string(node.folder.path().join("globalnetworkpolicy-open.yaml"))?, ALLOW);
        assert_eq!(node.confirm(&[])?.status.code(), Some(1), "nothing is on trial any more");

        // An agent that lives puts the folder back by itself; a device that the trial let go is governed again.
        while agent.next_generation_within(Duration::from_millis(700)).is_ok() {}
        let deleted = node.change(&["delete", "hep/node1-eth0", "--confirm", "8s"], None)?;
        assert!(deleted.status.success(), "{}\n{}", said(&deleted), agent.log());
        assert_eq!(ask(&node.lab.outside, NODE, 9)?, Got::Refused, "nothing governs eth0");
        agent.kill_9()?;
        let end = Instant::now() + PATIENCE;
        while ask(&node.lab.outside, NODE, 9)? != Got::Silence {
            anyhow::ensure!(Instant::now() < end, "the program is no more on eth0");
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    });
}

#[test]
fn what_cuts_the_operator_is_refused() {
    run("what_cuts_the_operator_is_refused", || {
        let node = Closed::new()?;
        let (mut agent, first) = Agent::start(&node.lab.node, &node.folder, &node.home)?;
        let refused = node.apply(NO_FAILSAFES, &[])?;
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        for words in ["this cuts 203.0.113.7:51000 -> 10.240.0.11:22", "stage profile", "--force"] {
            assert!(said(&refused).contains(words), "{words} is not in {}", said(&refused));
        }
        assert_eq!(node.files()?, ["endpoint.yaml"]);
        // What saves the operator is that rule: it cannot go.
        let ssh = ALLOW.replace("8080", "22").replace("{name: open}", "{name: ssh}");
        let applied = node.apply(&format!("{ssh}---\n{NO_FAILSAFES}"), &[])?;
        assert!(applied.status.success(), "{}", said(&applied));
        assert!(agent.next_generation()? > first);
        assert_eq!(ask(&node.lab.outside, NODE, 22)?, answer(tests::topology::SSH_SAYS));
        let operator = Some("203.0.113.7 51000 10.240.0.11 22");
        let refused = node.change(&["delete", "gnp/ssh"], operator)?;
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        let forced = node.change(&["delete", "gnp/ssh", "--force"], operator)?;
        assert_eq!(forced.status.code(), Some(0), "{}", said(&forced));
        assert!(said(&forced).contains("warning: this cuts 203.0.113.7:51000"), "{}", said(&forced));
        agent.next_generation()?;
        assert_eq!(ask(&node.lab.outside, NODE, 22)?, Got::Silence, "the forecast was right");
        Ok(())
    });
}
