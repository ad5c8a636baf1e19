//! Untracked policy drops at XDP already, and TC stands behind it (D10).

use std::{
    fs,
    io::ErrorKind,
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{
    Xdp, XdpMode,
    links::{FdLink, PinnedLink},
};
use dataplane_common::verdict::{Reason, Verdict};
use portcullis::loader::{Dataplane, LoadOptions, xdp::look};
use serde_json::{Value, json};
use tests::{
    can_run,
    netns::Netns,
    probe::{Got, Server, Speech, ask},
    process::{Agent, Home, Policies, agent_program},
    witness::{Tally, Witness},
};

const NODE: [u8; 4] = [10, 0, 9, 1];
const DENIED: u16 = 7001;
const ALLOWED: u16 = 7002;
const SSH: u16 = 22;
const SAYS: &str = "hello";

const ENDPOINT: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-eth0, labels: {role: node}}
spec: {node: node1, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: all}
spec: {selector: has(role), ingress: [{action: Allow}], egress: [{action: Allow}]}
";

/// Denies the failsafe's port too: that must not help.
const UNTRACKED: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: untracked}
spec:
  selector: has(role)
  doNotTrack: true
  applyOnForward: true
  ingress:
  - {action: Log, protocol: TCP}
  - {action: Deny, protocol: TCP, destination: {ports: [22, 7001]}}
  - {action: Pass}
";

struct Wire {
    node: Netns,
    far: Netns,
    folder: Policies,
    home: Home,
    _servers: [Server; 3],
}

impl Wire {
    fn new() -> Result<Self> {
        let (node, far) = (Netns::new("node")?, Netns::new("far")?);
        node.ip(&format!("link add eth0 type veth peer name far0 netns {}\n", far.name()))?;
        node.ip("addr add 10.0.9.1/24 dev eth0\nlink set eth0 up\n")?;
        far.ip("addr add 10.0.9.2/24 dev far0\nlink set far0 up\n")?;
        let http = |port| Server::start(&node, port, Speech::Http(SAYS));
        let servers = [http(DENIED)?, http(ALLOWED)?, Server::start(&node, SSH, Speech::Banner(SAYS))?];
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put("endpoint.yaml", ENDPOINT)?;
        Ok(Self { node, far, folder, home, _servers: servers })
    }

    fn ask(&self, port: u16) -> Result<Got> {
        ask(&self.far, NODE, port)
    }

    /// Number of the device.
    fn eth0(&self) -> Result<u32> {
        self.node.run(|| nix::net::if_::if_nametoindex("eth0"))?.context("eth0")
    }

    /// Programs at XDP, as the kernel says.
    fn at_xdp(&self) -> Result<Vec<(&'static str, u32)>> {
        let number = self.eth0()?;
        let seen = self.node.run(|| look(number))??;
        Ok(seen.programs.into_iter().map(|p| (p.mode, p.program)).collect())
    }

    fn await_xdp(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        self.home.await_status(what, |status| wanted(&status["xdp"]))
    }

    fn command(&self, words: &[&str]) -> Result<()> {
        let mut command = self.node.command(agent_program()?);
        let output = command.args(words).arg("--pin-dir").arg(self.home.pin_dir()).output()?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Asks the denied port, which must be silent, and says who dropped: packets at XDP and at TC.
    fn dropped(&self, witness: &Witness) -> Result<(bool, bool)> {
        let before = witness.tally()?;
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            // The counters are the witness: no need to wait for a second SYN.
            let patience = Duration::from_millis(200);
            let got = self.far.run(|| TcpStream::connect_timeout(&(NODE, DENIED).into(), patience))?;
            ensure!(got.is_err_and(|e| e.kind() == ErrorKind::TimedOut), "the denied port answered");
            let after = witness.tally()?;
            let dropped = (Tally::xdp(&before, &after) > 0, denied_at_tc(&before, &after) > 0);
            if dropped != (false, false) || Instant::now() > end {
                return Ok(dropped);
            }
        }
    }
}

fn denied_at_tc(before: &Tally, after: &Tally) -> u64 {
    Witness::packets(before, after, Verdict::Deny, Reason::RuleDeny)
}

fn is_attached(xdp: &Value, mode: &str) -> bool {
    *xdp == json!({"eth0": {"attached": mode}})
}

fn left(xdp: &Value, why: &str) -> bool {
    xdp["eth0"]["left"].as_str().is_some_and(|text| text.contains(why))
}

/// (number of the link, number of its program)
fn link_of(pin: &Path) -> Result<(u32, u32)> {
    let info = FdLink::from(PinnedLink::from_pin(pin)?).info()?;
    Ok((info.id(), info.program_id()))
}

fn run(test: &str, body: fn() -> Result<()>) {
    if can_run(test) {
        body().unwrap();
    }
}

