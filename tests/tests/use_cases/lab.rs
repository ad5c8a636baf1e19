//! `policies/lab` and `policies/one-client`: a `*` host endpoint that is made from the Node object, with pods on veths.

use anyhow::Result;
use tests::{
    probe::{Got, ask},
    topology::{
        Lab, NODE, NODE_PORT, NODE_SAYS, NODE_V6, OUTSIDE, OUTSIDE_SAYS, POD, POD_SAYS, Proxy, SSH_SAYS,
    },
};

use crate::{answer, assert_silence, enforce, folder_of, run};

const THIS_NODE: &str = "\
apiVersion: v1
kind: Node
metadata: {name: node1, labels: {kubernetes.io/hostname: node1}}
status: {addresses: [{type: InternalIP, address: 10.240.0.11}, {type: InternalIP, address: \"fd00::11\"}]}
";

/// The policy of `one-client`, with the lab's client and port.
fn one_client() -> Result<String> {
    let text = std::fs::read_to_string(tests::topology::policies().join("one-client/nodeport-policy.yaml"))?;
    Ok(text.replace("198.19.15.254/32", "203.0.113.7/32").replace("30180", &NODE_PORT.to_string()))
}

fn step_by_step(proxy: Proxy, pod_device: &str) -> Result<()> {
    let lab = Lab::new(proxy)?;
    lab.rename_pod_device(pod_device)?;
    let folder = folder_of(&["lab/default-node-policy"])?;
    folder.put("node.yaml", THIS_NODE)?;
    let (mut agent, _home) = enforce(&lab, &folder)?;
    assert_eq!(ask(&lab.outside, NODE, 8080)?, answer(NODE_SAYS), "no host endpoint yet\n{}", agent.log());

    folder.put_all(&tests::topology::policies().join("lab/auto-host-endpoints"))?;
    agent.next_generation()?;
    lab.flush_conntrack()?;
    // Strangers, and nodes among each other.
    let shut = [
        (&lab.outside, NODE.into(), 8080),
        (&lab.outside, NODE_V6.into(), 8080),
        (&lab.inside, NODE.into(), 8080),
    ];
    assert_silence(&agent, &shut);
    assert_eq!(ask(&lab.outside, NODE, 22)?, answer(SSH_SAYS), "{}", agent.log());
    // What a `*` host endpoint must leave alone: `lo`, pods, and what the node itself asks.
    assert_eq!(ask(&lab.node, NODE, 8080)?, answer(NODE_SAYS), "{}", agent.log());
    assert_eq!(ask(&lab.node, POD, 8080)?, answer(POD_SAYS), "{}", agent.log());
    assert_eq!(ask(&lab.pod, NODE, 8080)?, answer(NODE_SAYS), "{}", agent.log());
    assert_eq!(ask(&lab.node, OUTSIDE, 443)?, answer(OUTSIDE_SAYS), "{}", agent.log());
    assert_eq!(ask(&lab.pod, OUTSIDE, 443)?, answer(OUTSIDE_SAYS), "{}", agent.log());
    assert_eq!(ask(&lab.outside, POD, 8080)?, answer(POD_SAYS), "{}", agent.log());

    folder.put_all(&tests::topology::policies().join("lab/nodeport-policy"))?;
    agent.next_generation()?;
    lab.flush_conntrack()?;
    // A pod that dials its own node's NodePort as well.
    let shut = [
        (&lab.outside, NODE.into(), NODE_PORT),
        (&lab.outside, NODE_V6.into(), NODE_PORT),
        (&lab.pod, NODE.into(), NODE_PORT),
    ];
    assert_silence(&agent, &shut);
    assert_eq!(lab.conntrack(OUTSIDE, NODE_PORT)?, Vec::<String>::new(), "dropped before DNAT");

    folder.put("nodeport-policy.yaml", &one_client()?)?;
    agent.next_generation()?;
    assert_eq!(ask(&lab.outside, NODE, NODE_PORT)?, answer(POD_SAYS), "{}", agent.log());
    assert_eq!(ask(&lab.peer, NODE, NODE_PORT)?, Got::Silence, "{}", agent.log());
    assert_eq!(lab.ask_udp_node_port(&lab.outside)?, Got::Silence, "{}", agent.log());
    Ok(())
}

#[test]
fn lab_cluster_nftables() {
    run("lab_cluster_nftables", || step_by_step(Proxy::Nftables, "cali1"));
}

#[test]
fn lab_cluster_iptables_with_pods_on_plain_veths() {
    run("lab_cluster_iptables_with_pods_on_plain_veths", || step_by_step(Proxy::Iptables, "veth5e2a1c"));
}
