//! Rows V01–V51 of the behaviour table, and the documents of the tutorials as people type them.

use super::{Report, Store, documents_from_str};
use crate::policy::{Direction, Family, World};

mod config;
mod seeds;
mod sentences;
mod store;

pub(super) fn apply(text: &str) -> (World, Report) {
    let mut store = Store::default();
    let (documents, _) = documents_from_str("test.yaml", text);
    let report = store.apply(documents);
    (store.world().clone(), report)
}

fn messages(report: &Report) -> String {
    report.problems.iter().map(|problem| format!("{problem}\n")).collect()
}

pub(super) fn accepted(text: &str) -> World {
    let (world, report) = apply(text);
    assert!(!report.has_errors(), "{text}\n{}", messages(&report));
    world
}

/// The messages, which must hold every one of `parts`.
pub(super) fn refused(text: &str, parts: &[&str]) {
    let (world, report) = apply(text);
    assert!(report.has_errors(), "accepted:\n{text}");
    assert_eq!(world, World::default(), "nothing may change (D45)");
    for part in parts {
        assert!(messages(&report).contains(part), "{part:?} is not in:\n{}", messages(&report));
    }
}

/// A GlobalNetworkPolicy with these lines as its `spec`.
fn gnp(spec: &str) -> String {
    let lines: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: p}}\nspec:\n{lines}"
    )
}

/// With one ingress rule, in flow style.
fn rule(rule: &str) -> String {
    gnp(&format!("ingress:\n- {{{rule}}}"))
}

fn hep(spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {{name: h}}\nspec: {{{spec}}}\n")
}

fn set(nets: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: s}}\nspec: {{nets: [{nets}]}}\n"
    )
}

#[test]
fn v01_to_v13_families_and_types() {
    let world = accepted(&gnp("preDNAT: true\napplyOnForward: true\ningress: [{action: Allow}]"));
    assert_eq!(world.policies["p//GlobalNetworkPolicy"].family, Family::PreDnat);
    refused(&gnp("preDNAT: true"), &["spec.applyOnForward", "write `applyOnForward: true`"]);
    refused(&gnp("doNotTrack: true"), &["spec.applyOnForward"]);
    refused(&gnp("doNotTrack: true\npreDNAT: true\napplyOnForward: true"), &["choose one"]);
    refused(&gnp("preDNAT: true\napplyOnForward: true\negress: [{action: Allow}]"), &["spec.egress"]);
    refused(&gnp("preDNAT: true\napplyOnForward: true\ntypes: [Ingress, Egress]"), &["spec.types"]);
    accepted(&gnp(
        "doNotTrack: true\napplyOnForward: true\ningress: [{action: Allow}]\negress: [{action: Deny}]",
    ));
    refused(&gnp("types: [Ingress, Ingress]"), &["spec.types[1]", "twice"]);
    refused(&gnp("types: []"), &["empty"]);
    refused(&gnp("types: [ingress]"), &["write Ingress"]);
    let world = accepted(&gnp("types: [Ingress]\negress: [{action: Allow}]"));
    let policy = &world.policies["p//GlobalNetworkPolicy"];
    assert!(policy.rules(Direction::Egress).is_empty());
    assert_eq!(
        accepted(&gnp("order: 1")).policies["p//GlobalNetworkPolicy"].types,
        [Direction::Ingress].into()
    );
    let world = accepted(&gnp("egress: [{action: Allow}]"));
    assert_eq!(world.policies["p//GlobalNetworkPolicy"].types, [Direction::Egress].into());
}

#[test]
fn v15_v16_host_bits_and_bare_addresses_are_warnings_by_d12() {
    let (world, report) = apply(&rule("action: Allow, source: {nets: [1.2.3.4/16, 5.6.7.8]}"));
    assert!(!report.has_errors());
    let nets = &world.policies["p//GlobalNetworkPolicy"].ingress[0].source.nets;
    assert_eq!(nets.iter().map(ToString::to_string).collect::<Vec<_>>(), ["1.2.0.0/16", "5.6.7.8/32"]);
    let warnings: Vec<String> = report.warnings().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].contains("spec.ingress[0].source.nets[0]") && warnings[0].contains("1.2.0.0/16"));
    assert!(warnings[1].contains("5.6.7.8/32"));
}

