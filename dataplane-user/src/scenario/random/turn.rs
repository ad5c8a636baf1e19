//! Flows whose policy turns under them (D15): what admitted them moves to another list, tier or place, is about their
//! far end no more, or goes, twice, and packets of both directions follow each time.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::dice::Dice;
use super::rules;
use super::talk::{Packet, Talk, Talks, exchange};

const CALICO: &str = "projectcalico.org/v3";
/// Name of the policy, its tier and its network set.
pub(super) const NAME: &str = "turn";
/// Addresses that this node forwards to.
const BEHIND: [&str; 2] = ["192.0.2.55", "fd01::99"];
/// So many times the policy turns.
const TURNS: usize = 2;

/// A part of such a case.
#[derive(Debug)]
pub(super) enum Part {
    Packet(Packet),
    /// Documents that come or change.
    Apply(Value),
    /// The policy goes.
    Gone,
}

/// The flows, and the documents that they begin under.
#[derive(Debug)]
pub(super) struct Turn {
    pub documents: Vec<Value>,
    talks: Vec<Talk>,
    /// Where what is forwarded leaves.
    leaves: String,
}

/// What a version of the policy says about a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Allow,
    Deny,
    /// Of the answers' tuple, which nothing in this direction has; the flow itself is allowed behind it.
    DenyMirror,
    /// Only the answers' tuple is allowed.
    AllowMirror,
    Nothing,
}

impl Turn {
    pub(super) fn new(dice: &mut Dice, devices: &[&str]) -> Self {
        let device = devices[0];
        let leaves = if dice.percent(60) { device } else { dice.pick(devices) }.to_owned();
        let talks: Vec<Talk> = (0..3).map(|number| talk(dice, device, number)).collect();
        let action = dice.pick(&["Pass", "Pass", "Deny"]);
        let mut documents = vec![
            // The other endpoints of the device have smaller names.
            json!({"apiVersion": CALICO, "kind": "HostEndpoint", "metadata": {"name": "zz-turn"},
                "spec": {"node": "node1", "interfaceName": device}}),
            json!({"apiVersion": CALICO, "kind": "Tier", "metadata": {"name": NAME},
                "spec": {"order": -1, "defaultAction": action}}),
            set(dice, &talks, false),
            policy(dice, &talks, &[Fate::Allow; 3]),
        ];
        if dice.percent(60) {
            documents.push(watch(dice));
        }
        Self { documents, talks, leaves }
    }

    /// The flows begin, and twice the policy turns and they go on.
    pub(super) fn parts(&self, dice: &mut Dice, talks: &Talks) -> Vec<Part> {
        let mut parts = Vec::new();
        for talk in &self.talks {
            let said = dice.between(2, 4);
            let said = exchange(talk).into_iter().take(said);
            parts.extend(said.flat_map(|packet| self.legs(talk, packet)).map(Part::Packet));
        }
        for _ in 0..TURNS {
            parts.push(self.change(dice));
            for _ in 0..dice.between(6, 9) {
                let talk = dice.one(&self.talks);
                if dice.percent(70) {
                    let packet = by_the_book(dice, &talk);
                    parts.extend(self.legs(&talk, packet).into_iter().map(Part::Packet));
                } else {
                    parts.push(Part::Packet(talks.goes_on(&talk, dice)));
                }
            }
        }
        parts
    }

    /// What is forwarded leaves too.
    fn legs(&self, talk: &Talk, packet: Packet) -> Vec<Packet> {
        let Some(device) = packet.get("in").filter(|_| is_behind(talk.dst) && talk.egress.is_none()) else {
            return vec![packet];
        };
        let mut leg = packet.clone();
        leg.insert("from".into(), device.clone());
        leg.insert("out".into(), self.leaves.as_str().into());
        leg.remove("in");
        vec![packet, leg]
    }

    pub(super) fn talks(&self) -> &[Talk] {
        &self.talks
    }

