//! Entries of maps in the words of policies: addresses, protocols, policies, endpoints, devices by their names.

use std::collections::BTreeMap;

use anyhow::Result;
use dataplane_common::abi::{
    AddrKey, DeviceEntry, EndpointEntry, FAILSAFE_INBOUND, FailsafeKey, FrontendKey, Hook, InfraKey,
    ListEntry, PortKey, RuleEntry, SIDE_DESTINATION, Settings, counted, device_flag, frontend_flag,
    hook_name, own_flag, rule_flag, settings_flag,
};
use dataplane_common::addr::Addr;
use dataplane_common::flow::{FlowEntry, FlowKey};
use dataplane_common::names;
use dataplane_common::verdict::{Reason, Verdict};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::classes::Classes;
use super::kernel::device_name;
use super::rules::AllHits;
use crate::compile::{Prefix, Tables};
use crate::maps::{Pinned, SLICED};
use crate::observe::names::LIST_KINDS;
use crate::observe::record::{WOULD_DENY, protocol_name};
use crate::state::State;

/// One entry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    pub key: String,
    pub value: Value,
}

impl Entry {
    pub(super) fn new(key: impl ToString, value: Value) -> Self {
        Self { key: key.to_string(), value }
    }
    /// `a=1 b=x`, or the value alone.
    pub fn text(&self) -> String {
        match &self.value {
            Value::Object(fields) => {
                let words: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={}", word(v))).collect();
                words.join(" ")
            }
            other => word(other),
        }
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(word).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Whether a map has one inner map for each generation.
pub fn is_sliced(map: &str) -> bool {
    SLICED.contains(&map)
}

/// Entries of a pinned map; of the generation in `slot` where there is one for each.
pub fn entries(pinned: &Pinned, map: &str, slot: Option<u32>, state: &State) -> Result<Vec<Entry>> {
    if is_sliced(map) {
        let tables = slot.map(|slot| pinned.tables(slot)).transpose()?.unwrap_or_default();
        let rules = rule_names(state);
        let classes = Classes { tables: &tables, rules: &rules };
        return Ok(match map {
            names::MAP_ADDR_CLASS => classes.addresses(),
            names::MAP_PORT_CLASS => classes.ports(),
            names::MAP_ROWS => classes.rows(),
            _ => generation(&tables, state).remove(map).unwrap_or_default(),
        });
    }
    let maps = pinned.state()?;
    Ok(match map {
        names::MAP_CONTROL => {
            let c = maps.control()?;
            vec![Entry::new(
                "control",
                json!({"activeSlot": c.active.checked_sub(1), "fallbackSlot": c.fallback.checked_sub(1),
                       "epoch": c.epoch, "confirmUntilNs": c.confirm_until_ns, "suspendUntilNs": c.suspend_until_ns,
                       "adoptUntilNs": c.grace_until_ns, "flags": c.flags}),
            )]
        }
        names::MAP_FLOWS => maps.flows()?.iter().map(|(k, e)| flow(k, e, state)).collect(),
        names::MAP_FLOWS_NEW => maps.flows_new()?.iter().map(|(k, e)| flow(k, e, state)).collect(),
        names::MAP_FLOWS_SAFE => maps.flows_safe()?.iter().map(|(k, e)| flow(k, e, state)).collect(),
        names::MAP_FRAGMENTS => maps
            .fragments()?
            .iter()
            .map(|(k, e)| {
                let key = format!("{} {} -> {} id {}", hook(k.hook), address(&k.src), address(&k.dst), k.id);
                let reason = e.decision.reason.name();
                Entry::new(
                    key,
                    json!({"verdict": e.decision.verdict.name(), "reason": reason, "dead": e.dead != 0}),
                )
            })
            .collect(),
        names::MAP_COUNTERS => maps
            .counters()?
            .iter()
            .map(|((h, verdict, reason), c)| {
                let verdict = ["Ungoverned", "Allow", "Deny"].get(*verdict as usize).unwrap_or(&"?");
                let reason = Reason::from_number(*reason).map_or("?", Reason::name);
                Entry::new(
                    format!("{} {verdict} {reason}", hook(*h)),
                    json!({"packets": c.packets, "bytes": c.bytes}),
                )
            })
            .collect(),
        names::MAP_DEV_COUNTERS => maps
            .device_counters()?
            .iter()
            .filter_map(|(key, c)| {
                let what = counted(key.counter)?;
                let verdict = what.verdict.map_or(WOULD_DENY, Verdict::name);
                let (device, hook, reason) = (device(key.device), hook_name(what.hook), what.reason.name());
                let value = json!({"packets": c.packets, "bytes": c.bytes});
                Some(Entry::new(format!("{device} {hook} {verdict} {reason}"), value))
            })
            .collect(),
        names::MAP_FLOW_EVENTS => {
            maps.flow_events()?.iter().map(|(event, n)| Entry::new(event.name(), json!(n))).collect()
        }
        names::MAP_RULE_HITS => hits(pinned, state)?,
        names::MAP_ETHERTYPES => maps
            .ethertypes()?
            .iter()
            .map(|(k, c)| {
                let key = format!("{} {:#06x}", hook(k.hook), k.ethertype);
                Entry::new(key, json!({"packets": c.packets, "bytes": c.bytes}))
            })
            .collect(),
        _ => Vec::new(),
    })
}

fn hits(pinned: &Pinned, state: &State) -> Result<Vec<Entry>> {
    let keys: Vec<_> = pinned.state()?.rule_hits()?.into_keys().collect();
    let all = AllHits::read(pinned)?;
    let rules = rule_names(state);
    Ok(keys
        .iter()
        .map(|k| {
            let rule =
                rules.get(&k.identity).cloned().unwrap_or_else(|| format!("identity {:#x}", k.identity));
            Entry::new(
                format!("{} on {}", rule, device(k.device)),
                json!(all.of(k.identity, |d| d == k.device)),
            )
        })
        .collect())
}

/// The maps of one generation, entry by entry as they are in the kernel.
pub fn generation(t: &Tables, state: &State) -> BTreeMap<&'static str, Vec<Entry>> {
    let rules = rule_names(state);
    BTreeMap::from([
        (names::MAP_SETTINGS, vec![Entry::new("settings", settings(&t.settings))]),
        (
            names::MAP_DEVICES,
            t.devices.iter().map(|(i, d)| Entry::new(device(*i), device_entry(d, state))).collect(),
        ),
        (
            names::MAP_ENDPOINTS,
            t.endpoints
                .iter()
                .enumerate()
                .map(|(i, e)| Entry::new(endpoint(i, state), endpoint_entry(e)))
                .collect(),
        ),
        (names::MAP_LISTS, numbered(&t.lists, list)),
        (names::MAP_RULES, numbered(&t.rules, |r| rule(r, &rules))),
        (names::MAP_ROWS, numbered(&t.rows, |word| json!(format!("{word:#018x}")))),
        (names::MAP_ADDR_CLASS, prefixes(&t.addr_class, net, |v| json!({"class": v}))),
        (names::MAP_PORT_CLASS, prefixes(&t.port_class, port_key, |v| json!({"class": v}))),
        (
            names::MAP_OWN_ADDRS,
            prefixes(&t.own_addrs, net, |v| {
                let all = [
                    (own_flag::OWN, "own"),
                    (own_flag::BROADCAST, "broadcast"),
                    (own_flag::NODE_PORTS, "nodePorts"),
                ];
                json!(bits(v, &all))
            }),
        ),
        (
            names::MAP_FRONTENDS,
            prefixes(&t.frontends, frontend, |v| {
                json!(bits(v, &[(frontend_flag::SERVICE, "service"), (frontend_flag::LOCAL, "local")]))
            }),
        ),
        (names::MAP_FAILSAFES, prefixes(&t.failsafes, failsafe, |_| json!("allow"))),
        (names::MAP_INFRA, prefixes(&t.infra, infra, |_| json!("allow"))),
    ])
}

fn numbered<T>(values: &[T], render: impl Fn(&T) -> Value) -> Vec<Entry> {
    values.iter().enumerate().map(|(i, v)| Entry::new(i, render(v))).collect()
}

fn prefixes<K: Copy>(
    map: &BTreeMap<Prefix<K>, u32>,
    key: impl Fn(&Prefix<K>) -> String,
    value: impl Fn(u32) -> Value,
) -> Vec<Entry> {
    map.iter().map(|(k, v)| Entry::new(key(k), value(*v))).collect()
}

fn bits(flags: u32, all: &[(u32, &str)]) -> Vec<String> {
    let mut out: Vec<String> =
        all.iter().filter(|(b, _)| flags & b != 0).map(|(_, n)| (*n).to_owned()).collect();
    let rest = all.iter().fold(flags, |rest, (bit, _)| rest & !bit);
    if rest != 0 {
        out.push(format!("{rest:#x}"));
    }
    out
}

fn hook(number: u8) -> &'static str {
    if number == Hook::Egress as u8 { Hook::Egress.name() } else { Hook::Ingress.name() }
}

