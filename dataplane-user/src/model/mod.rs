//! The reference model: what `semantics.md` and `decisions.md` say, as plainly as code can say it. It is small,
//! slow and obvious, keeps no compiled form, and shares no code with the compiler or the kernel program, so
//! that a disagreement between the two means a mistake in one of them. What the documents leave open, and both
//! follow by convention, stands in ARCHITECTURE.md.

mod binding;
mod flows;
mod fragments;
mod frame;
mod lists;
mod node;
mod peers;
mod rules;
mod stages;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use dataplane_common::abi::Hook;
use dataplane_common::verdict::{Reason, Stage, Verdict};

use self::binding::Governor;
use self::flows::{Admission, Flow, FlowId, Flows, Seen, Way};
use self::fragments::Fragments;
use self::frame::{Frame, Packet, Part, RST};
use self::node::Node;
use self::stages::{Judgement, Place};
use crate::policy::{NodeView, OnPolicyChange, World};
use crate::scenario::engine::{Engine, LiveFlow, Outcome, PacketIn};

/// A node that judges packets by the book.
#[derive(Clone, Debug, Default)]
pub struct Model {
    world: World,
    view: NodeView,
    now: Duration,
    /// Moves with every change of the world (D15).
    epoch: u64,
    /// Device → end of its grace (D17).
    grace: BTreeMap<String, Duration>,
    flows: Flows,
    fragments: Fragments,
}

impl Model {
    /// A node of which nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Engine for Model {
    fn name(&self) -> &'static str {
        "model"
    }

    fn set_world(&mut self, world: &World, view: &NodeView) -> anyhow::Result<()> {
        if self.epoch > 0 {
            let until = self.now + Duration::from_secs(view.settings.grace_seconds.into());
            for name in view.devices.keys() {
                let before = binding::governor(&self.world, &self.view, name);
                let after = binding::governor(world, view, name);
                if before == Governor::None && after != Governor::None {
                    self.grace.insert(name.clone(), until);
                }
            }
        }
        self.world = world.clone();
        self.view = view.clone();
        self.epoch += 1;
        Ok(())
    }

    fn adopt(&mut self, flows: &[LiveFlow]) -> anyhow::Result<()> {
        let addresses: Vec<IpAddr> =
            self.view.devices.values().flat_map(|d| d.addresses.iter().map(|a| a.addr())).collect();
        for flow in flows {
            let own = addresses.contains(&flow.original.src);
            self.flows.adopt(flow, own, self.epoch, self.now);
        }
        Ok(())
    }

    fn advance(&mut self, by: Duration) -> anyhow::Result<()> {
        self.now += by;
        Ok(())
    }

    fn judge(&mut self, packet: &PacketIn) -> anyhow::Result<Outcome> {
        let (world, view) = (self.world.clone(), self.view.clone());
        let node = Node::new(&world, &view);
        let governor = binding::governor(&world, &view, &packet.device);
        let place = Place {
            device: &packet.device,
            hook: packet.hook,
            from: packet.from.as_deref(),
            governor: &governor,
        };
        let mut trace = vec![match governor.endpoint() {
            Some(e) => {
                format!("{} {}: governed by HostEndpoint {}", packet.device, packet.hook.name(), e.name)
            }
            None => format!("{} {}: no HostEndpoint covers it", packet.device, packet.hook.name()),
        }];
        let frame = frame::read(&packet.frame);
        if governor == Governor::None {
            if let Frame::Ip(ip) = &frame {
                self.record_ungoverned(&place, ip);
            }
            return Ok(outcome(Verdict::Ungoverned, None, trace));
        }
        let judgement = match &frame {
            Frame::NotIp { known: false } if node::annotated(&place, "drop-unknown-ethertypes") => {
                stages::deny(Stage::L2, Reason::UnknownEthertype)
            }
            Frame::NotIp { .. } => stages::allow(Stage::L2, Reason::NotIp),
            Frame::OtherVlan => stages::allow(Stage::L2, Reason::OtherVlan),
            Frame::Malformed(reason) => stages::deny(Stage::Malformed, *reason),
            Frame::Martian(reason) => stages::deny(Stage::Martian, *reason),
            Frame::Ip(ip) => self.judge_ip(&node, &place, ip, &mut trace),
        };
        trace.push(format!("{}: {}", judgement.stage.name(), judgement.reason.doc()));
        let verdict = if judgement.allow { Verdict::Allow } else { Verdict::Deny };
        Ok(outcome(verdict, Some(judgement), trace))
    }
}

