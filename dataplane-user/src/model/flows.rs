//! Flows: what was admitted, and what that lets pass (D15–D18, D37, D42). Nothing is ever evicted here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use dataplane_common::abi::Hook;

use super::frame::{ACK, FIN, Icmp, Packet, Part, Quoted, RST, SYN, Tcp};
use crate::policy::OnPolicyChange;
use crate::scenario::engine::{FlowTuple, LiveFlow};

/// A flow's name, in its original direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowId {
    pub protocol: u8,
    /// The request's type for ICMP, else 0: a key space apart from ports.
    pub space: u8,
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
}

impl FlowId {
    fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, ..self }
    }
}

/// What a packet tells of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub id: FlowId,
    /// An echo says by its type which way it goes, and `id` is the asker's: a question in the other direction is
    /// another flow, even with the same identifier. `None`: the flow table tells.
    way: Option<Way>,
}

impl Seen {
    /// `None`: messages that belong to no flow of their own.
    pub(crate) fn of(packet: &Packet) -> Option<Self> {
        if matches!(packet.part, Part::Later { .. }) {
            return None;
        }
        Self::of_tuple(packet.protocol, packet.src, packet.dst, packet.ports, packet.icmp)
    }
    fn of_quoted(quoted: &Quoted) -> Option<Self> {
        Self::of_tuple(quoted.protocol, quoted.src, quoted.dst, quoted.ports, quoted.icmp)
    }
    fn of_tuple(
        protocol: u8,
        src: IpAddr,
        dst: IpAddr,
        ports: Option<(u16, u16)>,
        icmp: Option<Icmp>,
    ) -> Option<Self> {
        let Some(icmp) = icmp else {
            let (sport, dport) = ports.unwrap_or((0, 0));
            let id = FlowId { protocol, space: 0, src: (src, sport), dst: (dst, dport) };
            return Some(Self { id, way: None });
        };
        let space = icmp_request(src.is_ipv6(), icmp.kind)?;
        let id = FlowId { protocol, space, src: (src, icmp.id), dst: (dst, icmp.id) };
        Some(match space == icmp.kind {
            true => Self { id, way: Some(Way::Original) },
            false => Self { id: id.reversed(), way: Some(Way::Reply) },
        })
    }
}

/// The request type that this echo or timestamp message belongs to.
pub(crate) fn icmp_request(v6: bool, kind: u8) -> Option<u8> {
    match (v6, kind) {
        (false, 8 | 0) => Some(8),
        (false, 13 | 14) => Some(13),
        (true, 128 | 129) => Some(128),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Original,
    Reply,
}

/// How far one direction of a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Side {
    /// Nothing seen.
    #[default]
    Silent,
    /// SYN, or SYN+ACK.
    Opening,
    Open,
    Fin,
    Reset,
}

/// The acknowledgement numbers that answer a SYN: with or without the data it carried.
type Answer = (u32, u32);

fn answers(tcp: &Tcp, answer: Answer) -> bool {
    tcp.ack.wrapping_sub(answer.0) <= answer.1.wrapping_sub(answer.0)
}
fn answer_to(syn: &Tcp) -> Answer {
    let first = syn.seq.wrapping_add(1);
    (first, first.wrapping_add(syn.payload))
}

/// An admitted SYN that changes nothing until the peer answers it.
#[derive(Clone, Debug)]
struct Pending {
    way: Way,
    answer: Answer,
    hooks: u8,
    /// Where it was judged, and the SYN itself: there the flow began, once it is answered.
    device: String,
    hook: Hook,
    from: Option<String>,
    first: Packet,
}

#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub id: FlowId,
    /// Bits of the hooks that admitted its original direction.
    pub hooks: u8,
    /// A reply was seen.
    pub confirmed: bool,
    /// Began in grace or by a failsafe with something other than a SYN: any reply confirms it.
    pub midway: bool,
    /// Epoch in which policy last judged it.
    pub epoch: u64,
    /// The annotation of the policy that admitted it.
    pub recheck: Option<OnPolicyChange>,
    /// Where its first packet was judged, and that packet; an adopted flow has none until it is known. Then `from` only
    /// says whether it is forwarded.
    pub device: String,
    pub hook: Hook,
    pub from: Option<String>,
    pub first: Option<Packet>,
    /// Original and reply direction.
    sides: [Side; 2],
    syn: Option<Answer>,
    /// A SYN on a confirmed flow, in either direction, not yet answered (D16).
    pending: Option<Pending>,
    /// Next sequence number of each direction, where known.
    next: [Option<u32>; 2],
    last_seen: Duration,
}

impl Flow {
    /// Times of Linux conntrack.
    fn lifetime(&self) -> Duration {
        Duration::from_secs(match self.id.protocol {
            6 => self.tcp_lifetime(),
            17 | 136 if self.confirmed => 120,
            17 | 136 | 1 | 58 => 30,
            132 if self.confirmed => 210,
            132 => 3,
            _ => 600,
        })
    }