fn device(ifindex: u32) -> String {
    device_name(ifindex).unwrap_or_else(|| format!("ifindex {ifindex}"))
}

fn endpoint(index: usize, state: &State) -> String {
    state
        .endpoints
        .get(index)
        .map_or_else(|| format!("endpoint {index}"), |e| format!("HostEndpoint/{}", e.name))
}

/// identity → `GlobalNetworkPolicy/web rule 0 (NormalIngress)`.
fn rule_names(state: &State) -> BTreeMap<u32, String> {
    let name = |r: &crate::state::RuleState| match (&r.policy, r.index) {
        (Some(policy), Some(index)) => format!("{policy} rule {index} ({})", r.list),
        (Some(policy), None) => format!("{policy} ({})", r.list),
        (None, _) => format!("end of tier {} ({})", r.tier, r.list),
    };
    state.rules.iter().map(|r| (r.identity, name(r))).collect()
}

fn address(addr: &Addr) -> String {
    addr.to_ip().map_or_else(|| "any".to_owned(), |ip| ip.to_string())
}

pub(super) fn net(prefix: &Prefix<AddrKey>) -> String {
    match prefix.len.checked_sub(dataplane_common::abi::ADDR_PREFIX_BASE) {
        Some(bits) => format!("{}/{bits}", address(&prefix.key)),
        None => format!("any/{}", prefix.len),
    }
}