fn outcome(verdict: Verdict, judgement: Option<Judgement>, trace: Vec<String>) -> Outcome {
    let judgement = judgement.unwrap_or_else(|| stages::allow(Stage::None, Reason::Ungoverned));
    Outcome {
        verdict: verdict.name().into(),
        stage: judgement.stage.name().into(),
        tier: judgement.tier,
        policy: judgement.policy,
        rule: judgement.rule,
        reason: judgement.reason.name().into(),
        trace,
    }
}

/// What the flow table says about a packet.
enum FlowSays {
    /// Invalid.
    Verdict(Judgement),
    /// An error about a flow: it passes, and is no packet of the flow (D37).
    Related,
    /// A packet of this flow, which passes unless the flow is to be judged again (D15).
    Known(FlowId, Way, Judgement),
    /// Judge it by policy; `grace`: it may begin a flow though it is no beginning.
    Policy { grace: bool },
}

impl Model {
    /// Host devices carry the program too once one endpoint exists, so that replies find their flow (D42). What
    /// would be invalid elsewhere passes here, and leaves no trace.
    fn record_ungoverned(&mut self, place: &Place<'_>, packet: &Packet) {
        let device = self.view.devices.get(place.device);
        let host = device.is_some_and(|d| !d.loopback)
            && !binding::is_excluded(&self.world, &self.view, place.device)
            && !binding::is_workload(&self.world, &self.view, place.device);
        if host && binding::any_governed(&self.world, &self.view) {
            let says = self.flow(place, packet, &mut Vec::new());
            if !matches!(says, FlowSays::Verdict(judgement) if !judgement.allow) {
                self.record(place, packet, None, false, false);
            }
        }
    }

    fn record(
        &mut self,
        place: &Place<'_>,
        packet: &Packet,
        recheck: Option<OnPolicyChange>,
        any_start: bool,
        judged: bool,
    ) {
        let admission = Admission {
            hook: place.hook,
            device: place.device,
            from: place.from,
            epoch: self.epoch,
            recheck,
            any_start,
            judged,
        };
        self.flows.admitted(packet, &admission, self.now);
    }

    fn judge_ip(
        &mut self,
        node: &Node<'_>,
        place: &Place<'_>,
        packet: &Packet,
        trace: &mut Vec<String>,
    ) -> Judgement {
        if let Some(judgement) = stages::martian(node, place, packet) {
            return judgement;
        }
        if let Some(judgement) = self.fragments.judge(packet, place.hook, self.now) {
            return judgement;
        }
        let judgement = self.judge_whole(node, place, packet, trace);
        self.fragments.record(packet, place.hook, &judgement, self.now);
        judgement
    }

    fn judge_whole(
        &mut self,
        node: &Node<'_>,
        place: &Place<'_>,
        packet: &Packet,
        trace: &mut Vec<String>,
    ) -> Judgement {
        if let Some(judgement) = stages::failsafe(node, place, packet) {
            // The twin at egress only answers; it begins nothing.
            self.record(place, packet, None, judgement.reason != Reason::FailsafeReply, true);
            return judgement;
        }
        if let Some(judgement) = stages::untracked(node, place, packet, trace) {
            return judgement;
        }
        if let Some(judgement) = stages::nd(node, place, packet) {
            return judgement;
        }
        let grace = match self.flow(place, packet, trace) {
            FlowSays::Policy { grace } => grace,
            FlowSays::Verdict(judgement) => return judgement,
            FlowSays::Related => return stages::allow(Stage::Flow, Reason::FlowRelated),
            FlowSays::Known(id, way, judgement) => {
                match self.recheck(node, (place, packet), (id, way), trace) {
                    Rechecked::Cut(cut) => return cut,
                    Rechecked::ByPolicy => false,
                    Rechecked::Stands => {
                        self.record(place, packet, None, false, false);
                        return judgement;
                    }
                }
            }
        };
        let judgement = stages::policy(node, place, packet, trace);
        if judgement.allow {
            self.record(place, packet, judgement.recheck, grace, true);
        }
        judgement
    }

    fn in_grace(&self, device: &str) -> bool {
        self.grace.get(device).is_some_and(|until| self.now < *until)
    }

