//! Sentences of §1 that the rows V01–V56 leave out: the last value that is right, and the first that is not.

use super::{accepted, apply, gnp, hep, refused, rule};

fn network_policy(spec: &str) -> String {
    gnp(spec)
        .replace("kind: GlobalNetworkPolicy", "kind: NetworkPolicy")
        .replace("name: p", "name: p, namespace: default")
}

fn staged(spec: &str) -> String {
    gnp(spec).replace("GlobalNetworkPolicy", "StagedGlobalNetworkPolicy")
}

fn tier(name: &str, spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

#[test]
fn hints_are_checked_and_change_nothing() {
    let hint = "AssumeNeededOnEveryNode";
    let with = accepted(&gnp(&format!("performanceHints: [{hint}]")));
    assert_eq!(with, accepted(&gnp("order: null")));
    refused(&gnp(&format!("performanceHints: [{hint}, {hint}]")), &["performanceHints[1]", "twice"]);
    refused(&gnp("performanceHints: [Faster]"), &["performanceHints[0]", hint]);
}

#[test]
fn every_selector_has_the_limit_and_none_is_global_but_one() {
    let long = format!("a == '{}'", "x".repeat(1018));
    for field in ["selector", "namespaceSelector", "serviceAccountSelector"] {
        refused(&gnp(&format!("{field}: \"{long}\"")), &[&format!("spec.{field}"), "1024"]);
        refused(&gnp(&format!("{field}: global()")), &[&format!("spec.{field}")]);
    }
    for field in ["selector", "notSelector", "namespaceSelector"] {
        let path = format!("spec.ingress[0].source.{field}");
        refused(&rule(&format!("action: Allow, source: {{{field}: \"{long}\"}}")), &[&path, "1024"]);
    }
    accepted(&rule("action: Allow, source: {namespaceSelector: global()}"));
    let key = |chars: usize| gnp(&format!("selector: has({})", "k".repeat(chars)));
    accepted(&key(512));
    refused(&key(513), &["spec.selector", "512"]);
}

#[test]
fn services_stand_at_one_end_only_and_alone() {
    let service = "services: {name: s, namespace: n}";
    let egress = |side: &str| gnp(&format!("egress:\n- {{action: Allow, protocol: TCP, {side}}}"));
    refused(&egress(&format!("source: {{{service}}}")), &["egress[0].source", "only stand in `destination`"]);
    for other in ["namespaceSelector: has(a)", "notNets: [10.0.0.0/8]"] {
        refused(&rule(&format!("action: Allow, source: {{{service}, {other}}}")), &["cannot stand beside"]);
    }
    refused(&egress(&format!("destination: {{{service}, notPorts: [80]}}")), &["beside `notPorts`"]);
    accepted(&rule(&format!("action: Allow, protocol: TCP, source: {{{service}, ports: [80]}}")));
    refused(&rule("action: Allow, source: {services: {namespace: n}}"), &["services.name", "is missing"]);
    // In a namespace the policy's own is meant.
    accepted(&network_policy("ingress:\n- {action: Allow, source: {services: {name: s}}}"));
}

#[test]
fn ports_and_icmp_have_ends() {
    let name = |chars: usize| rule(&format!("action: Allow, source: {{ports: [{}]}}", "n".repeat(chars)));
    accepted(&name(128));
    refused(&name(129), &["source.ports[0]"]);
    accepted(&rule(
        "action: Allow, protocol: TCP, source: {ports: [1, 65535, '7:7']}, destination: {notPorts: ['1:65535']}",
    ));
    refused(&rule("action: Allow, protocol: TCP, source: {notPorts: [65536]}"), &["source.notPorts[0]"]);
    refused(&rule("action: Allow, source: {notPorts: [80]}"), &["need `protocol: TCP`"]);
    accepted(&rule("action: Allow, protocol: 255"));
    accepted(&rule("action: Allow, protocol: 1, icmp: {type: 254, code: 255}"));
    accepted(&rule("action: Allow, protocol: 58, icmp: {type: 0}"));
    refused(&rule("action: Allow, protocol: ICMP, icmp: {type: 8, code: 256}"), &["icmp.code", "0 to 255"]);
    refused(&rule("action: Allow, protocol: UDP, icmp: {type: 8}"), &["spec.ingress[0].icmp"]);
    refused(&rule("action: Allow, notICMP: {code: 0}"), &["notICMP.type"]);
    refused(&rule("action: Allow, notProtocol: ICMP, ipVersion: 6"), &["IPv4 only"]);
    refused(&rule("action: Allow, notProtocol: icmp"), &["spec.ingress[0].notProtocol"]);
    refused(&rule("action: Allow, metadata: {labels: {a: b}}"), &["spec.ingress[0].metadata"]);
    accepted(&rule("action: Allow, metadata: {annotations: {a: b}}"));
}

#[test]
fn names_have_limits() {
    let named = |name: &str| gnp("order: 1").replace("name: p", &format!("name: {name}"));
    let label = "a".repeat(63);
    let longest = format!("{}.{}", "a".repeat(126), "b".repeat(126));
    accepted(&named(&longest));
    refused(&named(&format!("{longest}b")), &["at most 253"]);
    refused(&named("knp.default.x"), &["one dot"]);
    accepted(&tier(&label, "order: -0.5, defaultAction: Pass"));
    refused(&tier(&format!("{label}a"), ""), &["at most 63"]);
    refused(&tier("a.b", ""), &["no dot"]);
    refused(&tier("a", "defaultAction: Allow"), &["spec.defaultAction"]);
    for (built_in, order, action) in
        [("default", 1e6, "Deny"), ("kube-admin", 1e3, "Pass"), ("kube-baseline", 1e7, "Pass")]
    {
        accepted(&tier(built_in, &format!("order: {order}, defaultAction: {action}")));
        let other = if action == "Deny" { "Pass" } else { "Deny" };
        refused(&tier(built_in, &format!("defaultAction: {other}")), &["is built in"]);
        refused(&tier(built_in, &format!("order: {}", order + 1.0)), &["is built in"]);
    }
}

#[test]
fn endpoints_and_sets() {
    let node = |chars: usize| hep(&format!("node: {}, interfaceName: eth0", "n".repeat(chars)));
    accepted(&node(253));
    refused(&node(254), &["spec.node", "253"]);
    refused(&hep("node: '', interfaceName: eth0"), &["spec.node"]);
    accepted(&hep("node: n, interfaceName: a_b.c-d45678901"));
    refused(&hep("node: n, interfaceName: a_b.c-d456789012"), &["device name"]);
    refused(&hep("node: n, interfaceName: 'eth*'"), &["device name"]);
    let port = |port: &str| hep(&format!("node: n, interfaceName: eth0, ports: [{port}]"));
    accepted(&port("{name: a, protocol: SCTP, port: 65535}, {name: a, protocol: SCTP, port: 65535}"));
    refused(&port("{name: a, protocol: TCP, port: 0}"), &["ports[0].port"]);
    refused(&port("{name: a, protocol: TCP, port: 65536}"), &["ports[0].port"]);
    refused(&port("{name: a, protocol: tcp, port: 1}"), &["ports[0].protocol", "TCP"]);
    // Users may label an endpoint as they like; sets have their namespace from where they are.
    let label = "labels: {projectcalico.org/namespace: x}";
    accepted(&hep("node: n, interfaceName: eth0").replace("name: h", &format!("name: h, {label}")));
    for (kind, place) in [("GlobalNetworkSet", ""), ("NetworkSet", "namespace: default, ")] {
        refused(
            &format!(
                "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: s, {place}{label}}}\nspec: {{nets: []}}\n"
            ),
            &["metadata.labels[projectcalico.org/namespace]", "remove it"],
        );
    }
}

#[test]
fn what_only_global_policies_have_and_what_delete_leaves() {
    for field in ["preDNAT: true", "doNotTrack: true", "applyOnForward: true", "namespaceSelector: has(a)"] {
        refused(&network_policy(field), &["only a GlobalNetworkPolicy has it"]);
    }
    for field in [
        "order: 1",
        "selector: has(a)",
        "types: [Ingress]",
        "applyOnForward: true",
        "egress: [{action: Deny}]",
    ] {
        refused(&staged(&format!("stagedAction: Delete\n{field}")), &["spec.stagedAction", "only `tier`"]);
    }
    refused(&staged("stagedAction: Drop"), &["spec.stagedAction"]);
    // The rest of a policy is checked although nothing of it is in force.
    for action in ["Set", "Learn", "Ignore"] {
        let spec =
            format!("stagedAction: {action}\ningress: [{{action: Allow, source: {{nets: [10.0.0.0/33]}}}}]");
        refused(&staged(&spec), &["nets[0]"]);
    }
    assert!(accepted(&staged("stagedAction: Ignore\ningress: [{action: Allow}]")).policies.is_empty());
    assert_eq!(accepted(&staged("stagedAction: Learn\ningress: [{action: Allow}]")).policies.len(), 1);
}

#[test]
fn protocols_of_failsafes_are_written_in_any_case_and_nets_are_masked() {
    let failsafes = "{protocol: TCP, port: 22}, {protocol: Udp, port: 53, net: 10.1.2.3/8}";
    let (world, report) = apply(&format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\n\
         spec: {{failsafeInboundHostPorts: [{failsafes}]}}\n"
    ));
    assert!(!report.has_errors(), "{:?}", report.problems);
    let read = world.felix.failsafe_inbound.unwrap();
    assert_eq!(read.iter().map(|f| (f.protocol, f.port)).collect::<Vec<_>>(), [(6, 22), (17, 53)]);
    assert_eq!(read[1].net.unwrap().to_string(), "10.0.0.0/8");
    assert!(report.warnings().any(|w| w.path.ends_with("[1].net")), "{:?}", report.problems);
}
