//! Packets that a rule or a failsafe of the documents is about: at the ends of its ranges and nets, where a mistake
//! of one would show, or just outside.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::dice::Dice;
use super::pool::{Pool, edges};

/// What a packet is about that a rule, or a failsafe, may decide.
#[derive(Clone, Debug)]
struct Target {
    egress: bool,
    v6: Option<bool>,
    protocol: Option<u8>,
    /// Type and code.
    icmp: Option<(u8, Option<u8>)>,
    source: Side,
    destination: Side,
    /// Judged before policy, and only for own addresses.
    failsafe: bool,
}

/// One end, as far as a rule names it.
#[derive(Clone, Debug, Default)]
struct Side {
    nets: Vec<IpNet>,
    /// First and last.
    ports: Vec<(u16, u16)>,
}

/// A packet's part of a [`Target`]; what the rule does not name is `None`.
#[derive(Clone, Debug)]
pub(super) struct Aim {
    pub egress: bool,
    pub v6: bool,
    pub protocol: Option<u8>,
    pub icmp: Option<(u8, u8)>,
    pub src: Option<IpAddr>,
    pub dst: Option<IpAddr>,
    pub sport: Option<u16>,
    pub dport: Option<u16>,
    /// Whether the near end should be an own address.
    pub local: bool,
}

/// What the documents' packets can be aimed at.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// The rules of each list, in order.
    lists: Vec<Vec<Target>>,
}

impl Targets {
    pub(super) fn of(documents: &[Value]) -> Self {
        let mut lists = Vec::new();
        for document in documents {
            let spec = &document["spec"];
            for (key, egress) in [("ingress", false), ("egress", true)] {
                let rules = spec[key].as_array().into_iter().flatten();
                lists.push(rules.map(|rule| of_rule(rule, egress)).collect());
            }
            for (key, egress) in [("failsafeInboundHostPorts", false), ("failsafeOutboundHostPorts", true)] {
                let entries = spec[key].as_array().into_iter().flatten();
                let list: Vec<Target> = entries.map(|entry| of_failsafe(entry, egress)).collect();
                // Few cases have any: these ask for them often.
                lists.extend([list.clone(), list.clone(), list]);
            }
        }
        lists.retain(|list: &Vec<Target>| !list.is_empty());
        Self { lists }
    }

    /// A packet at the edge of something; of a long list, rather of its end. `None`: there is nothing to aim at.
    pub(super) fn aim(&self, dice: &mut Dice) -> Option<Aim> {
        if self.lists.is_empty() {
            return None;
        }
        let list = &self.lists[dice.below(self.lists.len())];
        let last = list.len().min(12);
        let at = if dice.percent(70) { list.len() - last + dice.below(last) } else { dice.below(list.len()) };
        let target = &list[at];
        let v6 = target.v6.unwrap_or_else(|| dice.percent(35));
        let inside = if target.failsafe { 50 } else { 75 };
        Some(Aim {
            egress: target.egress,
            v6,
            protocol: target.protocol,
            icmp: target.icmp.map(|(kind, code)| (kind, code.unwrap_or_else(|| dice.below(4) as u8))),
            src: target.source.address(dice, v6, inside),
            dst: target.destination.address(dice, v6, inside),
            sport: target.source.port(dice),
            dport: target.destination.port(dice),
            local: target.failsafe || dice.percent(60),
        })
    }
}

impl Side {
    /// First or last address of a net, or one beside it; `inside`: how often one of the net, in percent at least.
    fn address(&self, dice: &mut Dice, v6: bool, inside: usize) -> Option<IpAddr> {
        let nets: Vec<IpNet> = self.nets.iter().copied().filter(|n| n.addr().is_ipv6() == v6).collect();
        if nets.is_empty() {
            return None;
        }
        let all = edges(dice.one(&nets));
        // The first two of the edges are inside.
        Some(if dice.percent(inside) { all[dice.below(2)] } else { dice.one(&all) })
    }

    /// First or last port of a range, or one beside it; mostly inside.
    fn port(&self, dice: &mut Dice) -> Option<u16> {
        if self.ports.is_empty() {
            return None;
        }
        let (first, last) = dice.one(&self.ports);
        let outside = [first.saturating_sub(1), last.saturating_add(1)];
        let port = if dice.percent(80) { dice.one(&[first, last]) } else { dice.one(&outside) };
        Some(port.max(1))
    }
}

fn of_rule(rule: &Value, egress: bool) -> Target {
    let protocol = number(&rule["protocol"]);
    let icmp = rule["icmp"]["type"].as_u64().and_then(|n| u8::try_from(n).ok());
    let code = rule["icmp"]["code"].as_u64().and_then(|n| u8::try_from(n).ok());
    let (source, destination) = (side(&rule["source"]), side(&rule["destination"]));
    let nets = || source.nets.iter().chain(&destination.nets);
    let v6 = match (rule["ipVersion"].as_u64(), protocol) {
        (Some(6), _) | (_, Some(58)) => Some(true),
        (Some(_), _) | (_, Some(1)) => Some(false),
        _ => nets().next().map(|net| net.addr().is_ipv6()),
    };
    Target { egress, v6, protocol, icmp: icmp.map(|kind| (kind, code)), source, destination, failsafe: false }
}

