//! The tables, evaluated as the kernel does, against the rules, evaluated as they are written.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_common::abi::{
    ListEntry, ListKind, PortKey, RuleAction, RuleEntry, SIDE_DESTINATION, SIDE_SOURCE, rule_flag,
};
use dataplane_common::addr::Addr;
use dataplane_common::scan::{Classes, SCAN_NONE, next_match, scan};
use dataplane_common::tables::Rows;
use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::index::lists::{ListKey, PolicyOrProfile};
use crate::index::{
    EndpointLists, Facts, List, PolicyBlock, PolicyId, PortAlternative, PortMatch, Resolved, Sets, Side,
    TierBlock, TierEnd,
};
use crate::policy::{Action, Icmp, OnPolicyChange, PortRange};

#[derive(Clone, Debug)]
struct Packet {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    sport: u16,
    /// For ICMP: type << 8 | code.
    dport: u16,
}

/// What decides: (policy name, rule index), or the end of a tier.
#[derive(Clone, Debug, PartialEq)]
enum End {
    Rule(String, u16, bool),
    Tier(String),
    Nothing,
}

// ---- as written ----

fn side_matches(
    sets: &Sets,
    side: &Side,
    ip: IpAddr,
    protocol: u8,
    rule_protocol: Option<u8>,
    port: u16,
) -> bool {
    let inside = |r: &PortRange| r.first <= port && port <= r.last;
    let any_of = side.ports.any_of.as_ref().is_none_or(|any_of| {
        any_of.iter().any(|a| match a {
            PortAlternative::Ranges(ranges) => rule_protocol == Some(protocol) && ranges.iter().any(inside),
            PortAlternative::At(p, n, set) => *p == protocol && *n == port && sets.contains(*set, ip),
        })
    });
    let named = &side.ports.none_of_named;
    any_of
        && side.all_of.iter().all(|s| sets.contains(*s, ip))
        && !side.none_of.iter().any(|s| sets.contains(*s, ip))
        && !side.ports.none_of.iter().any(inside)
        && !named.iter().any(|(p, n, set)| *p == protocol && *n == port && sets.contains(*set, ip))
}

fn rule_matches(sets: &Sets, rule: &Resolved, packet: &Packet) -> bool {
    let is = |icmp: Icmp| {
        let [kind, code] = packet.dport.to_be_bytes();
        kind == icmp.kind && icmp.code.is_none_or(|c| c == code)
    };
    let has_type = packet.protocol == 1 || packet.protocol == 58;
    (if packet.src.is_ipv4() { rule.v4 } else { rule.v6 })
        && rule.protocol.is_none_or(|p| p == packet.protocol)
        && rule.not_protocol.is_none_or(|p| p != packet.protocol)
        && rule.icmp.is_none_or(|icmp| has_type && is(icmp))
        && !rule.not_icmp.is_some_and(|icmp| has_type && is(icmp))
        && side_matches(sets, &rule.source, packet.src, packet.protocol, rule.protocol, packet.sport)
        && side_matches(sets, &rule.destination, packet.dst, packet.protocol, rule.protocol, packet.dport)
}

/// What is counted without deciding: (policy, rule) of Log, Pass and staged rules; (tier, none) where staged policies
/// alone would deny at the end of a tier.
type Counted = BTreeSet<(String, Option<u16>)>;

fn by_the_rules(sets: &Sets, list: &List, packet: &Packet) -> (End, Counted) {
    let mut counted = Counted::new();
    'tiers: for tier in &list.tiers {
        let only_staged = tier.policies.iter().all(|p| p.staged);
        for policy in &tier.policies {
            for rule in policy.rules.iter().filter(|r| rule_matches(sets, r, packet)) {
                let at = (policy.id.name.clone(), Some(rule.index));
                let end = match rule.action {
                    Action::Allow => End::Rule(policy.id.name.clone(), rule.index, true),
                    Action::Deny => End::Rule(policy.id.name.clone(), rule.index, false),
                    Action::Log => {
                        counted.insert(at);
                        continue;
                    }
                    Action::Pass => End::Nothing,
                };
                if policy.staged || rule.action == Action::Pass {
                    counted.insert(at);
                }
                match (policy.staged, end) {
                    // In a tier of staged policies alone the first verdict is the whole preview.
                    (true, _) if only_staged => continue 'tiers,
                    (true, _) => break,
                    (false, End::Nothing) => continue 'tiers,
                    (false, end) => return (end, counted),
                }
            }
        }
        match tier.end {
            TierEnd::Deny => return (End::Tier(tier.name.clone()), counted),
            TierEnd::WouldDeny => drop(counted.insert((tier.name.clone(), None))),
            TierEnd::Pass => {}
        }
    }
    (End::Nothing, counted)
}

