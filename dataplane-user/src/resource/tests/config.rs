//! FelixConfiguration and KubeControllersConfiguration, profiles that Calico makes, and sizes.

use super::super::{Store, documents_from_str};
use super::{accepted, apply, gnp, hep, messages, refused, rule, set};
use crate::policy::{Severity, defaults};

fn felix(spec: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\nspec: {{{spec}}}\n"
    )
}

fn kube(host_endpoint: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: KubeControllersConfiguration\nmetadata: {{name: default}}\n\
         spec: {{controllers: {{node: {{hostEndpoint: {{{host_endpoint}}}}}}}}}\n"
    )
}

#[test]
fn settings_that_do_nothing_are_told_and_misspelt_ones_are_warned_of() {
    let (world, report) = apply(&felix(
        "logSeverityScreen: Info, defaultEndpointToHostAction: Accept, failsafeinboundhostports: []",
    ));
    assert!(!report.has_errors(), "{}", messages(&report));
    assert_eq!(world.felix.failsafe_inbound, None);
    let warnings: Vec<_> = report.warnings().map(|w| w.message.as_str()).collect();
    assert_eq!(warnings, ["unknown field, it has no effect; did you mean `failsafeInboundHostPorts`?"]);
    let notes: Vec<_> = report.notes().map(|n| (n.path.as_str(), n.message.as_str())).collect();
    assert_eq!(notes[0].0, "spec.defaultEndpointToHostAction");
    assert!(notes[0].1.contains("D26"), "{notes:?}");
    assert_eq!(notes[1], ("spec.logSeverityScreen", "has no effect here: is not used by this program"));
}

#[test]
fn the_settings_of_a_node_go_before_those_of_all_field_by_field() {
    let named = |name: &str, spec: &str| felix(spec).replace("default", name);
    let documents = [
        felix("failsafeInboundHostPorts: [{port: 22}], failsafeOutboundHostPorts: [{port: 23}]"),
        named("node.n1", "failsafeInboundHostPorts: [], interfacePrefix: tap, kubeNodePortRanges: ['1:2']"),
        named("n2", "interfaceExclude: eth1"),
    ];
    let (world, report) = apply(&documents.join("---\n"));
    let notes: Vec<_> = report.notes().map(|n| n.message.as_str()).collect();
    assert_eq!(
        notes,
        ["only `default` and, for the node NAME, `node.NAME` are read; this one has no effect"]
    );
    let own = defaults::felix_of(&world, "n1");
    assert_eq!(own.failsafe_inbound, Some(Vec::new()), "none, not the others'");
    assert_eq!(own.failsafe_outbound.unwrap()[0].port, 23);
    assert_eq!(own.interface_prefixes.unwrap(), ["tap"]);
    assert_eq!(own.node_port_ranges.unwrap()[0].last, 2);
    assert_eq!(own.interface_exclude, None);
    assert_eq!(defaults::felix_of(&world, "n2"), world.felix);
}

#[test]
fn failsafes_are_read_strictly() {
    refused(&felix("failsafeInboundHostPorts: [{protocol: icmp, port: 22}]"), &["tcp, udp or sctp"]);
    refused(&felix("failsafeInboundHostPorts: [{protocol: tcp, port: 65536}]"), &["0 to 65535"]);
    refused(&felix("failsafeInboundHostPorts: [{port: 22, net: 10.0.0/8}]"), &["no network"]);
    // Without its net the port would be open to everybody.
    refused(&felix("failsafeInboundHostPorts: [{port: 22, nets: 10.0.0.0/8}]"), &["did you mean `net`?"]);
    refused(&felix("failsafeInboundHostPorts: ['tcp:22']"), &["{protocol: tcp, port: 22}"]);
    refused(&felix("kubeNodePortRanges: ['1:2', '3:4', '5:6', '7:8', '9:10']"), &["4 are the limit"]);
    refused(&felix("interfaceExclude: '/^(/'"), &["no regular expression"]);
    let world = accepted(&felix("failsafeInboundHostPorts: [{protocol: sctp, port: 0, net: ''}]"));
    let failsafe = &world.felix.failsafe_inbound.as_ref().unwrap()[0];
    assert_eq!((failsafe.protocol, failsafe.port, failsafe.net), (132, 0, None));
}

