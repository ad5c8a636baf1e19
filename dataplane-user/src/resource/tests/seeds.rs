//! The documents of the tutorials that the product is measured by, as their readers type them.

use super::{accepted, apply, refused};
use crate::policy::Family;

const NODE_PORT: &str = r"
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: allow-cluster-internal-ingress-only
spec:
  order: 20
  preDNAT: true
  applyOnForward: true
  ingress:
    - action: Allow
      source:
        nets: [1.2.3.4/16, 100.100.100.0/16]
    - action: Deny
  selector: has(kubernetes-host)
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: allow-outbound-external
spec:
  order: 10
  egress:
    - action: Allow
  selector: has(kubernetes-host)
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata:
  name: node1-eth0
  labels:
    kubernetes-host: ingress
spec:
  interfaceName: eth0
  node: node1
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: allow-nodeport
spec:
  preDNAT: true
  applyOnForward: true
  order: 10
  ingress:
    - action: Allow
      protocol: TCP
      destination:
        selector: has(kubernetes-host)
        ports: [31852]
  selector: has(kubernetes-host)
  ";

#[test]
fn the_node_port_tutorial_is_accepted_with_two_warnings() {
    let (world, report) = apply(NODE_PORT);
    assert!(!report.has_errors(), "{report:?}");
    let warnings: Vec<String> = report.warnings().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("read as 1.2.0.0/16") && warnings[1].contains("read as 100.100.0.0/16"));
    assert_eq!((world.policies.len(), world.host_endpoints.len()), (3, 1));
    assert_eq!(world.policies["allow-nodeport//GlobalNetworkPolicy"].family, Family::PreDnat);
}

#[test]
fn its_newer_form_has_expected_addresses_and_a_place_holder() {
    let newer = NODE_PORT.replace("  node: node1\n", "  node: node1\n  expectedIPs:\n  - INSERT_IP_HERE\n");
    refused(
        &newer,
        &["HostEndpoint/node1-eth0", "spec.expectedIPs[0]", "a placeholder; write the address itself"],
    );
    accepted(&newer.replace("INSERT_IP_HERE", "10.240.0.11"));
}

#[test]
fn text_that_lost_its_indentation_is_refused_with_that_guess() {
    refused(
        "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata:\nname: node1-eth0\nspec:\ninterfaceName: eth0\n",
        &["was the indentation lost?"],
    );
}

#[test]
fn the_lab_is_accepted() {
    let world = accepted(
        r#"
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: default-node-policy
spec:
  selector: has(kubernetes.io/hostname)
  ingress:
  - action: Allow
    protocol: TCP
    source:
      nets:
        - 127.0.0.1/32
  - action: Allow
    protocol: UDP
    source:
      nets:
        - 127.0.0.1/32
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: nodeport-policy
spec:
  order: 100
  selector: has(kubernetes.io/hostname)
  applyOnForward: true
  preDNAT: true
  ingress:
  - action: Allow
    protocol: TCP
    destination:
      ports: [30180]
    source:
      nets:
        - 198.19.15.254/32
  - action: Deny
    protocol: TCP
    destination:
      ports: ["30000:32767"]
  - action: Deny
    protocol: UDP
    destination:
      ports: ["30000:32767"]
"#,
    );
    assert_eq!(world.policies["nodeport-policy//GlobalNetworkPolicy"].ingress.len(), 3);
}

