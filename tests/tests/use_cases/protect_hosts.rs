//! `policies/protect-hosts`: nothing from outside, and pinholes; backends near and far, TCP and UDP.

use anyhow::Result;
use tests::{
    probe::{Got, ask},
    topology::{
        FAR_NODE_PORT, FAR_POD_SAYS, Lab, NODE, NODE_PORT, NODE_SAYS, OUTSIDE, OUTSIDE_SAYS, POD, POD_SAYS,
        Proxy, SSH_SAYS, UDP_NODE_PORT,
    },
};

use crate::{answer, assert_silence, enforce, folder_of, run};

/// Beside the pinhole of `protect-hosts/pinhole`: a Service whose backend is on the other node, and one over UDP.
const MORE_PINHOLES: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: more-pinholes}
spec:
  order: 10
  preDNAT: true
  applyOnForward: true
  selector: has(host-endpoint)
  ingress:
  - {action: Allow, protocol: TCP, destination: {selector: has(host-endpoint), ports: [31900]}}
  - {action: Allow, protocol: UDP, destination: {selector: has(host-endpoint), ports: [31854]}}
";

fn only_the_cluster_comes_in(proxy: Proxy) -> Result<()> {
    let lab = Lab::new(proxy)?;
    let folder = folder_of(&["protect-hosts/base"])?;
    let (mut agent, _home) = enforce(&lab, &folder)?;

    assert_eq!(ask(&lab.inside, NODE, 8080)?, answer(NODE_SAYS), "{}", agent.log());
    assert_eq!(ask(&lab.inside, NODE, NODE_PORT)?, answer(POD_SAYS), "{}", agent.log());
    let strangers = [
        (&lab.outside, NODE.into(), 8080),
        (&lab.outside, POD.into(), 8080),
        (&lab.outside, NODE.into(), NODE_PORT),
    ];
    assert_silence(&agent, &strangers);
    assert_eq!(lab.ask_udp_node_port(&lab.outside)?, Got::Silence);
    for port in [NODE_PORT, UDP_NODE_PORT, 8080] {
        assert_eq!(lab.conntrack(OUTSIDE, port)?, Vec::<String>::new(), "port {port}: dropped before DNAT");
    }
    assert_eq!(ask(&lab.outside, NODE, 22)?, answer(SSH_SAYS), "{}", agent.log());
    assert_eq!(ask(&lab.node, OUTSIDE, 443)?, answer(OUTSIDE_SAYS), "{}", agent.log());
    assert_eq!(ask(&lab.pod, OUTSIDE, 443)?, answer(OUTSIDE_SAYS), "{}", agent.log());

    // The far backend: the packet is translated and leaves where it came in, from the node's own address.
    folder.put("more-pinholes.yaml", MORE_PINHOLES)?;
    agent.next_generation()?;
    assert_eq!(ask(&lab.outside, NODE, FAR_NODE_PORT)?, answer(FAR_POD_SAYS), "{}", agent.log());
    assert_eq!(lab.ask_udp_node_port(&lab.outside)?, answer(POD_SAYS), "{}", agent.log());
    assert_eq!(ask(&lab.outside, NODE, NODE_PORT)?, Got::Silence, "the other pinhole is another policy");
    Ok(())
}

#[test]
fn protect_hosts_nftables() {
    run("protect_hosts_nftables", || only_the_cluster_comes_in(Proxy::Nftables));
}

#[test]
fn protect_hosts_iptables() {
    run("protect_hosts_iptables", || only_the_cluster_comes_in(Proxy::Iptables));
}
