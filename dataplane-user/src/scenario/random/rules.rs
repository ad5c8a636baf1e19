//! Random rules: every field of §1.2 and §1.3, mostly valid. What is not is dropped where the case is put together.

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::dice::Dice;
use super::pool::{OTHERS, OWN};
use super::selectors;

const WIDE_V4: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.240.0.0/24",
    "203.0.113.0/24",
    "192.168.0.0/16",
    "10.96.0.0/12",
    "224.0.0.0/4",
    "128.0.0.0/1",
];
const WIDE_V6: [&str; 7] =
    ["::/0", "fd00::/64", "2001:db8::/32", "2001:db8:0:1::/64", "fe80::/10", "ff00::/8", "8000::/1"];
const PORTS: [u16; 10] = [22, 53, 80, 443, 8080, 30080, 40000, 4789, 6443, 65535];
pub(super) const PORT_NAMES: [&str; 3] = ["web", "dns", "nobody"];

/// Where a rule stands: it limits what may be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Ingress,
    Egress,
    /// In a profile: no services.
    Profile,
}

pub(super) fn rule(dice: &mut Dice, side: Side) -> Value {
    let mut rule = Map::new();
    let action = dice.weighted(&[(45, "Allow"), (35, "Deny"), (10, "Pass"), (10, "Log")]);
    rule.insert("action".into(), action.into());
    let v6 = dice.percent(35);
    let protocol: Value = match dice.below(20) {
        0..=5 => Value::Null,
        6..=11 => "TCP".into(),
        12..=14 => "UDP".into(),
        15 => "SCTP".into(),
        16 => "UDPLite".into(),
        17 => json!(dice.one(&[1, 6, 17, 47, 50, 58, 132, 136, 200, 255])),
        _ if v6 => "ICMPv6".into(),
        _ => "ICMP".into(),
    };
    let v6 = match protocol.as_str() {
        Some("ICMP") => false,
        Some("ICMPv6") => true,
        _ => v6,
    };
    let icmp = matches!(protocol.as_str(), Some("ICMP" | "ICMPv6"));
    if icmp && dice.percent(60) {
        rule.insert(dice.pick(&["icmp", "icmp", "notICMP"]).into(), icmp_match(dice, v6));
    }
    if !protocol.is_null() {
        rule.insert("protocol".into(), protocol.clone());
    }
    if dice.percent(8) {
        rule.insert(
            "notProtocol".into(),
            dice.one(&[json!("TCP"), json!("UDP"), json!("SCTP"), json!(47), json!(2)]),
        );
    }
    if dice.percent(12) {
        rule.insert("ipVersion".into(), json!(if v6 { 6 } else { 4 }));
    }
    let ports = matches!(protocol.as_str(), Some("TCP" | "UDP" | "SCTP"));
    for (name, far) in [("source", side == Side::Egress), ("destination", side == Side::Ingress)] {
        let entity = entity(dice, v6, ports, !far && side != Side::Profile, name == "destination");
        if !entity.is_empty() {
            rule.insert(name.into(), entity.into());
        }
    }
    rule.into()
}

/// A rule about a few strange packets. Few addresses and ports for all such rules, or packets would be about nothing else.
pub(super) fn narrow(dice: &mut Dice) -> Value {
    json!({
        "action": dice.pick(&["Allow", "Deny"]),
        "protocol": dice.pick(&["TCP", "TCP", "UDP"]),
        "source": {"nets": [dice.pick(&["198.18.7.1/32", "198.18.7.2/32", "fd77::1/128"])]},
        "destination": {"ports": [dice.one(&[1000, 1001])]},
    })
}

fn icmp_match(dice: &mut Dice, v6: bool) -> Value {
    let kind = if v6 { dice.one(&[128, 129, 1, 2, 3, 135]) } else { dice.one(&[8, 0, 3, 11, 13]) };
    if dice.percent(40) { json!({"type": kind, "code": dice.below(4)}) } else { json!({"type": kind}) }
}

fn entity(dice: &mut Dice, v6: bool, ports: bool, services: bool, destination: bool) -> Map<String, Value> {
    let mut entity = Map::new();
    let mut put = |key: &str, value: Value| entity.insert(key.to_owned(), value);
    let service = services && dice.percent(8);
    if service {
        put("services", json!({"name": dice.pick(&["web", "dns", "none"]), "namespace": "default"}));
    } else {
        if dice.percent(30) {
            let count = dice.between(1, 3);
            put("nets", (0..count).map(|_| Value::from(net(dice, v6))).collect());
        }
        if dice.percent(12) {
            let count = dice.between(1, 2);
            put("notNets", (0..count).map(|_| Value::from(net(dice, v6))).collect());
        }
        if dice.percent(14) {
            put("selector", selectors::of_peers(dice).into());
        }
        if dice.percent(7) {
            put("notSelector", selectors::of_peers(dice).into());
        }
        if dice.percent(8) {
            put("namespaceSelector", selectors::of_namespaces(dice).into());
        }
        if dice.percent(3) {
            put("serviceAccounts", json!({"names": [dice.pick(&["default", "robot"])]}));
        }
    }
    let may = ports && !(service && destination);
    if may && dice.percent(if destination { 50 } else { 15 }) {
        let count = dice.between(1, 4);
        put("ports", (0..count).map(|_| port(dice)).collect());
    }
    if may && dice.percent(12) {
        let count = dice.between(1, 3);
        put("notPorts", (0..count).map(|_| port(dice)).collect());
    }
    entity
}

fn port(dice: &mut Dice) -> Value {
    let first = if dice.percent(85) { dice.one(&PORTS) } else { dice.between(1, 65535) as u16 };
    match dice.below(10) {
        0 => dice.pick(&PORT_NAMES).into(),
        1..=3 => {
            let last = first.saturating_add(dice.one(&[0, 1, 7, 100, 2767]));
            format!("{first}:{last}").into()
        }
        _ => first.into(),
    }
}

/// A net around an address that packets will have, or a wide one.
pub(super) fn net(dice: &mut Dice, v6: bool) -> String {
    if dice.percent(35) {
        return if v6 { dice.pick(&WIDE_V6) } else { dice.pick(&WIDE_V4) }.to_owned();
    }
    let all = OWN.iter().chain(&OTHERS).filter_map(|t| t.parse().ok());
    let all: Vec<std::net::IpAddr> = all.filter(|a: &std::net::IpAddr| a.is_ipv6() == v6).collect();
    let whole = if v6 { 128 } else { 32 };
    let length = dice.one(&[whole, whole, whole - 1, whole - 3, whole - 8, whole - 16, whole / 2]);
    // At most the family's width, so this is a net.
    IpNet::new(dice.one(&all), length).map(|net| net.trunc().to_string()).unwrap_or_default()
}
