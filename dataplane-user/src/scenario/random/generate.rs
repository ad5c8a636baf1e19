//! One seed, one case: a node, its documents, and a long conversation of packets.

use serde_json::{Map, Value, json};

use super::aim::Targets;
use super::case::Case;
use super::dice::Dice;
use super::pool::Pool;
use super::talk::{Packet, Talks};
use super::turn::{self, Turn};
use super::{hostile, objects, policies};
use crate::policy::Severity;
use crate::resource::{self, Store};
use crate::scenario::conversation::Conversations;
use crate::scenario::format::PacketSpec;
use crate::scenario::packet::{self, Macs};

/// What stands in raw frames; nothing judges hardware addresses.
const MACS: Macs = Macs { src: [2, 0xff, 0, 0, 0, 1], dst: [2, 0, 0, 0, 0, 2] };

/// The case of a seed, with about `packets` packets.
pub(super) fn case(seed: u64, packets: usize) -> Case {
    let mut dice = Dice::new(seed);
    let interfaces = interfaces(&mut dice);
    let devices: Vec<&str> = interfaces.iter().filter_map(|i| i["name"].as_str()).collect();
    let mut documents = objects::all(&mut dice, &devices);
    documents.extend(policies::tiers(&mut dice));
    documents.push(policies::profile(&mut dice));
    let count = dice.between(1, 9);
    documents.extend((0..count).map(|i| policies::policy(&mut dice, i)));
    if dice.percent(30) {
        documents.push(policies::long(&mut dice));
    }
    let recheck = dice.percent(30);
    let turn = dice.percent(if recheck { 60 } else { 6 }).then(|| Turn::new(&mut dice, &devices));
    documents.extend(turn.iter().flat_map(|turn| turn.documents.clone()));
    let mut store = Store::default();
    documents.retain(|document| accepted(&mut store, document));
    let (pool, targets) = (Pool::of(&documents), Targets::of(&documents));
    let live = if dice.percent(25) { Some(live(&mut dice, &pool)) } else { None };
    let mut talks = Talks::new(&devices, &pool, &targets, live.as_ref());
    let mut script = Script::default();
    let turned = turn.map(|turn| script.turn(&mut dice, &mut store, &mut talks, &turn));
    let changes = match turned {
        Some(_) => usize::from(recheck && dice.percent(40)),
        None if recheck => dice.between(1, 2),
        None => dice.weighted(&[(5, 0), (3, 1), (1, 2)]),
    };
    let packets = packets.saturating_sub(turned.unwrap_or(0));
    let steps = script.go_on(&mut dice, &mut store, talks, packets, changes, recheck);
    let mut spec = json!({"node": "node1", "interfaces": interfaces, "documents": documents, "steps": steps});
    if recheck {
        spec["onPolicyChange"] = "recheck".into();
    }
    let mut settings = Map::new();
    if dice.percent(8) {
        settings.insert("governLoopback".into(), true.into());
    }
    if dice.percent(8) {
        settings.insert(
            "nodePortAddresses".into(),
            json!([dice.pick(&["10.240.0.0/24", "172.16.0.0/16", "fd00::/16"])]),
        );
    }
    if dice.percent(8) {
        settings.insert("infraTunnels".into(), false.into());
    }
    if !settings.is_empty() {
        spec["settings"] = settings.into();
    }
    if let Some(live) = live {
        spec["conntrack"] = live;
    }
    Case { name: format!("seed-{seed}"), spec }
}

fn interfaces(dice: &mut Dice) -> Vec<Value> {
    let mut all = vec![json!({"name": "eth0", "addresses": ["10.240.0.11/24", "fd00::11/64"]})];
    if dice.percent(30) {
        all[0]["acceptRa"] = true.into();
    }
    if dice.percent(30) {
        all[0]["defaultRoute"] = true.into();
    }
    let more = [
        (50, json!({"name": "eth1", "addresses": ["172.16.0.11/24", "fd01::11/64"]})),
        (
            45,
            json!({"name": "cali1", "workload": {"namespace": "default", "name": "p1", "addresses": ["192.168.1.10"]}}),
        ),
        (
            12,
            json!({"name": "eth0.10", "vlan": {"parent": "eth0", "id": 10}, "addresses": ["10.50.0.11/24"]}),
        ),
        (
            12,
            json!({"name": "vxlan0", "tunnel": {"kind": "vxlan", "port": 4789}, "addresses": ["192.168.1.0/32"]}),
        ),
        (8, json!({"name": "tunl0", "tunnel": {"kind": "ipip"}, "linkLayer": "none"})),
        (8, json!({"name": "veth7"})),
        (6, json!({"name": "br0", "bridgePorts": ["veth7"], "addresses": ["172.17.0.1/16"]})),
    ];
    all.extend(more.into_iter().filter(|(chance, _)| dice.percent(*chance)).map(|(_, device)| device));
    if dice.percent(12) {
        all.push(json!({"name": "lo"}));
    }
    all
}

