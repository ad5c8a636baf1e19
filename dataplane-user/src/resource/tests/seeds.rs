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

#[test]
fn the_broken_documents_of_the_cluster_ip_tutorial_are_refused_with_the_remedy() {
    let head = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec:\n";
    refused(
        &format!(
            "{head}  ingress:\n  - action: Allow\n    destination:\n      nets:\n      - 10.20.30.40/32 Cluster IP A\n"
        ),
        &[
            "spec.ingress[0].destination.nets[0]",
            "put a # before the comment",
            "10.20.30.40/32 # Cluster IP A",
        ],
    );
    refused(
        &format!("{head}  types:\n  - Ingress\n  - action: Allow\n    protocol: TCP\n"),
        &["spec.types[1]", "write `ingress:` above these rules"],
    );
}