    fn change(&self, dice: &mut Dice) -> Part {
        match dice.below(10) {
            0 | 1 => Part::Apply(set(dice, &self.talks, true)),
            2 => Part::Gone,
            _ => {
                let fates = [Fate::Allow, Fate::Deny, Fate::DenyMirror, Fate::AllowMirror, Fate::Nothing];
                let weights = [25, 20, 25, 15, 15];
                let all: Vec<(usize, Fate)> = weights.into_iter().zip(fates).collect();
                let fates = [0; 3].map(|_| dice.weighted(&all));
                Part::Apply(policy(dice, &self.talks, &fates))
            }
        }
    }
}

fn talk(dice: &mut Dice, device: &str, number: u16) -> Talk {
    let v6 = dice.percent(30);
    let ip = |v4: &str, six: &str| {
        let text = if v6 { six } else { v4 };
        text.parse().unwrap_or(IpAddr::from([192, 0, 2, 55]))
    };
    let far =
        if number == 0 { ip("203.0.113.7", "2001:db8::7") } else { ip("198.51.100.1", "2001:db8:0:1::1") };
    let own = ip("10.240.0.11", "fd00::11");
    let behind = ip(BEHIND[0], BEHIND[1]);
    let (egress, src, dst) = match dice.below(10) {
        0..=3 => (None, far, own),
        4 | 5 => (Some(None), own, far),
        6..=8 => (None, far, behind),
        _ => (Some(Some(device.to_owned())), behind, far),
    };
    let protocol = match dice.below(10) {
        0..=5 => 6,
        6..=8 => 17,
        _ => 132,
    };
    // The ends tell the directions apart.
    let (sport, dport) = (50_000 + number, dice.one(&[5000, 8080, 8443]));
    Talk { device: device.to_owned(), egress, src, dst, protocol, sport, dport, icmp: None }
}

/// In front of flows, without a word about any: it looks packets up before their flow is found.
fn watch(dice: &mut Dice) -> Value {
    let mut list = || -> Value {
        let count = dice.between(1, 2);
        (0..count).map(|_| rules::narrow(dice)).collect()
    };
    let (ingress, egress) = (list(), list());
    json!({"apiVersion": CALICO, "kind": "GlobalNetworkPolicy", "metadata": {"name": "watch"}, "spec": {
        "order": -40, "selector": "all()", "doNotTrack": true, "applyOnForward": true,
        "ingress": ingress, "egress": egress,
    }})
}

/// The far ends; `fewer`: perhaps not all of them.
fn set(dice: &mut Dice, talks: &[Talk], fewer: bool) -> Value {
    let mut nets = vec!["198.18.9.0/24".to_owned()];
    for talk in talks {
        let net = far(talk).to_string();
        let goes = fewer && dice.percent(60);
        if !goes && !nets.contains(&net) {
            nets.push(net);
        }
    }
    json!({"apiVersion": CALICO, "kind": "GlobalNetworkSet",
        "metadata": {"name": NAME, "labels": {"side": "far"}}, "spec": {"nets": nets}})
}

fn is_behind(ip: IpAddr) -> bool {
    BEHIND.iter().any(|text| text.parse() == Ok(ip))
}

fn far(talk: &Talk) -> IpAddr {
    if talk.egress.is_none() { talk.src } else { talk.dst }
}

