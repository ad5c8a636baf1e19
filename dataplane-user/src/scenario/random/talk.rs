//! Random packets that belong together: openings, answers, retransmissions, errors about them, fragments.

use std::collections::VecDeque;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::aim::{self, Targets};
use super::dice::Dice;
use super::pool::{self, Pool};

/// A packet as the fields of a scenario.
pub(super) type Packet = Map<String, Value>;

/// A conversation that may go on.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    pub device: String,
    /// `Some`: the opener is seen at egress; inside, the device it came from.
    pub egress: Option<Option<String>>,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub sport: u16,
    pub dport: u16,
    /// ICMP: type and code of the first packet, where a rule names them.
    pub icmp: Option<(u8, u8)>,
}

/// Conversations so far, and what new ones are made of.
pub(super) struct Talks<'a> {
    devices: &'a [&'a str],
    pool: &'a Pool,
    targets: &'a Targets,
    talks: Vec<Talk>,
    /// What is to come of exchanges that begin by the book.
    planned: VecDeque<Packet>,
    /// So many of the next packets go on with what was begun.
    going_on: usize,
}

impl<'a> Talks<'a> {
    /// `live`: flows that were adopted, as a scenario lists them.
    pub(super) fn new(
        devices: &'a [&'a str],
        pool: &'a Pool,
        targets: &'a Targets,
        live: Option<&Value>,
    ) -> Self {
        let live = live.and_then(Value::as_array).into_iter().flatten();
        let talks = live.filter_map(|entry| adopted(entry, devices)).collect();
        Self { devices, pool, targets, talks, planned: VecDeque::new(), going_on: 0 }
    }

    /// The world changed: what that means for what was begun is looked at first.
    pub(super) fn world_changed(&mut self) {
        self.planned.clear();
        self.going_on = 8;
    }

    /// Rather the first device: it has a host endpoint most of the time.
    fn device(&self, dice: &mut Dice) -> &'a str {
        if dice.percent(50) { self.devices[0] } else { dice.pick(self.devices) }
    }

    /// The next packet.
    pub(super) fn packet(&mut self, dice: &mut Dice) -> Packet {
        if !self.planned.is_empty() && dice.percent(75) {
            return self.planned.pop_front().unwrap_or_default();
        }
        let again = !self.talks.is_empty() && (self.going_on > 0 || dice.percent(50));
        self.going_on = self.going_on.saturating_sub(1);
        if !again {
            let talk = self.open(dice);
            if self.planned.is_empty() && dice.percent(40) {
                let plan = if dice.percent(70) { exchange(&talk) } else { train(&talk, dice) };
                self.planned.extend(plan);
            }
            let packet = self.planned.pop_front().unwrap_or_else(|| first(&talk, dice));
            self.talks.push(talk);
            return packet;
        }
        // Rather one of the last.
        let back = dice.below(self.talks.len().min(6));
        let talk = self.talks[self.talks.len() - 1 - back].clone();
        self.goes_on(&talk, dice)
    }

    /// Flows that were begun elsewhere go on here.
    pub(super) fn remember(&mut self, talks: &[Talk]) {
        self.talks.extend_from_slice(talks);
    }

    /// A packet of a flow that was begun, or about it.
    pub(super) fn goes_on(&self, talk: &Talk, dice: &mut Dice) -> Packet {
        match dice.below(20) {
            0..=6 => self.reply(talk, dice),
            7..=10 => data(talk, dice),
            11 | 12 => first(talk, dice),
            13 | 14 => self.other_leg(talk, dice),
            15 | 16 => self.error_about(talk, dice),
            17 => flipped_syn(talk, dice),
            _ => fragment(talk, dice),
        }
    }

    fn open(&mut self, dice: &mut Dice) -> Talk {
        let v6 = dice.percent(35);
        let device = self.device(dice).to_owned();
        if dice.percent(4) {
            return self.between_nodes(dice, device);
        }
        if dice.percent(50)
            && let Some(talk) = self.aimed(dice, &device)
        {
            return talk;
        }
        let egress = match dice.below(10) {
            0..=6 => None,
            7 | 8 => Some(None),
            _ => Some(Some(dice.pick(self.devices).to_owned())),
        };
        let near = if dice.percent(65) { Pool::own(dice, v6) } else { self.pool.any(dice, v6) };
        let far = self.pool.any(dice, v6);
        let (src, dst) = if egress.is_none() { (far, near) } else { (near, far) };
        // Nobody pings itself from outside: both directions would be one.
        let dst = if src == dst { Pool::other_than(dice, src) } else { dst };
        let protocol = match dice.below(20) {
            0..=8 => 6,
            9..=13 => 17,
            14 | 15 => 132,
            16 => dice.one(&[2, 4, 41, 47, 50, 136, 200, 0, 59]),
            _ if v6 => 58,
            _ => 1,
        };
        // A few client ports, so that tuples meet again.
        let sport = if dice.percent(70) { dice.one(&[40000, 40001, 1024]) } else { self.pool.port(dice) };
        Talk { device, egress, src, dst, protocol, sport, dport: self.pool.port(dice), icmp: None }
    }

    /// What a rule of the documents is about.
    fn aimed(&self, dice: &mut Dice, device: &str) -> Option<Talk> {
        let aim = self.targets.aim(dice)?;
        let (src, dst) = aim::ends(&aim, self.pool, dice);
        let dst = if src == dst { Pool::other_than(dice, src) } else { dst };
        let egress = aim.egress.then(|| (!aim.local).then(|| dice.pick(self.devices).to_owned()));
        let any_protocol =
            if aim.dport.or(aim.sport).is_some() { vec![6, 17, 132] } else { vec![6, 6, 17, 47] };
        let protocol = aim.protocol.unwrap_or_else(|| dice.one(&any_protocol));
        let sport = aim.sport.unwrap_or_else(|| dice.one(&[40000, 40001, 1024]));
        let dport = aim.dport.unwrap_or_else(|| self.pool.port(dice));
        Some(Talk { device: device.to_owned(), egress, src, dst, protocol, sport, dport, icmp: aim.icmp })
    }

    /// What a tunnel to another node would send (D39).
    fn between_nodes(&self, dice: &mut Dice, device: String) -> Talk {
        let (own, peer) = dice.one(&[("10.240.0.11", "10.240.0.12"), ("fd00::11", "fd00::12")]);
        let (protocol, dport) = dice.one(&[(17, 4789), (17, 4789), (4, 0), (17, 51820)]);
        let any = || IpAddr::from([0, 0, 0, 0]);
        let (own, peer) = (own.parse().unwrap_or_else(|_| any()), peer.parse().unwrap_or_else(|_| any()));
        let egress = dice.percent(40).then_some(None);
        let (src, dst) = if egress.is_some() { (own, peer) } else { (peer, own) };
        Talk { device, egress, src, dst, protocol, sport: 40000, dport, icmp: None }
    }

    fn reply(&self, talk: &Talk, dice: &mut Dice) -> Packet {
        let mut packet = Map::new();
        let device = if dice.percent(80) { &talk.device } else { dice.pick(self.devices) };
        let hook = if talk.egress.is_none() { "out" } else { "in" };
        packet.insert(hook.into(), device.into());
        if hook == "out" && dice.percent(15) {
            packet.insert("from".into(), dice.pick(self.devices).into());
        }
        addresses(&mut packet, talk.dst, talk.src, talk.protocol);
        match talk.protocol {
            1 | 58 => {
                let kind = if talk.protocol == 58 { 129 } else { dice.one(&[0, 0, 14]) };
                packet.insert("icmp".into(), json!({"type": kind, "id": talk.sport}));
            }
            _ => ports(&mut packet, talk, false),
        }
        if talk.protocol == 6 {
            let flags =
                dice.pick(&["SYN+ACK", "SYN+ACK", "SYN+ACK", "ACK", "RST+ACK", "RST", "FIN+ACK", "PSH+ACK"]);
            packet.insert("flags".into(), flags.into());
            odd_numbers(&mut packet, dice);
        }
        if talk.protocol == 132 {
            packet.insert("chunk".into(), dice.pick(&["INIT_ACK", "DATA", "ABORT", "INIT"]).into());
        }
        packet
    }

    /// The same packet where it leaves, or comes in elsewhere.
    fn other_leg(&self, talk: &Talk, dice: &mut Dice) -> Packet {
        let mut packet = first(talk, dice);
        packet.retain(|key, _| !matches!(key.as_str(), "in" | "out" | "from"));
        let device = dice.pick(self.devices);
        if talk.egress.is_none() {
            packet.insert("out".into(), device.into());
            packet.insert("from".into(), talk.device.as_str().into());
        } else {
            packet.insert("in".into(), device.into());
        }
        if talk.protocol == 6 && dice.percent(50) {
            packet.insert("flags".into(), dice.pick(&["ACK", "PSH+ACK", "RST", "FIN+ACK"]).into());
        }
        packet
    }

    fn error_about(&self, talk: &Talk, dice: &mut Dice) -> Packet {
        let v6 = talk.src.is_ipv6();
        let about_reply = dice.percent(30);
        let mut inner = Map::new();
        let (src, dst) = if about_reply { (talk.dst, talk.src) } else { (talk.src, talk.dst) };
        addresses(&mut inner, src, dst, talk.protocol);
        match talk.protocol {
            1 => drop(inner.insert("icmp".into(), json!({"type": dice.one(&[8, 0, 3]), "id": talk.sport}))),
            58 => {
                drop(inner.insert("icmp".into(), json!({"type": dice.one(&[128, 129, 1]), "id": talk.sport})))
            }
            _ => ports(&mut inner, talk, !about_reply),
        }
        if dice.percent(10) {
            inner.insert("dport".into(), self.pool.port(dice).into());
        }
        if dice.percent(8) {
            inner.insert("fragment".into(), json!({"id": 7, "offset": dice.one(&[0, 8]), "more": true}));
        }
        let mut packet = Map::new();
        // What was seen at ingress is answered at egress; an error about the answer comes in again.
        let out = talk.egress.is_none() != about_reply;
        packet.insert(if out { "out" } else { "in" }.into(), talk.device.as_str().into());
        if out && dice.percent(20) {
            packet.insert("from".into(), dice.pick(self.devices).into());
        }
        let router = if dice.percent(50) { dst } else { self.pool.any(dice, v6) };
        let to = if dice.percent(85) { src } else { self.pool.any(dice, v6) };
        addresses(&mut packet, router, to, if v6 { 58 } else { 1 });
        let kind = if v6 { dice.one(&[1, 2, 3, 4]) } else { dice.one(&[3, 3, 11, 12, 4, 5]) };
        packet.insert("icmp".into(), json!({"type": kind, "code": dice.below(5)}));
        packet.insert("inner".into(), inner.into());
        packet
    }
}

