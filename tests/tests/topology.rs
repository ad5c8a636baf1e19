//! The lab without an agent: what the other tests take away must be there first.

use anyhow::Result;
use tests::{
    can_run,
    probe::{Got, ask},
    topology::{
        CLUSTER_IP, CLUSTER_IP_V6, FAR_CLUSTER_IP, FAR_NODE_PORT, FAR_POD_SAYS, Lab, NODE, NODE_PORT,
        NODE_SAYS, NODE_V6, OUTSIDE, OUTSIDE_SAYS, OUTSIDE_V6, POD, POD_SAYS, POD_V6, Proxy, SSH_SAYS,
    },
};

fn answer(words: &str) -> Got {
    Got::Answer(words.to_owned())
}

fn everything_is_reachable(proxy: Proxy) -> Result<()> {
    let lab = Lab::new(proxy)?;
    for who in [&lab.outside, &lab.peer, &lab.inside] {
        assert_eq!(lab.ask_node_port(who)?, answer(POD_SAYS), "NodePort from {}", who.name());
        assert_eq!(ask(who, NODE, 22)?, answer(SSH_SAYS), "ssh from {}", who.name());
        assert_eq!(ask(who, NODE, 8080)?, answer(NODE_SAYS), "the node's own server from {}", who.name());
        assert_eq!(ask(who, NODE, 9)?, Got::Refused, "a shut port from {}", who.name());
    }
    assert_eq!(ask(&lab.outside, CLUSTER_IP, 80)?, answer(POD_SAYS), "cluster address");
    assert_eq!(
        ask(&lab.outside, FAR_CLUSTER_IP, 80)?,
        answer(FAR_POD_SAYS),
        "a cluster address, far backend"
    );
    assert_eq!(ask(&lab.outside, NODE, FAR_NODE_PORT)?, answer(FAR_POD_SAYS), "a NodePort, far backend");
    assert_eq!(lab.ask_udp_node_port(&lab.outside)?, answer(POD_SAYS), "the NodePort for UDP");
    assert_eq!(ask(&lab.outside, POD, 8080)?, answer(POD_SAYS), "the pod itself");
    assert_eq!(ask(&lab.outside, NODE_V6, NODE_PORT)?, answer(POD_SAYS), "NodePort, IPv6");
    assert_eq!(ask(&lab.peer, NODE_V6, FAR_NODE_PORT)?, answer(FAR_POD_SAYS), "NodePort, IPv6, far backend");
    assert_eq!(ask(&lab.outside, CLUSTER_IP_V6, 80)?, answer(POD_SAYS), "cluster address, IPv6");
    assert_eq!(ask(&lab.outside, POD_V6, 8080)?, answer(POD_SAYS), "the pod itself, IPv6");
    assert_eq!(ask(&lab.pod, OUTSIDE_V6, 443)?, answer(OUTSIDE_SAYS), "the pod goes out, IPv6");
    assert_eq!(ask(&lab.node, OUTSIDE, 443)?, answer(OUTSIDE_SAYS), "the node goes out");
    assert_eq!(ask(&lab.pod, OUTSIDE, 443)?, answer(OUTSIDE_SAYS), "the pod goes out");
    // The proof that the other tests lean on: what reaches netfilter leaves an entry, and it tells of DNAT.
    let entries = lab.conntrack(OUTSIDE, NODE_PORT)?;
    assert!(entries.iter().any(|entry| entry.contains(&POD.to_string())), "no DNAT in {entries:?}");
    lab.flush_conntrack()?;
    assert_eq!(lab.conntrack(OUTSIDE, NODE_PORT)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn nftables_without_policy_everything_is_reachable() {
    if can_run("nftables_without_policy_everything_is_reachable") {
        everything_is_reachable(Proxy::Nftables).unwrap();
    }
}

#[test]
fn iptables_without_policy_everything_is_reachable() {
    if can_run("iptables_without_policy_everything_is_reachable") {
        everything_is_reachable(Proxy::Iptables).unwrap();
    }
}
