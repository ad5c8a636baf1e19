//! The agent comes and goes; enforcement does not (D22).

use anyhow::Result;
use tests::{
    can_run,
    probe::{Got, ask, connect, exchange},
    process::{Agent, Home, Policies},
    topology::{Lab, NODE, NODE_PORT, OUTSIDE, POD_SAYS, Proxy, policies},
};

fn answer(words: &str) -> Got {
    Got::Answer(words.to_owned())
}

fn run(test: &str, body: fn() -> Result<()>) {
    if can_run(test) {
        body().unwrap();
    }
}

#[test]
fn enforcement_outlives_kill_9() {
    run("enforcement_outlives_kill_9", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put_all(&policies().join("nodeport/base"))?;
        let (agent, _) = Agent::start(&lab.node, &folder, &home)?;
        let mut held = connect(&lab.peer, NODE, NODE_PORT)?.expect("the inside client connects");
        assert_eq!(exchange(&mut held), answer(POD_SAYS));
        agent.kill_9()?;
        lab.flush_conntrack()?;
        assert_eq!(lab.ask_node_port(&lab.outside)?, Got::Silence);
        assert_eq!(lab.conntrack(OUTSIDE, NODE_PORT)?, Vec::<String>::new());
        assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence);
        assert_eq!(lab.ask_node_port(&lab.peer)?, answer(POD_SAYS), "and what was allowed still is");
        Ok(())
    });
}

#[test]
fn a_restart_adopts_what_is_there() {
    run("a_restart_adopts_what_is_there", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put_all(&policies().join("nodeport/base"))?;
        folder.put_all(&policies().join("nodeport/pinhole"))?;
        let (agent, _) = Agent::start(&lab.node, &folder, &home)?;
        let mut held = connect(&lab.outside, NODE, NODE_PORT)?.expect("the pinhole is open");
        assert_eq!(exchange(&mut held), answer(POD_SAYS));
        agent.kill_9()?;
        assert_eq!(exchange(&mut held), answer(POD_SAYS), "without an agent");

        // While nobody watches, the pinhole is closed: the new agent must see it.
        folder.remove("allow-nodeport.yaml")?;
        let (agent, _) = Agent::start(&lab.node, &folder, &home)?;
        assert_eq!(exchange(&mut held), answer(POD_SAYS), "established flows stay (D15)\n{}", agent.log());
        assert_eq!(lab.ask_node_port(&lab.outside)?, Got::Silence, "{}", agent.log());
        assert_eq!(lab.ask_node_port(&lab.peer)?, answer(POD_SAYS));
        Ok(())
    });
}