#[test]
fn untracked_denials_are_dropped_at_xdp() {
    run("untracked_denials_are_dropped_at_xdp", || {
        let wire = Wire::new()?;
        wire.folder.put("untracked.yaml", UNTRACKED)?;
        let (agent, _) = Agent::start(&wire.node, &wire.folder, &wire.home)?;
        wire.await_xdp("at XDP", |xdp| is_attached(xdp, "generic"))?;
        let witness = Witness::open(&wire.home.pin_dir(), &[])?;
        assert_eq!(wire.dropped(&witness)?, (true, false), "at XDP, so TC sees none\n{}", agent.log());
        assert_eq!(wire.ask(SSH)?, Got::Answer(SAYS.into()), "a failsafe is no matter of policy");
        assert_eq!(wire.ask(ALLOWED)?, Got::Answer(SAYS.into()));
        let status = wire.home.portcullis(&wire.node, &["status"])?;
        let row = status.stdout.lines().find(|line| line.split_whitespace().next() == Some("xdp"));
        assert!(row.is_some_and(|r| r.contains("generic") && r.contains("1 of 1")), "{}", status.stdout);

        wire.command(&["suspend", "--for", "60s"])?;
        let before = witness.tally()?;
        assert_eq!(wire.ask(DENIED)?, Got::Answer(SAYS.into()), "suspended");
        let after = witness.tally()?;
        assert_eq!(Tally::xdp(&before, &after), 0);
        assert!(Witness::spared(&before, &after, Reason::RuleDeny) > 0, "TC counts what it would deny");
        wire.command(&["suspend", "--end"])?;

        let pin = wire.home.pin_dir().join("links").join(format!("{}_xdp", wire.eth0()?));
        let (link, program) = link_of(&pin)?;
        agent.kill_9()?;
        assert_eq!(wire.dropped(&witness)?, (true, false), "without an agent");
        let (agent, _) = Agent::start(&wire.node, &wire.folder, &wire.home)?;
        wire.await_xdp("at XDP again", |xdp| is_attached(xdp, "generic"))?;
        let (link_now, program_now) = link_of(&pin)?;
        assert_eq!(link_now, link, "the same link: no gap, and no reset of a driver");
        assert_ne!(program_now, program, "with the program of this agent");
        assert_eq!(wire.dropped(&witness)?, (true, false));

        wire.folder.remove("untracked.yaml")?;
        wire.await_xdp("without XDP", |xdp| *xdp == json!({}))?;
        assert!(!pin.exists());
        assert_eq!(wire.ask(DENIED)?, Got::Answer(SAYS.into()), "{}", agent.log());
        assert_eq!(wire.at_xdp()?, []);

        wire.folder.put("untracked.yaml", UNTRACKED)?;
        wire.await_xdp("at XDP once more", |xdp| is_attached(xdp, "generic"))?;
        agent.kill_9()?;
        wire.command(&["detach"])?;
        assert_eq!(wire.at_xdp()?, []);
        Ok(())
    });
}

#[test]
fn where_xdp_may_not_be_tc_enforces_the_same() {
    run("where_xdp_may_not_be_tc_enforces_the_same", || {
        let wire = Wire::new()?;
        let number = wire.eth0()?;
        // A program of somebody else: another load of ours, with tables of its own, which lets everything pass.
        let mut other = Dataplane::load(&LoadOptions { pin_dir: None })?;
        let program: &mut Xdp = other.xdp()?;
        let id = wire.node.run(|| program.attach_to_if_index(number, XdpMode::Skb))??;
        let foreign = wire.at_xdp()?;
        assert_eq!(foreign.len(), 1);

        wire.folder.put("untracked.yaml", UNTRACKED)?;
        let config = wire.home.state_dir().join("config.yaml");
        fs::write(&config, "xdp: native\n")?;
        let words = ["--config", config.to_str().context("a path")?];
        let (agent, _) = Agent::start_with(&wire.node, &wire.folder, &wire.home, &words)?;
        wire.await_xdp("left to the other program", |xdp| left(xdp, "somebody else"))?;
        assert_eq!(wire.at_xdp()?, foreign, "left in place");
        assert!(agent.log().contains("somebody else"), "{}", agent.log());
        let witness = Witness::open(&wire.home.pin_dir(), &[])?;
        assert_eq!(wire.dropped(&witness)?, (false, true), "TC judges every packet\n{}", agent.log());
        let status = wire.home.portcullis(&wire.node, &["status"])?;
        assert!(status.stdout.contains("NO XDP: device eth0: "), "{}", status.stdout);
        assert!(status.stdout.contains("pc_xdp (generic)"), "{}", status.stdout);

        drop(wire.node.run(|| program.take_link(id))??);
        wire.await_xdp("at XDP, as soon as the place is free", |xdp| is_attached(xdp, "native"))?;
        assert_eq!(wire.dropped(&witness)?, (true, false), "{}", agent.log());
        wire.node.ip("link add br9 type bridge\nlink set eth0 master br9\n")?;
        wire.await_xdp("left to TC below a bridge", |xdp| left(xdp, "a port of another device"))?;
        wire.node.ip("link del br9\n")?;
        wire.await_xdp("at XDP again", |xdp| is_attached(xdp, "native"))?;

        agent.kill_9()?;
        fs::write(&config, "xdp: off\n")?;
        let (agent, _) = Agent::start_with(&wire.node, &wire.folder, &wire.home, &words)?;
        wire.await_xdp("off", |xdp| *xdp == json!({}))?;
        assert_eq!(wire.at_xdp()?, []);
        assert_eq!(wire.dropped(&witness)?, (false, true), "{}", agent.log());
        Ok(())
    });
}
