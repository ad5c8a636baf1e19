//! `policies/cluster-ips`: cluster IPs that are dialled from outside.

use anyhow::Result;
use tests::{
    probe::ask,
    topology::{
        CLIENT_A, CLUSTER_IP, CLUSTER_IP_V6, FAR_CLUSTER_IP, FAR_NODE_PORT, FAR_POD_SAYS, Lab, NODE,
        NODE_PORT, NODE_SAYS, OUTSIDE, OUTSIDE_SAYS, OUTSIDE_V6, POD, POD_SAYS, Proxy,
    },
};

use crate::{answer, assert_silence, enforce, folder_of, run};

const OTHER_NODE: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node2-eth0, labels: {k8s-role: node}}
spec: {node: node2, interfaceName: eth0, expectedIPs: [10.240.0.12]}
";

fn clients_reach_their_cluster_ip(proxy: Proxy) -> Result<()> {
    let lab = Lab::new(proxy)?;
    let folder = folder_of(&["cluster-ips/base", "cluster-ips/services", "cluster-ips/ipv6"])?;
    folder.put("node2.yaml", OTHER_NODE)?;
    let (agent, _home) = enforce(&lab, &folder)?;
    let log = || agent.log();

    // `peer` asks A from 50.60.1.1 and B from 70.80.90.5. B's backend is on the other node, so its packets leave by
    // the device on which they came, masqueraded.
    assert_eq!(ask(&lab.peer, CLUSTER_IP, 80)?, answer(POD_SAYS), "{}", log());
    assert!(!lab.conntrack(CLIENT_A, 80)?.is_empty(), "the client was translated");
    assert_eq!(ask(&lab.peer, FAR_CLUSTER_IP, 80)?, answer(FAR_POD_SAYS), "{}", log());
    assert_eq!(ask(&lab.peer, CLUSTER_IP_V6, 80)?, answer(POD_SAYS), "{}", log());

    let strangers = [
        (&lab.outside, CLUSTER_IP.into(), 80),
        (&lab.outside, FAR_CLUSTER_IP.into(), 80),
        (&lab.outside, CLUSTER_IP_V6.into(), 80),
        (&lab.outside, NODE.into(), NODE_PORT),
    ];
    assert_silence(&agent, &strangers);
    assert_eq!(lab.conntrack(OUTSIDE, 80)?, Vec::<String>::new(), "dropped before DNAT");
    assert_eq!(lab.conntrack(OUTSIDE_V6, 80)?, Vec::<String>::new(), "dropped before DNAT, IPv6");

    assert_eq!(ask(&lab.inside, NODE, NODE_PORT)?, answer(POD_SAYS), "NodePorts are for nodes\n{}", log());
    assert_eq!(ask(&lab.inside, NODE, FAR_NODE_PORT)?, answer(FAR_POD_SAYS), "{}", log());
    assert_eq!(ask(&lab.outside, POD, 8080)?, answer(POD_SAYS), "pods are left to their own policy");
    assert_eq!(ask(&lab.outside, NODE, 8080)?, answer(NODE_SAYS), "and the node's processes stay open");
    assert_eq!(ask(&lab.node, OUTSIDE, 443)?, answer(OUTSIDE_SAYS), "{}", log());
    Ok(())
}

#[test]
fn cluster_ips_nftables() {
    run("cluster_ips_nftables", || clients_reach_their_cluster_ip(Proxy::Nftables));
}

#[test]
fn cluster_ips_iptables() {
    run("cluster_ips_iptables", || clients_reach_their_cluster_ip(Proxy::Iptables));
}

#[test]
fn cluster_ips_without_the_deny_are_open() {
    run("cluster_ips_without_the_deny_are_open", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let folder = folder_of(&["cluster-ips/base", "cluster-ips/services"])?;
        folder.remove("deny-other-ingress.yaml")?;
        let (agent, _home) = enforce(&lab, &folder)?;
        assert_eq!(ask(&lab.outside, CLUSTER_IP, 80)?, answer(POD_SAYS), "{}", agent.log());
        Ok(())
    });
}