#[test]
fn v18_to_v23_networks() {
    refused(
        &rule("action: Allow, source: {nets: [10.0.0.0/8]}, destination: {nets: ['fd00::/8']}"),
        &["mixes"],
    );
    refused(&rule("action: Allow, ipVersion: 6, source: {nets: [10.0.0.0/8]}"), &["IPv6"]);
    refused(&rule("action: Allow, source: {notNets: [0.0.0.0/0]}"), &["excludes every address"]);
    refused(&rule("action: Allow, source: {notNets: ['::/0']}"), &["excludes every address"]);
    refused(&rule("action: Allow, source: {nets: []}"), &["empty list"]);
    refused(&rule("action: Allow, source: {nets: [10.0.0.0/8, 10.0.0.0/8]}"), &["twice"]);
    refused(&rule("action: Allow, source: {nets: ['::ffff:1.2.3.4']}"), &["write the IPv4"]);
    // Notations that others read in another way.
    for net in ["010.0.0.0/8", "10.0.0.0/08", "10.0.0.0/+8", "'::ffff:1.2.3.4/64'"] {
        refused(&rule(&format!("action: Allow, source: {{nets: [{net}]}}")), &["nets[0]"]);
    }
    refused(&set("garbage"), &["spec.nets[0]", "garbage"]);
    refused(&set("10.0.0.0/33"), &["spec.nets[0]"]);
    let world = accepted(&set("10.0.0.1, 'fd00::/8'"));
    assert_eq!(world.network_sets[&(String::new(), "s".into())].nets.len(), 2);
}

#[test]
fn v25_to_v33_ports_and_protocols() {
    refused(&rule("action: Allow, destination: {ports: [80]}"), &["need `protocol: TCP`"]);
    accepted(&rule("action: Allow, destination: {ports: [http]}"));
    refused(&rule("action: Allow, protocol: ICMP, destination: {ports: [80]}"), &["has no ports"]);
    refused(&rule("action: Allow, protocol: ICMP, destination: {ports: [http]}"), &["has no ports"]);
    accepted(&rule("action: Allow, protocol: SCTP, destination: {ports: [80]}"));
    accepted(&rule("action: Allow, protocol: 132, destination: {ports: ['80', '1:65535']}"));
    refused(
        &rule("action: Allow, protocol: TCP, destination: {ports: ['32767:30000']}"),
        &["\"30000:32767\""],
    );
    for port in ["0", "'0:80'", "'+1:80'", "70000", "'1:70000'", "-1", "1.5", "''", "'a b'", "true"] {
        refused(
            &rule(&format!("action: Allow, protocol: TCP, destination: {{ports: [{port}]}}")),
            &["ports[0]"],
        );
    }
    for protocol in ["0", "256", "tcp", "TCPX", "-1", "'+6'", "'06'"] {
        refused(&rule(&format!("action: Allow, protocol: {protocol}")), &["spec.ingress[0].protocol"]);
    }
    refused(&rule("action: Allow, protocol: tcp"), &["write TCP"]);
    for protocol in ["6", "'6'", "TCP"] {
        let world = accepted(&rule(&format!("action: Allow, protocol: {protocol}")));
        assert_eq!(world.policies["p//GlobalNetworkPolicy"].ingress[0].protocol, Some(6));
    }
    let (_, report) = apply(&rule("action: Allow, protocol: TCP, destination: {ports: [80-90]}"));
    assert!(report.warnings().any(|warning| warning.message.contains("\"80:90\"")));
}

#[test]
fn v35_v36_icmp() {
    refused(&rule("action: Allow, icmp: {type: 8}"), &["spec.ingress[0].icmp", "protocol: ICMP"]);
    refused(&rule("action: Allow, protocol: ICMP, icmp: {code: 0}"), &["icmp.type"]);
    refused(&rule("action: Allow, protocol: ICMP, icmp: {type: 255}"), &["0 to 254"]);
    accepted(&rule("action: Allow, notICMP: {type: 8, code: 0}"));
    refused(&rule("action: Allow, protocol: ICMPv6, ipVersion: 4"), &["IPv6 only"]);
    refused(&rule("action: Allow, ipVersion: 5"), &["4 or 6"]);
    let world = accepted(&rule("action: Allow, protocol: ICMP"));
    let rule = &world.policies["p//GlobalNetworkPolicy"].ingress[0];
    assert_eq!(rule.ip_version, Some(crate::policy::IpVersion::V4));
}