    fn tcp_lifetime(&self) -> u64 {
        let any = |side| self.sides.contains(&side);
        match self.sides {
            _ if any(Side::Reset) => 10,
            _ if any(Side::Fin) => 120,
            [Side::Opening, Side::Silent] => 120,
            [_, Side::Silent] => 300,
            // The opener's last ACK is to come; behind it the answerer may be silent for long.
            [Side::Opening, _] => 60,
            _ => 432_000,
        }
    }

    /// Whether nothing came back yet.
    pub(crate) fn unanswered(&self) -> bool {
        !self.confirmed && !self.midway && self.sides[1] == Side::Silent
    }

    /// Whether a reply to a half-open connection is a believable one (T-12).
    pub(crate) fn believable(&self, packet: &Packet) -> bool {
        match (packet.tcp, self.unanswered(), self.syn) {
            (Some(tcp), true, Some(syn)) => {
                let kind = tcp.flags & (SYN | RST) != 0;
                kind && tcp.flags & ACK != 0 && answers(&tcp, syn)
            }
            _ => true,
        }
    }

    /// Whether this is the SYN+ACK that the pending SYN waits for.
    pub(crate) fn answers_pending(&self, packet: &Packet, way: Way) -> bool {
        let (Some(tcp), Some(pending)) = (packet.tcp, &self.pending) else { return false };
        pending.way != way && tcp.flags & (SYN | ACK) == SYN | ACK && answers(&tcp, pending.answer)
    }

    fn observe(&mut self, packet: &Packet, way: Way, admission: &Admission<'_>, now: Duration) {
        let hook = admission.hook;
        let judged_here = admission.judged && hook == self.hook;
        let Some(tcp) = packet.tcp else {
            self.confirmed |= way == Way::Reply;
            self.last_seen = now;
            if way == Way::Original {
                self.hooks |= hook.bit();
                if judged_here {
                    self.epoch = admission.epoch;
                }
            }
            return;
        };
        if tcp.plain_syn() {
            self.observe_syn(packet, &tcp, way, admission, now);
            return;
        }
        let mut way = way;
        if self.answers_pending(packet, way) {
            // The flow begins anew, in the direction of the SYN that is answered here.
            if let Some(pending) = self.pending.take() {
                if pending.way == Way::Reply {
                    self.id = self.id.reversed();
                    way = Way::Reply;
                }
                self.syn = Some(pending.answer);
                self.hooks = pending.hooks;
                self.device = pending.device;
                self.hook = pending.hook;
                self.from = pending.from;
                self.first = Some(pending.first);
                self.midway = false;
                self.sides = [Side::Opening, Side::Silent];
                self.next = [Some(pending.answer.0), None];
            }
        }
        self.observe_segment(&tcp, way);
        if way == Way::Original {
            self.hooks |= hook.bit();
            if judged_here {
                self.epoch = admission.epoch;
            }
        }
        self.last_seen = now;
    }

    fn observe_syn(
        &mut self,
        packet: &Packet,
        tcp: &Tcp,
        way: Way,
        admission: &Admission<'_>,
        now: Duration,
    ) {
        let hook = admission.hook;
        let answer = answer_to(tcp);
        if way == Way::Original && !self.confirmed && self.sides[1] == Side::Silent {
            self.syn = Some(answer);
            self.midway = false;
            self.sides[0] = Side::Opening;
            self.next[0] = Some(answer.0);
            self.hooks |= hook.bit();
            if admission.judged && hook == self.hook {
                self.epoch = admission.epoch;
            }
            self.last_seen = now;
            return;
        }
        match &mut self.pending {
            Some(p) if p.way == way && p.answer.0 == answer.0 => {
                p.hooks |= hook.bit();
                p.answer = answer;
            }
            pending => {
                *pending = Some(Pending {
                    way,
                    answer,
                    hooks: hook.bit(),
                    device: admission.device.into(),
                    hook,
                    from: admission.from.map(Into::into),
                    first: packet.clone(),
                });
            }
        }
    }

    fn observe_segment(&mut self, tcp: &Tcp, way: Way) {
        let side = usize::from(way == Way::Reply);
        let first = self.sides[side] == Side::Silent;
        // Behind a SYN that waits for its answer, segments move no number: a failsafe admits them all the same.
        let waits = side == 0 && self.unanswered() && self.syn.is_some();
        let (syn, fin, rst) = (tcp.flags & SYN != 0, tcp.flags & FIN != 0, tcp.flags & RST != 0);
        if rst {
            // A blind RST ends nothing (T-9), and no RST confirms.
            if first || self.next[side] == Some(tcp.seq) {
                self.sides[side] = Side::Reset;
            }
            return;
        }
        self.sides[side] = match self.sides[side] {
            Side::Silent if syn => Side::Opening,
            state if syn => state,
            _ if fin => Side::Fin,
            Side::Silent | Side::Opening => Side::Open,
            state => state,
        };
        let end = tcp.seq.wrapping_add(tcp.payload + u32::from(fin) + u32::from(syn));
        let newer = self.next[side].is_none_or(|next| (end.wrapping_sub(next) as i32) > 0);
        if first || (newer && !waits) {
            self.next[side] = Some(end);
        }
        self.confirmed |= way == Way::Reply;
    }
}

