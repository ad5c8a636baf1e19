//! Classes and rows in the words of policies: what a class stands for is what its addresses or ports satisfy.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use dataplane_common::abi::{AddrKey, ListEntry, PortKey, SIDE_DESTINATION, SIDE_SOURCE};
use serde_json::{Value, json};

use super::render::{Entry, net, port_key};
use crate::compile::{Prefix, Tables};

/// Names in one entry; a count stands for the rest.
const NAMES: usize = 16;

/// One dimension of a list's rows.
struct Side {
    name: &'static str,
    base: fn(&ListEntry) -> u32,
}

const SOURCE: Side = Side { name: "source", base: |l| l.source_rows };
const DESTINATION: Side = Side { name: "destination", base: |l| l.destination_rows };
const DPORT: Side = Side { name: "destination port", base: |l| l.dport_rows };
const SPORT: Side = Side { name: "source port", base: |l| l.sport_rows };

/// A generation, with its rules' names by identity.
pub struct Classes<'a> {
    pub tables: &'a Tables,
    pub rules: &'a BTreeMap<u32, String>,
}

impl Classes<'_> {
    /// Entries of `pc_addr_class`: class, and which rules ask for such a source or destination.
    pub fn addresses(&self) -> Vec<Entry> {
        let classes = self.address_classes();
        let (source, destination) = (self.asked_by(&SOURCE, &classes), self.asked_by(&DESTINATION, &classes));
        let of = |map: &BTreeMap<u32, Vec<String>>, class| map.get(&class).cloned().unwrap_or_default();
        let entry = |(prefix, class): (&Prefix<_>, &u32)| {
            let (source, destination) = (of(&source, *class), of(&destination, *class));
            Entry::new(net(prefix), json!({"class": class, "sourceOf": source, "destinationOf": destination}))
        };
        self.tables.addr_class.iter().map(entry).collect()
    }

    /// Entries of `pc_port_class`: class, and which rules ask for such a protocol and port.
    pub fn ports(&self) -> Vec<Entry> {
        let destination = self.asked_by(&DPORT, &self.port_classes(SIDE_DESTINATION));
        let source = self.asked_by(&SPORT, &self.port_classes(SIDE_SOURCE));
        let entry = |(prefix, class): (&Prefix<PortKey>, &u32)| {
            let asked = if prefix.key.side == SIDE_DESTINATION { &destination } else { &source };
            let rules = asked.get(class).cloned().unwrap_or_default();
            Entry::new(port_key(prefix), json!({"class": class, "of": rules}))
        };
        self.tables.port_class.iter().map(entry).collect()
    }

    /// Rows of `pc_rows` that are not empty: list, side and class, whom the class holds, and the rules it satisfies.
    pub fn rows(&self) -> Vec<Entry> {
        let addresses = holders(self.tables.addr_class.iter().map(|(p, c)| (net(p), *c)));
        let ports = |side| {
            let of_side = self.tables.port_class.iter().filter(move |(p, _)| p.key.side == side);
            holders(of_side.map(|(p, c)| (port_key(p), *c)))
        };
        let (dports, sports) = (ports(SIDE_DESTINATION), ports(SIDE_SOURCE));
        let sides = [(SOURCE, &addresses), (DESTINATION, &addresses), (DPORT, &dports), (SPORT, &sports)];
        let mut out = Vec::new();
        for (number, list) in self.tables.lists.iter().enumerate().filter(|(_, l)| l.rule_count > 0) {
            for (side, holders) in &sides {
                let classes = [0].into_iter().chain(holders.keys().copied().filter(|c| *c != 0));
                for class in classes {
                    let row = self.row(list, side, class);
                    if row.iter().all(|word| *word == 0) {
                        continue;
                    }
                    let holds = holders.get(&class).cloned().unwrap_or_else(|| json!("all others"));
                    let value = json!({"holds": holds, "satisfies": self.names(list, row)});
                    out.push(Entry::new(format!("list {number}, {} class {class}", side.name), value));
                }
            }
        }
        out
    }

    /// Classes of addresses by family: a rule of one family asks nothing of its addresses by that.
    fn address_classes(&self) -> [BTreeSet<u32>; 2] {
        let of = |v4: bool| {
            let mine =
                move |prefix: &Prefix<AddrKey>| prefix.key.to_ip().is_some_and(|ip| ip.is_ipv4()) == v4;
            self.tables.addr_class.iter().filter(|(p, _)| mine(p)).map(|(_, c)| *c).collect()
        };
        [of(true), of(false)]
    }

    fn port_classes(&self, side: u8) -> [BTreeSet<u32>; 1] {
        let of_side = self.tables.port_class.iter().filter(|(p, _)| p.key.side == side).map(|(_, c)| *c);
        [[0].into_iter().chain(of_side).collect()]
    }

    /// The bits of a row; its first word only says which others are not zero.
    fn row(&self, list: &ListEntry, side: &Side, class: u32) -> &[u64] {
        let words = list.words as usize;
        let first = (side.base)(list) as usize + class as usize * (1 + words) + 1;
        self.tables.rows.get(first..first + words).unwrap_or_default()
    }

    /// Class → rules that it satisfies and not every class of its group does: those that ask for something here.
    fn asked_by(&self, side: &Side, groups: &[BTreeSet<u32>]) -> BTreeMap<u32, Vec<String>> {
        let mut out: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for list in self.tables.lists.iter().filter(|l| l.rule_count > 0) {
            for classes in groups {
                let mut everybody = vec![u64::MAX; list.words as usize];
                for class in classes {
                    everybody
                        .iter_mut()
                        .zip(self.row(list, side, *class))
                        .for_each(|(all, word)| *all &= word);
                }
                for class in classes {
                    let row = self.row(list, side, *class);
                    let asked: Vec<u64> = row.iter().zip(&everybody).map(|(word, all)| word & !all).collect();
                    let names = out.entry(*class).or_default();
                    for name in self.names(list, &asked) {
                        // Devices that share a policy have it in one list each.
                        if !names.contains(&name) {
                            names.push(name);
                        }
                    }
                }
            }
        }
        out.values_mut().for_each(|names| shorten(names, 0));
        out
    }

    /// Rules of a list by their bits; those that the compiler made of one written rule are one.
    fn names(&self, list: &ListEntry, row: &[u64]) -> Vec<String> {
        let (mut seen, mut out, mut more) = (HashSet::new(), Vec::new(), 0);
        let bits = row.iter().enumerate().flat_map(|(i, word)| {
            (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| i * 64 + bit)
        });
        for bit in bits {
            let Some(rule) = self.tables.rules.get(list.rule_base as usize + bit) else { continue };
            if !seen.insert(rule.identity) {
                continue;
            }
            if out.len() == NAMES {
                more += 1;
                continue;
            }
            let unknown = || format!("identity {:#x}", rule.identity);
            out.push(self.rules.get(&rule.identity).cloned().unwrap_or_else(unknown));
        }
        shorten(&mut out, more);
        out
    }
}