#[test]
fn v38_to_v41_selectors_services_http() {
    refused(&gnp("selector: global()"), &["spec.selector", "alone"]);
    refused(&gnp("namespaceSelector: has(a) || global()"), &["spec.namespaceSelector"]);
    refused(&rule("action: Allow, source: {selector: global()}"), &["source.selector"]);
    refused(&rule("action: Allow, source: {namespaceSelector: \"global() && x=='y'\"}"), &["write it alone"]);
    let world = accepted(&rule("action: Allow, source: {namespaceSelector: global(), selector: has(a)}"));
    let peer = world.policies["p//GlobalNetworkPolicy"].ingress[0].source.selector.clone().unwrap();
    assert!(peer.global_only);
    assert_eq!(peer.selector.to_string(), "has(a)");
    let service = "services: {name: s, namespace: n}";
    accepted(&rule(&format!("action: Allow, source: {{{service}}}")));
    refused(&rule(&format!("action: Allow, destination: {{{service}}}")), &["only stand in `source`"]);
    refused(&rule("action: Allow, source: {services: {name: s}}"), &["services.namespace"]);
    for other in
        ["selector: has(a)", "notSelector: has(a)", "nets: [10.0.0.0/8]", "serviceAccounts: {names: [a]}"]
    {
        refused(&rule(&format!("action: Allow, source: {{{service}, {other}}}")), &["cannot stand beside"]);
    }
    let egress =
        |side: &str| gnp(&format!("egress:\n- {{action: Allow, protocol: TCP, destination: {{{side}}}}}"));
    accepted(&egress(service));
    refused(&egress(&format!("{service}, ports: [80]")), &["cannot stand beside `ports`"]);
    refused(&rule("action: Deny, http: {methods: [GET]}"), &["http"]);
    refused(&rule("action: Allow, http: {methods: [GET]}"), &["HTTP is not looked into"]);
}

#[test]
fn v43_to_v46_host_endpoints() {
    refused(&hep("interfaceName: eth0"), &["spec.node", "is missing"]);
    refused(&hep("node: n"), &["neither interfaceName nor expectedIPs"]);
    refused(&hep("node: n, interfaceName: ''"), &["neither"]);
    refused(&hep("node: n, expectedIPs: [10.0.0.0/24]"), &["expectedIPs[0]", "one address"]);
    refused(&hep("node: n, expectedIPs: [INSERT_IP_HERE]"), &["placeholder"]);
    refused(&hep("node: n, interfaceName: interface-too-long"), &["device name"]);
    accepted(&hep("node: n, interfaceName: '*'"));
    accepted(&hep("node: n, expectedIPs: [10.0.0.1, 'fd00::1']"));
    let ports = |ports: &str| hep(&format!("node: n, interfaceName: eth0, ports: [{ports}]"));
    refused(&ports("{name: a, protocol: ICMP, port: 1}"), &["ports[0].protocol"]);
    refused(&ports("{protocol: TCP, port: 1}"), &["ports[0].name"]);
    accepted(&ports("{name: a, protocol: TCP, port: 1}, {name: a, protocol: UDP, port: 2}"));
    refused(&hep("node: n, interfacename: eth0"), &["did you mean `interfaceName`?"]);
}

#[test]
fn v48_limits() {
    let many =
        |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(", ");
    let rules = |count| gnp(&format!("ingress: [{}]", many(count, &|_| "{action: Allow}".into())));
    accepted(&rules(1024));
    refused(&rules(1025), &["1024 are the limit"]);
    let net = |i: usize| format!("10.0.{}.{}/32", i / 256, i % 256);
    let nets = |count| rule(&format!("action: Allow, source: {{nets: [{}]}}", many(count, &net)));
    accepted(&nets(256));
    refused(&nets(257), &["256 are the limit"]);
    let port = |i: usize| (i + 1).to_string();
    let ports = |n| rule(&format!("action: Allow, protocol: TCP, source: {{ports: [{}]}}", many(n, &port)));
    accepted(&ports(50));
    refused(&ports(51), &["50 are the limit"]);
    let selector = |length: usize| gnp(&format!("selector: \"a == '{}'\"", "x".repeat(length - 7)));
    accepted(&selector(1024));
    refused(&selector(1025), &["1024"]);
}