// ---- as compiled ----

fn bits(bytes: &[u8], count: u32) -> Vec<bool> {
    (0..count as usize).map(|i| bytes[i / 8] >> (7 - i % 8) & 1 == 1).collect()
}

fn lpm<K: Copy>(entries: &BTreeMap<Prefix<K>, u32>, key: &[u8], bytes: impl Fn(&K) -> Vec<u8>) -> u32 {
    let covering = entries.iter().filter(|(p, _)| bits(&bytes(&p.key), p.len) == bits(key, p.len));
    covering.max_by_key(|(p, _)| p.len).map_or(0, |(_, class)| *class)
}

fn addr_bytes(a: &Addr) -> Vec<u8> {
    [&[a.family, 0, 0, 0][..], &a.bytes].concat()
}

fn port_bytes(k: &PortKey) -> Vec<u8> {
    vec![k.side, k.protocol, k.port_be[0], k.port_be[1]]
}

/// The tables as the scan reads them.
struct Scanned<'a> {
    tables: &'a Tables,
    passed: RefCell<Vec<u32>>,
}

impl Rows for Scanned<'_> {
    fn list(&self, index: u32) -> Option<ListEntry> {
        self.tables.lists.get(index as usize).copied()
    }
    fn word(&self, index: u32) -> Option<u64> {
        self.tables.rows.get(index as usize).copied()
    }
    fn rule(&self, index: u32) -> Option<RuleEntry> {
        self.tables.rules.get(index as usize).copied()
    }
    fn next(&self, list: u32, classes: Classes, position: u32) -> u64 {
        next_match(self, list, classes, position)
    }
    fn passed(&self, index: u32, _: &RuleEntry) {
        self.passed.borrow_mut().push(index);
    }
}

fn by_the_tables(tables: &Tables, list: u32, packet: &Packet) -> (End, Counted) {
    let addr = |ip: IpAddr| u64::from(lpm(&tables.addr_class, &addr_bytes(&Addr::from(ip)), addr_bytes));
    let port = |side: u8, port: u16| {
        let key = PortKey { side, protocol: packet.protocol, port_be: port.to_be_bytes() };
        u64::from(lpm(&tables.port_class, &port_bytes(&key), port_bytes))
    };
    let classes = Classes {
        addresses: addr(packet.src) << 32 | addr(packet.dst),
        ports: port(SIDE_SOURCE, packet.sport) << 32 | port(SIDE_DESTINATION, packet.dport),
    };
    let rows = Scanned { tables, passed: RefCell::default() };
    let hit = scan(&rows, list, classes);
    let name = |position: u32| tables.names.rule(position).expect("every position has a name");
    let policy = |position: u32| name(position).policy.as_ref().map(|p| p.name.clone());
    let counted = rows.passed.take().into_iter().map(|position| match policy(position) {
        Some(policy) => (policy, name(position).index.map(|i| i as u16)),
        None => (name(position).tier.clone(), None),
    });
    let counted = counted.collect();
    if hit == SCAN_NONE {
        return (End::Nothing, counted);
    }
    let position = u32::try_from(hit).expect("the scan neither breaks nor runs out of steps");
    let rule = &tables.rules[position as usize];
    let end = match policy(position) {
        None => {
            assert!(rule.flags & rule_flag::TIER_END != 0);
            End::Tier(name(position).tier.clone())
        }
        Some(policy) => End::Rule(policy, rule.index, rule.action == RuleAction::Allow as u8),
    };
    (end, counted)
}

// ---- random worlds ----

/// Overlapping on purpose, at octet borders and inside, both families, /0 included.
const NETS: [&str; 12] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/23",
    "10.1.2.3/32",
    "10.128.0.0/9",
    "192.0.2.0/25",
    "::/0",
    "fd00::/8",
    "fd00:1::/33",
    "fd00:1::5/128",
    "2001:db8::/32",
];
const IPS: [&str; 10] = [
    "10.0.0.1",
    "10.1.0.1",
    "10.1.2.3",
    "10.1.3.9",
    "10.200.0.1",
    "192.0.2.127",
    "192.0.2.128",
    "fd00:1::5",
    "fd00::9",
    "2001:db8::1",
];

