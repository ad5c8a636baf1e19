//! A scenario judged by the model, and the format's refusals.

use std::path::Path;

use super::engine::Engine;
use super::format::parse;
use super::run;
use crate::model::Model;

const NODEPORT: &str = r#"
apiVersion: portcullis.dev/v1alpha1
kind: Scenario
metadata: {name: nodeport}
spec:
  node: node1
  documents: |
    apiVersion: projectcalico.org/v3
    kind: HostEndpoint
    metadata: {name: h, labels: {kubernetes-host: ingress}}
    spec: {node: node1, interfaceName: eth0, expectedIPs: [10.240.0.11]}
    ---
    apiVersion: projectcalico.org/v3
    kind: GlobalNetworkPolicy
    metadata: {name: inside}
    spec:
      order: 20
      preDNAT: true
      applyOnForward: true
      selector: has(kubernetes-host)
      ingress: [{action: Allow, source: {nets: [1.2.3.4/16]}}, {action: Deny}]
    ---
    apiVersion: projectcalico.org/v3
    kind: GlobalNetworkPolicy
    metadata: {name: pinhole}
    spec:
      order: 10
      preDNAT: true
      applyOnForward: true
      selector: has(kubernetes-host)
      ingress:
      - {action: Allow, protocol: TCP, destination: {selector: has(kubernetes-host), ports: [31852]}}
  interfaces:
  - {name: eth0, addresses: [10.240.0.11/24]}
  steps:
  - packet: {in: eth0, src: 203.0.113.7, dst: 10.240.0.11, protocol: TCP, dport: 31852}
    expect: {verdict: VERDICT, stage: preDNAT, policy: pinhole, rule: 0}
  - packet: {in: eth0, src: 203.0.113.7, dst: 10.240.0.11, protocol: TCP, dport: 31853}
    expect: {verdict: Deny, stage: preDNAT, policy: inside, rule: 1, reason: rule_deny}
  - packet: {in: eth0, src: 203.0.113.7, dst: 10.240.0.11, protocol: TCP, dport: 22}
    expect: {verdict: Allow, stage: failsafe}
"#;

fn judged(text: &str) -> super::ScenarioResult {
    let scenarios = parse(Path::new("test.yaml"), text).expect("readable");
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Model::new())];
    run(&scenarios[0], &mut engines).expect("runs")
}

#[test]
fn a_node_port_opens_by_its_pinhole_alone() {
    let result = judged(&NODEPORT.replace("VERDICT", "Allow"));
    assert!(result.passed, "{:#?}", result.steps);
}

#[test]
fn a_wrong_expectation_fails_with_its_line() {
    let result = judged(&NODEPORT.replace("VERDICT", "Deny"));
    assert!(!result.passed);
    assert_eq!(result.steps[0].failures, ["model: verdict: expected Deny, got Allow"]);
    let line = 1 + NODEPORT.lines().position(|l| l.contains("- packet")).expect("a step");
    assert_eq!(result.steps[0].line, line);
}

#[test]
fn unknown_keys_and_doubtful_steps_are_refused() {
    let head = "apiVersion: portcullis.dev/v1alpha1\nkind: Scenario\nmetadata: {name: x}\nspec:\n  node: n\n";
    for (tail, why) in [
        ("  stepz: []\n", "stepz"),
        ("  steps:\n  - {advance: 30}\n", "unit"),
        ("  steps:\n  - {advance: 1s, delete: [a/b]}\n", "exactly one"),
        ("  steps:\n  - packet: {src: 10.0.0.1, dst: 10.0.0.2, protocol: TCP}\n", "in: DEVICE"),
        ("  steps:\n  - packet: {in: e, src: 10.0.0.1, dst: fd00::1, protocol: TCP}\n", "families"),
    ] {
        let error = parse(Path::new("x.yaml"), &format!("{head}{tail}")).expect_err(tail).to_string();
        assert!(error.contains(why), "{error}");
    }
}