fn port(bytes: [u8; 2]) -> u16 {
    u16::from_be_bytes(bytes)
}

pub(super) fn port_key(prefix: &Prefix<PortKey>) -> String {
    let key = &prefix.key;
    let side = if key.side == SIDE_DESTINATION { "destination" } else { "source" };
    let protocol = protocol_name(key.protocol);
    match prefix.len {
        0..8 => "any".to_owned(),
        8..16 => format!("{side}, any protocol"),
        16 => format!("{side} {protocol}, any port"),
        bits => {
            let first = port(key.port_be);
            let last = first | (u32::from(u16::MAX) >> (bits - 16).min(16)) as u16;
            if first == last {
                format!("{side} {protocol} {first}")
            } else {
                format!("{side} {protocol} {first}:{last}")
            }
        }
    }
}

fn frontend(prefix: &Prefix<FrontendKey>) -> String {
    let key = &prefix.key;
    format!("{} {} port {}", protocol_name(key.protocol), address(&key.addr), port(key.port_be))
}

fn failsafe(prefix: &Prefix<FailsafeKey>) -> String {
    let key = &prefix.key;
    let (direction, of) =
        if key.direction == FAILSAFE_INBOUND { ("inbound", "from") } else { ("outbound", "to") };
    let peer = match prefix.len.checked_sub(64) {
        Some(bits) => format!("{}/{bits}", address(&key.addr)),
        None => "anywhere".to_owned(),
    };
    format!("{direction} {} port {} {of} {peer}", protocol_name(key.protocol), port(key.port_be))
}

fn infra(prefix: &Prefix<InfraKey>) -> String {
    let key = &prefix.key;
    format!("{} {} port {}", protocol_name(key.protocol), address(&key.peer), port(key.port_be))
}

fn settings(s: &Settings) -> Value {
    let flags = [
        (settings_flag::RECHECK, "recheck"),
        (settings_flag::GOVERNED, "governed"),
        (settings_flag::SPORT, "sport"),
        (settings_flag::INFRA, "infra"),
        (settings_flag::FRONTENDS, "frontends"),
    ];
    let ports: Vec<String> = s
        .node_ports
        .iter()
        .take(s.node_port_ranges as usize)
        .map(|r| format!("{}:{}", r.first, r.last))
        .collect();
    json!({"generation": s.generation, "flags": bits(s.flags, &flags), "nodePorts": ports, "graceNs": s.grace_ns})
}

