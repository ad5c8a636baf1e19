//! `pc_xdp`: drops early what the untracked ingress list denies, and does nothing else (D10). Whatever it cannot
//! parse, does not know or may not drop passes, because TC judges every packet.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use dataplane_common::abi::{HOOK_XDP, Scratch, quiet, xdp_index};
use dataplane_common::decide;
use dataplane_common::frame::Frame;
use dataplane_common::limits::GENERATION_SLOTS;
use dataplane_common::verdict::NO_RULE;

use crate::maps;
use crate::raw::{self, ETHERNET_HEADER, Xdp};
use crate::tables::{self, Kernel};

/// XDP of a device with an untracked ingress list.
#[xdp]
pub fn pc_xdp(context: XdpContext) -> u32 {
    if drops(Xdp::new(&context)) { XDP_DROP } else { XDP_PASS }
}

/// An Ethernet frame. Of a tag in the metadata XDP knows nothing: the agent attaches it only where there is none.
impl Frame for Xdp {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        if self.load_network(offset, &mut bytes) { Some(bytes) } else { None }
    }
    #[inline(always)]
    fn ethertype(&self) -> u16 {
        Xdp::ethertype(*self)
    }
    #[inline(always)]
    fn vlan_tag(&self) -> Option<u16> {
        None
    }
    #[inline(always)]
    fn gso_size(&self) -> u32 {
        0
    }
    #[inline(always)]
    fn segments(&self) -> u16 {
        1
    }
    #[inline(always)]
    fn network_len(&self) -> u32 {
        self.len.saturating_sub(ETHERNET_HEADER)
    }
    #[inline(always)]
    fn looped_back(&self) -> bool {
        false
    }
}

#[inline(always)]
fn drops(packet: Xdp) -> bool {
    let (Some(work), Some(control)) = (raw::scratch(), maps::CONTROL.get(0)) else { return false };
    let now_ns = raw::clock().wrapping_add(control.clock_offset_ns);
    let (active, epoch) = control.in_force(now_ns);
    // Audit and suspension: TC counts what it would deny.
    if active == 0 || control.spares(now_ns) {
        return false;
    }
    let slot = (active - 1) & (GENERATION_SLOTS - 1);
    let tables =
        Kernel { context: packet, slot, now_ns, epoch, record_only_until_ns: control.grace_until_ns };
    work.spares = 0;
    work.quiet = quiet::ON;
    let denied = decide::denied_untracked(&packet, &tables, work, packet.device());
    let missed = work.quiet == quiet::MISSED;
    work.quiet = quiet::OFF;
    if denied {
        work.facts.hook = HOOK_XDP;
        if missed {
            decide::tell_passed(&tables, work);
        }
        tell(work);
    }
    denied
}

/// As TC tells of what it denies, under a hook of its own.
#[inline(never)]
fn tell(work: &mut Scratch) {
    raw::count(xdp_index(work.decision.reason), work.facts.device, work.packet.len);
    tables::count_rule(work, work.facts.rule_identity);
    tables::event(work, 0, NO_RULE);
}