#[test]
fn v50_staged() {
    let staged = |spec: &str| gnp(spec).replace("GlobalNetworkPolicy", "StagedGlobalNetworkPolicy");
    refused(&staged("stagedAction: Delete\ningress: [{action: Allow}]"), &["stagedAction"]);
    assert!(accepted(&staged("stagedAction: Delete\ntier: default")).policies.is_empty());
    let world = accepted(&staged("stagedAction: Set\ningress: [{action: Allow}]"));
    assert!(world.policies["p//StagedGlobalNetworkPolicy"].kind.is_staged());
    refused(&gnp("stagedAction: Set"), &["unknown field"]);
}

#[test]
fn what_is_unknown_or_misplaced_is_refused_with_advice() {
    refused(&rule("action: Allow, ports: [80]"), &["belongs under"]);
    refused(&rule("action: allow"), &["write Allow"]);
    refused(&rule("source: {}"), &["action", "is missing"]);
    refused(&gnp("applyOnForwards: true"), &["did you mean `applyOnForward`?"]);
    refused(&gnp("preDNAT: 'true'"), &["without quotes"]);
    refused(&gnp("order: '10'"), &["number"]);
    refused(
        &gnp("selector: 'nodeport-external-ingress: true'"),
        &["nodeport-external-ingress == 'true'", "^"],
    );
    refused(&gnp("order: 1").replace("name: p", "name: p, labels: {a: true}"), &["in quotes: \"true\""]);
    refused(&gnp("order: 1").replace("name: p", "name: Web_1"), &["lower-case"]);
    refused(&gnp("order: 1").replace("name: p", "name: a.b.c"), &["one dot"]);
    refused(&gnp("order: 1").replace("/v3", "/v1"), &["write projectcalico.org/v3"]);
    refused(
        &gnp("order: 1").replace("GlobalNetworkPolicy", "GlobalNetworkPolice"),
        &["did you mean GlobalNetworkPolicy?"],
    );
    refused("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\n", &["kubectl"]);
    refused("just text\n", &["expected a mapping"]);
    refused(
        &gnp("order: 1").replace("name: p", "name: p, annotations: {portcullis.dev/on-policy-change: x}"),
        &["keep, recheck"],
    );
}

#[test]
fn every_error_of_every_document_is_reported_at_once() {
    let text =
        format!("{}---\n{}", gnp("order: x\nselector: 'a = 1'\ntypes: [In]"), hep("interfaceName: ' '"));
    let (_, report) = apply(&text);
    let paths: Vec<&str> = report.errors().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths.len(), 5, "{}", messages(&report));
    assert!(report.errors().any(|problem| problem.object == "HostEndpoint/h" && problem.line > 1));
}

#[test]
fn selectors_of_policies_are_combined() {
    let selector = |spec: &str| accepted(&gnp(spec)).policies["p//GlobalNetworkPolicy"].selector.to_string();
    assert_eq!(selector("namespaceSelector: all()"), "has(projectcalico.org/namespace)");
    assert_eq!(
        selector("selector: a == 'x'\nnamespaceSelector: team == 'y'\nserviceAccountSelector: all()"),
        "a == 'x' && pcns.team == 'y' && has(projectcalico.org/serviceaccount)"
    );
    let np = gnp("selector: has(a)\ningress: [{action: Allow, source: {selector: has(b)}}]")
        .replace("GlobalNetworkPolicy", "NetworkPolicy");
    let world = accepted(&np);
    let policy = &world.policies["p/default/NetworkPolicy"];
    assert_eq!(policy.selector.to_string(), "has(a) && projectcalico.org/namespace == 'default'");
    let peer = policy.ingress[0].source.selector.as_ref().unwrap();
    assert_eq!(peer.selector.to_string(), "projectcalico.org/namespace == 'default' && has(b)");
}

