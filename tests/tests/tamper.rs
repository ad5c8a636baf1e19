//! Somebody else deletes what is ours, or moves a device, while an agent runs (S-9, S-11): enforcement goes on or comes
//! back, and status, its exit code and the log say what happened.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::{
    can_run,
    netns::Netns,
    probe::{Got, connect, exchange},
    process::{Agent, Home, Policies},
    topology::{Lab, NODE, NODE_PORT, POD_SAYS, Proxy, policies},
};

/// The agent looks every five seconds, whatever it was not told.
const LOOK: Duration = Duration::from_secs(10);

fn answer(words: &str) -> Got {
    Got::Answer(words.to_owned())
}

fn run(test: &str, body: fn() -> Result<()>) {
    if can_run(test) {
        body().unwrap();
    }
}

fn await_that(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LOOK;
    while !holds()? {
        ensure!(Instant::now() < end, "not {what} after {LOOK:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn protected() -> Result<(Lab, Policies, Home)> {
    let lab = Lab::new(Proxy::Nftables)?;
    let (folder, home) = (Policies::empty()?, Home::new()?);
    folder.put_all(&policies().join("nodeport/base"))?;
    Ok((lab, folder, home))
}

fn remove_pins(folder: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            count += remove_pins(&path)?;
            fs::remove_dir(path)?;
        } else if fs::remove_file(path).is_ok() {
            count += 1;
        }
    }
    Ok(count)
}

/// Pins of both hooks of at least one device.
fn has_links(home: &Home) -> bool {
    fs::read_dir(home.pin_dir().join("links")).is_ok_and(|pins| pins.count() >= 2)
}

#[test]
fn pins_that_are_deleted_come_back_and_nothing_passes_meanwhile() {
    run("pins_that_are_deleted_come_back_and_nothing_passes_meanwhile", || {
        let (lab, folder, home) = protected()?;
        let (agent, _) = Agent::start(&lab.node, &folder, &home)?;
        let mut held = connect(&lab.peer, NODE, NODE_PORT)?.expect("the inside client connects");
        ensure!(remove_pins(&home.pin_dir())? > 20, "links and maps were pinned");
        assert_eq!(lab.ask_node_port(&lab.outside)?, Got::Silence, "the agent holds the links");
        assert_eq!(exchange(&mut held), answer(POD_SAYS));

        await_that("pinned again", || Ok(has_links(&home)))?;
        assert!(agent.log().contains("somebody removed our pins"), "{}", agent.log());
        let said = home.portcullis(&lab.node, &["status"])?;
        assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
        agent.kill_9()?;
        assert_eq!(lab.ask_node_port(&lab.outside)?, Got::Silence, "the new pins outlive the agent");
        assert_eq!(exchange(&mut held), answer(POD_SAYS));
        Ok(())
    });
}

#[test]
fn filters_that_are_taken_off_come_back_and_cut_nothing() {
    run("filters_that_are_taken_off_come_back_and_cut_nothing", || {
        let (lab, folder, home) = protected()?;
        let (agent, _) = Agent::start_with(&lab.node, &folder, &home, &["--attach", "clsact"])?;
        let mut before = connect(&lab.peer, NODE, NODE_PORT)?.expect("the inside client connects");
        let tc = lab.node.command("tc").args(["qdisc", "del", "dev", "eth0", "clsact"]).status()?;
        assert!(tc.success());
        let said = home.portcullis(&lab.node, &["status"])?;
        assert!(said.code == 1 && said.stdout.contains("NOT ATTACHED"), "{}", said.stdout);
        let mut between = connect(&lab.peer, NODE, NODE_PORT)?.expect("nobody judges");

        await_that("attached again", || Ok(home.portcullis(&lab.node, &["status"])?.code == 0))?;
        assert!(agent.log().contains("took our program off"), "{}", agent.log());
        assert_eq!(lab.ask_node_port(&lab.outside)?, Got::Silence);
        assert_eq!(exchange(&mut before), answer(POD_SAYS));
        assert_eq!(exchange(&mut between), answer(POD_SAYS), "what began unseen was taken over (D17)");
        Ok(())
    });
}

/// Status, exit code and a word of its page, within the agent's patience.
fn await_word(lab: &Lab, home: &Home, code: i32, word: &str) -> Result<()> {
    let mut last = None;
    let found = await_that(word, || {
        let said = home.portcullis(&lab.node, &["status"])?;
        let holds = said.code == code && said.stdout.contains(word);
        last = Some(said);
        Ok(holds)
    });
    found.map_err(|e| e.context(format!("{last:?}")))
}

#[test]
fn a_device_that_is_renamed_or_moved_is_told_and_protected_when_it_is_back() {
    run("a_device_that_is_renamed_or_moved_is_told_and_protected_when_it_is_back", || {
        let (lab, folder, home) = protected()?;
        let (agent, _) = Agent::start(&lab.node, &folder, &home)?;
        assert_eq!(lab.ask_node_port(&lab.outside)?, Got::Silence);
        let back = || -> Result<()> {
            await_word(&lab, &home, 0, "HostEndpoint/node1-eth0")?;
            assert_eq!(lab.ask_node_port(&lab.outside)?, Got::Silence, "{}", agent.log());
            assert_eq!(lab.ask_node_port(&lab.peer)?, answer(POD_SAYS), "{}", agent.log());
            Ok(())
        };

        rename(&lab.node, "eth0", "lan0")?;
        await_word(&lab, &home, 1, "BINDS NOTHING: HostEndpoint/node1-eth0: this node has no device eth0")?;
        await_word(&lab, &home, 1, "UNPROTECTED: device lan0")?;
        rename(&lab.node, "lan0", "eth0")?;
        back()?;

        // A port of a bridge is judged as before; the bridge, which has the address now, is another device.
        lab.node.ip("link add br9 type bridge\nlink set br9 up\nlink set eth0 master br9")?;
        lab.node.ip(&format!("address del {NODE}/24 dev eth0\naddress add {NODE}/24 dev br9"))?;
        lab.node.ip("route replace default via 10.240.0.1 dev br9")?;
        await_word(&lab, &home, 0, "UNPROTECTED: device br9")?;
        assert_eq!(lab.ask_node_port(&lab.outside)?, Got::Silence, "{}", agent.log());
        assert_eq!(lab.ask_node_port(&lab.peer)?, answer(POD_SAYS), "{}", agent.log());
        lab.node.ip("link del br9")?;
        lab.node.ip(&format!("address add {NODE}/24 dev eth0\nroute replace default via 10.240.0.1"))?;
        back()?;

        let (pod, node) = (lab.pod.name(), lab.node.name());
        lab.node.ip(&format!("link set eth0 netns {pod} name gone0"))?;
        await_word(&lab, &home, 1, "BINDS NOTHING: HostEndpoint/node1-eth0: this node has no device eth0")?;
        lab.pod.ip(&format!("link set gone0 netns {node} name eth0"))?;
        lab.node.ip(&format!("address add {NODE}/24 dev eth0\nlink set eth0 up"))?;
        lab.node.ip("route replace default via 10.240.0.1")?;
        back()
    });
}

/// A device is renamed while it is down, and loses its routes by that.
fn rename(node: &Netns, from: &str, to: &str) -> Result<()> {
    node.ip(&format!("link set {from} down\nlink set {from} name {to}\nlink set {to} up"))?;
    node.ip("route replace default via 10.240.0.1")
}
