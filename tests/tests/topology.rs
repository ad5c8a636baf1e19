//! The lab without an agent: what the other tests take away must be there first.

use anyhow::Result;
use tests::{
    can_run,
    probe::{Got, ask},
    topology::{
        CLUSTER_IP, Lab, NODE, NODE_PORT, NODE_SAYS, OUTSIDE, OUTSIDE_SAYS, POD, POD_SAYS, Proxy, SSH_SAYS,
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
    assert_eq!(ask(&lab.outside, POD, 8080)?, answer(POD_SAYS), "the pod itself");
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
