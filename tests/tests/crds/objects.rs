//! Objects at the edges of what is valid.

use portcullis::resource::documents_from_str;
use serde_json::{Value, json};

/// All of them.
pub fn all() -> Vec<Value> {
    let groups: [(&str, &str, &[&str]); 8] = [
        ("GlobalNetworkPolicy", "p", POLICIES),
        ("StagedGlobalNetworkPolicy", "p", POLICIES),
        ("StagedGlobalNetworkPolicy", "p", STAGED),
        ("HostEndpoint", "h", ENDPOINTS),
        ("GlobalNetworkSet", "s", SETS),
        ("NetworkSet", "s", SETS),
        ("FelixConfiguration", "default", FELIX),
        ("KubeControllersConfiguration", "default", KUBE_CONTROLLERS),
    ];
    let mut objects: Vec<Value> = groups
        .iter()
        .flat_map(|(kind, name, specs)| specs.iter().map(|text| object(kind, name, &spec(text))))
        .collect();
    objects.extend(RULES.iter().flat_map(|text| {
        let rule = &spec(text);
        ["ingress", "egress"].map(|direction| object("GlobalNetworkPolicy", "p", &json!({direction: [rule]})))
    }));
    objects.extend(sides().flat_map(|side| {
        let rule = |end: &str| json!({"action": "Allow", "protocol": "TCP", end: side});
        let of = |(direction, end): (&str, &str)| {
            object("GlobalNetworkPolicy", "p", &json!({direction: [rule(end)]}))
        };
        [("ingress", "source"), ("ingress", "destination"), ("egress", "source"), ("egress", "destination")]
            .map(of)
    }));
    objects.extend(SELECTORS.iter().flat_map(|text| {
        [
            object("GlobalNetworkPolicy", "p", &json!({"selector": text, "ingress": []})),
            object(
                "GlobalNetworkPolicy",
                "p",
                &json!({"ingress": [{"action": "Deny", "source": {"namespaceSelector": text}}]}),
            ),
        ]
    }));
    objects.extend(NAMES.iter().flat_map(|name| {
        [
            object("GlobalNetworkPolicy", name, &json!({"order": 1})),
            object("Tier", name, &json!({"order": 1})),
            object("HostEndpoint", name, &json!({"node": "n", "interfaceName": "*"})),
        ]
    }));
    objects.extend(TIERS.iter().map(|(name, text)| object("Tier", name, &spec(text))));
    objects.extend(large());
    objects.extend(whole());
    objects
}

