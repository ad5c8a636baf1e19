//! A device is renamed, enslaved to a bridge or moved away while an agent runs (S-11): status and its exit code say so, and
//! the NodePort is protected again once the device is back. About five seconds.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::{
    can_run,
    netns::Netns,
    probe::Got,
    process::{Agent, Home, Policies},
    topology::{Lab, NODE, POD_SAYS, Proxy, policies},
};

/// The agent looks every five seconds, whatever it was not told; a busy machine takes longer.
const LOOK: Duration = Duration::from_secs(60);

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