fn sets() -> Sets {
    let mut sets = Sets::default();
    // Sets 0..=11: one net each; then mixtures, and the empty set.
    for net in NETS {
        sets.add(vec![net.parse().unwrap()]);
    }
    for mix in [&[1, 9][..], &[4, 6, 10], &[2, 3], &[]] {
        sets.add(mix.iter().map(|i| NETS[*i].parse::<IpNet>().unwrap()).collect());
    }
    sets
}

fn set_id() -> impl Strategy<Value = u32> {
    0_u32..16
}

fn range() -> impl Strategy<Value = PortRange> {
    (prop_oneof![Just(1_u16), Just(80), Just(443), Just(1000), 1_u16..=65535], 0_u16..2000)
        .prop_map(|(first, more)| PortRange { first, last: first.saturating_add(more) })
}

fn at() -> impl Strategy<Value = (u8, u16, u32)> {
    (prop_oneof![Just(6_u8), Just(17)], prop_oneof![Just(80_u16), Just(443)], set_id())
}

fn side(with_ports: bool) -> impl Strategy<Value = Side> {
    let alternative = prop_oneof![
        prop::collection::vec(range(), 1..4).prop_map(PortAlternative::Ranges),
        at().prop_map(|(p, n, s)| PortAlternative::At(p, n, s)),
    ];
    let ports = (
        prop::option::weighted(0.5, prop::collection::vec(alternative, 0..3)),
        prop::collection::vec(range(), 0..2),
        prop::collection::vec(at(), 0..2),
    );
    let ports = ports.prop_map(move |(any_of, none_of, none_of_named)| match with_ports {
        true => PortMatch { any_of, none_of, none_of_named },
        false => PortMatch::default(),
    });
    (prop::collection::vec(set_id(), 0..3), prop::collection::vec(set_id(), 0..2), ports)
        .prop_map(|(all_of, none_of, ports)| Side { all_of, none_of, ports })
}

fn rule() -> impl Strategy<Value = Resolved> {
    let action = prop_oneof![
        4 => Just(Action::Allow), 4 => Just(Action::Deny), 1 => Just(Action::Log), 2 => Just(Action::Pass)
    ];
    let icmp = || prop::option::weighted(0.3, (prop_oneof![Just(8_u8), Just(3)], prop::option::of(0_u8..2)));
    let shape = prop_oneof![
        // Ports need their protocol (§1.3).
        (side(true), side(true), prop_oneof![Just(6_u8), Just(17)]).prop_map(|(s, d, p)| (
            s,
            d,
            Some(p),
            None
        )),
        (
            side(false),
            side(false),
            prop::option::of(prop_oneof![Just(1_u8), Just(6), Just(58)]),
            prop::option::of(Just(17_u8))
        )
            .prop_map(|(s, d, p, n)| (s, d, p, n)),
    ];
    (action, shape, any::<bool>(), any::<bool>(), icmp(), icmp()).prop_map(
        |(action, (source, destination, protocol, not_protocol), v4, v6, icmp, not_icmp)| {
            let icmp = icmp.map(|(kind, code)| Icmp { kind, code });
            let not_icmp = not_icmp.map(|(kind, code)| Icmp { kind, code });
            let is_icmp = matches!(protocol, Some(1 | 58));
            Resolved {
                action,
                index: 0,
                v4: v4 || !v6,
                v6,
                protocol,
                not_protocol,
                icmp: icmp.filter(|_| is_icmp),
                not_icmp: not_icmp.filter(|_| is_icmp || protocol.is_none()),
                source,
                destination,
            }
        },
    )
}

fn list() -> impl Strategy<Value = List> {
    let policy = (prop::collection::vec(rule(), 0..6), prop::bool::weighted(0.3));
    let tier = (prop::collection::vec(policy, 1..4), any::<bool>());
    prop::collection::vec(tier, 1..4).prop_map(|tiers| {
        let tiers = tiers.into_iter().enumerate().map(|(t, (policies, deny))| {
            let policies = policies.into_iter().enumerate().map(|(p, (mut rules, staged))| {
                rules.iter_mut().enumerate().for_each(|(i, r)| r.index = i as u16);
                let id = PolicyId {
                    kind: PolicyOrProfile::GlobalNetworkPolicy,
                    namespace: String::new(),
                    name: format!("p{t}-{p}"),
                    tier: format!("t{t}"),
                };
                PolicyBlock { id, staged, on_change: None, rules }
            });
            let policies: Vec<PolicyBlock> = policies.collect();
            let end = match (deny, policies.iter().all(|p| p.staged)) {
                (true, false) => TierEnd::Deny,
                (true, true) => TierEnd::WouldDeny,
                (false, _) => TierEnd::Pass,
            };
            TierBlock { name: format!("t{t}"), end, policies }
        });
        List { tiers: tiers.collect() }
    })
}