fn spec(text: &str) -> Value {
    let (documents, problems) = documents_from_str("table", &format!("it: {{{text}}}\n"));
    assert!(problems.is_empty(), "{text}: {problems:?}");
    documents[0].value["it"].clone()
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn sides() -> impl Iterator<Item = Value> {
    SIDES.iter().map(|text| spec(text))
}

const POLICIES: &[&str] = &[
    "",
    "preDNAT: true, applyOnForward: true, ingress: [{action: Allow}]",
    "preDNAT: true",
    "preDNAT: false",
    "doNotTrack: true",
    "doNotTrack: true, applyOnForward: true, egress: [{action: Allow}]",
    "doNotTrack: true, preDNAT: true, applyOnForward: true",
    "doNotTrack: true, preDNAT: false, applyOnForward: true",
    "preDNAT: true, applyOnForward: true, egress: [{action: Allow}]",
    "preDNAT: true, applyOnForward: true, egress: []",
    "preDNAT: true, applyOnForward: true, types: [Ingress, Egress]",
    "preDNAT: 'true'",
    "types: []",
    "types: [Ingress, Ingress]",
    "types: [ingress]",
    "types: [Egress, Ingress]",
    "types: Ingress",
    "types: null, ingress: null, selector: null, order: null, preDNAT: null, tier: null, performanceHints: null",
    "order: '10'",
    "order: -1.5",
    "order: 1.0e+300",
    "tier: ''",
    "tier: some.thing",
    "performanceHints: [AssumeNeededOnEveryNode]",
    "performanceHints: [AssumeNeededOnEveryNode, AssumeNeededOnEveryNode]",
    "performanceHints: [Other]",
    "performanceHints: []",
    "applyOnForwards: true",
    "stagedAction: Set",
    "ingress: [null]",
    "ingress: {action: Allow}",
    "selector: ' '",
    "namespaceSelector: global()",
    "serviceAccountSelector: all()",
];

const STAGED: &[&str] = &[
    "stagedAction: Delete",
    "stagedAction: Delete, tier: default, selector: ''",
    "stagedAction: Delete, ingress: [], preDNAT: false",
    "stagedAction: Delete, ingress: [{action: Allow}]",
    "stagedAction: Delete, order: 1",
    "stagedAction: Delete, types: [Ingress]",
    "stagedAction: Delete, doNotTrack: true, applyOnForward: true",
    "stagedAction: Delete, performanceHints: []",
    "stagedAction: Delete, serviceAccountSelector: all()",
    "stagedAction: Ignore, order: 1",
    "stagedAction: delete",
    "stagedAction: null, order: 1",
];

const RULES: &[&str] = &[
    "action: Allow",
    "action: allow",
    "source: {}",
    "action: Log, source: null, destination: {}",
    "action: Allow, ports: [80]",
    "action: Allow, protocol: tcp",
    "action: Allow, protocol: '6'",
    "action: Allow, protocol: 0",
    "action: Allow, protocol: 256",
    "action: Allow, protocol: '256'",
    "action: Allow, protocol: '+6'",
    "action: Allow, protocol: '006'",
    "action: Allow, protocol: 255, notProtocol: UDPLite",
    "action: Allow, protocol: null, destination: {ports: [http]}",
    "action: Allow, protocol: null, destination: {ports: [80]}",
    "action: Allow, destination: {ports: [80]}",
    "action: Allow, destination: {ports: ['80']}",
    "action: Allow, source: {notPorts: ['80:90']}",
    "action: Allow, destination: {ports: [http, 8080-http]}",
    "action: Allow, protocol: ICMP, destination: {ports: [80]}",
    "action: Allow, protocol: ICMP, destination: {ports: [http]}",
    "action: Allow, protocol: 47, source: {notPorts: [http]}",
    "action: Allow, protocol: 132, destination: {ports: ['80', '1:65535', 80]}",
    "action: Allow, protocol: '17', destination: {ports: ['80']}",
    "action: Allow, notProtocol: TCP, destination: {ports: [http]}",
    "action: Allow, icmp: {type: 8}",
    "action: Allow, protocol: ICMP, icmp: {type: 8, code: 0}",
    "action: Allow, protocol: '58', icmp: {type: 254, code: 255}",
    "action: Allow, protocol: ICMP, icmp: {code: 0}",
    "action: Allow, protocol: ICMP, icmp: {type: 255}",
    "action: Allow, protocol: ICMP, icmp: {type: 8, code: 256}",
    "action: Allow, protocol: ICMP, icmp: {type: null}",
    "action: Allow, protocol: ICMP, icmp: {type: 8, kode: 1}",
    "action: Allow, protocol: TCP, icmp: {type: 8}",
    "action: Allow, protocol: TCP, notICMP: {type: 8}",
    "action: Allow, ipVersion: 4, protocol: ICMP",
    "action: Allow, ipVersion: 6, protocol: ICMP",
    "action: Allow, ipVersion: 4, notProtocol: ICMPv6",
    "action: Allow, ipVersion: 4, protocol: 58",
    "action: Allow, protocol: ICMP, notProtocol: ICMPv6",
    "action: Allow, protocol: ICMP, notProtocol: ICMP",
    "action: Allow, ipVersion: 5",
    "action: Allow, ipVersion: '4'",
    "action: Allow, ipVersion: null",
    "action: Allow, ipVersion: 6, source: {nets: [10.0.0.0/8]}",
    "action: Allow, protocol: ICMPv6, destination: {notNets: [10.0.0.0/8]}",
    "action: Allow, ipVersion: 4, source: {nets: ['fd00::/8']}",
    "action: Allow, ipVersion: 4, source: {nets: [10.0.0.0/8]}",
    "action: Allow, source: {nets: [10.0.0.0/8]}, destination: {nets: ['fd00::/8']}",
    "action: Allow, source: {nets: [10.0.0.0/8], notNets: ['fd00::/8']}",
    "action: Allow, source: {notNets: ['fd00::1']}, destination: {notNets: ['fd00::2']}",
    "action: Allow, http: {methods: [GET]}",
    "action: Allow, http: null",
    "action: Allow, metadata: {annotations: {a: b}}",
    "action: Allow, metadata: {annotations: {a: 1}}",
    "action: Allow, metadata: {labels: {a: b}}",
    "action: Allow, metadata: null",
    "action: Allow, Protocol: TCP",
];

/// Of a rule for TCP.
const SIDES: &[&str] = &[
    "nets: []",
    "nets: null",
    "nets: [10.0.0.0/8, 10.0.0.0/8]",
    "nets: [10.0.0.0/8, 10.0.0.1/8, 10.0.0.1]",
    "nets: [10.0.0.0/8, 'fd00::/8']",
    "nets: [0.0.0.0/0]",
    "nets: ['10.20.30.40/32 Cluster IP A']",
    "nets: [10.0.0.0/33]",
    "nets: [10.0.0.0/08]",
    "nets: [10.0.0.0/+8]",
    "nets: [010.0.0.0/8]",
    "nets: [10.0.0]",
    "nets: [256.0.0.1]",
    "nets: ['']",
    "nets: [null]",
    "nets: ['::/0']",
    "nets: ['::1', '1::', '1:2:3:4:5:6:7::', '::2:3:4:5:6:7:8', '1:2:3:4:5:6:7:8', 'FD00::A/128']",
    "nets: ['64:ff9b::192.0.2.1', '1:2:3:4:5:6:192.0.2.1/128']",
    "nets: ['1:2:3:4:5:6:7:8::']",
    "nets: ['1::2::3']",
    "nets: ['fd00::/129']",
    "nets: ['fe80::1%eth0']",
    "nets: ['12345::']",
    "nets: ['::ffff:1.2.3.4']",
    "nets: ['::ffff:0:0/96']",
    "nets: ['::ffff:102:304/64']",
    "nets: [10.0.0.0/8, '10.0.0.0/8 ']",
    "notNets: [0.0.0.0/0]",
    "notNets: [10.0.0.0/0]",
    "notNets: ['::/0']",
    "notNets: ['fd00::/100', 'fd00::/10', 'fd00::/1']",
    "notNets: [10.0.0.0/10, 10.0.0.0/20, 10.0.0.0/30, 128.0.0.0/1]",
    "ports: [80, '80', '8000:8080', http, 1-2]",
    "ports: [80, 80]",
    "ports: ['32767:30000']",
    "ports: ['100:99']",
    "ports: ['99:100', '7:7', '0099:100']",
    "ports: [0]",
    "ports: ['0:80']",
    "ports: [70000]",
    "ports: ['1:70000']",
    "ports: ['+1:2']",
    "ports: [-1]",
    "ports: [1.5]",
    "ports: ['']",
    "ports: ['a b']",
    "ports: [true]",
    "ports: ['80:']",
    "ports: ['1:2:3']",
    "ports: []",
    "ports: 80",
    "notPorts: ['2:1']",
    "notPorts: []",
    "selector: ''",
    "selector: global()",
    "selector: has(a), notSelector: has(b)",
    "namespaceSelector: global()",
    "namespaceSelector: 'global() && has(a)'",
    "namespaceSelector: all()",
    "serviceAccounts: {}",
    "serviceAccounts: {names: []}",
    "serviceAccounts: {names: ['']}",
    "serviceAccounts: {names: [a], selector: has(b)}",
    "serviceAccounts: {selector: ''}",
    "serviceAccounts: {selector: has(b)}",
    "serviceAccounts: {name: a}",
    "services: {name: a, namespace: b}",
    "services: {name: a}",
    "services: {name: a, namespace: null}",
    "services: {name: '', namespace: b}",
    "services: {name: a, namespace: b, port: 1}",
    "services: {name: a, namespace: b}, ports: [80]",
    "services: {name: a, namespace: b}, notPorts: [80]",
    "services: {name: a, namespace: b}, nets: [10.0.0.0/8]",
    "services: {name: a, namespace: b}, selector: ''",
    "services: {name: a, namespace: b}, selector: null",
    "services: null",
    "net: [10.0.0.0/8]",
];

const SELECTORS: &[&str] = &[
    "all()",
    "all( )",
    "\tall()\t",
    "global()",
    "( global( ) )",
    "!global()",
    "global() || global()",
    "has(a)",
    "has( a/b.c_d-e )",
    "has (a)",
    "has()",
    "has('a')",
    "!has(a)",
    "!!has(a)",
    "! ( ! has(a) )",
    "a == 'b'",
    "a=='b'",
    "a = 'b'",
    "a == b",
    "a == \"it's\"",
    "a == 'b",
    "a != 'b' && c != \"d\"",
    "a in {'b', 'c'}",
    "a in {}",
    "a in {'b',}",
    "a in {,}",
    "a in {'b' 'c'}",
    "a in 'b'",
    "a not in {'b'}",
    "a notin {'b'}",
    "a not\tin{'b'}",
    "ain {'b'}",
    "a inx {'b'}",
    "a contains 'b'",
    "a contains'b'",
    "a starts with 'b'",
    "a startswith 'b'",
    "a ends  with 'b'",
    "in == 'a' && has == 'b' || all != 'c'",
    "contains contains 'a'",
    "(a == 'b')",
    "((a == 'b') && (has(c) || all()))",
    "(a == 'b'",
    "a == 'b')",
    "(a == '(')",
    "a == ')('",
    "a == 'b' && && has(c)",
    "a == 'b' & has(c)",
    "a == 'b' has(c)",
    "a == 'b' and has(c)",
    "a == 'global()'",
    "a",
    "'a' == b",
    "a: 'b'",
    "a > 'b'",
    "a == 'b'\n",
    "a == 'b\nc'",
    "a == 'ü'",
    "ü == 'a'",
    "()",
    "!",
    "&&",
];

const NAMES: &[&str] = &[
    "web",
    "a.b",
    "a.b.c",
    "a.b.c.d",
    "default.a",
    "default.a.b",
    "default.a.b.c",
    "Web",
    "web_1",
    "-a",
    "a-",
    "1",
    "a..b",
    ".a",
    "knp.default.x",
];

const TIERS: &[(&str, &str)] = &[
    ("default", ""),
    ("default", "order: 1000000"),
    ("default", "order: 1000000.0, defaultAction: Deny"),
    ("default", "order: 1"),
    ("default", "defaultAction: Pass"),
    ("kube-admin", "order: 1000, defaultAction: Pass"),
    ("kube-admin", "defaultAction: Deny"),
    ("kube-baseline", "order: 10000000"),
    ("web", "order: null, defaultAction: null"),
    ("web", "defaultAction: Allow"),
    ("web", "defaultAction: deny"),
    ("web", "order: -0.5"),
    ("web", "Order: 1"),
];

const ENDPOINTS: &[&str] = &[
    "",
    "node: n",
    "node: n, interfaceName: eth0",
    "node: n, interfaceName: '*'",
    "node: n, interfaceName: ''",
    "node: n, interfaceName: '', expectedIPs: []",
    "node: n, interfaceName: null, expectedIPs: [10.0.0.1]",
    "node: n, expectedIPs: []",
    "node: n, expectedIPs: [10.0.0.1, 'fd00::1', 10.0.0.1]",
    "node: n, expectedIPs: [10.0.0.0/24]",
    "node: n, expectedIPs: [INSERT_IP_HERE]",
    "node: n, expectedIPs: ['::ffff:10.0.0.1']",
    "node: n, expectedIPs: ['1:2:3:4:5:6:192.0.2.1']",
    "node: n, expectedIPs: ['fe80::1%eth0']",
    "node: n, expectedIPs: [010.0.0.1]",
    "node: n, interfaceName: interface-too-long",
    "node: n, interfaceName: 'eth0:1'",
    "node: n, interfaceName: 'eth0.10'",
    "node: '', interfaceName: eth0",
    "node: 5, interfaceName: eth0",
    "interfaceName: eth0",
    "node: n, interfacename: eth0",
    "node: n, interfaceName: eth0, interfacename: eth1",
    "node: n, interfaceName: eth0, profiles: [a, b]",
    "node: n, interfaceName: eth0, profiles: ['']",
    "node: n, interfaceName: eth0, ports: [{name: a, protocol: ICMP, port: 1}]",
    "node: n, interfaceName: eth0, ports: [{protocol: TCP, port: 1}]",
    "node: n, interfaceName: eth0, ports: [{name: a, protocol: TCP, port: 1}, {name: a, protocol: UDP, port: 2}]",
    "node: n, interfaceName: eth0, ports: [{name: a, protocol: 6, port: 1}, {name: b, protocol: '17', port: 65535}]",
    "node: n, interfaceName: eth0, ports: [{name: a, protocol: 1, port: 1}]",
    "node: n, interfaceName: eth0, ports: [{name: a, protocol: tcp, port: 1}]",
    "node: n, interfaceName: eth0, ports: [{name: a, protocol: TCP, port: 0}]",
    "node: n, interfaceName: eth0, ports: [{name: a, protocol: TCP, port: '80'}]",
    "node: n, interfaceName: eth0, ports: [{name: a, protocol: TCP, port: 80, ports: 90}]",
    "node: n, interfaceName: eth0, ports: []",
];

const SETS: &[&str] = &[
    "",
    "nets: []",
    "nets: null",
    "nets: [10.0.0.1, 'fd00::/8', 10.0.0.1]",
    "nets: [garbage]",
    "nets: [10.0.0.0/33]",
    "nets: ['::ffff:1.2.3.4']",
    "nets: ['1::2::3']",
    "nets: [0.0.0.0/0, '::/0']",
    "net: [10.0.0.1]",
];

const FELIX: &[&str] = &[
    "",
    "bpfEnabled: true, somethingElse: [1]",
    "failsafeInboundHostPorts: []",
    "failsafeInboundHostPorts: [{protocol: tcp, port: 22}, {protocol: Udp, port: 0}, {port: 1, net: 10.0.0.0/8}, {port: 1, net: '', protocol: ''}]",
    "failsafeInboundHostPorts: [{port: 22, net: fd00}]",
    "failsafeInboundHostPorts: [{port: 22, nets: 10.0.0.0/8}]",
    "failsafeInboundHostPorts: [{protocol: icmp, port: 22}]",
    "failsafeInboundHostPorts: [{protocol: tcp}]",
    "failsafeInboundHostPorts: [{port: 65536}]",
    "failsafeInboundHostPorts: ['tcp:22']",
    "failsafeOutboundHostPorts: [null]",
    "failsafeOutboundHostPorts: null",
    "kubeNodePortRanges: ['30000:32767', 80, '80']",
    "kubeNodePortRanges: ['32767:30000']",
    "kubeNodePortRanges: [http]",
    "kubeNodePortRanges: [1, 2, 3, 4, 5]",
    "interfacePrefix: 'cali,veth'",
    "interfacePrefix: [cali]",
    "interfaceExclude: 'kube-ipvs0,/^veth.*$/'",
    "interfaceExclude: '/(/'",
];

const KUBE_CONTROLLERS: &[&str] = &[
    "",
    "controllers: null",
    "controllers: {}",
    "controllers: {node: {hostEndpoint: {autoCreate: Enabled}}, policy: {reconcilerPeriod: 5m}}",
    "controllers: {node: {hostEndpoint: {autoCreate: enabled}}}",
    "controllers: {node: {hostEndpoint: {createDefaultHostEndpoint: Disabled, templates: []}, syncLabels: Enabled}}",
    "controllers: {node: {hostEndpoint: {autoCreate: Enabled, templates: [{generateName: a, nodeSelector: 'has(b)', labels: {c: d}, interfaceCIDRs: [10.0.0.0/8, 'fd00::1'], interfacePattern: 'eth.*'}]}}}",
    "controllers: {node: {hostEndpoint: {templates: [{generateName: a}, {generateName: a}]}}}",
    "controllers: {node: {hostEndpoint: {templates: [{generateName: A}]}}}",
    "controllers: {node: {hostEndpoint: {templates: [{nodeSelector: all()}]}}}",
    "controllers: {node: {hostEndpoint: {templates: [{generateName: a, nodeSelector: 'a = b'}]}}}",
    "controllers: {node: {hostEndpoint: {templates: [{generateName: a, interfaceCIDRs: [fd00]}]}}}",
    "controllers: {node: {hostEndpoint: {templates: [{generateName: a, interfacePattern: '('}]}}}",
];

/// At the limits, and one beyond.
fn large() -> Vec<Value> {
    let rules = |count| json!({"ingress": vec![json!({"action": "Allow"}); count]});
    let net = |i: usize| format!("10.{}.{}.0/24", i / 256, i % 256);
    let nets = |count: usize| (0..count).map(net).collect::<Vec<_>>();
    let side = |side: Value| json!({"egress": [{"action": "Allow", "protocol": "TCP", "source": side}]});
    let policy = |spec: Value| object("GlobalNetworkPolicy", "large", &spec);
    // Every list is full as far as an object of a request may be.
    let full = json!({"action": "Allow", "protocol": "TCP", "ipVersion": 4,
        "source": {"nets": nets(20), "notNets": nets(20), "ports": vec!["8000:8080"; 10]},
        "destination": {"selector": "has(a) && b in {'c', 'd'}", "ports": vec!["8000:8080"; 10]}});
    let address = |i: usize| format!("10.0.{}.{}", i / 256, i % 256);
    let endpoint = |count: usize| {
        let addresses: Vec<String> = (0..count).map(address).collect();
        let ports = vec![json!({"name": "a", "protocol": "TCP", "port": 1}); count];
        object("HostEndpoint", "large", &json!({"node": "n", "expectedIPs": addresses, "ports": ports}))
    };
    let failsafes = |count| {
        object(
            "FelixConfiguration",
            "default",
            &json!({"failsafeInboundHostPorts": vec![json!({"port": 1}); count]}),
        )
    };
    let set = |count: i32, last: &str| {
        let nets = (0..count).map(|i| format!("10.{}.{}.0/24", i % 256, i / 256)).chain([last.to_owned()]);
        object("GlobalNetworkSet", "large", &json!({"nets": nets.collect::<Vec<_>>()}))
    };
    let behind = |count: usize, last: Value| {
        let mut rules = vec![json!({"action": "Allow"}); count];
        rules.push(last);
        policy(json!({"ingress": rules}))
    };
    let reversed = json!({"action": "Allow", "protocol": "TCP", "source": {"ports": ["2:1"]}});
    vec![
        set(60_000, "fd00::/8"),
        set(1999, "1::2::3"),
        set(2000, "1::2::3"),
        behind(499, reversed.clone()),
        behind(500, reversed),
        behind(499, json!({"action": "Allow", "port": 1})),
        behind(500, json!({"action": "Allow", "port": 1})),
        policy(rules(1024)),
        policy(rules(1025)),
        policy(side(json!({"nets": nets(256)}))),
        policy(side(json!({"nets": nets(257)}))),
        policy(side(json!({"ports": vec![80; 50]}))),
        policy(side(json!({"ports": vec![80; 51]}))),
        policy(side(json!({"ports": ["a".repeat(128)]}))),
        policy(side(json!({"ports": ["a".repeat(129)]}))),
        policy(json!({"selector": format!("a == '{}'", "ü".repeat(1017))})),
        policy(json!({"selector": format!("a == '{}'", "ü".repeat(1018))})),
        policy(json!({"ingress": vec![full.clone(); 500], "egress": vec![full; 500]})),
        endpoint(1024),
        endpoint(1025),
        failsafes(2048),
        failsafes(2049),
        object("HostEndpoint", "long", &json!({"node": "n".repeat(253), "interfaceName": "eth0"})),
        object("HostEndpoint", "long", &json!({"node": "n".repeat(254), "interfaceName": "eth0"})),
        object("Tier", &"t".repeat(63), &json!({})),
        object("Tier", &"t".repeat(64), &json!({})),
    ]
}

/// What stands beside `spec`.
fn whole() -> Vec<Value> {
    let policy = object("GlobalNetworkPolicy", "p", &json!({"order": 1}));
    let endpoint = object("HostEndpoint", "h", &json!({"node": "n", "interfaceName": "eth0"}));
    let set = object("GlobalNetworkSet", "s", &json!({}));
    let with = |object: &Value, more: Value| {
        let mut object = object.clone();
        for (key, value) in more.as_object().into_iter().flatten() {
            if key == "metadata" {
                object["metadata"]["name"] = "w".into();
                for (key, value) in value.as_object().into_iter().flatten() {
                    object["metadata"][key] = value.clone();
                }
            } else {
                object[key] = value.clone();
            }
        }
        object
    };
    let annotated = |object: &Value, key: &str, value: &str| {
        with(object, json!({"metadata": {"annotations": {format!("portcullis.dev/{key}"): value}}}))
    };
    vec![
        with(&policy, json!({"spec": null})),
        with(&policy, json!({"spce": {"order": 2}})),
        with(&policy, json!({"status": {"conditions": []}})),
        with(&set, json!({"spec": null})),
        with(&set, json!({"Spec": {"nets": ["10.0.0.0/8"]}})),
        with(&set, json!({"metadata": {"labels": {"a": "b"}}})),
        with(&set, json!({"metadata": {"labels": {"projectcalico.org/namespace": "b"}}})),
        with(&endpoint, json!({"metadata": {"labels": {"projectcalico.org/namespace": "b"}}})),
        with(&policy, json!({"metadata": {"labels": null, "annotations": null}})),
        annotated(&policy, "on-policy-change", "recheck"),
        annotated(&policy, "on-policy-change", "always"),
        annotated(&policy, "unknown", "x"),
        annotated(&endpoint, "anti-spoof", "true"),
        annotated(&endpoint, "anti-spoof", "yes"),
        annotated(&endpoint, "accept-ra", "1"),
        annotated(&endpoint, "drop-unknown-ethertypes", "false"),
        annotated(&endpoint, "drop-unknown-ethertypes", ""),
    ]
}
