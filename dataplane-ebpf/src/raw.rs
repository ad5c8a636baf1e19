//! The only `unsafe` of the kernel programs: helpers that take raw pointers, and references into maps.
//!
//! Every pointer here comes from the kernel and the verifier has checked its bounds; what it cannot check is
//! aliasing. Values of shared maps are therefore copied out at once, and the scratch memory, which belongs to
//! this CPU (a TC program is not preempted by another on its CPU), is borrowed once per program run.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LKUP_RET_UNSUPP_LWT, bpf_fib_lookup, bpf_hdr_start_off::BPF_HDR_START_NET,
};
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::TcContext;
use dataplane_common::abi::{Counter, EthertypeKey, Event, RuleCounterKey, RuleHits, Scratch};
use dataplane_common::addr::Addr;
use dataplane_common::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey};
use dataplane_common::packet::Tuple;
use dataplane_common::tables::FlowTable;

use crate::maps;

/// Headers lie in the first so many bytes, or the packet is refused: link layer, tags, and everything that the
/// parser may read of IPv6 with its chain and an ICMP error's quotation.
const LINEAR: u32 = 512;
const ETHERNET_HEADER: u32 = 14;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The packet's metadata, and its bytes by copying.
#[derive(Clone, Copy)]
pub struct Skb(*mut __sk_buff);

macro_rules! field {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $($(#[$doc])* #[inline(always)] pub fn $name(self) -> u32 {
            // SAFETY: the context pointer is valid for the program's run; the field is one it may read.
            unsafe { (*self.0).$name }
        })*
    };
}

impl Skb {
    #[inline(always)]
    pub fn new(context: &TcContext) -> Self {
        Self(context.as_ptr().cast())
    }

    field!(
        /// Bytes, link layer included.
        len,
        /// PACKET_HOST and so on.
        pkt_type,
        /// Ethertype, network order in the low half.
        protocol,
        vlan_present,
        vlan_tci,
        ifindex,
        ingress_ifindex,
        gso_size,
    );

    /// Copies from the network header on. False when the packet ends before.
    #[inline(always)]
    pub fn load_network<const N: usize>(self, offset: u32, to: &mut [u8; N]) -> bool {
        // SAFETY: `to` has N bytes and the helper writes exactly N.
        let code = unsafe {
            helper::bpf_skb_load_bytes_relative(
                self.0.cast_const().cast(),
                offset,
                to.as_mut_ptr().cast(),
                N as u32,
                BPF_HDR_START_NET,
            )
        };
        code == 0
    }

    #[inline(always)]
    fn load<const N: usize>(self, offset: u32, to: &mut [u8; N]) -> bool {
        // SAFETY: as above.
        let code = unsafe {
            helper::bpf_skb_load_bytes(self.0.cast_const().cast(), offset, to.as_mut_ptr().cast(), N as u32)
        };
        code == 0
    }

    /// Reading relative to the network header sees the linear part only: bring the headers there (L-13).
    #[inline(always)]
    pub fn linearise(self) {
        // SAFETY: context fields; as numbers, never dereferenced.
        let linear = unsafe { (*self.0).data_end.wrapping_sub((*self.0).data) };
        let want = if self.len() < LINEAR { self.len() } else { LINEAR };
        if linear < want {
            // SAFETY: no pointer into the packet is held. On failure the parser finds the packet short.
            unsafe { helper::bpf_skb_pull_data(self.0, want) };
        }
    }

    /// Bytes from the network header on. No field tells where that is: behind an Ethernet header if the same
    /// bytes stand there, at the start otherwise (D48). A packet without Ethernet header that repeats itself
    /// after 14 bytes comes out too short, so it can only be refused.
    #[inline(always)]
    pub fn network_len(self) -> u32 {
        let mut network = [0u8; 16];
        let mut ethernet = [0u8; 16];
        let same = self.load_network(0, &mut network)
            && self.load(ETHERNET_HEADER, &mut ethernet)
            && u128::from_ne_bytes(network) == u128::from_ne_bytes(ethernet);
        self.len().saturating_sub(if same || !self.load_network(0, &mut network) {
            ETHERNET_HEADER
        } else {
            0
        })
    }

    /// The kernel's routing answer for a packet from `source` to `destination` that comes in here: helper's code
    /// and the device it leaves by.
    #[inline(always)]
    pub fn route(self, tuple: &Tuple, source: &Addr, destination: &Addr) -> (i64, u32) {
        // SAFETY: plain integers; zero is a valid value of every field.
        let mut ask: bpf_fib_lookup = unsafe { core::mem::zeroed() };
        ask.l4_protocol = tuple.protocol;
        ask.ifindex = self.ifindex();
        if source.is_v4() {
            ask.family = AF_INET;
            ask.__bindgen_anon_3.ipv4_src = word(source, 0);
            ask.__bindgen_anon_4.ipv4_dst = word(destination, 0);
        } else {
            ask.family = AF_INET6;
            ask.__bindgen_anon_3.ipv6_src =
                [word(source, 0), word(source, 4), word(source, 8), word(source, 12)];
            ask.__bindgen_anon_4.ipv6_dst =
                [word(destination, 0), word(destination, 4), word(destination, 8), word(destination, 12)];
        }
        // SAFETY: `ask` is as long as told.
        let code = unsafe {
            helper::bpf_fib_lookup(self.0.cast(), &raw mut ask, size_of::<bpf_fib_lookup>() as i32, 0)
        };
        (code, ask.ifindex)
    }
}