/// The far end is the source of what comes in, the destination of what goes out.
fn of_failsafe(entry: &Value, egress: bool) -> Target {
    let nets: Vec<IpNet> = entry["net"].as_str().and_then(|n| n.parse().ok()).into_iter().collect();
    let port = entry["port"].as_u64().and_then(|p| u16::try_from(p).ok());
    let ports: Vec<(u16, u16)> = port.map(|p| (p, p)).into_iter().collect();
    let v6 = nets.first().map(|net| net.addr().is_ipv6());
    let (source, destination) = if egress {
        (Side::default(), Side { nets, ports })
    } else {
        (Side { nets, ..Side::default() }, Side { ports, ..Side::default() })
    };
    let protocol = number(&entry["protocol"]);
    Target { egress, v6, protocol, icmp: None, source, destination, failsafe: true }
}

fn side(entity: &Value) -> Side {
    let list = |key: &str| entity[key].as_array().into_iter().flatten();
    // What is excluded has edges too.
    let nets = list("nets").chain(list("notNets"));
    let nets = nets.filter_map(|n| n.as_str()?.parse::<IpNet>().ok()).collect();
    let ports = list("ports").chain(list("notPorts")).filter_map(range).collect();
    Side { nets, ports }
}

fn range(port: &Value) -> Option<(u16, u16)> {
    if let Some(number) = port.as_u64() {
        let port = u16::try_from(number).ok()?;
        return Some((port, port));
    }
    let (first, last) = port.as_str()?.split_once(':')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

fn number(protocol: &Value) -> Option<u8> {
    match protocol.as_str().map(str::to_ascii_uppercase).as_deref() {
        Some("TCP") => Some(6),
        Some("UDP") => Some(17),
        Some("ICMP") => Some(1),
        Some("ICMPV6") => Some(58),
        Some("SCTP") => Some(132),
        Some("UDPLITE") => Some(136),
        Some(_) | None => protocol.as_u64().and_then(|n| u8::try_from(n).ok()),
    }
}

/// Fills in what a rule leaves open.
pub(super) fn ends(aim: &Aim, pool: &Pool, dice: &mut Dice) -> (IpAddr, IpAddr) {
    let near = |dice: &mut Dice| if aim.local { Pool::own(dice, aim.v6) } else { pool.any(dice, aim.v6) };
    let far = |dice: &mut Dice| pool.any(dice, aim.v6);
    let src = aim.src.unwrap_or_else(|| if aim.egress { near(dice) } else { far(dice) });
    let dst = aim.dst.unwrap_or_else(|| if aim.egress { far(dice) } else { near(dice) });
    (src, dst)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn packets_are_at_the_ends_of_ranges_and_nets() {
        let rule = json!({"action": "Deny", "protocol": "TCP", "source": {"nets": ["10.1.2.8/30"]},
            "destination": {"ports": ["8000:8010"]}});
        let targets = Targets::of(&[json!({"spec": {"ingress": [rule]}})]);
        let mut dice = Dice::new(1);
        let aims: Vec<Aim> = (0..500).filter_map(|_| targets.aim(&mut dice)).collect();
        assert_eq!(aims.len(), 500);
        let ports: BTreeSet<u16> = aims.iter().filter_map(|aim| aim.dport).collect();
        assert_eq!(ports.into_iter().collect::<Vec<_>>(), [7999, 8000, 8010, 8011]);
        let sources: BTreeSet<String> =
            aims.iter().filter_map(|aim| aim.src).map(|ip| ip.to_string()).collect();
        let wanted = ["10.1.2.11", "10.1.2.12", "10.1.2.7", "10.1.2.8", "10.1.2.9"];
        assert_eq!(sources.into_iter().collect::<Vec<_>>(), wanted);
        assert!(aims.iter().all(|aim| !aim.v6 && !aim.egress && aim.protocol == Some(6)));
    }

    #[test]
    fn failsafes_are_targets_and_documents_without_rules_are_none() {
        let entry = json!({"protocol": "udp", "port": 53, "net": "fd00::/64"});
        let targets = Targets::of(&[json!({"spec": {"failsafeOutboundHostPorts": [entry]}})]);
        let aim = targets.aim(&mut Dice::new(1)).expect("a target");
        assert!(aim.egress && aim.v6 && aim.local && aim.protocol == Some(17));
        assert!(Targets::of(&[json!({"spec": {"nets": ["10.0.0.0/8"]}})]).aim(&mut Dice::new(1)).is_none());
    }
}