/// Class → its keys.
fn holders(keys: impl Iterator<Item = (String, u32)>) -> BTreeMap<u32, Value> {
    let mut all: BTreeMap<u32, (Vec<String>, usize)> = BTreeMap::new();
    for (key, class) in keys {
        let (names, more) = all.entry(class).or_default();
        if names.len() < NAMES {
            names.push(key);
        } else {
            *more += 1;
        }
    }
    let listed = |(class, (mut names, more)): (u32, (Vec<String>, usize))| {
        shorten(&mut names, more);
        (class, json!(names))
    };
    all.into_iter().map(listed).collect()
}

fn shorten(names: &mut Vec<String>, more: usize) {
    let more = more + names.len().saturating_sub(NAMES + 1);
    if more > 0 {
        names.truncate(NAMES);
        names.push(format!("and {more} more"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::compile;
    use crate::index::Snapshot;
    use crate::policy::{Device, NodeView};
    use crate::resource::{Store, documents_from_str};

    const TEXT: &str = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: h, labels: {role: n}}
spec: {node: n1, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  selector: role == 'n'
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: TCP, source: {nets: [10.0.0.0/8]}, destination: {ports: [80]}}
  - {action: Deny, protocol: TCP, source: {nets: [10.9.0.0/16]}}
  - {action: Log}
";

    fn texts(entries: &[Entry]) -> BTreeMap<String, String> {
        entries.iter().map(|e| (e.key.clone(), e.text())).collect()
    }

    #[test]
    fn classes_are_told_by_the_rules_that_ask_for_them() {
        let mut store = Store::default();
        assert!(!store.apply(documents_from_str("f", TEXT).0).has_errors());
        let device = Device { name: "eth0".into(), ifindex: 2, ..Device::default() };
        let view = NodeView {
            name: "n1".into(),
            devices: [("eth0".to_owned(), device)].into(),
            ..NodeView::default()
        };
        let tables = compile(&Snapshot::build(store.world(), &view)).unwrap();
        let name = |r: &dataplane_common::abi::RuleEntry| {
            let known = tables.names.by_identity(r.identity).and_then(|n| n.index);
            (r.identity, known.map_or_else(|| "end".to_owned(), |i| format!("rule {i}")))
        };
        let rules: BTreeMap<u32, String> = tables.rules.iter().map(name).collect();
        let classes = Classes { tables: &tables, rules: &rules };

        let addresses = texts(&classes.addresses());
        assert!(addresses["10.0.0.0/8"].contains("sourceOf=rule 0"), "{addresses:#?}");
        // The Log rule asks for no address.
        assert!(addresses["10.9.0.0/16"].contains("sourceOf=rule 0,rule 1"), "{addresses:#?}");
        assert!(
            addresses.values().all(|a| a.contains("destinationOf= ")),
            "none asks for one: {addresses:#?}"
        );
        let ports = texts(&classes.ports());
        assert!(ports["destination TCP 80"].contains("of=rule 0,rule 1"), "{ports:#?}");
        assert!(ports["destination TCP, any port"].ends_with("of=rule 1"), "{ports:#?}");

        let rows = texts(&classes.rows());
        let of_ten_nine = rows.values().find(|r| r.starts_with("holds=10.9.0.0/16 ")).unwrap();
        assert!(of_ten_nine.contains("satisfies=rule 0,rule 1,rule 2"), "{rows:#?}");
        let others =
            rows.iter().find(|(k, r)| k.contains(" source class 0") && r.contains("holds=all others"));
        assert!(others.is_some_and(|(_, r)| !r.contains("rule 0") && r.contains("rule 2")), "{rows:#?}");
    }

    #[test]
    fn long_lists_are_counted() {
        let keys = (0..NAMES + 5).map(|i| (format!("k{i}"), 1));
        let held = holders(keys);
        assert_eq!(held[&1].as_array().map(Vec::len), Some(NAMES + 1));
        assert_eq!(held[&1][NAMES], "and 5 more");
    }
}
