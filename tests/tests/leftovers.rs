//! What the agent gives back: flows that ended, and everything when it is taken off.

use std::{
    collections::BTreeSet,
    net::UdpSocket,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use dataplane_common::{
    FLOW_ABI_VERSION,
    flow::{FlowEntry, FlowKey},
    names,
    packet::protocol,
};
use tests::{
    can_run,
    probe::{Got, connect, exchange},
    process::{Agent, Home, Policies, agent_program},
    topology::{Lab, NODE, NODE_SAYS, Proxy},
};

const POLICIES: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-eth0, labels: {role: node}}
spec: {node: node1, interfaceName: eth0, expectedIPs: [10.240.0.11]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: allow}
spec: {selector: role == 'node', types: [Ingress], ingress: [{action: Allow}]}
";

fn run(test: &str, body: fn() -> Result<()>) {
    if can_run(test) {
        body().unwrap();
    }
}

/// Confirmed flows by protocol.
fn flows(pin_dir: &Path, wanted: u8) -> Result<usize> {
    let path = pin_dir.join(format!("flows-v{FLOW_ABI_VERSION}")).join(names::MAP_FLOWS);
    let map: HashMap<MapData, FlowKey, FlowEntry> =
        Map::HashMap(MapData::from_pin(&path).with_context(|| path.display().to_string())?).try_into()?;
    Ok(map.keys().filter(|key| key.as_ref().is_ok_and(|key| key.protocol == wanted)).count())
}

fn await_true(what: &str, patience: Duration, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + patience;
    while !is()? {
        ensure!(Instant::now() < end, "{what}: not within {patience:?}");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[test]
fn a_flow_that_ended_is_swept_and_a_live_one_stays() {
    run("a_flow_that_ended_is_swept_and_a_live_one_stays", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put("all.yaml", POLICIES)?;
        let (agent, _) = Agent::start(&lab.node, &folder, &home)?;
        let server = lab.node.run(|| UdpSocket::bind(("0.0.0.0", 5000)))??;
        let client = lab.outside.run(|| UdpSocket::bind("0.0.0.0:0"))??;
        client.connect((NODE, 5000))?;
        let there_and_back = || -> Result<()> {
            client.send(b"x")?;
            let (_, from) = server.recv_from(&mut [0; 8])?;
            server.send_to(b"y", from)?;
            client.recv(&mut [0; 8]).map(drop).context("no answer")
        };
        there_and_back()?;
        let mut held = connect(&lab.outside, NODE, 8080)?.expect("allowed");
        assert_eq!(exchange(&mut held), Got::Answer(NODE_SAYS.to_owned()));
        assert_eq!(flows(&home.pin_dir(), protocol::UDP)?, 1, "{}", agent.log());
        // From the next packet on netfilter forgets it soon, and with that it has ended.
        let soon = ["udp_timeout", "udp_timeout_stream"].map(|name| format!("netfilter/nf_conntrack_{name}"));
        lab.node.sysctl(&[(&soon[0], "1"), (&soon[1], "1")])?;
        there_and_back()?;
        await_true("the UDP flow is gone", Duration::from_secs(60), || {
            Ok(flows(&home.pin_dir(), protocol::UDP)? == 0)
        })?;
        assert_eq!(flows(&home.pin_dir(), protocol::TCP)?, 1, "{}", agent.log());
        assert_eq!(exchange(&mut held), Got::Answer(NODE_SAYS.to_owned()), "{}", agent.log());
        Ok(())
    });
}

/// Numbers of our programs, whoever's they are.
fn programs() -> BTreeSet<u32> {
    let ours = |name: &str| name.starts_with("pc_tc_");
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| program.name_as_str().is_some_and(ours))
        .map(|program| program.id())
        .collect()
}

fn programs_of(lab: &Lab) -> Result<BTreeSet<u32>> {
    use aya::programs::{SchedClassifier, TcAttachType};
    lab.node.run(|| {
        let mut found = BTreeSet::new();
        for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
            let (_, chain) = SchedClassifier::query_tcx("eth0", hook)?;
            found.extend(chain.iter().map(|program| program.id()));
        }
        Ok(found)
    })?
}

/// The kernel frees a link's program in work of its own, behind the lock of all network devices: after it has left its
/// device and the list of links, and on a machine that makes and removes namespaces that takes a while.
#[test]
fn detach_leaves_nothing() {
    run("detach_leaves_nothing", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put("all.yaml", POLICIES)?;
        let mut all = BTreeSet::new();
        // Programs of three agents: each replaces those of the one before.
        for _ in 0..3 {
            let (agent, _) = Agent::start(&lab.node, &folder, &home)?;
            let now = programs_of(&lab)?;
            assert_eq!(now.len(), 2, "{}", agent.log());
            assert!(all.is_disjoint(&now));
            all.extend(now);
            agent.kill_9()?;
        }
        let mut detach = lab.node.command(agent_program()?);
        ensure!(detach.arg("detach").arg("--pin-dir").arg(home.pin_dir()).status()?.success(), "detach");
        assert_eq!(programs_of(&lab)?, BTreeSet::new());
        let left: Vec<_> = std::fs::read_dir(home.pin_dir()).into_iter().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        await_true("the programs are gone", Duration::from_secs(120), || Ok(all.is_disjoint(&programs())))
    });
}