    /// D16, D17, D37, D38, D42.
    fn flow(&mut self, place: &Place<'_>, packet: &Packet, trace: &mut Vec<String>) -> FlowSays {
        if self.flows.related(packet, self.now) {
            return FlowSays::Related;
        }
        let grace = self.in_grace(place.device);
        let by_policy = FlowSays::Policy { grace };
        let invalid = |reason| FlowSays::Verdict(stages::deny(Stage::Invalid, reason));
        let syn = packet.tcp.is_some_and(|t| t.plain_syn());
        let found = Seen::of(packet).and_then(|seen| self.flows.find(seen, self.now));
        let Some((flow, way)) = found else {
            let no_beginning = matches!(packet.part, Part::Whole | Part::First) && !flows::begins(packet);
            return match packet.protocol {
                6 if no_beginning && !grace => invalid(Reason::TcpNoFlow),
                132 if no_beginning && !grace => invalid(Reason::SctpNoFlow),
                _ => by_policy,
            };
        };
        trace.push(format!(
            "a flow {}:{} -> {}:{}, {}, in its {way:?} direction",
            flow.id.src.0,
            flow.id.src.1,
            flow.id.dst.0,
            flow.id.dst.1,
            if flow.confirmed { "confirmed" } else { "not confirmed" },
        ));
        let known = |flow: &Flow, reason| FlowSays::Known(flow.id, way, stages::allow(Stage::Flow, reason));
        if syn {
            // D16: judged again, in its own direction.
            return by_policy;
        }
        if flow.answers_pending(packet, way) {
            return known(flow, Reason::FlowReply);
        }
        match way {
            Way::Reply if !flow.believable(packet) => invalid(Reason::TcpBadReply),
            Way::Reply => known(flow, Reason::FlowReply),
            Way::Original if flow.confirmed && flow.hooks & place.hook.bit() != 0 => {
                known(flow, Reason::FlowOriginal)
            }
            Way::Original if flow.unanswered() && packet.tcp.is_some_and(|t| t.flags & RST == 0) => {
                invalid(Reason::TcpBeforeReply)
            }
            Way::Original => by_policy,
        }
    }

    /// D15: judges a flow of an older epoch again, in its original direction, where it began.
    fn recheck(
        &mut self,
        node: &Node<'_>,
        (here, packet): (&Place<'_>, &Packet),
        (id, way): (FlowId, Way),
        trace: &mut Vec<String>,
    ) -> Rechecked {
        let epoch = self.epoch;
        let Some(flow) = self.flows.get(id) else { return Rechecked::Stands };
        let wanted = flow.recheck.unwrap_or(node.view.settings.on_policy_change);
        if wanted == OnPolicyChange::Keep || flow.epoch == epoch {
            return Rechecked::Stands;
        }
        let guessed = flow.first.is_none() && way == Way::Reply;
        let first = match (flow.first.clone(), way) {
            (Some(first), _) => first,
            // Adopted: nobody saw it begin. It began where its original direction comes by.
            (None, Way::Original) => {
                flow.device = here.device.into();
                flow.hook = here.hook;
                flow.from = here.from.map(Into::into);
                let first = packet.as_a_beginning();
                flow.first = Some(first.clone());
                first
            }
            // A reply comes first: as if its original direction had come the same way.
            (None, Way::Reply) => {
                flow.device = here.device.into();
                flow.hook = match here.hook {
                    Hook::Ingress => Hook::Egress,
                    Hook::Egress => Hook::Ingress,
                };
                packet.turned().as_a_beginning()
            }
        };
        if way == Way::Original && flow.hook != here.hook {
            // What this hook admitted under the old policy counts no more.
            return Rechecked::ByPolicy;
        }
        flow.epoch = epoch;
        // The other hook's list is to be met again; where it began is not known, both.
        flow.hooks = if guessed { 0 } else { flow.hook.bit() };
        let (device, hook, from) = (flow.device.clone(), flow.hook, flow.from.clone());
        let governor = binding::governor(node.world, node.view, &device);
        let place = Place { device: &device, hook, from: from.as_deref(), governor: &governor };
        trace.push(format!("the world changed: the flow is judged again as on {device} {}", hook.name()));
        let judgement = stages::failsafe(node, &place, &first)
            .unwrap_or_else(|| stages::policy(node, &place, &first, trace));
        if judgement.allow {
            if let Some(flow) = self.flows.get(id) {
                flow.recheck = judgement.recheck;
            }
            return Rechecked::Stands;
        }
        self.flows.remove(id);
        Rechecked::Cut(stages::deny(Stage::Flow, Reason::FlowRechecked))
    }
}

/// What a newer epoch makes of a flow (D15).
enum Rechecked {
    Stands,
    /// Policy judges this packet, here and as it is.
    ByPolicy,
    Cut(Judgement),
}