/// Whether a document is valid; a generator is not always right about that.
fn accepted(store: &mut Store, document: &Value) -> bool {
    let text = document.to_string();
    let (documents, problems) = resource::documents_from_str("random", &text);
    let bad = |problems: &[crate::policy::Problem]| problems.iter().any(|p| p.severity == Severity::Error);
    !bad(&problems) && !bad(&store.apply(documents).problems)
}

fn live(dice: &mut Dice, pool: &Pool) -> Value {
    let one = |dice: &mut Dice, sport: u16| {
        let v6 = dice.percent(30);
        let (own, other) = (Pool::own(dice, v6), pool.any(dice, v6));
        let (src, dst) = if dice.percent(60) { (other, own) } else { (own, other) };
        json!({
            "protocol": dice.pick(&["TCP", "TCP", "UDP"]),
            "src": src.to_string(), "sport": sport,
            "dst": dst.to_string(), "dport": pool.port(dice),
        })
    };
    json!([one(dice, 40000), one(dice, 40001)])
}

/// The steps so far.
#[derive(Default)]
struct Script {
    steps: Vec<Value>,
    numbers: Conversations,
}

impl Script {
    fn packet(&mut self, mut fields: Packet, damage: Option<&mut Dice>) {
        let Ok(spec) = serde_json::from_value::<PacketSpec>(Value::from(fields.clone())) else { return };
        let mut told = self.numbers.clone();
        let Ok(mut frame) = packet::frame(&spec, MACS, &mut told) else { return };
        let mut step = Map::new();
        if let Some(dice) = damage {
            let how = hostile::damage(dice, &mut frame);
            step.insert("name".into(), format!("raw: {how}").into());
            fields.retain(|key, _| matches!(key.as_str(), "in" | "out" | "from"));
            fields.insert("raw".into(), hex(&frame).into());
        } else {
            self.numbers = told;
        }
        step.insert("packet".into(), fields.into());
        self.steps.push(step.into());
    }

    fn apply(&mut self, store: &mut Store, document: &Value) {
        if accepted(store, document) {
            self.steps.push(json!({"apply": [document]}));
        }
    }

    fn delete(&mut self, store: &mut Store, kind: &str, name: &str) {
        if store.delete(kind, "", name).is_ok() {
            self.steps.push(json!({"delete": [format!("{kind}/{name}")]}));
        }
    }

    /// Flows whose policy turns. How many packets that took.
    fn turn(&mut self, dice: &mut Dice, store: &mut Store, talks: &mut Talks, turn: &Turn) -> usize {
        let parts = turn.parts(dice, talks);
        let count = parts.len();
        for part in parts {
            match part {
                turn::Part::Packet(fields) => self.packet(fields, None),
                turn::Part::Apply(document) => self.apply(store, &document),
                turn::Part::Gone => self.delete(store, "GlobalNetworkPolicy", turn::NAME),
            }
        }
        talks.remember(turn.talks());
        count
    }

    /// The rest of the conversation. `shuts`: rather by something that shuts for a while what admitted flows.
    fn go_on(
        mut self,
        dice: &mut Dice,
        store: &mut Store,
        mut talks: Talks,
        packets: usize,
        changes: usize,
        shuts: bool,
    ) -> Vec<Value> {
        // A change of the world costs the kernel engine more than a hundred packets.
        let changes: Vec<usize> = (0..changes).map(|_| dice.below(packets)).collect();
        let mut opens_at = None;
        for number in 0..packets {
            if changes.contains(&number) {
                if shuts && opens_at.is_none() && dice.percent(70) {
                    self.apply(store, &policies::shut(dice));
                    opens_at = Some(number + dice.between(8, 25));
                } else {
                    self.steps.extend(change(dice, store));
                }
                talks.world_changed();
            }
            if opens_at == Some(number) {
                self.delete(store, "GlobalNetworkPolicy", policies::SHUT);
                talks.world_changed();
            }
            if dice.percent(3) {
                // Multiples of 15 s: the kernel's own clock runs on meanwhile, and no timeout is close above one.
                let seconds = dice.one(&[15, 15, 30, 45, 60, 120, 300, 432_000]);
                self.steps.push(json!({"advance": format!("{seconds}s")}));
            }
            let fields = talks.packet(dice);
            let damaged = dice.percent(12);
            self.packet(fields, damaged.then_some(&mut *dice));
        }
        self.steps
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A policy, a network set or the failsafes come, change or go.
fn change(dice: &mut Dice, store: &mut Store) -> Option<Value> {
    if dice.percent(30) {
        let kinds = ["GlobalNetworkPolicy", "GlobalNetworkPolicy", "GlobalNetworkSet", "HostEndpoint"];
        let kind = dice.pick(&kinds);
        let names: Vec<String> = store.list(kind).iter().map(|o| o.key.name.clone()).collect();
        if names.is_empty() {
            return None;
        }
        let name = dice.one(&names);
        store.delete(kind, "", &name).ok()?;
        return Some(json!({"delete": [format!("{kind}/{name}")]}));
    }
    let document = match dice.below(10) {
        0 | 1 => objects::felix(dice),
        2 => objects::network_set(dice, 0),
        _ => {
            let number = dice.below(9);
            policies::policy(dice, number)
        }
    };
    accepted(store, &document).then(|| json!({"apply": [document]}))
}