/// A conversation that was adopted. One end is an own address.
fn adopted(entry: &Value, devices: &[&str]) -> Option<Talk> {
    let ip = |key: &str| entry[key].as_str()?.parse::<IpAddr>().ok();
    let port = |key: &str| u16::try_from(entry[key].as_u64()?).ok();
    let (src, dst) = (ip("src")?, ip("dst")?);
    let own = pool::OWN.iter().any(|own| own.parse().is_ok_and(|own: IpAddr| own == src));
    let protocol = if entry["protocol"] == "UDP" { 17 } else { 6 };
    Some(Talk {
        device: (*devices.first()?).to_owned(),
        egress: own.then_some(None),
        src,
        dst,
        protocol,
        sport: port("sport")?,
        dport: port("dport")?,
        icmp: None,
    })
}

fn addresses(packet: &mut Packet, src: IpAddr, dst: IpAddr, protocol: u8) {
    let name = match protocol {
        6 => json!("TCP"),
        17 => json!("UDP"),
        1 => json!("ICMP"),
        58 => json!("ICMPv6"),
        132 => json!("SCTP"),
        136 => json!("UDPLite"),
        other => json!(other),
    };
    packet.insert("src".into(), src.to_string().into());
    packet.insert("dst".into(), dst.to_string().into());
    packet.insert("protocol".into(), name);
}

