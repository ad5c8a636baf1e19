//! The kernel programs of Portcullis: `pc_tc_ingress`, `pc_tc_egress`, and `pc_xdp` before them. They only gather what the decision
//! needs, in `dataplane_common::decide`, and act on what it says.
#![no_std]
#![no_main]

mod maps;
mod raw;
mod tables;
mod xdp;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use dataplane_common::abi::{EthertypeKey, Hook, Scratch, counter_index, spared_index};
use dataplane_common::decide;
use dataplane_common::frame::Frame;
use dataplane_common::limits::GENERATION_SLOTS;
use dataplane_common::verdict::{Decision, NO_RULE, Reason, Stage, Verdict};

use crate::raw::Skb;
use crate::tables::Kernel;

const PACKET_LOOPBACK: u32 = 5;

/// TC ingress of a device.
#[classifier]
pub fn pc_tc_ingress(context: TcContext) -> i32 {
    program(&context, Hook::Ingress)
}

/// TC egress of a device.
#[classifier]
pub fn pc_tc_egress(context: TcContext) -> i32 {
    program(&context, Hook::Egress)
}

impl Frame for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        if self.load_network(offset, &mut bytes) { Some(bytes) } else { None }
    }
    #[inline(always)]
    fn ethertype(&self) -> u16 {
        u16::from_be(self.protocol() as u16)
    }
    #[inline(always)]
    fn vlan_tag(&self) -> Option<u16> {
        if self.vlan_present() != 0 { Some(self.vlan_tci() as u16) } else { None }
    }
    #[inline(always)]
    fn gso_size(&self) -> u32 {
        Skb::gso_size(*self)
    }
    #[inline(always)]
    fn segments(&self) -> u16 {
        self.gso_segs() as u16
    }
    #[inline(always)]
    fn network_len(&self) -> u32 {
        Skb::network_len(*self)
    }
    #[inline(always)]
    fn looped_back(&self) -> bool {
        self.pkt_type() == PACKET_LOOPBACK
    }
}

/// Judges the packet and says what becomes of it. Without working memory or control nothing is known: left alone
/// only if no generation can be active.
#[inline(always)]
fn program(context: &TcContext, hook: Hook) -> i32 {
    let (Some(work), Some(control)) = (raw::scratch(), maps::CONTROL.get(0)) else { return TC_ACT_SHOT };
    let now_ns = raw::clock().wrapping_add(control.clock_offset_ns);
    // `apply --confirm` that nobody confirmed: back to the generation before, whether an agent lives or not.
    let (active, epoch) = control.in_force(now_ns);
    if active == 0 {
        work.decision = Decision::new(Verdict::Ungoverned, Stage::None, Reason::NoGeneration);
        return TC_ACT_UNSPEC;
    }
    let skb = Skb::new(context, work);
    let slot = (active - 1) & (GENERATION_SLOTS - 1);
    let tables = Kernel { context: skb, slot, now_ns, epoch, record_only_until_ns: control.grace_until_ns };
    work.spares = u32::from(control.spares(now_ns));
    let from_device = skb.ingress_ifindex() != 0;
    let decision = decide::run(&skb, &tables, work, hook, skb.ifindex(), from_device);
    tell(work, decision, hook, skb.ifindex());
    if decision.verdict as u8 == Verdict::Deny as u8 && work.spares == 0 {
        TC_ACT_SHOT
    } else {
        TC_ACT_UNSPEC
    }
}

/// Counters, and an event for what was refused.
#[inline(never)]
fn tell(work: &mut Scratch, decision: Decision, hook: Hook, device: u32) {
    let denied = decision.verdict as u8 == Verdict::Deny as u8;
    let index = if denied && work.spares != 0 {
        spared_index(hook, decision.reason)
    } else {
        counter_index(hook, decision.verdict, decision.reason)
    };
    raw::count(index, device, work.packet.len);
    if decision.stage as u8 == Stage::L2 as u8 && decision.reason as u8 != Reason::OtherVlan as u8 {
        let key = EthertypeKey {
            ethertype: work.packet.ethertype,
            hook: hook as u8,
            verdict: decision.verdict as u8,
        };
        raw::count_ethertype(&key, work.packet.len);
    }
    if decision.rule != NO_RULE {
        tables::count_rule(work, work.facts.rule_identity);
    }
    if denied {
        tables::event(work, 0, NO_RULE);
    }
}

/// bpf_fib_lookup, the ring buffer and others are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
