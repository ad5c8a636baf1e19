//! What is done in the namespace: worlds, time, packets.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use aya::programs::{TestRun, TestRunOptions};
use aya::util::KernelVersion;
use dataplane_common::abi::{Control, Hook, ListKind};
use dataplane_common::packet::protocol::{ICMP, ICMPV6};
use dataplane_common::packet::{FragmentPart, Packet};
use dataplane_common::verdict::{Decision, NO_RULE, Reason, Stage, Verdict};

use super::devices::Devices;
use crate::compile::{self, Names};
use crate::index::Snapshot;
use crate::loader::{Dataplane, LoadOptions};
use crate::maps::adopt::{Adoption, Ends};
use crate::policy::{NodeView, World};
use crate::scenario::engine::{FlowTuple, LiveFlow, Outcome, PacketIn};

/// `TC_ACT_SHOT`.
const SHOT: u32 = 2;
/// `TC_ACT_UNSPEC` and `TCX_NEXT`: other programs and netfilter still run (D11).
const NEXT: u32 = u32::MAX;
/// Where the packet's mark stands in `struct __sk_buff`.
const SKB_MARK: usize = 8;
/// Somebody else's mark, which must stay.
const MARK: u32 = 0x5043;
/// Size of `struct __sk_buff`, and where the two fields that we set stand in it. Part of the kernel's UAPI.
const SKB: usize = 192;
const SKB_INGRESS_IFINDEX: usize = 36;
const SKB_IFINDEX: usize = 40;
/// `XDP_DROP` and `XDP_PASS`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// Size of `struct xdp_md`, and where the fields stand that we set.
const XDP_MD: usize = 24;
const XDP_MD_DATA_END: usize = 4;
const XDP_MD_INGRESS_IFINDEX: usize = 12;
/// Longest frame that a test run of XDP takes: a page, less the room before and behind.
const LONGEST_XDP: usize = 3400;
/// Room behind the frame that comes out of a test run, so that one that grew shows.
const ROOM: usize = 64;
/// Shortest frame that `BPF_PROG_TEST_RUN` takes: an Ethernet header.
const SHORTEST: usize = 14;
/// Longest time for which the kernel's coarse clock stands still (HZ=100).
const COARSE_TICK_NS: u64 = 10_000_000;
/// So long the machine's time passes between packets by itself. Behind it the programs' clock stands until the scenario
/// says `advance`: what a slow machine takes must end no flow.
const RUNS_BY_ITSELF_NS: u64 = 1_000_000_000;

/// Programs, maps and devices of one namespace.
pub(super) struct Lab {
    dataplane: Dataplane,
    devices: Devices,
    view: NodeView,
    names: Names,
    /// Devices on which the agent would have the programs.
    carrying: BTreeSet<String>,
    /// Some endpoint has an untracked ingress list: elsewhere XDP has nothing to drop, and is not attached.
    has_untracked: bool,
    cpu: usize,
    /// The programs' clock when the scenario last said what time it is, ns.
    told_ns: u64,
}