#[test]
fn templates_are_checked() {
    let template = |text: &str| kube(&format!("autoCreate: Enabled, templates: [{{{text}}}]"));
    let world = accepted(&template(
        "generateName: a, interfacePattern: '^eth[0-9]+$', nodeSelector: has(x), labels: {l: v}, interfaceCIDRs: [10.0.0.0/8]",
    ));
    assert_eq!(world.kube_controllers.templates[0].interface_pattern.as_deref(), Some("^eth[0-9]+$"));
    refused(&template("interfacePattern: eth0"), &["templates[0].generateName", "is missing"]);
    refused(&template("generateName: A_b"), &["lower-case"]);
    refused(
        &template("generateName: a, interfacePattern: 'eth(['"),
        &["interfacePattern", "no regular expression"],
    );
    refused(&template("generateName: a, interfacePattern: '(a{1000}){1000}'"), &["no regular expression"]);
    refused(&template("generateName: a, nodeSelector: 'x ='"), &["nodeSelector"]);
    refused(&template("generateName: a, interfaceCIDRs: [10.0.0.0/33]"), &["interfaceCIDRs[0]"]);
    refused(&kube("autoCreate: Enabled, templates: [{generateName: a}, {generateName: a}]"), &["twice"]);
    refused(&kube("autoCreate: enabled"), &["write Enabled"]);
    let (_, report) =
        apply(&kube("autocreate: Enabled, templates: [{generateName: a, interfaceCIDR: [10.0.0.0/8]}]"));
    let text = messages(&report);
    assert!(
        text.contains("did you mean `autoCreate`?") && text.contains("did you mean `interfaceCIDRs`?"),
        "{text}"
    );
    assert!(text.contains("make no host endpoint"), "{text}");
}

#[test]
fn made_profiles_cannot_be_written() {
    let profile = |name: &str| {
        format!("apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {{name: {name}}}\nspec: {{}}\n")
    };
    refused(&profile("kns.default"), &["made from the Namespace"]);
    refused(&profile("ksa.default.web"), &["made from the ServiceAccount"]);
    refused(&profile("projectcalico-default-allow"), &["built in"]);
    accepted(&profile("mine"));
}

#[test]
fn sizes_have_limits_with_names_and_messages() {
    let many = |count: usize, item: &str| vec![item; count].join(", ");
    refused(
        &hep(&format!("node: n, interfaceName: eth0, profiles: [{}]", many(1025, "p"))),
        &["1024 are the limit"],
    );
    refused(
        &rule(&format!("action: Allow, source: {{serviceAccounts: {{names: [{}]}}}}", many(1025, "a"))),
        &["1024 are the limit"],
    );
    // Not as text: reading so much YAML takes seconds.
    let (mut documents, _) = documents_from_str("f", &set("1.2.3.4"));
    let nets = &mut std::sync::Arc::make_mut(&mut documents[0].value)["spec"]["nets"];
    *nets = vec![nets[0].clone(); super::super::endpoint::MAX_SET_NETS + 1].into();
    let report = Store::default().apply(documents);
    assert!(messages(&report).contains("262144 are the limit"), "{}", messages(&report));
    // Thousands of errors are told as a number.
    let (_, report) = apply(&gnp(&format!("ingress: [{}]", many(1024, "{action: Alow}"))));
    assert_eq!(report.errors().count(), super::super::fields::MAX_PROBLEMS);
    assert!(messages(&report).contains("and 825 more errors"), "{}", report.problems.last().unwrap());
}

#[test]
fn yaml_that_explodes_is_refused() {
    let problem = |text: &str| {
        let (documents, problems) = documents_from_str("f", text);
        assert_eq!((documents.len(), problems.len()), (1, 1));
        assert_eq!(problems[0].severity, Severity::Error);
        problems[0].message.clone()
    };
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let alias = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", "));
    }
    assert!(problem(&bomb).contains("split"), "{}", problem(&bomb));
    let deep = [format!("{}{}", "[".repeat(5000), "]".repeat(5000)), "- ".repeat(5000), "{a: ".repeat(5000)];
    for text in deep {
        assert!(problem(&text).contains("no YAML"), "{}", problem(&text));
    }
}
