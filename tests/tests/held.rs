//! What somebody else takes from under a running agent comes back, at once and told: programs of devices, filters,
//! qdiscs, pins (S-9), and devices that go away and return under the same number (S-11). About 60 s, most of it the
//! agent's tick.
//!
//! The host endpoint has no policy: all but failsafes is denied, so silence is the proof that the programs run. The
//! agent is frozen while something is taken, so that each test sees the gap that it is about.

use std::{
    fs,
    net::TcpStream,
    process::Stdio,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use tests::{
    can_run,
    netns::Netns,
    probe::{Got, Server, Speech, ask, connect, exchange},
    process::{Agent, Home, Policies},
    topology::{Lab, NODE, NODE_SAYS, Proxy},
};

const HOST_ENDPOINT: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-eth0, labels: {role: node}}
spec: {node: node1, interfaceName: eth0, expectedIPs: [10.240.0.11]}
";
const ALLOW_8080: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: allow}
spec: {selector: role == 'node', types: [Ingress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [8080]}}]}
";
const TCX: &[&str] = &["--attach", "tcx"];
const CLSACT: &[&str] = &["--attach", "clsact"];
/// A tick, and a busy machine.
const SOON: Duration = Duration::from_secs(60);

fn run(test: &str, body: fn() -> Result<()>) {
    if can_run(test) {
        body().unwrap();
    }
}

fn answer(words: &str) -> Got {
    Got::Answer(words.to_owned())
}

struct Node {
    agent: Agent,
    home: Home,
    folder: Policies,
    lab: Lab,
}

impl Node {
    fn start(options: &[&str]) -> Result<Self> {
        Self::start_at(Home::new()?, options)
    }

    fn start_at(home: Home, options: &[&str]) -> Result<Self> {
        let lab = Lab::new(Proxy::Nftables)?;
        let folder = Policies::empty()?;
        folder.put("endpoint.yaml", HOST_ENDPOINT)?;
        let (agent, _) = Agent::start_with(&lab.node, &folder, &home, options)?;
        let node = Self { agent, home, folder, lab };
        assert_eq!(node.ask()?, Got::Silence, "{}", node.agent.log());
        Ok(node)
    }

    /// What the outside gets from a port that nothing allows.
    fn ask(&self) -> Result<Got> {
        ask(&self.lab.outside, NODE, 8080)
    }

    fn does(&self, words: &str) -> Result<()> {
        does(&self.lab.node, words)
    }

    fn await_silence(&self, after: &str) -> Result<()> {
        let end = Instant::now() + SOON;
        while self.ask()? != Got::Silence {
            ensure!(Instant::now() < end, "not enforced {SOON:?} after {after}\n{}", self.agent.log());
        }
        Ok(())
    }

    /// Does `harm` while the agent sees nothing, and sees it be repaired and told `times` times in all.
    fn survives(&self, times: u64, harm: &[&str]) -> Result<()> {
        self.agent.freeze(true)?;
        harm.iter().try_for_each(|words| self.does(words))?;
        assert_eq!(self.ask()?, answer(NODE_SAYS), "the gap that this is about: {harm:?}");
        self.agent.freeze(false)?;
        self.await_silence(&harm.join("; "))?;
        self.is_told("eth0", times)
    }

    fn is_told(&self, place: &str, times: u64) -> Result<()> {
        let told = |status: &serde_json::Value| status["takenAway"][place]["times"] == times;
        self.home.await_status(&format!("{place} told {times} times"), told)?;
        let page = self.home.portcullis(&self.lab.node, &["status"])?;
        let line = format!("TAKEN AWAY: {place}: ");
        ensure!(page.stdout.contains(&line), "{}", page.stdout);
        ensure!(self.agent.log().contains("ERROR"), "{}", self.agent.log());
        Ok(())
    }
}

fn does(netns: &Netns, words: &str) -> Result<()> {
    says(netns, words).map(drop)
}