/// The three host policies of the cluster-IP tutorial; `#` is what its readers lose before the comments.
fn cluster_ips(mark: &str) -> String {
    let head = |name: &str, extra: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: {name}\nspec:\n  \
             selector: k8s-role == 'node'\n  types:\n  - Ingress\n{extra}"
        )
    };
    let pre = "  applyOnForward: true\n  preDNAT: true\n  ingress:\n";
    let rule = |client: &str, to: &str| {
        format!(
            "  - action: Allow\n    source:\n      nets:\n      - {client}\n    destination:\n      nets:\n      - {to}\n"
        )
    };
    let a = rule("50.60.0.0/16", &format!("10.20.30.40/32 {mark}Cluster IP A"));
    let b = rule("70.80.90.0/24", &format!("10.20.30.41/32 {mark}Cluster IP B"));
    let pods =
        format!("  - action: Allow\n    destination:\n      nets:\n      - 192.168.0.0/16 {mark}Pod CIDR\n");
    format!("{}{a}{b}{}{pods}", head("allow-cluster-ips", pre), head("allow-to-pods", pre))
}

#[test]
fn the_broken_documents_of_the_cluster_ip_tutorial_are_refused_with_the_remedy() {
    // All three places at once, in two documents.
    refused(
        &cluster_ips(""),
        &[
            "GlobalNetworkPolicy/allow-cluster-ips spec.ingress[0].destination.nets[0]",
            "`10.20.30.40/32 # Cluster IP A`",
            "GlobalNetworkPolicy/allow-cluster-ips spec.ingress[1].destination.nets[0]",
            "GlobalNetworkPolicy/allow-to-pods spec.ingress[0].destination.nets[0]",
            "`192.168.0.0/16 # Pod CIDR`",
        ],
    );
    let world = accepted(&cluster_ips("# "));
    assert_eq!(world.policies["allow-to-pods//GlobalNetworkPolicy"].family, Family::PreDnat);
    let hosts = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: allow-traffic-hostendpoints}\n\
                 spec:\n  selector: k8s-role == 'node'\n  types:\n  - Ingress\n  - action: Allow\n    protocol: TCP\n    \
                 destination:\n      selector: k8s-role == 'node'\n      notPorts: [\"30000:32767\"] #nodePort range\n";
    refused(hosts, &["spec.types[1]", "write `ingress:` above these rules"]);
    accepted(&hosts.replace("  - action", "  ingress:\n  - action"));
}

#[test]
fn the_pods_of_the_cluster_ip_tutorial_are_not_for_hosts() {
    let world = accepted(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: allow-nodes-svc-a}\nspec:\n  \
         selector: k8s-svc == 'svc-a'\n  types:\n  - Ingress\n  ingress:\n  - action: Allow\n    protocol: TCP\n    \
         source:\n      selector: k8s-role == 'node'\n    destination:\n      ports: [80, 443]\n---\n\
         apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: h, labels: {k8s-role: node}}\n\
         spec: {node: n1, interfaceName: eth0}\n",
    );
    let facts = crate::index::Snapshot::build(&world, &crate::policy::NodeView::default()).facts;
    assert_eq!(facts.not_for_hosts[0].name, "allow-nodes-svc-a");
}

#[test]
fn the_host_tutorial_is_accepted_and_its_selector_may_name_some_nodes() {
    let policy = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
    };
    let pre = "preDNAT: true, applyOnForward: true";
    let text = policy(
        "allow-cluster-internal-ingress",
        &format!(
            "order: 10, {pre}, ingress: [{{action: Allow, source: {{nets: [10.240.0.0/16, 192.168.0.0/16]}}}}], selector: has(host-endpoint)"
        ),
    ) + &policy(
        "drop-other-ingress",
        &format!("order: 20, {pre}, ingress: [{{action: Deny}}], selector: has(host-endpoint)"),
    ) + &policy(
        "allow-nodeport",
        &format!(
            "order: 10, {pre}, ingress: [{{action: Allow, protocol: TCP, destination: {{selector: has(host-endpoint), ports: [31852]}}}}], selector: \"host-endpoint=='special'\""
        ),
    );
    assert_eq!(accepted(&text).policies.len(), 3);
    // As the prose of another one says it.
    refused(
        &text.replace("host-endpoint=='special'", "nodeport-external-ingress: true"),
        &["nodeport-external-ingress == 'true'"],
    );
}
