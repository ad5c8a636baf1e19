//! Random objects around the policies: host endpoints, network sets, pods, services, nodes, settings.

use serde_json::{Map, Value, json};

use super::dice::Dice;
use super::rules::{self, PORT_NAMES};
use super::selectors;

const CALICO: &str = "projectcalico.org/v3";

/// Everything but tiers and policies, for a node with these devices.
pub(super) fn all(dice: &mut Dice, devices: &[&str]) -> Vec<Value> {
    let mut all = endpoints(dice, devices);
    let count = dice.between(0, 3);
    all.extend((0..count).map(|i| network_set(dice, i)));
    if dice.percent(50) {
        all.extend(pods(dice));
    }
    if dice.percent(55) {
        all.extend(service(dice, "web", "TCP", 80, 30080));
    }
    if dice.percent(25) {
        all.extend(service(dice, "dns", "UDP", 53, 30053));
    }
    if dice.percent(50) {
        all.extend(nodes(dice));
    }
    if dice.percent(30) {
        let (one, other) = (felix(dice), felix(dice));
        if other["metadata"] != one["metadata"] {
            all.push(other);
        }
        all.push(one);
    }
    if dice.percent(12) {
        all.push(controllers(dice));
    }
    all
}

fn endpoints(dice: &mut Dice, devices: &[&str]) -> Vec<Value> {
    let mut all = Vec::new();
    if dice.percent(75) {
        all.push(endpoint(dice, "h-eth0", Some("eth0")));
    }
    if dice.percent(35) {
        all.push(endpoint(dice, "w-all", Some("*")));
    }
    if dice.percent(30) {
        let (device, name) = (dice.pick(devices), dice.pick(&["a-more", "z-more"]));
        all.push(endpoint(dice, name, Some(device)));
    }
    if dice.percent(20) || all.is_empty() {
        all.push(endpoint(dice, "i-address", None));
    }
    if dice.percent(20) {
        let mut other = endpoint(dice, "n2", Some("eth0"));
        other["spec"]["node"] = "node2".into();
        other["spec"]["expectedIPs"] = json!(["10.240.0.12", "fd00::12"]);
        all.push(other);
    }
    all
}

fn endpoint(dice: &mut Dice, name: &str, device: Option<&str>) -> Value {
    let mut spec = Map::new();
    spec.insert("node".into(), "node1".into());
    if let Some(device) = device {
        spec.insert("interfaceName".into(), device.into());
    }
    if device.is_none() || dice.percent(60) {
        let ips = dice.one(&[
            json!(["10.240.0.11"]),
            json!(["fd00::11"]),
            json!(["10.240.0.11", "fd00::11", "172.16.0.11"]),
        ]);
        spec.insert("expectedIPs".into(), ips);
    }
    if dice.percent(45) {
        let profiles = dice.one(&[
            json!(["projectcalico-default-allow"]),
            json!(["own-profile"]),
            json!(["own-profile", "projectcalico-default-allow"]),
        ]);
        spec.insert("profiles".into(), profiles);
    }
    if dice.percent(25) {
        let port = dice.one(&[80, 443, 8080]);
        spec.insert("ports".into(), json!([{"name": dice.pick(&PORT_NAMES[..2]), "protocol": dice.pick(&["TCP", "UDP"]), "port": port}]));
    }
    let mut metadata = Map::new();
    metadata.insert("name".into(), name.into());
    metadata.insert("labels".into(), selectors::labels(dice).into());
    let mut annotations = Map::new();
    for (key, chance) in [("anti-spoof", 10), ("drop-unknown-ethertypes", 15), ("accept-ra", 10)] {
        if dice.percent(chance) {
            annotations.insert(format!("portcullis.dev/{key}"), "true".into());
        }
    }
    if !annotations.is_empty() {
        metadata.insert("annotations".into(), annotations.into());
    }
    json!({"apiVersion": CALICO, "kind": "HostEndpoint", "metadata": metadata, "spec": spec})
}

pub(super) fn network_set(dice: &mut Dice, number: usize) -> Value {
    let count = dice.between(0, 4);
    let nets: Value = (0..count)
        .map(|_| {
            let v6 = dice.percent(30);
            Value::from(rules::net(dice, v6))
        })
        .collect();
    let labels = selectors::labels(dice);
    let name = format!("set{number}");
    let (kind, metadata) = if dice.percent(20) {
        ("NetworkSet", json!({"name": name, "namespace": "default", "labels": labels}))
    } else {
        ("GlobalNetworkSet", json!({"name": name, "labels": labels}))
    };
    json!({"apiVersion": CALICO, "kind": kind, "metadata": metadata, "spec": {"nets": nets}})
}

fn pods(dice: &mut Dice) -> Vec<Value> {
    let mut all = vec![json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "default", "labels": selectors::labels(dice)},
    })];
    if dice.percent(30) {
        all.push(json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "robot", "namespace": "default", "labels": selectors::labels(dice)},
        }));
    }
    for (name, node, ips) in [
        ("p1", "node1", json!([{"ip": "192.168.1.10"}, {"ip": "fd10::10"}])),
        ("p2", "node2", json!([{"ip": "192.168.2.10"}, {"ip": "fd10::20"}])),
        ("p3", "node1", json!([{"ip": "10.240.0.11"}])),
    ] {
        if !dice.percent(70) {
            continue;
        }
        let mut port = json!({"name": dice.pick(&PORT_NAMES[..2]), "containerPort": dice.one(&[80, 8080, 53]), "protocol": dice.pick(&["TCP", "TCP", "UDP", "SCTP"])});
        if dice.percent(40) {
            port["hostPort"] = dice.one(&[json!(8080), json!(443), json!(22)]);
            if dice.percent(40) {
                port["hostIP"] = dice.pick(&["10.240.0.11", "0.0.0.0", "fd00::11", "203.0.113.200"]).into();
            }
        }
        let mut spec = json!({"nodeName": node, "containers": [{"name": "c", "ports": [port]}]});
        if dice.percent(30) {
            spec["serviceAccountName"] = "robot".into();
        }
        if name == "p3" {
            spec["hostNetwork"] = true.into();
        }
        let phase = dice.pick(&["Running", "Running", "Running", "Succeeded"]);
        all.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": selectors::labels(dice)},
            "spec": spec,
            "status": {"podIPs": ips, "phase": phase},
        }));
    }
    all
}

