//! Objects at the edges of what is valid.

use portcullis::resource::documents_from_str;
use serde_json::{Value, json};

use crate::tables::{
    ENDPOINTS, FELIX, KUBE_CONTROLLERS, NAMES, POLICIES, RULES, SELECTORS, SETS, SIDES, STAGED, TIERS,
};

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