fn policy(dice: &mut Dice, talks: &[Talk], fates: &[Fate; 3]) -> Value {
    let (mut ingress, mut egress) = (Vec::new(), Vec::new());
    // Another place in the list: the next word of a compiled row, too.
    let before = dice.one(&[0, 0, 1, 3, 63, 64]);
    for list in [&mut ingress, &mut egress] {
        list.extend((0..before).map(|_| rules::narrow(dice)));
    }
    for (talk, fate) in talks.iter().zip(fates) {
        let list = if talk.egress.is_none() { &mut ingress } else { &mut egress };
        let mut rule = |action: &str, original: bool| list.push(about(dice, talk, action, original));
        match fate {
            Fate::Allow => rule("Allow", true),
            Fate::Deny => rule("Deny", true),
            Fate::DenyMirror => {
                rule("Deny", false);
                rule("Allow", true);
            }
            Fate::AllowMirror => {
                rule("Allow", false);
                rule("Deny", true);
            }
            Fate::Nothing => {}
        }
        // Where it leaves, what is forwarded may go on mostly.
        if is_behind(talk.dst) && talk.egress.is_none() {
            let action = if *fate == Fate::Allow || dice.percent(60) { "Allow" } else { "Deny" };
            egress.push(about(dice, talk, action, true));
        }
    }
    let list = dice.pick(&["preDNAT", "applyOnForward", "applyOnForward", "normal"]);
    let mut spec = json!({"order": dice.one(&[-30, -31]), "selector": "all()", "ingress": ingress});
    if list != "preDNAT" && !egress.is_empty() {
        spec["egress"] = egress.into();
    }
    if list != "normal" {
        spec["applyOnForward"] = true.into();
        spec[list] = true.into();
    }
    if dice.percent(75) {
        spec["tier"] = NAME.into();
    }
    let mut metadata = Map::from_iter([("name".to_owned(), NAME.into())]);
    if dice.percent(20) {
        let wanted = dice.pick(&["keep", "recheck", "recheck"]);
        metadata.insert("annotations".into(), json!({"portcullis.dev/on-policy-change": wanted}));
    }
    json!({"apiVersion": CALICO, "kind": "GlobalNetworkPolicy", "metadata": metadata, "spec": spec})
}

/// A rule about the packets of one direction of a flow, in terms that the other direction does not have.
fn about(dice: &mut Dice, talk: &Talk, action: &str, original: bool) -> Value {
    let (mut from, mut to) = ((talk.src, talk.sport), (talk.dst, talk.dport));
    if !original {
        (from, to) = (to, from);
    }
    let far = far(talk);
    let mut end = |(ip, port): (IpAddr, u16), server: bool| {
        let mut side = Map::new();
        if dice.percent(if server { 85 } else { 20 }) {
            side.insert("ports".into(), json!([port]));
        }
        if ip == far && dice.percent(30) {
            side.insert("selector".into(), "side == 'far'".into());
        } else if dice.percent(45) {
            side.insert("nets".into(), json!([format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })]));
        }
        side
    };
    let (source, destination) = (end(from, !original), end(to, original));
    json!({"action": action, "protocol": talk.protocol, "source": source, "destination": destination})
}

/// A packet that honest ends send once they have spoken.
fn by_the_book(dice: &mut Dice, talk: &Talk) -> Packet {
    let mut said = exchange(talk);
    let (data, reply) = match talk.protocol {
        6 => (3, 4),
        132 => (3, 4),
        _ => (2, 1),
    };
    said.swap_remove(if dice.percent(60) { reply } else { data })
}

#[cfg(test)]
mod tests {
    use super::super::{aim::Targets, pool::Pool};
    use super::*;

    #[test]
    fn the_policy_changes_under_flows_and_packets_follow() {
        let (pool, targets) = (Pool::of(&[]), Targets::of(&[]));
        let talks = Talks::new(&["eth0"], &pool, &targets, None);
        let mut legs = 0;
        for seed in 0..50 {
            let mut dice = Dice::new(seed);
            let turn = Turn::new(&mut dice, &["eth0", "eth1"]);
            let parts = turn.parts(&mut dice, &talks);
            let changes: Vec<usize> =
                (0..parts.len()).filter(|i| !matches!(parts[*i], Part::Packet(_))).collect();
            assert_eq!(changes.len(), TURNS, "seed {seed}");
            assert!(
                changes[0] >= 6 && changes[1] > changes[0] + 5 && parts.len() > changes[1] + 5,
                "seed {seed}"
            );
            // A mirror's rule must not be about the flow itself.
            assert!(turn.talks().iter().all(|talk| (talk.src, talk.sport) != (talk.dst, talk.dport)));
            let leaves = |part: &Part| matches!(part, Part::Packet(p) if p.contains_key("from"));
            legs += parts.iter().filter(|part| leaves(part)).count();
        }
        assert!(legs > 100, "{legs}");
    }
}
