//! Policies on a real node: what gets through, what does not, and that drops come before DNAT.

use anyhow::Result;
use tests::{
    can_run,
    probe::{Got, ask},
    process::{Agent, Home, Policies},
    topology::{Lab, NODE, NODE_PORT, OUTSIDE, OUTSIDE_SAYS, PEER, POD, POD_SAYS, Proxy, SSH_SAYS, policies},
};

fn answer(words: &str) -> Got {
    Got::Answer(words.to_owned())
}

fn run(test: &str, body: fn() -> Result<()>) {
    if can_run(test) {
        body().unwrap();
    }
}

const HOST_ENDPOINT: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-eth0, labels: {role: node}}
spec: {node: node1, interfaceName: eth0, expectedIPs: [10.240.0.11]}
";

fn dropped_before_dnat(proxy: Proxy) -> Result<()> {
    let lab = Lab::new(proxy)?;
    // The same question before: it leaves an entry, so an entry that is missing later says something.
    assert_eq!(lab.ask_node_port(&lab.outside)?, answer(POD_SAYS));
    assert!(!lab.conntrack(OUTSIDE, NODE_PORT)?.is_empty(), "without policy the packet comes to netfilter");

    let (folder, home) = (Policies::empty()?, Home::new()?);
    folder.put_all(&policies().join("nodeport/base"))?;
    let (agent, _) = Agent::start(&lab.node, &folder, &home)?;
    lab.flush_conntrack()?;

    assert_eq!(lab.ask_node_port(&lab.outside)?, Got::Silence, "{}", agent.log());
    assert_eq!(lab.conntrack(OUTSIDE, NODE_PORT)?, Vec::<String>::new(), "dropped before DNAT: no entry");
    assert_eq!(lab.ask_node_port(&lab.peer)?, answer(POD_SAYS), "{}", agent.log());
    assert!(!lab.conntrack(PEER, NODE_PORT)?.is_empty(), "the inside client was translated");
    // The node's segment is in none of the nets, and the pod's address is no way around (N10).
    assert_eq!(lab.ask_node_port(&lab.inside)?, Got::Silence);
    assert_eq!(ask(&lab.outside, POD, 8080)?, Got::Silence);
    assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence);
    Ok(())
}

#[test]
fn nodeport_is_dropped_before_dnat_nftables() {
    run("nodeport_is_dropped_before_dnat_nftables", || dropped_before_dnat(Proxy::Nftables));
}

#[test]
fn nodeport_is_dropped_before_dnat_iptables() {
    run("nodeport_is_dropped_before_dnat_iptables", || dropped_before_dnat(Proxy::Iptables));
}

#[test]
fn a_live_edit_opens_and_closes_the_pinhole() {
    run("a_live_edit_opens_and_closes_the_pinhole", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put_all(&policies().join("nodeport/base"))?;
        let (mut agent, first) = Agent::start(&lab.node, &folder, &home)?;
        assert_eq!(lab.ask_node_port(&lab.outside)?, Got::Silence);

        folder.put_all(&policies().join("nodeport/pinhole"))?;
        let second = agent.next_generation()?;
        assert!(second > first, "{second} after {first}");
        assert_eq!(lab.ask_node_port(&lab.outside)?, answer(POD_SAYS), "{}", agent.log());
        assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence, "only the one port was opened");

        folder.remove("allow-nodeport.yaml")?;
        agent.next_generation()?;
        assert_eq!(lab.ask_node_port(&lab.outside)?, Got::Silence, "{}", agent.log());
        Ok(())
    });
}

#[test]
fn a_broken_edit_keeps_the_last_good_version() {
    run("a_broken_edit_keeps_the_last_good_version", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put_all(&policies().join("nodeport/base"))?;
        folder.put_all(&policies().join("nodeport/pinhole"))?;
        let (agent, _) = Agent::start(&lab.node, &folder, &home)?;
        // Both a policy that allowed and the one that denies: neither may get lost (D13, D22).
        folder.put(
            "allow-nodeport.yaml",
            "kind: GlobalNetworkPolicy\nspec: {ingress: [{action: Perhaps}]}\n",
        )?;
        folder.put("allow-cluster-internal-ingress-only.yaml", ": this is no YAML: [\n")?;
        home.await_status("keeping both", |s| s["kept"].as_array().is_some_and(|kept| kept.len() == 2))?;
        assert_eq!(lab.ask_node_port(&lab.outside)?, answer(POD_SAYS), "{}", agent.log());
        assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence, "{}", agent.log());
        Ok(())
    });
}

#[test]
fn failsafe_keeps_ssh_open_where_nothing_else_is() {
    run("failsafe_keeps_ssh_open_where_nothing_else_is", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        // A named host endpoint without any policy or profile drops everything that is local.
        folder.put("endpoint.yaml", HOST_ENDPOINT)?;
        let (agent, _) = Agent::start(&lab.node, &folder, &home)?;
        assert_eq!(ask(&lab.outside, NODE, 22)?, answer(SSH_SAYS), "{}", agent.log());
        assert_eq!(ask(&lab.outside, NODE, 8080)?, Got::Silence);
        assert_eq!(ask(&lab.inside, NODE, 8080)?, Got::Silence);
        assert_eq!(ask(&lab.node, OUTSIDE, 443)?, Got::Silence, "no egress rule either");
        // A failsafe is for the node, never for what stands behind it (D1): nobody listens on the pod's port 22, so a
        // packet that gets through is refused by the pod; forwarded traffic is allowed by default.
        assert_eq!(ask(&lab.outside, POD, 22)?, Got::Refused);
        Ok(())
    });
}

#[test]
fn egress_rules_govern_what_the_node_sends() {
    run("egress_rules_govern_what_the_node_sends", || {
        let lab = Lab::new(Proxy::Nftables)?;
        let (folder, home) = (Policies::empty()?, Home::new()?);
        folder.put("endpoint.yaml", HOST_ENDPOINT)?;
        folder.put(
            "egress.yaml",
            "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: one-server}
spec:
  selector: role == 'node'
  types: [Egress]
  egress:
  - {action: Allow, protocol: TCP, destination: {nets: [203.0.113.0/24], ports: [8443]}}
",
        )?;
        let (agent, _) = Agent::start(&lab.node, &folder, &home)?;
        assert_eq!(ask(&lab.node, OUTSIDE, 8443)?, answer(OUTSIDE_SAYS), "{}", agent.log());
        assert_eq!(ask(&lab.node, OUTSIDE, 443)?, Got::Silence);
        // Forwarded, and the policy is not applyOnForward.
        assert_eq!(ask(&lab.pod, OUTSIDE, 443)?, answer(OUTSIDE_SAYS));
        // Local on the node, so no device of ours: D5.
        assert_eq!(ask(&lab.node, NODE, 8080)?, answer(tests::topology::NODE_SAYS));
        Ok(())
    });
}