fn ports(packet: &mut Packet, talk: &Talk, original: bool) {
    if matches!(talk.protocol, 6 | 17 | 132 | 136) {
        let (sport, dport) = if original { (talk.sport, talk.dport) } else { (talk.dport, talk.sport) };
        packet.insert("sport".into(), sport.into());
        packet.insert("dport".into(), dport.into());
    }
}

fn place(talk: &Talk) -> Packet {
    let mut packet = Map::new();
    let hook = if talk.egress.is_none() { "in" } else { "out" };
    packet.insert(hook.into(), talk.device.as_str().into());
    if let Some(Some(from)) = &talk.egress {
        packet.insert("from".into(), from.as_str().into());
    }
    packet
}

/// A TCP segment that does not continue what was said.
fn odd_numbers(packet: &mut Packet, dice: &mut Dice) {
    for key in ["seq", "ack"] {
        if dice.percent(6) {
            packet.insert(key.into(), dice.one(&[0u32, 1000, 1001, 5001, 77777, u32::MAX]).into());
        }
    }
}

fn first(talk: &Talk, dice: &mut Dice) -> Packet {
    let mut packet = place(talk);
    addresses(&mut packet, talk.src, talk.dst, talk.protocol);
    ports(&mut packet, talk, true);
    match talk.protocol {
        6 => {
            let flags = dice.weighted(&[
                (70, "SYN"),
                (5, "ACK"),
                (4, "SYN+ACK"),
                (4, "RST"),
                (3, "FIN+ACK"),
                (3, "SYN+ECE+CWR"),
                (2, "SYN+PSH"),
                (2, "SYN+FIN"),
                (2, "SYN+RST"),
                (2, "NONE"),
                (2, "FIN"),
                (2, "FIN+PSH+URG"),
                (1, "RST+ACK"),
            ]);
            packet.insert("flags".into(), flags.into());
            if flags.starts_with("SYN") && dice.percent(8) {
                packet.insert("payload".into(), 10.into());
            }
        }
        1 | 58 => {
            let v6 = talk.protocol == 58;
            let kind = match (v6, dice.below(10)) {
                (false, 0..=6) => 8,
                (false, _) => dice.one(&[0, 3, 5, 9, 11, 13, 14, 255]),
                (true, 0..=4) => 128,
                (true, _) => dice.one(&[129, 130, 131, 133, 134, 135, 136, 137, 143, 1, 200]),
            };
            let any = (kind, dice.one(&[0, 0, 0, 1]));
            let (kind, code) = talk.icmp.filter(|_| dice.percent(80)).unwrap_or(any);
            packet.insert("icmp".into(), json!({"type": kind, "code": code, "id": talk.sport}));
        }
        132 if dice.percent(20) => {
            packet.insert("chunk".into(), dice.pick(&["DATA", "ABORT", "INIT_ACK", "COOKIE_ECHO"]).into());
        }
        _ => {}
    }
    if dice.percent(if talk.protocol == 58 { 20 } else { 6 }) {
        packet.insert("ttl".into(), dice.one(&[0, 1, 254, 255]).into());
    }
    if dice.percent(4) {
        packet.insert(
            "vlan".into(),
            dice.one(&[json!([0]), json!([0, 0]), json!([10]), json!([0, 10]), json!([0, 0, 0])]),
        );
    }
    packet
}