#[test]
fn selectors_of_rules_are_combined() {
    let side = |text: &str| {
        let world = accepted(&rule(&format!("action: Allow, source: {{{text}}}")));
        let side = world.policies["p//GlobalNetworkPolicy"].ingress[0].source.clone();
        (side.selector.map(|p| p.selector.to_string()), side.not_selector.map(|p| p.selector.to_string()))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(side("selector: has(a), notSelector: has(b)"), (some("has(a) && !has(b)"), None));
    assert_eq!(side("notSelector: has(b)"), (None, some("has(b)")));
    assert_eq!(side("selector: all()"), (some("all()"), None));
    assert_eq!(side("selector: ''"), (None, None));
    assert_eq!(side("namespaceSelector: all()"), (some("has(projectcalico.org/namespace)"), None));
    assert_eq!(
        side("namespaceSelector: team == 'x', selector: has(a) || has(b)"),
        (some("pcns.team == 'x' && (has(a) || has(b))"), None)
    );
    assert_eq!(
        side("serviceAccounts: {names: [x], selector: \"r == 'y'\"}"),
        (
            some(
                "has(projectcalico.org/serviceaccount) && projectcalico.org/serviceaccount in {'x'} && pcsa.r == 'y'"
            ),
            None
        )
    );
}

#[test]
fn storage_form_brings_its_labels_and_a_prefixed_name() {
    let world = accepted(
        "apiVersion: crd.projectcalico.org/v1\nkind: HostEndpoint\nmetadata:\n  name: h\n  uid: x\n  annotations:\n    \
         projectcalico.org/metadata: '{\"labels\":{\"a\":\"b\"},\"annotations\":{}}'\nspec: {node: n, interfaceName: eth0}\n",
    );
    assert_eq!(world.host_endpoints["h"].labels["a"], "b");
    let stored = gnp("order: 1")
        .replace("name: p", "name: default.p")
        .replace("projectcalico.org/v3", "crd.projectcalico.org/v1");
    assert!(accepted(&stored).policies.contains_key("p//GlobalNetworkPolicy"));
}

#[test]
fn core_kinds_may_carry_other_fields() {
    let world = accepted(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: NodePort\n  sessionAffinity: None\n  \
         clusterIP: 10.0.0.1\n  clusterIPs: [10.0.0.1]\n  ports: [{port: 80, targetPort: 8080, nodePort: 31852}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, labels: \
         {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints:\n- {addresses: [192.168.1.10], conditions: \
         {ready: false, serving: true, terminating: true}}\n- {addresses: [192.168.1.11]}\nports: [{port: 8080}]\n---\n\
         apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDR: 192.168.1.0/24}\nstatus: {addresses: [{type: \
         InternalIP, address: 10.240.0.11}, {type: Hostname, address: n1}]}\n---\napiVersion: v1\nkind: Pod\nmetadata: \
         {name: p}\nspec: {nodeName: n1, containers: [{name: c, ports: [{containerPort: 8080, hostPort: 80, name: http}]}]}\n\
         status: {phase: Running, podIP: 192.168.1.10, podIPs: [{ip: 192.168.1.10}]}\n",
    );
    let pair = |name: &str| ("default".to_owned(), name.to_owned());
    assert_eq!(world.services[&pair("web")].ports[0].node_port, Some(31852));
    assert_eq!(world.services[&pair("web")].cluster_ips.len(), 1);
    let endpoints = &world.endpoint_slices[&pair("web-1")].endpoints;
    assert_eq!((endpoints[0].ready, endpoints[0].terminating, endpoints[1].serving), (false, true, true));
    assert_eq!(world.nodes["n1"].internal_ips.len(), 1);
    assert_eq!(world.pods[&pair("p")].ports[0].host_port, Some(80));
    assert_eq!(world.pods[&pair("p")].ips.len(), 1);
}

#[test]
fn configurations() {
    let world = accepted(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec:\n  bpfEnabled: true\n  \
         failsafeInboundHostPorts: [{protocol: tcp, port: 22, net: 10.0.0.0/8}]\n  failsafeOutboundHostPorts: []\n  \
         kubeNodePortRanges: ['30000:32767']\n---\napiVersion: projectcalico.org/v3\nkind: KubeControllersConfiguration\n\
         metadata: {name: default}\nspec: {controllers: {node: {hostEndpoint: {autoCreate: Enabled}}}}\n",
    );
    assert_eq!(world.felix.failsafe_inbound.as_ref().unwrap()[0].net.unwrap().to_string(), "10.0.0.0/8");
    assert_eq!(world.felix.failsafe_outbound, Some(Vec::new()));
    assert_eq!(world.felix.node_port_ranges.as_ref().unwrap()[0].last, 32767);
    assert!(world.kube_controllers.auto_create && world.kube_controllers.create_default);
}