impl Lab {
    pub(super) fn new(cpu: usize) -> anyhow::Result<Self> {
        let devices = Devices::new()?;
        let dataplane = Dataplane::load(&LoadOptions { pin_dir: None })?;
        let (view, names, carrying) = (NodeView::default(), Names::default(), BTreeSet::new());
        let told_ns = dataplane.now_ns()?;
        Ok(Self { dataplane, devices, view, names, carrying, has_untracked: false, cpu, told_ns })
    }
    /// As if just started: no generation, no flows, no devices, the kernel's own time.
    pub(super) fn reset(&mut self) -> anyhow::Result<()> {
        self.dataplane.update_control(|control| *control = Control::default())?;
        self.dataplane.state().clear_flows()?;
        self.told_ns = self.dataplane.now_ns()?;
        self.devices.clear()?;
        self.view = NodeView::default();
        self.names = Names::default();
        self.carrying.clear();
        Ok(())
    }
    pub(super) fn set_world(&mut self, world: &World, mut view: NodeView) -> anyhow::Result<()> {
        self.devices.follow(&mut view).context("cannot make the scenario's devices")?;
        // A test run always has an Ethernet header in front, whatever the device (D48).
        view.devices.values_mut().for_each(|d| d.no_link_layer = false);
        let snapshot = Snapshot::build(world, &view);
        self.devices
            .set_routes(world, &view, &snapshot.facts.workload)
            .context("cannot set the scenario's routes")?;
        let tables = compile::compile(&snapshot)?;
        self.hold_clock()?;
        self.dataplane.apply(&tables)?;
        let now_ns = self.dataplane.now_ns()?;
        if self.dataplane.generations().devices().values().any(|d| d.grace_until_ns > now_ns) {
            // A grace counts from what the clock was meanwhile: nothing of that is taken back.
            self.told_ns = self.told_ns.max(now_ns.saturating_sub(RUNS_BY_ITSELF_NS));
        }
        let carrying = snapshot.devices.iter().filter(|(_, d)| d.carries_programs());
        self.carrying = carrying.map(|(name, _)| name.clone()).collect();
        self.has_untracked =
            tables.endpoints.iter().any(|e| e.lists[ListKind::UntrackedIngress as usize] != 0);
        self.names = tables.names;
        self.view = view;
        Ok(())
    }
    pub(super) fn advance(&mut self, by: Duration) -> anyhow::Result<()> {
        let by = u64::try_from(by.as_nanos()).context("that is more than 584 years")?;
        // The coarse clock may not have moved since the last packet: what lives exactly `by` must be over.
        let by = by.saturating_add(COARSE_TICK_NS);
        self.hold_clock()?;
        self.dataplane
            .update_control(|control| control.clock_offset_ns = control.clock_offset_ns.wrapping_add(by))?;
        self.told_ns = self.dataplane.now_ns()?;
        Ok(())
    }
    /// Takes back what passed by itself beyond [`RUNS_BY_ITSELF_NS`].
    fn hold_clock(&mut self) -> anyhow::Result<()> {
        let beyond = self.dataplane.now_ns()?.saturating_sub(self.told_ns + RUNS_BY_ITSELF_NS);
        if beyond > 0 {
            self.dataplane.update_control(|control| {
                control.clock_offset_ns = control.clock_offset_ns.wrapping_sub(beyond);
            })?;
        }
        Ok(())
    }
    /// D17 (a): an adopted flow is confirmed, and admitted at both hooks.
    pub(super) fn adopt(&mut self, flows: &[LiveFlow]) -> anyhow::Result<()> {
        // What took long until now is taken back first, or these flows would be younger than the scenario says.
        self.hold_clock()?;
        let adoption = Adoption {
            now_ns: self.dataplane.now_ns()?,
            generation: self.dataplane.generations().number(),
            epoch: self.dataplane.control()?.epoch,
        };
        for flow in flows {
            let source = flow.original.src;
            let own = self.view.devices.values().any(|d| d.addresses.iter().any(|a| a.addr() == source));
            // What returns, turned round, is the flow as the other side of the NAT sees it.
            let translated = flow.reply.map(|reply| ends(&reply, flow.protocol).reversed());
            for ends in [Some(ends(&flow.original, flow.protocol)), translated].into_iter().flatten() {
                let (key, original_is_low) = ends.key(flow.protocol);
                self.dataplane.state().put_flow(&key, &adoption.entry(original_is_low, !own, false))?;
            }
        }
        Ok(())
    }
    pub(super) fn judge(&mut self, packet: &PacketIn) -> anyhow::Result<Outcome> {
        anyhow::ensure!(
            packet.frame.len() >= SHORTEST,
            "the kernel takes no test frame shorter than {SHORTEST} bytes; this one has {}",
            packet.frame.len()
        );
        if !self.carrying.contains(&packet.device) {
            return Ok(self.outcome(&Decision::new(Verdict::Ungoverned, Stage::None, Reason::Ungoverned)));
        }
        let mut context = [0_u8; SKB];
        put(&mut context, SKB_MARK, MARK);
        put(&mut context, SKB_IFINDEX, self.ifindex(&packet.device)?);
        if let Some(from) = &packet.from {
            put(&mut context, SKB_INGRESS_IFINDEX, self.ifindex(from)?);
        }
        self.hold_clock()?;
        let ask_xdp = packet.hook == Hook::Ingress && self.has_untracked;
        let xdp = if ask_xdp { self.run_xdp(packet)? } else { None };
        self.dataplane.state().clear_scratch()?;
        let mut options = TestRunOptions::new();
        let (mut frame, mut after) = (vec![0; packet.frame.len() + ROOM], [0_u8; SKB]);
        options.data_in = Some(&packet.frame);
        options.data_out = Some(&mut frame);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut after);
        // The run at XDP may have taken long.
        self.hold_clock()?;
        let result = self.dataplane.program(packet.hook)?.test_run(options).with_context(|| {
            format!("the kernel refused to run a frame of {} bytes on {}", packet.frame.len(), packet.device)
        })?;
        let scratch =
            self.dataplane.state().scratch(self.cpu)?.context("the kernel has no scratch for this CPU")?;
        let decision = scratch.decision;
        // The program's return value is what counts on a live device; the recorded decision must agree.
        anyhow::ensure!(
            result.return_value == if decision.verdict == Verdict::Deny { SHOT } else { NEXT },
            "the program returned {} but recorded {}",
            result.return_value as i32,
            decision.verdict.name()
        );
        // D11: nothing is translated, nothing is marked.
        let mark = SKB_MARK..SKB_MARK + 4;
        anyhow::ensure!(after[mark.clone()] == context[mark], "the program marked the packet");
        frame.truncate(result.data_size_out as usize);
        anyhow::ensure!(frame == packet.frame, "the program changed the packet");
        if let Some(dropped) = xdp {
            check_xdp(dropped, &decision, &scratch.packet)?;
        }
        Ok(self.outcome(&decision))
    }
    /// What XDP says of a packet that comes in; `None` where a test run cannot say it. Before TC: it leaves no state.
    fn run_xdp(&mut self, packet: &PacketIn) -> anyhow::Result<Option<Option<Decision>>> {
        // Until 5.14 a test run of XDP took no device.
        let takes_device = KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(5, 15, 0));
        if !takes_device || packet.frame.len() > LONGEST_XDP {
            return Ok(None);
        }
        let mut context = [0_u8; XDP_MD];
        put(&mut context, XDP_MD_DATA_END, u32::try_from(packet.frame.len())?);
        put(&mut context, XDP_MD_INGRESS_IFINDEX, self.ifindex(&packet.device)?);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&packet.frame);
        options.ctx_in = Some(&context);
        let result = self.dataplane.xdp()?.test_run(options).context("the kernel refused to run pc_xdp")?;
        anyhow::ensure!(
            [XDP_DROP, XDP_PASS].contains(&result.return_value),
            "pc_xdp returned {}",
            result.return_value
        );
        if result.return_value == XDP_PASS {
            return Ok(Some(None));
        }
        let scratch = self.dataplane.state().scratch(self.cpu)?;
        Ok(Some(Some(scratch.context("the kernel has no scratch for this CPU")?.decision)))
    }
    /// What outlives packets, for tests of counters and tables.
    #[cfg(test)]
    pub(super) fn dataplane(&mut self) -> &mut Dataplane {
        &mut self.dataplane
    }
    fn ifindex(&self, device: &str) -> anyhow::Result<u32> {
        let known =
            self.view.devices.get(device).with_context(|| format!("the scenario has no device {device}"))?;
        Ok(known.ifindex)
    }
    fn outcome(&self, decision: &Decision) -> Outcome {
        let by_rule = match decision.stage {
            Stage::Untracked | Stage::PreDnat | Stage::Normal | Stage::Profile | Stage::Forward => {
                Some(decision.rule).filter(|rule| *rule != NO_RULE)
            }
            // What an earlier packet was admitted by may have been a rule of another generation.
            Stage::None
            | Stage::L2
            | Stage::Malformed
            | Stage::Martian
            | Stage::Failsafe
            | Stage::Nd
            | Stage::Fragment
            | Stage::Flow
            | Stage::Invalid
            | Stage::Infra => None,
        };
        let name = by_rule.and_then(|position| self.names.rule(position));
        let reason = decision.reason.name().to_owned();
        let mut trace =
            vec![format!("kernel: {} at {} ({reason})", decision.verdict.name(), decision.stage.name())];
        trace.extend(name.map(|n| format!("kernel: rule {} is {n:?}", decision.rule)));
        Outcome {
            verdict: decision.verdict.name().to_owned(),
            stage: decision.stage.name().to_owned(),
            // A profile stands in no tier.
            tier: name.filter(|_| decision.stage != Stage::Profile).map(|n| n.tier.clone()),
            policy: name.and_then(|n| n.policy.as_ref()).map(|p| p.name.clone()),
            rule: name.and_then(|n| n.index),
            reason,
            trace,
        }
    }
}

/// D10: XDP drops what TC denies by a rule of the untracked list, by the same rule, all of it but fragments, and
/// nothing else.
fn check_xdp(dropped: Option<Decision>, tc: &Decision, packet: &Packet) -> anyhow::Result<()> {
    let expected = tc.verdict == Verdict::Deny
        && tc.stage == Stage::Untracked
        && tc.rule != NO_RULE
        && packet.fragment == FragmentPart::Whole;
    anyhow::ensure!(
        dropped == expected.then_some(*tc),
        "XDP {}, but TC says {} at {} ({}, rule {})",
        dropped.map_or_else(|| "passes it".to_owned(), |d| format!("drops it by rule {}", d.rule)),
        tc.verdict.name(),
        tc.stage.name(),
        tc.reason.name(),
        tc.rule
    );
    Ok(())
}

fn put(context: &mut [u8], offset: usize, value: u32) {
    context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
}

fn ends(tuple: &FlowTuple, protocol: u8) -> Ends {
    // An echo's two ports are its identifier.
    let echo = matches!(protocol, ICMP | ICMPV6);
    let dport = if echo { tuple.sport } else { tuple.dport };
    Ends { source: (tuple.src, tuple.sport), destination: (tuple.dst, dport) }
}
