//! The only `unsafe` of the kernel programs: helpers that take raw pointers, and references into maps.
//!
//! Every pointer here comes from the kernel and the verifier has checked its bounds; what it cannot check is
//! aliasing. Values of shared maps are therefore copied out at once, and the scratch memory, which belongs to
//! this CPU (a TC program is not preempted by another on its CPU), is borrowed once per program run.

use core::ffi::c_void;

use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH,
    BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNSUPP_LWT, bpf_fib_lookup,
    bpf_hdr_start_off::BPF_HDR_START_NET, xdp_md,
};
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::{TcContext, XdpContext};
use aya_ebpf::{EbpfContext, Global};
use dataplane_common::abi::{
    Counter, DeviceCounterKey, EthertypeKey, Event, FlowEvent, RuleCounterKey, RuleHits, Scratch,
};
use dataplane_common::addr::Addr;
use dataplane_common::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey};
use dataplane_common::packet::Tuple;
use dataplane_common::room::{self, Holder};
use dataplane_common::tables::FlowTable;

use crate::maps;
use crate::tables::Routes;

// Set by the loader. What they hold before must be like no other constant of the program: the compiler may give equal
// constants one place, and both would change.

/// `names::GLOBAL_COARSE`: 1 or 0.
#[unsafe(no_mangle)]
static PC_COARSE: Global<u32> = Global::new(0x7063_636f);
/// `names::GLOBAL_SEED`.
#[unsafe(no_mangle)]
static PC_SEED: Global<u64> = Global::new(0x7063_7365_6564_7063);

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_HEADER: u32 = 14;
/// XDP reads so many bytes of a packet, link layer included: more than the parser asks for.
const HEADERS: u32 = 512;
/// Longest link-layer header that is looked for: a power of two.
const LINK_LAYER: u32 = 64;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The packet's metadata, and its bytes by copying.
#[derive(Clone, Copy)]
pub struct Skb {
    skb: *mut __sk_buff,
    /// Bytes in front of the network header.
    network: u32,
}

macro_rules! field {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $($(#[$doc])* #[inline(always)] pub fn $name(self) -> u32 {
            // SAFETY: the context pointer is valid for the program's run; the field is one it may read.
            unsafe { (*self.skb).$name }
        })*
    };
}

impl Skb {
    #[inline(always)]
    pub fn new(context: &TcContext, work: &mut Scratch) -> Self {
        let skb = Self { skb: context.as_ptr().cast(), network: 0 };
        work.link_layer = link_layer(skb);
        // Read back from a map it is any number to the verifier, not one of many that it would each follow to the end.
        // SAFETY: a reference, read once.
        Self { network: unsafe { (&raw const work.link_layer).read_volatile() }, ..skb }
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
        /// Packets on the wire that a super-packet stands for.
        gso_segs,
    );

    /// Copies from the network header on, out of linear and other parts alike (L-13). False when the packet ends
    /// before.
    #[inline(always)]
    pub fn load_network<const N: usize>(self, offset: u32, to: &mut [u8; N]) -> bool {
        // SAFETY: `to` has N bytes and the helper writes exactly N.
        let code = unsafe {
            helper::bpf_skb_load_bytes(
                self.skb.cast_const().cast(),
                self.network.wrapping_add(offset),
                to.as_mut_ptr().cast(),
                N as u32,
            )
        };
        code == 0
    }

    /// Bytes from the network header on.
    #[inline(always)]
    pub fn network_len(self) -> u32 {
        self.len().saturating_sub(self.network)
    }
}

impl Routes for Skb {
    #[inline(always)]
    fn route(&self, tuple: &Tuple, source: &Addr, keep: u32, destination: &Addr) -> (i64, bool) {
        route(self.skb.cast(), self.ifindex(), tuple, source, keep, destination)
    }
}

/// A packet in front of the network stack: bytes from the Ethernet header on, and little else.
#[derive(Clone, Copy)]
pub struct Xdp {
    context: *mut xdp_md,
    /// Bytes, link layer included.
    pub len: u32,
}