fn says(netns: &Netns, words: &str) -> Result<String> {
    let mut words_of = words.split(' ');
    let mut command = netns.command(words_of.next().unwrap_or_default());
    let output = command.args(words_of).stdin(Stdio::null()).output().context(words.to_owned())?;
    if !output.status.success() {
        bail!("{words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn open(node: &Node, port: u16) -> Result<TcpStream> {
    connect(&node.lab.outside, NODE, port)?.map_err(|got| anyhow::anyhow!("{got} from port {port}"))
}

/// What eth0 needs after it was away.
const ETH0_AGAIN: [&str; 3] =
    ["ip link set eth0 up", "ip addr add 10.240.0.11/24 dev eth0", "ip route add default via 10.240.0.1"];

#[test]
fn links_that_somebody_detached_come_back() {
    run("links_that_somebody_detached_come_back", || {
        let node = Node::start(TCX)?;
        let links = node.home.pin_dir().join("links");
        let detach = |hook: &str| -> Result<String> {
            let found = fs::read_dir(&links)?.filter_map(Result::ok).map(|entry| entry.path());
            let pin =
                found.into_iter().find(|path| path.to_string_lossy().ends_with(hook)).context("no pin")?;
            Ok(format!("bpftool link detach pinned {}", pin.display()))
        };
        node.survives(1, &[&detach("_ingress")?, &detach("_egress")?])?;
        // Both are pinned anew, and are taken again.
        node.survives(2, &[&detach("_ingress")?, &detach("_egress")?])
    });
}

#[test]
fn filters_that_somebody_deleted_come_back() {
    run("filters_that_somebody_deleted_come_back", || {
        let node = Node::start(CLSACT)?;
        node.survives(1, &["tc filter del dev eth0 ingress", "tc filter del dev eth0 egress"])?;
        node.survives(2, &["tc qdisc del dev eth0 clsact"])?;
        // The kernel tells: no tick is waited for.
        let begin = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        node.does("tc filter del dev eth0 egress")?;
        node.is_told("eth0", 3)?;
        // When the agent noticed it, and not when this test came to know.
        let noticed = node.home.status()?["takenAway"]["eth0"]["last"].as_u64().context("no time")?;
        ensure!(noticed <= begin + 4, "after {} s\n{}", noticed - begin, node.agent.log());
        Ok(())
    });
}

fn away_and_back(options: &[&str]) -> Result<()> {
    let node = Node::start(options)?;
    let away = Netns::new("away")?;
    node.agent.freeze(true)?;
    node.does(&format!("ip link set eth0 netns {}", away.name()))?;
    does(&away, &format!("ip link set eth0 netns {}", node.lab.node.name()))?;
    ETH0_AGAIN.iter().try_for_each(|words| node.does(words))?;
    let meanwhile = node.ask()?;
    node.agent.freeze(false)?;
    node.await_silence("a moment in another namespace")?;
    if meanwhile != Got::Silence {
        node.is_told("eth0", 1)?;
    }
    // Long enough to be noticed.
    node.does(&format!("ip link set eth0 netns {}", away.name()))?;
    node.home.await_status("without eth0", |status| status["attached"] == serde_json::json!([]))?;
    does(&away, &format!("ip link set eth0 netns {}", node.lab.node.name()))?;
    ETH0_AGAIN.iter().try_for_each(|words| node.does(words))?;
    node.await_silence("a while in another namespace")?;
    // Our programs stay on the port of a bridge, and judge what the bridge gets.
    [
        "ip link add br1 type bridge",
        "ip link set br1 up",
        "ip link set eth0 master br1",
        "ip addr del 10.240.0.11/24 dev eth0",
        "ip addr add 10.240.0.11/24 dev br1",
        "ip route add default via 10.240.0.1",
    ]
    .iter()
    .try_for_each(|words| node.does(words))?;
    thread::sleep(Duration::from_secs(1));
    assert_eq!(node.ask()?, Got::Silence, "{}", node.agent.log());
    // It is silence for the right reason: what failsafes allow comes through.
    assert_eq!(ask(&node.lab.outside, NODE, 22)?, answer("SSH-2.0-lab"), "{}", node.agent.log());
    Ok(())
}

#[test]
fn a_device_that_was_away_has_its_links_again() {
    run("a_device_that_was_away_has_its_links_again", || away_and_back(TCX));
}

#[test]
fn a_device_that_was_away_has_its_filters_again() {
    run("a_device_that_was_away_has_its_filters_again", || away_and_back(CLSACT));
}

#[test]
fn deleted_pins_take_nothing_off_and_come_back() {
    run("deleted_pins_take_nothing_off_and_come_back", || {
        let node = Node::start(TCX)?;
        let count = || -> Result<usize> {
            let pins = says(&node.lab.node, &format!("find {} -type f", node.home.pin_dir().display()))?;
            Ok(pins.lines().count())
        };
        let before = count()?;
        ensure!(before > 20, "{before} pins");
        node.agent.freeze(true)?;
        fs::remove_dir_all(node.home.pin_dir())?;
        assert_eq!(node.ask()?, Got::Silence, "the agent holds what was behind the pins");
        node.agent.freeze(false)?;
        node.is_told("pins", 1)?;
        assert_eq!(count()?, before, "{}", node.agent.log());
        assert_eq!(node.ask()?, Got::Silence);
        // They are good: the next agent goes on from them.
        let Node { agent, home, folder, lab } = node;
        agent.kill_9()?;
        assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence);
        let (agent, generation) = Agent::start_with(&lab.node, &folder, &home, TCX)?;
        ensure!(generation > 1, "generation {generation}: the maps are new\n{}", agent.log());
        Ok(())
    });
}

#[test]
fn an_unmounted_bpffs_is_mounted_again() {
    run("an_unmounted_bpffs_is_mounted_again", || {
        let home = Home::new()?;
        let bpffs = home.pin_dir().parent().context("no folder")?.to_string_lossy().into_owned();
        let node = Node::start_at(home, &["--attach", "tcx", "--bpffs", &bpffs])?;
        node.agent.freeze(true)?;
        node.does(&format!("umount --lazy {bpffs}"))?;
        ensure!(!node.home.pin_dir().exists());
        assert_eq!(node.ask()?, Got::Silence, "the agent holds what was pinned there");
        node.agent.freeze(false)?;
        node.is_told("pins", 1)?;
        let Node { agent, home, folder: _folder, lab } = node;
        ensure!(home.pin_dir().join("links").exists(), "{}", agent.log());
        agent.kill_9()?;
        assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence, "the new pins outlive the agent");
        Ok(())
    });
}

