//! What the lab imitates elsewhere is real here: kube-proxy translates, and kubectl applies.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::{
    kubernetes::{
        V3,
        case::{Case, answer, run_with},
    },
    probe::{Got, Server, Speech, ask},
    process::Agent,
    topology::{
        CLIENT_A, CLUSTER_IP, FAR_CLUSTER_IP, FAR_POD_SAYS, NODE, NODE_PORT, NODE_SAYS, OUTSIDE, POD_SAYS,
        Proxy, policies,
    },
};

const NEEDS: [&str; 2] = ["kube-proxy", "kubectl"];
/// Another address of the node's.
const SECOND: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 240, 0, 13);
const SECOND_SAYS: &str = "hello from a process at a node port";

const NODES: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node1}
"#;

/// What a kubelet tells of its node.
fn addresses() -> Value {
    json!({"status": {"addresses": [
        {"type": "InternalIP", "address": "10.240.0.11"}, {"type": "Hostname", "address": "node1"},
    ]}})
}

/// The cluster's objects, by kubectl.
fn furnish(case: &Case) -> Result<()> {
    case.allow_the_agent()?;
    case.cluster.define(V3)?;
    case.cluster.kubectl(&["apply", "-f", "-"], NODES)?;
    let patch = addresses().to_string();
    case.cluster
        .kubectl(&["patch", "node", "node1", "--subresource=status", "--type=merge", "-p", &patch], "")?;
    let services = policies().join("cluster-ips/services");
    kubectl_apply(case, &services.display().to_string())
}

fn kubectl_apply(case: &Case, path: &str) -> Result<()> {
    case.cluster.kubectl(&["apply", "--server-side", "-f", path], "").map(drop)
}

fn kubectl_delete(case: &Case, path: &str) -> Result<()> {
    case.cluster.kubectl(&["delete", "--wait", "-f", path], "").map(drop)
}

fn folder(name: &str) -> String {
    policies().join(name).display().to_string()
}

/// Nothing of a packet came as far as netfilter.
fn left_no_trace(case: &Case, port: u16) -> Result<()> {
    assert_eq!(case.lab.conntrack(OUTSIDE, port)?, Vec::<String>::new(), "dropped before DNAT");
    Ok(())
}

/// In both of its modes: node ports and cluster addresses are judged before kube-proxy translates them, and the agent
/// knows at which addresses it does.
#[test]
fn verdicts_come_before_a_real_kube_proxy() {
    run_with("verdicts_come_before_a_real_kube_proxy", Proxy::Later, &NEEDS, |case| {
        furnish(&case)?;
        case.lab.node.ip(&format!("addr add {SECOND}/24 dev eth0"))?;
        let _process = Server::start(&case.lab.node, NODE_PORT, Speech::Http(SECOND_SAYS))?;
        // kube-proxy's own default differs between its modes. None named: everywhere.
        let primary = json!([format!("{NODE}/32")]);
        let all = json!([]);
        for (mode, name, answered) in
            [(Proxy::Nftables, "nftables", primary), (Proxy::Iptables, "iptables", all)]
        {
            let _proxy = case.cluster.start_proxy(mode, &[])?;
            let agent = case.agent(&[])?;
            case.becomes(&answer(POD_SAYS), &agent)
                .with_context(|| format!("kube-proxy in mode {name}: {}", case.cluster.proxy_log()))?;
            assert!(!case.lab.conntrack(OUTSIDE, NODE_PORT)?.is_empty(), "kube-proxy translates");
            let told = json!({"mode": name, "nodePortAddresses": answered, "because": "kube-proxy says so"});
            case.status_becomes("told by kube-proxy", &agent, |s| {
                let proxy = &s["kubernetes"]["kubeProxy"];
                ["mode", "nodePortAddresses", "because"].iter().all(|field| proxy[field] == told[field])
            })?;
            node_ports(&case, &agent).with_context(|| format!("node ports, mode {name}"))?;
            only_node_ports_are_forwarded(&case, &agent, mode)
                .with_context(|| format!("addresses, mode {name}"))?;
            cluster_addresses(&case, &agent).with_context(|| format!("cluster addresses, mode {name}"))?;
            drop(agent);
            drop(_proxy);
            case.cluster.clean_proxy()?;
        }
        Ok(())
    });
}

fn node_ports(case: &Case, agent: &Agent) -> Result<()> {
    kubectl_apply(case, &folder("nodeport/base"))?;
    case.becomes(&Got::Silence, agent)?;
    case.lab.flush_conntrack()?;
    assert_eq!(case.node_port()?, Got::Silence);
    left_no_trace(case, NODE_PORT)?;
    assert_eq!(case.lab.ask_node_port(&case.lab.peer)?, answer(POD_SAYS), "{}", agent.log());

    kubectl_apply(case, &folder("nodeport/pinhole"))?;
    case.becomes(&answer(POD_SAYS), agent)?;
    kubectl_delete(case, &folder("nodeport/pinhole"))?;
    case.becomes(&Got::Silence, agent)?;

    kubectl_delete(case, &folder("nodeport/base"))?;
    case.becomes(&answer(POD_SAYS), agent)
}

/// A host endpoint whose lists are empty drops what comes for the node itself, and nothing that is forwarded. Service and
/// EndpointSlice make the node port forwarded, but only at the addresses where kube-proxy answers it.
fn only_node_ports_are_forwarded(case: &Case, agent: &Agent, mode: Proxy) -> Result<()> {
    let outside = |address, port| ask(&case.lab.outside, address, port);
    kubectl_apply(case, &folder("nodeport/base/node1-eth0.yaml"))?;
    case.says(&Got::Silence, agent, || outside(NODE, 8080))?;
    assert_eq!(case.node_port()?, answer(POD_SAYS), "{}", agent.log());
    let second = match mode {
        Proxy::Iptables => answer(POD_SAYS),
        // This is a process's port.
        _ => Got::Silence,
    };
    assert_eq!(outside(SECOND, NODE_PORT)?, second, "{}", agent.log());
    kubectl_delete(case, &folder("nodeport/base/node1-eth0.yaml"))?;
    case.says(&answer(NODE_SAYS), agent, || outside(NODE, 8080))
}

fn cluster_addresses(case: &Case, agent: &Agent) -> Result<()> {
    let peer = || ask(&case.lab.peer, CLUSTER_IP, 80);
    let outside = || ask(&case.lab.outside, CLUSTER_IP, 80);
    case.says(&answer(POD_SAYS), agent, outside)?;
    kubectl_apply(case, &folder("cluster-ips/base"))?;
    case.says(&Got::Silence, agent, outside)?;
    case.lab.flush_conntrack()?;
    assert_eq!(outside()?, Got::Silence);
    left_no_trace(case, 80)?;
    assert_eq!(peer()?, answer(POD_SAYS), "{}", agent.log());
    assert!(!case.lab.conntrack(CLIENT_A, 80)?.is_empty(), "kube-proxy translates");
    assert_eq!(ask(&case.lab.peer, FAR_CLUSTER_IP, 80)?, answer(FAR_POD_SAYS), "{}", agent.log());
    kubectl_delete(case, &folder("cluster-ips/base"))?;
    case.says(&answer(POD_SAYS), agent, outside)
}