fn service(dice: &mut Dice, name: &str, protocol: &str, port: u16, node_port: u16) -> Vec<Value> {
    let mut entry = json!({"name": "main", "protocol": protocol, "port": port});
    if dice.percent(70) {
        entry["nodePort"] = node_port.into();
    }
    let (v4, v6) = if name == "web" { ("10.96.0.10", "fd96::10") } else { ("10.96.0.11", "fd96::11") };
    let mut spec = json!({"clusterIP": v4, "clusterIPs": [v4, v6], "ports": [entry]});
    if dice.percent(25) {
        spec["externalIPs"] = json!([dice.pick(&["198.51.100.200", "10.240.0.11", "2001:db8:0:1::1"])]);
    }
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec});
    if dice.percent(20) {
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.200"}]}});
    }
    let mut all = vec![service];
    for (kind, addresses) in [
        ("IPv4", ["192.168.1.10", "192.168.2.10", "10.240.0.11"]),
        ("IPv6", ["fd10::10", "fd10::20", "fd00::11"]),
    ] {
        if !dice.percent(75) {
            continue;
        }
        let count = dice.between(0, 3);
        let endpoints: Value = (0..count)
            .map(|_| {
                let conditions = dice.one(&[
                    json!({"ready": true}),
                    json!({"ready": true}),
                    json!({"ready": false}),
                    json!({"ready": false, "serving": true, "terminating": true}),
                    json!({}),
                ]);
                json!({"addresses": [dice.pick(&addresses)], "conditions": conditions})
            })
            .collect();
        let target = dice.one(&[8080, port]);
        all.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{name}-{}", kind.to_lowercase()), "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
            "addressType": kind,
            "endpoints": endpoints,
            "ports": [{"name": "main", "protocol": protocol, "port": target}],
        }));
    }
    all
}

fn nodes(dice: &mut Dice) -> Vec<Value> {
    let mut own = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "node1", "labels": selectors::labels(dice)},
        "spec": {"podCIDRs": ["192.168.1.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.240.0.11"}, {"type": "ExternalIP", "address": "203.0.113.200"}]},
    });
    if dice.percent(30) {
        own["metadata"]["annotations"] = json!({"projectcalico.org/IPv4Address": "10.240.0.11/24", "projectcalico.org/IPv4VXLANTunnelAddr": "192.168.1.0"});
    }
    let other = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "node2", "labels": selectors::labels(dice)},
        "spec": {"podCIDRs": ["192.168.2.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.240.0.12"}, {"type": "InternalIP", "address": "fd00::12"}]},
    });
    vec![own, other]
}

pub(super) fn felix(dice: &mut Dice) -> Value {
    let mut spec = Map::new();
    for key in ["failsafeInboundHostPorts", "failsafeOutboundHostPorts"] {
        if dice.percent(50) {
            let count = dice.between(0, 3);
            let list = (0..count).map(|_| {
                let port = dice.one(&[22, 53, 80, 443, 6443]);
                let mut entry = json!({"protocol": dice.pick(&["tcp", "udp", "sctp"]), "port": port});
                if dice.percent(50) {
                    let v6 = dice.percent(30);
                    entry["net"] = rules::net(dice, v6).into();
                }
                entry
            });
            spec.insert(key.into(), list.collect());
        }
    }
    if dice.percent(30) {
        spec.insert("kubeNodePortRanges".into(), json!(["30000:32767"]));
    }
    if dice.percent(15) {
        spec.insert(
            "interfaceExclude".into(),
            dice.pick(&["eth1", "/^eth1$/", "kube-ipvs0,/eth/", "/nothing/"]).into(),
        );
    }
    if dice.percent(10) {
        spec.insert("interfacePrefix".into(), dice.pick(&["cali,eth1", "tap"]).into());
    }
    let name = dice.pick(&["default", "default", "default", "node.node1", "node.node1", "node.node2"]);
    json!({"apiVersion": CALICO, "kind": "FelixConfiguration", "metadata": {"name": name}, "spec": spec})
}

fn controllers(dice: &mut Dice) -> Value {
    let mut endpoint = json!({"autoCreate": "Enabled"});
    if dice.percent(40) {
        endpoint["createDefaultHostEndpoint"] = "Disabled".into();
    }
    if dice.percent(60) {
        let mut template = json!({"generateName": "t", "nodeSelector": selectors::of_endpoints(dice), "labels": selectors::labels(dice)});
        if dice.percent(60) {
            template["interfaceCIDRs"] =
                json!([dice.pick(&["10.240.0.0/24", "172.16.0.0/16", "0.0.0.0/0", "fd00::/16"])]);
        }
        if dice.percent(50) {
            template["interfacePattern"] = dice.pick(&["eth.*", "^eth1$", "none", "h0"]).into();
        }
        endpoint["templates"] = json!([template]);
    }
    json!({
        "apiVersion": CALICO, "kind": "KubeControllersConfiguration", "metadata": {"name": "default"},
        "spec": {"controllers": {"node": {"hostEndpoint": endpoint}}},
    })
}