#[inline(always)]
fn word(addr: &Addr, at: usize) -> u32 {
    let b = &addr.bytes;
    u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Whether the kernel would send such a packet on.
#[inline(always)]
pub fn forwards(code: i64) -> bool {
    let code = code as u32;
    code == BPF_FIB_LKUP_RET_SUCCESS
        || code == BPF_FIB_LKUP_RET_NO_NEIGH
        || code == BPF_FIB_LKUP_RET_FRAG_NEEDED
        || code == BPF_FIB_LKUP_RET_UNSUPP_LWT
}

/// Kernel clock, ns. The coarse clock would be cheaper, but kernel 5.10 does not have it.
#[inline(always)]
pub fn clock() -> u64 {
    // SAFETY: no arguments.
    unsafe { helper::bpf_ktime_get_ns() }
}

/// This CPU's working memory.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    let scratch = maps::SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own slot, and one borrow per program run (see above).
    unsafe { scratch.as_mut() }
}

macro_rules! copy_out {
    ($map:expr, $key:expr, $out:expr) => {{
        let Some(entry) = $map.get_ptr($key) else { return false };
        // SAFETY: a live map value. Another CPU may write it meanwhile: a mixed copy is a wrong timestamp or
        // state at worst, never a pointer.
        *$out = unsafe { *entry };
        true
    }};
}

#[inline(always)]
pub fn flow(table: FlowTable, key: &FlowKey, out: &mut FlowEntry) -> bool {
    match table {
        FlowTable::Confirmed => copy_out!(maps::FLOWS, key, out),
        FlowTable::Unconfirmed => copy_out!(maps::FLOWS_NEW, key, out),
        FlowTable::Failsafe => copy_out!(maps::FLOWS_SAFE, key, out),
    }
}

#[inline(always)]
pub fn fragment(key: &FragmentKey, out: &mut FragmentEntry) -> bool {
    copy_out!(maps::FRAGMENTS, key, out)
}

/// Counts a packet under `index`.
#[inline(always)]
pub fn count(index: u32, bytes: u32) {
    if let Some(counter) = maps::COUNTS.get_ptr_mut(index) {
        // SAFETY: this CPU's slot.
        unsafe { add(counter, bytes) };
    }
}

/// Counts a packet under a rule.
#[inline(always)]
pub fn count_rule(key: &RuleCounterKey, bytes: u32, now_ns: u64) {
    if let Some(hits) = maps::RULE_HITS.get_ptr_mut(key) {
        // SAFETY: this CPU's slot.
        unsafe {
            (*hits).packets += 1;
            (*hits).bytes += u64::from(bytes);
            (*hits).last_seen_ns = now_ns;
        }
    } else {
        let first = RuleHits { packets: 1, bytes: u64::from(bytes), last_seen_ns: now_ns };
        // No room is a lost count, not a verdict.
        let _ = maps::RULE_HITS.insert(key, first, 0);
    }
}

/// Counts a packet that is not IP.
#[inline(always)]
pub fn count_ethertype(key: &EthertypeKey, bytes: u32) {
    if let Some(counter) = maps::ETHERTYPES.get_ptr_mut(key) {
        // SAFETY: this CPU's slot.
        unsafe { add(counter, bytes) };
    } else {
        let first = Counter { packets: 1, bytes: u64::from(bytes) };
        // No room: counted by its reason only.
        let _ = maps::ETHERTYPES.insert(key, first, 0);
    }
}

/// # Safety
/// `counter` is this CPU's slot of a per-CPU map.
#[inline(always)]
unsafe fn add(counter: *mut Counter, bytes: u32) {
    // SAFETY: by contract.
    unsafe {
        (*counter).packets += 1;
        (*counter).bytes += u64::from(bytes);
    }
}

/// Sends an event, if there is room. False: lost.
#[inline(always)]
pub fn send(work: &Scratch, device: u32, hook: u8, log: u8, rule: u32) -> bool {
    let Some(mut entry) = maps::EVENTS.reserve(0) else { return false };
    let event: *mut Event = entry.as_mut_ptr();
    // SAFETY: the reserved room is as long as an event, and every byte of it is written.
    unsafe {
        (*event).time_ns = work.facts.now_ns;
        (*event).generation = work.facts.generation;
        (*event).packet = work.packet;
        (*event).decision = work.decision;
        (*event).device = device;
        (*event).lost = work.event_lost;
        (*event).hook = hook;
        (*event).log = log;
        // A Log rule tells what it saw, whatever becomes of the packet.
        (*event).spared = if log == 0 { work.spares as u8 } else { 0 };
        (*event).pad = [0; 5];
        if log != 0 {
            (*event).decision.rule = rule;
        }
    }
    entry.submit(0);
    true
}

/// A device of the generation.
#[inline(always)]
pub fn copy_device(
    devices: &maps::InnerHash<u32, dataplane_common::abi::DeviceEntry>,
    ifindex: u32,
) -> Option<dataplane_common::abi::DeviceEntry> {
    let entry = devices.get_ptr(ifindex)?;
    // SAFETY: a live map value of a generation that nobody writes any more.
    Some(unsafe { *entry })
}