/// What began while nothing was enforced is judged by policy then: neither cut blindly, nor taken over.
fn grace_after(options: &[&str], harm: &[&str]) -> Result<()> {
    let node = Node::start(&[options, &["--grace", "12"]].concat())?;
    node.folder.put("allow.yaml", ALLOW_8080)?;
    node.home.await_status("with the policy", |status| status["generation"].as_u64() >= Some(2))?;
    let _server = Server::start(&node.lab.node, 9091, Speech::Http(NODE_SAYS))?;
    assert_eq!(ask(&node.lab.outside, NODE, 9091)?, Got::Silence);
    // The grace of the start is over; the one that is meant here is not.
    thread::sleep(Duration::from_secs(12));
    node.agent.freeze(true)?;
    harm.iter().try_for_each(|words| node.does(words))?;
    let (mut allowed, mut denied) = (open(&node, 8080)?, open(&node, 9091)?);
    assert_eq!((exchange(&mut allowed), exchange(&mut denied)), (answer(NODE_SAYS), answer(NODE_SAYS)));
    node.agent.freeze(false)?;
    node.is_told("eth0", 1)?;
    assert_eq!(exchange(&mut allowed), answer(NODE_SAYS), "{}", node.agent.log());
    assert_eq!(exchange(&mut denied), Got::Silence, "{}", node.agent.log());
    Ok(())
}

#[test]
fn flows_of_a_gap_are_judged() {
    run("flows_of_a_gap_are_judged", || grace_after(CLSACT, &["tc qdisc del dev eth0 clsact"]));
}

#[test]
fn a_start_asks_whether_old_filters_are_there() {
    run("a_start_asks_whether_old_filters_are_there", || {
        let Node { agent, home, folder, lab } = Node::start(CLSACT)?;
        agent.kill_9()?;
        does(&lab.node, "tc qdisc del dev eth0 clsact")?;
        let mut live = connect(&lab.outside, NODE, 8080)?.expect("nothing is enforced");
        let options = ["--attach", "clsact", "--grace", "0"];
        let (agent, _) = Agent::start_with(&lab.node, &folder, &home, &options)?;
        assert_eq!(exchange(&mut live), answer(NODE_SAYS), "it began unseen (D17)\n{}", agent.log());
        assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence, "{}", agent.log());
        // Of an agent of the other kind nothing stays beside ours, nor on a device that is not wanted any more.
        agent.kill_9()?;
        let (agent, _) = Agent::start_with(&lab.node, &folder, &home, TCX)?;
        assert_eq!(says(&lab.node, "tc filter show dev eth0 ingress")?, "", "{}", agent.log());
        agent.kill_9()?;
        let (agent, _) = Agent::start_with(&lab.node, &folder, &home, CLSACT)?;
        assert_eq!(fs::read_dir(home.pin_dir().join("links"))?.count(), 0, "{}", agent.log());
        agent.kill_9()?;
        folder.remove("endpoint.yaml")?;
        let (agent, _) = Agent::start_with(&lab.node, &folder, &home, CLSACT)?;
        assert_eq!(says(&lab.node, "tc filter show dev eth0 ingress")?, "", "{}", agent.log());
        Ok(())
    });
}

#[test]
fn a_renamed_device_is_left_and_its_name_followed() {
    run("a_renamed_device_is_left_and_its_name_followed", || {
        let node = Node::start(CLSACT)?;
        node.agent.freeze(true)?;
        // A workload device carries no programs of ours, and another device has its old name.
        let renames = [
            "ip link set eth0 down",
            "ip link set eth0 name cali9",
            "ip addr del 10.240.0.11/24 dev cali9",
            "ip link add eth0 type veth peer name eth1",
            "ip addr add 10.240.0.11/32 dev eth0",
            "ip link set eth0 up",
        ];
        renames.iter().try_for_each(|words| node.does(words))?;
        node.agent.freeze(false)?;
        let end = Instant::now() + SOON;
        loop {
            let old = says(&node.lab.node, "tc filter show dev cali9 ingress")?;
            let new = says(&node.lab.node, "tc filter show dev eth0 ingress").unwrap_or_default();
            if old.is_empty() && new.contains("pc_tc_ingress") {
                return Ok(());
            }
            ensure!(Instant::now() < end, "cali9: {old}\neth0: {new}\n{}", node.agent.log());
            thread::sleep(Duration::from_millis(100));
        }
    });
}
