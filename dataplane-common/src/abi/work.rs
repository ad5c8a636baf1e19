//! The packet in work: what is known of it, and what is told of it.

use crate::packet::Packet;
use crate::verdict::Decision;

/// A sampled event.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// Kernel clock, ns.
    pub time_ns: u64,
    /// Generation that judged.
    pub generation: u64,
    /// The packet.
    pub packet: Packet,
    /// Its end.
    pub decision: Decision,
    /// ifindex.
    pub device: u32,
    /// Events that this CPU left out since its last one.
    pub lost: u32,
    /// A [`Hook`], or [`HOOK_XDP`].
    pub hook: u8,
    /// 1: a Log rule, not a verdict.
    pub log: u8,
    /// 1: denied, and passed all the same ([`Control::spares`]).
    pub spared: u8,
    /// Always zero.
    pub pad: [u8; 5],
}

/// What is known of the packet in work. In memory, not in registers: the verifier then has one state per step.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Clock at the packet's start, ns.
    pub now_ns: u64,
    /// Number of the generation that judges.
    pub generation: u64,
    /// [`Settings::flags`].
    pub settings: u32,
    /// Policy epoch.
    pub epoch: u32,
    /// ifindex.
    pub device: u32,
    /// [`DeviceEntry::flags`].
    pub device_flags: u32,
    /// [`DeviceEntry::endpoint`]: 0, not governed.
    pub endpoint: u32,
    /// [`own_flag`] bits of the source.
    pub source_own: u32,
    /// [`own_flag`] bits of the destination.
    pub destination_own: u32,
    /// Class of the source address.
    pub source_class: u32,
    /// Class of the destination address.
    pub destination_class: u32,
    /// Class of (protocol, destination port).
    pub dport_class: u32,
    /// Class of (protocol, source port).
    pub sport_class: u32,
    /// 1: the classes were looked up.
    pub classified: u8,
    /// A [`Hook`].
    pub hook: u8,
    /// 1: sent by a local process (D4).
    pub locally_sent: u8,
    /// 1: came in through a device, seen at egress.
    pub from_device: u8,
    /// 1: grace: anything may begin a flow (D17).
    pub grace: u8,
    /// 1: this packet may have a flow, `key` is its key.
    pub keyed: u8,
    /// 1: the flow found is that of the packet quoted in an ICMP error (D37).
    pub related: u8,
    /// Table of the flow found plus one; 0: none.
    pub found: u8,
    /// 1: the packet goes in the flow's original direction.
    pub original: u8,
    /// 1: may begin a flow.
    pub may_begin: u8,
    /// 1: leaves the flow table alone.
    pub no_record: u8,
    /// 1: the flow is judged again in the packet's direction; 2: against it (D15).
    pub recheck: u8,
    /// [`RuleEntry::flags`] of the rule that decided.
    pub rule_flags: u8,
    /// `hook` of the packet while `recheck` borrows the field.
    pub saved_hook: u8,
    /// `from_device` of the packet while `recheck` borrows the field.
    pub saved_from_device: u8,
    /// TCP flags of the packet while `recheck` borrows the field.
    pub saved_tcp_flags: u8,
    /// ICMP type of the packet while `recheck` borrows the field.
    pub saved_icmp_type: u8,
    /// 1: the flow took the packet for a reply, while `recheck` runs.
    pub saved_is_reply: u8,
    /// 1: the datagram of this fragment has a record.
    pub fragment_known: u8,
    /// Always zero.
    pub pad: u8,
    /// [`RuleEntry::identity`] of the rule that decided.
    pub rule_identity: u32,
    /// `endpoint` of the packet while `recheck` borrows the field.
    pub saved_endpoint: u32,
    /// `device_flags` of the packet while `recheck` borrows the field.
    pub saved_device_flags: u32,
    /// Always zero.
    pub spare: u32,
}

/// Per-CPU working memory: the BPF stack has 512 bytes only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scratch {
    /// The packet in work.
    pub packet: Packet,
    /// After the program ended: its decision.
    pub decision: Decision,
    /// What is known of it.
    pub facts: Facts,
    /// Its flow's key.
    pub key: crate::flow::FlowKey,
    /// Its flow.
    pub flow: crate::flow::FlowEntry,
    /// Its datagram's key, if it is a fragment.
    pub fragment_key: crate::flow::FragmentKey,
    /// Its datagram's record.
    pub fragment: crate::flow::FragmentEntry,
    /// Event rate limit: second of the kernel clock.
    pub event_second: u64,
    /// Events in that second.
    pub event_count: u32,
    /// Events left out since the last.
    pub event_lost: u32,
    /// 1: what is denied passes ([`Control::spares`]).
    pub spares: u32,
    /// Bytes in front of the network header.
    pub link_layer: u32,
    /// A [`quiet`] state.
    pub quiet: u32,
    /// Always zero.
    pub spare: u32,
}

/// [`Scratch::quiet`]: TC scans again what XDP lets pass, so XDP's own scan must count nothing (D10).
pub mod quiet {
    /// Rules that match without ending a scan are counted and told.
    pub const OFF: u32 = 0;
    /// They are not.
    pub const ON: u32 = 1;
    /// They are not, and there was one.
    pub const MISSED: u32 = 2;
}