/// An exchange from its beginning to its end, as two honest ends have it.
pub(super) fn exchange(talk: &Talk) -> Vec<Packet> {
    let packet = |original: bool, fields: &[(&str, Value)]| {
        let mut packet = place(talk);
        let (mut src, mut dst) = (talk.src, talk.dst);
        if !original {
            (src, dst) = (dst, src);
            let device = packet.remove("in").or_else(|| packet.remove("out")).unwrap_or_default();
            packet.remove("from");
            packet.insert(if talk.egress.is_none() { "out" } else { "in" }.into(), device);
        }
        addresses(&mut packet, src, dst, talk.protocol);
        ports(&mut packet, talk, original);
        packet.extend(fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        packet
    };
    let steps: Vec<(bool, &str, Value)> = match talk.protocol {
        6 => [
            (true, "SYN"),
            (false, "SYN+ACK"),
            (true, "ACK"),
            (true, "PSH+ACK"),
            (false, "ACK"),
            (true, "FIN+ACK"),
        ]
        .into_iter()
        .chain([(false, "FIN+ACK"), (true, "ACK")])
        .map(|(original, flags)| (original, "flags", flags.into()))
        .collect(),
        132 => [(true, "INIT"), (false, "INIT_ACK"), (true, "COOKIE_ECHO"), (true, "DATA"), (false, "DATA")]
            .into_iter()
            .map(|(original, chunk)| (original, "chunk", chunk.into()))
            .collect(),
        1 | 58 => [true, false, true, false]
            .into_iter()
            .map(|original| {
                let kind =
                    if talk.protocol == 58 { 129 - u8::from(original) } else { 8 * u8::from(original) };
                (original, "icmp", json!({"type": kind, "id": talk.sport}))
            })
            .collect(),
        _ => {
            [true, false, true, false].into_iter().map(|original| (original, "payload", json!(16))).collect()
        }
    };
    steps.into_iter().map(|(original, key, value)| packet(original, &[(key, value)])).collect()
}

/// A datagram in pieces, sometimes out of order, doubled, or in each other's way.
fn train(talk: &Talk, dice: &mut Dice) -> Vec<Packet> {
    let id = dice.between(1, 3);
    let mut begin = exchange(talk).swap_remove(0);
    begin.remove("payload");
    let piece = |offset: usize, more: bool| {
        let mut packet = begin.clone();
        packet.insert("fragment".into(), json!({"id": id, "offset": offset, "more": more}));
        packet
    };
    let mut pieces = vec![piece(0, true), piece(32, true), piece(40, false)];
    match dice.below(6) {
        0 => pieces.swap(0, 1),
        1 => pieces.push(piece(0, true)),
        2 => pieces.insert(1, piece(dice.one(&[8, 16]), true)),
        3 => {
            let mut other = piece(0, true);
            other.insert("dport".into(), 9.into());
            pieces.insert(2, other);
        }
        _ => {}
    }
    pieces
}

/// The opener goes on.
fn data(talk: &Talk, dice: &mut Dice) -> Packet {
    let mut packet = first(talk, dice);
    if talk.protocol == 6 {
        packet.insert(
            "flags".into(),
            dice.pick(&["ACK", "ACK", "PSH+ACK", "FIN+ACK", "RST", "RST+ACK"]).into(),
        );
        packet.remove("payload");
        odd_numbers(&mut packet, dice);
    }
    if talk.protocol == 132 {
        packet.insert("chunk".into(), dice.pick(&["DATA", "COOKIE_ECHO", "INIT"]).into());
    }
    packet
}

/// A SYN (or first packet) from the other end.
fn flipped_syn(talk: &Talk, dice: &mut Dice) -> Packet {
    let turned = Talk {
        egress: if talk.egress.is_none() { Some(None) } else { None },
        src: talk.dst,
        dst: talk.src,
        sport: talk.dport,
        dport: talk.sport,
        ..talk.clone()
    };
    first(&turned, dice)
}

/// A piece of a datagram; few ids, so that pieces meet.
fn fragment(talk: &Talk, dice: &mut Dice) -> Packet {
    let mut packet = first(talk, dice);
    if talk.protocol == 6 && dice.percent(70) {
        packet.insert("flags".into(), "SYN".into());
    }
    let offset = dice.weighted(&[(10, 0), (2, 8), (2, 16), (4, 24), (3, 32), (1, 65528)]);
    let more = dice.percent(if offset == 0 { 90 } else { 40 });
    packet.insert("fragment".into(), json!({"id": dice.between(1, 3), "offset": offset, "more": more}));
    if dice.percent(15) {
        packet.insert("payload".into(), dice.one(&[0, 4, 8, 16, 30]).into());
    }
    packet
}