fn packet() -> impl Strategy<Value = Packet> {
    let ip = |i: usize| IPS[i].parse::<IpAddr>().unwrap();
    let port = || {
        prop_oneof![Just(1_u16), Just(80), Just(443), Just(1000), Just(0x0800), Just(0x0301), any::<u16>()]
    };
    let families = prop_oneof![(0_usize..7, 0_usize..7), (7_usize..10, 7_usize..10)];
    let protocol = prop_oneof![Just(6_u8), Just(17), Just(1), Just(58), Just(132)];
    (families, protocol, port(), port()).prop_map(move |((s, d), protocol, sport, dport)| Packet {
        src: ip(s),
        dst: ip(d),
        protocol,
        sport,
        dport,
    })
}

fn snapshot(sets: Sets, list: List) -> Snapshot {
    let lists = BTreeMap::from([(ListKey(ListKind::NormalIngress), list)]);
    Snapshot {
        node: "n".to_owned(),
        devices: BTreeMap::new(),
        endpoints: vec![EndpointLists { name: "h".to_owned(), wildcard: false, lists }],
        sets,
        own: BTreeMap::new(),
        internal: BTreeMap::new(),
        frontends: BTreeMap::new(),
        failsafe_inbound: Vec::new(),
        failsafe_outbound: Vec::new(),
        infra: Default::default(),
        node_ports: Vec::new(),
        on_policy_change: OnPolicyChange::Keep,
        grace_seconds: 60,
        facts: Facts::default(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]
    #[test]
    fn tables_say_what_the_rules_say(list in list(), packets in prop::collection::vec(packet(), 32)) {
        let snapshot = snapshot(sets(), list.clone());
        let tables = compile(&snapshot).unwrap();
        for packet in packets {
            let expected = by_the_rules(&snapshot.sets, &list, &packet);
            let got = match tables.endpoints[0].lists[ListKind::NormalIngress as usize] {
                0 => (End::Nothing, Counted::new()),
                list => by_the_tables(&tables, list - 1, &packet),
            };
            prop_assert_eq!(got, expected, "{:?}", packet);
        }
    }

    #[test]
    fn port_prefixes_cover_exactly_the_range(first in any::<u16>(), more in any::<u16>()) {
        let last = first.saturating_add(more);
        let covered: u32 = ports::prefixes(first, last).iter().map(|(_, bits)| 1_u32 << (16 - bits)).sum();
        prop_assert_eq!(covered, u32::from(last) - u32::from(first) + 1);
        let mut next = u32::from(first);
        for (port, bits) in ports::prefixes(first, last) {
            prop_assert_eq!(u32::from(port), next);
            prop_assert_eq!(u32::from(port) % (1 << (16 - bits)), 0);
            next += 1 << (16 - bits);
        }
    }
}

#[test]
fn too_many_rules_are_refused_with_a_remedy() {
    let rule = Resolved {
        action: Action::Allow,
        index: 0,
        v4: true,
        v6: true,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Side::default(),
        destination: Side::default(),
    };
    let refused = |rules: Vec<Resolved>| {
        let id = PolicyId {
            kind: PolicyOrProfile::GlobalNetworkPolicy,
            namespace: String::new(),
            name: "big".to_owned(),
            tier: "default".to_owned(),
        };
        let policies = vec![PolicyBlock { id, staged: false, on_change: None, rules }];
        let tiers = vec![TierBlock { name: "default".to_owned(), end: TierEnd::Pass, policies }];
        compile(&snapshot(Sets::default(), List { tiers })).map_err(|e| e.to_string())
    };
    let fits = limits::MAX_RULES_PER_LIST as usize;
    assert!(refused(vec![rule.clone(); fits]).is_ok());
    let message = refused(vec![rule.clone(); fits + 1]).unwrap_err();
    assert!(message.contains("MAX_RULES_PER_LIST") && message.contains("HostEndpoint/h"), "{message}");
    let log = Resolved { action: Action::Log, ..rule };
    let message = refused(vec![log; limits::MAX_CONTINUE_RULES_PER_LIST as usize + 1]).unwrap_err();
    assert!(message.contains("MAX_CONTINUE_RULES_PER_LIST"), "{message}");
}