impl Xdp {
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        let context: *mut xdp_md = context.as_ptr().cast();
        // SAFETY: context fields; as numbers, never dereferenced.
        Self { context, len: unsafe { (*context).data_end.wrapping_sub((*context).data) } }
    }

    /// Copies from behind the Ethernet header on. False when the packet, or what is read of it, ends before.
    #[inline(always)]
    pub fn load_network<const N: usize>(self, offset: u32, to: &mut [u8; N]) -> bool {
        let last = if self.len < HEADERS { self.len } else { HEADERS };
        let first = offset.wrapping_add(ETHERNET_HEADER);
        if offset > HEADERS || first + N as u32 > last {
            return false;
        }
        // Words that end where the wanted bytes end: in front of them there is always an Ethernet header.
        let mut left = N;
        while left > 0 {
            let word = pc_xdp_word(self.context, first + left as u32 - WORD).to_ne_bytes();
            let count = if left < WORD as usize { left } else { WORD as usize };
            left -= count;
            to[left..left + count].copy_from_slice(&word[WORD as usize - count..]);
        }
        true
    }

    /// Number of the device.
    #[inline(always)]
    pub fn device(self) -> u32 {
        // SAFETY: a context field.
        unsafe { (*self.context).ingress_ifindex }
    }

    /// The ethertype of the Ethernet header; 0 if the frame ends before.
    #[inline(always)]
    pub fn ethertype(self) -> u16 {
        let word = pc_xdp_word(self.context, ETHERNET_HEADER - WORD).to_ne_bytes();
        u16::from_be_bytes([word[6], word[7]])
    }
}

const WORD: u32 = 8;

/// Eight bytes of an XDP packet, in its order; zero outside of it. A global function, so that the verifier follows its
/// bounds once, and not for every path through the parser.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pc_xdp_word(context: *mut xdp_md, offset: u32) -> u64 {
    if offset > HEADERS {
        return 0;
    }
    // SAFETY: the verifier knows the argument as the program's context; the kernel turns these two fields into pointers.
    let (first, end) = unsafe { ((*context).data as usize, (*context).data_end as usize) };
    let at = first + offset as usize;
    if at + WORD as usize > end {
        return 0;
    }
    // SAFETY: eight bytes from `at` on lie inside of the packet, as checked above; nobody writes them meanwhile.
    unsafe { (at as *const u64).read_unaligned() }
}

impl Routes for Xdp {
    #[inline(always)]
    fn route(&self, tuple: &Tuple, source: &Addr, keep: u32, destination: &Addr) -> (i64, bool) {
        route(self.context.cast(), self.device(), tuple, source, keep, destination)
    }
}

/// `context`: of a running TC or XDP program. `here`: its device, read once: of two reads the compiler makes one address,
/// and the verifier takes no pointer into the context. Else as [`Routes::route`].
#[inline(always)]
fn route(
    context: *mut c_void,
    here: u32,
    tuple: &Tuple,
    source: &Addr,
    keep: u32,
    destination: &Addr,
) -> (i64, bool) {
    // SAFETY: plain integers; zero is a valid value of every field.
    let mut ask: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    ask.l4_protocol = tuple.protocol;
    ask.ifindex = here;
    if source.is_v4() {
        ask.family = AF_INET;
        ask.__bindgen_anon_3.ipv4_src = word(source, 0);
        ask.__bindgen_anon_4.ipv4_dst = word(destination, 0);
    } else {
        ask.family = AF_INET6;
        ask.__bindgen_anon_3.ipv6_src =
            [word(source, 0) & keep, word(source, 4) & keep, word(source, 8) & keep, word(source, 12) & keep];
        ask.__bindgen_anon_4.ipv6_dst =
            [word(destination, 0), word(destination, 4), word(destination, 8), word(destination, 12)];
    }
    // SAFETY: `ask` is as long as told, and the context is the program's own.
    let code =
        unsafe { helper::bpf_fib_lookup(context, &raw mut ask, size_of::<bpf_fib_lookup>() as i32, 0) };
    (code, ask.ifindex == here)
}

/// Bytes in front of the network header, which no field tells: 14 behind Ethernet, 0 on devices without a link layer
/// (D48), other numbers elsewhere. Reads relative to that header end where the linear part ends, so the last byte that
/// can be read tells where they begin. Exact, and no byte of the packet is believed.
#[inline(always)]
fn link_layer(skb: Skb) -> u32 {
    // SAFETY: context fields; as numbers, never dereferenced.
    let linear = unsafe { (*skb.skb).data_end.wrapping_sub((*skb.skb).data) };
    if at_most(skb, linear, ETHERNET_HEADER) && !at_most(skb, linear, ETHERNET_HEADER - 1) {
        return ETHERNET_HEADER;
    }
    let mut found = 0;
    let mut step = LINK_LAYER / 2;
    while step != 0 {
        if !at_most(skb, linear, found + step - 1) {
            found += step;
        }
        step /= 2;
    }
    found
}