/// How a flow begins.
pub(crate) struct Admission<'a> {
    pub hook: Hook,
    pub device: &'a str,
    pub from: Option<&'a str>,
    pub epoch: u64,
    pub recheck: Option<OnPolicyChange>,
    /// A failsafe, or grace: may begin with any packet.
    pub any_start: bool,
    /// Policy has just judged it.
    pub judged: bool,
}

/// All flows of the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flows {
    flows: BTreeMap<FlowId, Flow>,
}

impl Flows {
    /// The flow of a packet and the packet's direction in it.
    pub(crate) fn find(&mut self, seen: Seen, now: Duration) -> Option<(&mut Flow, Way)> {
        self.flows.retain(|_, flow| now.saturating_sub(flow.last_seen) < flow.lifetime());
        let id = seen.id;
        match seen.way {
            Some(way) => self.flows.get_mut(&id).map(|flow| (flow, way)),
            None if self.flows.contains_key(&id) => self.flows.get_mut(&id).map(|flow| (flow, Way::Original)),
            None => self.flows.get_mut(&id.reversed()).map(|flow| (flow, Way::Reply)),
        }
    }

    /// The flow of this name.
    pub(crate) fn get(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(&id)
    }

    /// Whether an ICMP error is about one of our flows (D37).
    pub(crate) fn related(&mut self, packet: &Packet, now: Duration) -> bool {
        let Some(quoted) = packet.quoted.filter(|q| q.src == packet.dst) else { return false };
        Seen::of_quoted(&quoted).is_some_and(|seen| self.find(seen, now).is_some())
    }

    pub(crate) fn remove(&mut self, id: FlowId) {
        self.flows.remove(&id);
    }

    /// Records or refreshes the flow of an admitted packet.
    pub(crate) fn admitted(&mut self, packet: &Packet, admission: &Admission<'_>, now: Duration) {
        let Some(seen) = Seen::of(packet) else { return };
        let syn = packet.tcp.is_some_and(|t| t.plain_syn());
        if let Some((flow, way)) = self.find(seen, now) {
            if way == Way::Original || flow.believable(packet) || syn {
                let key = flow.id;
                flow.observe(packet, way, admission, now);
                let turned = (flow.id != key).then(|| flow.clone());
                if let Some(flow) = turned {
                    self.flows.remove(&key);
                    self.flows.insert(flow.id, flow);
                }
            }
            return;
        }
        // An answer alone names no flow: it may only be the second packet of one.
        if (!admission.any_start && !begins(packet)) || seen.way == Some(Way::Reply) {
            return;
        }
        let mut flow = Flow {
            id: seen.id,
            hooks: admission.hook.bit(),
            confirmed: false,
            midway: !begins(packet),
            epoch: admission.epoch,
            recheck: admission.recheck,
            device: admission.device.into(),
            hook: admission.hook,
            from: admission.from.map(Into::into),
            first: Some(packet.clone()),
            sides: [if syn { Side::Opening } else { Side::Open }, Side::Silent],
            syn: None,
            pending: None,
            next: [None; 2],
            last_seen: now,
        };
        flow.observe(packet, Way::Original, admission, now);
        self.flows.insert(seen.id, flow);
    }

    /// Takes over a live flow (D17): confirmed, and admitted at both hooks. `own`: this node began it.
    pub(crate) fn adopt(&mut self, live: &LiveFlow, own: bool, epoch: u64, now: Duration) {
        let mut put = |t: &FlowTuple| {
            let (space, dport) = match live.protocol {
                1 => (8, t.sport),
                58 => (128, t.sport),
                _ => (0, t.dport),
            };
            let id = FlowId { protocol: live.protocol, space, src: (t.src, t.sport), dst: (t.dst, dport) };
            self.flows.insert(
                id,
                Flow {
                    id,
                    hooks: Hook::Ingress.bit() | Hook::Egress.bit(),
                    confirmed: true,
                    midway: false,
                    epoch,
                    recheck: None,
                    device: String::new(),
                    hook: Hook::Ingress,
                    from: (!own).then(String::new),
                    first: None,
                    sides: [Side::Open; 2],
                    syn: None,
                    pending: None,
                    next: [None; 2],
                    last_seen: now,
                },
            );
        };
        put(&live.original);
        if let Some(r) = &live.reply {
            put(&FlowTuple { src: r.dst, sport: r.dport, dst: r.src, dport: r.sport });
        }
    }
}

/// What may begin a flow (D17, D38): a plain SYN, an INIT, a request, anything of other protocols.
pub(crate) fn begins(packet: &Packet) -> bool {
    match packet.protocol {
        6 => packet.tcp.is_some_and(|t| t.plain_syn()),
        132 => packet.sctp_init,
        _ => packet.icmp.is_none_or(|i| icmp_request(packet.v6(), i.kind) == Some(i.kind)),
    }
}