fn device_entry(d: &DeviceEntry, state: &State) -> Value {
    let flags = [
        (device_flag::WORKLOAD, "workload"),
        (device_flag::ACCEPT_RA, "acceptRa"),
        (device_flag::ANTI_SPOOF, "antiSpoof"),
        (device_flag::DROP_UNKNOWN_ETHERTYPES, "dropUnknownEthertypes"),
        (device_flag::LOOPBACK, "loopback"),
        (device_flag::NO_LINK_LAYER, "noLinkLayer"),
    ];
    let governs =
        (d.endpoint as usize).checked_sub(1).map_or_else(|| "none".to_owned(), |i| endpoint(i, state));
    json!({"endpoint": governs, "flags": bits(d.flags, &flags), "graceUntilNs": d.grace_until_ns})
}

fn endpoint_entry(e: &EndpointEntry) -> Value {
    let mut lists = Map::new();
    for kind in LIST_KINDS {
        if let Some(list) = e.lists[kind as usize].checked_sub(1) {
            lists.insert(format!("{kind:?}"), json!(list));
        }
    }
    lists.insert(
        "flags".into(),
        json!(bits(e.flags, &[(dataplane_common::abi::endpoint_flag::WILDCARD, "wildcard")])),
    );
    Value::Object(lists)
}

fn list(l: &ListEntry) -> Value {
    json!({"firstRule": l.rule_base, "rules": l.rule_count, "words": l.words, "sourceRows": l.source_rows,
           "destinationRows": l.destination_rows, "dportRows": l.dport_rows, "sportRows": l.sport_rows})
}

fn rule(r: &RuleEntry, names: &BTreeMap<u32, String>) -> Value {
    let action = ["Deny", "Allow", "Log", "Skip"].get(r.action as usize).unwrap_or(&"?");
    let flags = [
        (rule_flag::TIER_END.into(), "tierEnd"),
        (rule_flag::RECHECK.into(), "recheck"),
        (rule_flag::STAGED.into(), "staged"),
    ];
    let name = names.get(&r.identity).cloned().unwrap_or_else(|| format!("identity {:#x}", r.identity));
    json!({"rule": name, "action": action, "flags": bits(r.flags.into(), &flags), "resume": r.resume,
           "policyId": r.policy, "index": r.index, "identity": r.identity})
}

fn flow(k: &FlowKey, e: &FlowEntry, state: &State) -> Entry {
    let end = |addr: &Addr, port: u16| {
        let ip = address(addr);
        if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
    };
    let (low, high) = (end(&k.low, k.low_port), end(&k.high, k.high_port));
    let low_began = e.flags & dataplane_common::flow::flow_flag::ORIGINAL_IS_LOW != 0;
    let (from, to) = if low_began { (low, high) } else { (high, low) };
    let rules = rule_names(state);
    let by = match e.rule_identity {
        0 => "no rule".to_owned(),
        id => rules.get(&id).cloned().unwrap_or_else(|| format!("identity {id:#x}")),
    };
    let hooks: Vec<&str> =
        [Hook::Ingress, Hook::Egress].iter().filter(|h| e.hooks & h.bit() != 0).map(|h| h.name()).collect();
    let stage = dataplane_common::verdict::Stage::from_number(e.stage).map_or("?", |s| s.name());
    Entry::new(
        format!("{} {from} -> {to}", protocol_name(k.protocol)),
        json!({"device": device(e.device), "stage": stage, "by": by, "hooks": hooks, "generation": e.generation,
               "epoch": e.epoch, "lastSeenNs": e.last_seen_ns}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_as_people_write_them() {
        let addr = Addr::v4([10, 0, 0, 0]);
        assert_eq!(net(&Prefix { key: addr, len: 40 }), "10.0.0.0/8");
        let ports = |port: u16, len| {
            port_key(&Prefix { key: PortKey { side: 0, protocol: 6, port_be: port.to_be_bytes() }, len })
        };
        assert_eq!(ports(80, 32), "destination TCP 80");
        assert_eq!(ports(1024, 22), "destination TCP 1024:2047");
        assert_eq!(ports(0, 17), "destination TCP 0:32767");
        assert_eq!(ports(0, 16), "destination TCP, any port");
        let key = FailsafeKey { direction: 0, protocol: 6, port_be: 22u16.to_be_bytes(), addr: Addr::NONE };
        assert_eq!(failsafe(&Prefix { key, len: 32 }), "inbound TCP port 22 from anywhere");
        assert_eq!(
            failsafe(&Prefix { key: FailsafeKey { addr, ..key }, len: 72 }),
            "inbound TCP port 22 from 10.0.0.0/8"
        );
    }

    #[test]
    fn a_bit_that_nobody_knows_is_shown() {
        assert_eq!(bits(5, &[(1, "one")]), ["one", "0x4"]);
    }
}