/// Whether so many bytes of the linear part, or fewer, stand in front of the network header.
#[inline(always)]
fn at_most(skb: Skb, linear: u32, before: u32) -> bool {
    if before >= linear {
        return true;
    }
    let mut byte = [0u8; 1];
    // SAFETY: `byte` has one byte and the helper writes exactly one.
    let code = unsafe {
        helper::bpf_skb_load_bytes_relative(
            skb.skb.cast_const().cast(),
            linear - before - 1,
            byte.as_mut_ptr().cast(),
            1,
            BPF_HDR_START_NET,
        )
    };
    code == 0
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

/// Whether the device does not forward at all, so that no route was looked up.
#[inline(always)]
pub fn forwarding_is_off(code: i64) -> bool {
    code as u32 == BPF_FIB_LKUP_RET_FWD_DISABLED
}

/// Kernel clock, ns. The coarse one (a tick late at most) is cheaper, but kernel 5.10 does not have it: the loader says.
/// The verifier knows the constant and never looks at the other branch.
#[inline(always)]
pub fn clock() -> u64 {
    // SAFETY: no arguments.
    unsafe {
        if PC_COARSE.load() == 1 { helper::bpf_ktime_get_coarse_ns() } else { helper::bpf_ktime_get_ns() }
    }
}

/// Takes a place in a room for `key` (D18). `evict` removes the flow or datagram that has to leave it, by its own type
/// of key; its answer comes back. No copies: the stack is short.
#[inline(always)]
pub fn make_room<K>(room: u32, share: u32, key: &K, now_ns: u64, evict: impl FnOnce(&K) -> bool) -> bool {
    const { assert!(size_of::<K>() == size_of::<[u64; 6]>() && align_of::<K>() == align_of::<u64>()) };
    // SAFETY: plain integers without padding, of one size and alignment.
    let words = unsafe { &*(&raw const *key).cast::<[u64; 6]>() };
    let set = room::set_of(room, room::hash(PC_SEED.load(), words));
    let Some(set) = maps::ROOMS.get_ptr_mut(set) else { return false };
    // SAFETY: a live map value. Another CPU may write it meanwhile: a mixed place names nobody, or holds a flow that
    // is gone, and the table's own limit stands behind it.
    let set = unsafe { &mut *set };
    let now = room::tick(now_ns);
    let at = room::choose(&set.places, share, now);
    let Some(place) = set.places.get_mut(at) else { return false };
    let evicted = place.holder.since != 0 && {
        // SAFETY: as above; every bit pattern is a key.
        evict(unsafe { &*(&raw const place.key).cast::<K>() })
    };
    place.key = *words;
    place.holder = Holder { share, since: now };
    evicted
}

/// Counts what happens to flow tables.
#[inline(always)]
pub fn flow_event(event: FlowEvent) {
    if let Some(count) = maps::FLOW_EVENTS.get_ptr_mut(event as u32) {
        // SAFETY: this CPU's slot.
        unsafe { *count += 1 };
    }
}

/// Writes in place what a packet of an established flow changes. No update of the map: that would allocate.
#[inline(always)]
pub fn touch(table: FlowTable, key: &FlowKey, entry: &FlowEntry, original: bool) {
    let flow = match table {
        FlowTable::Confirmed => maps::FLOWS.get_ptr_mut(key),
        FlowTable::Unconfirmed => maps::FLOWS_NEW.get_ptr_mut(key),
        FlowTable::Failsafe => maps::FLOWS_SAFE.get_ptr_mut(key),
    };
    let Some(flow) = flow else { return };
    // SAFETY: a live map value. Fields are written one by one: another CPU has the other direction's.
    unsafe {
        (*flow).last_seen_ns = entry.last_seen_ns;
        (*flow).epoch = entry.epoch;
        (*flow).hooks = entry.hooks;
        if original {
            (*flow).state_original = entry.state_original;
            (*flow).original_next_seq = entry.original_next_seq;
        } else {
            (*flow).state_reply = entry.state_reply;
            (*flow).reply_next_seq = entry.reply_next_seq;
        }
    }
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

/// Counts a packet under `index`, for the node and for its device.
#[inline(always)]
pub fn count(index: u32, device: u32, bytes: u32) {
    if let Some(counter) = maps::COUNTS.get_ptr_mut(index) {
        // SAFETY: this CPU's slot.
        unsafe { add(counter, bytes) };
    }
    let key = DeviceCounterKey { device, counter: index };
    if let Some(counter) = maps::DEV_COUNTS.get_ptr_mut(key) {
        // SAFETY: this CPU's slot.
        unsafe { add(counter, bytes) };
    } else {
        let first = Counter { packets: 1, bytes: u64::from(bytes) };
        // No room: counted for the node only.
        let _ = maps::DEV_COUNTS.insert(key, first, 0);
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
