//! The flow table's layout (`architecture.md` §5, D15–D18, D42). An ABI of its own: [`crate::FLOW_ABI_VERSION`].

use crate::addr::Addr;

/// Canonical key: the smaller (address, port) end first, so that both directions find one entry in one lookup.
/// The entry says which end began. Never the device: routes may be asymmetric.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FlowKey {
    /// Smaller end.
    pub low: Addr,
    /// Other end.
    pub high: Addr,
    /// Host order; 0 where the protocol has none; ICMP: the identifier.
    pub low_port: u16,
    /// Host order.
    pub high_port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// 0, or for ICMP the request's type: a key space apart from ports. With [`SPACE_HIGH_ASKED`] the high end
    /// sent the request: both ends may use one identifier for exchanges of their own.
    pub space: u8,
    /// Always zero.
    pub pad: [u8; 2],
}

/// See [`FlowKey::space`].
pub const SPACE_HIGH_ASKED: u8 = 0x40;

/// [`FlowEntry::flags`].
pub mod flow_flag {
    /// The low end sent the first packet.
    pub const ORIGINAL_IS_LOW: u8 = 1 << 0;
    /// A reply was seen (TCP: SYN+ACK): lives in the confirmed table.
    pub const CONFIRMED: u8 = 1 << 1;
    /// Admitted by a failsafe.
    pub const FAILSAFE: u8 = 1 << 2;
    /// Taken from conntrack or sockets (D17). Where it began is not known as long as `device` is 0.
    pub const ADOPTED: u8 = 1 << 3;
    /// Began in grace, with something other than a SYN (D17).
    pub const GRACE: u8 = 1 << 4;
    /// The policy that admitted it says `recheck` (D15).
    pub const RECHECK: u8 = 1 << 5;
    /// The policy that admitted it says `keep` (D15). Neither: the node's setting counts.
    pub const KEEP: u8 = 1 << 6;
    /// Its first packet had come in through a device (D4).
    pub const FROM_DEVICE: u8 = 1 << 7;
}

/// [`FlowEntry::pending`]: a SYN of the original direction waits.
pub const PENDING_ORIGINAL: u8 = 1;
/// [`FlowEntry::pending`]: a SYN of the reply direction waits.
pub const PENDING_REPLY: u8 = 2;

/// TCP state of one direction; other protocols use `Established` once seen.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TcpState {
    /// Nothing seen.
    #[default]
    None = 0,
    /// SYN (or SYN+ACK) sent.
    SynSent = 1,
    /// Data or a bare ACK after the handshake.
    Established = 2,
    /// FIN sent.
    Fin = 3,
    /// RST seen in window; the entry lives on for a short time (T-9).
    Closing = 4,
}

/// A flow. 80 bytes with spare room, so that small changes need no new layout (D49). A change of its size or meaning
/// moves [`crate::FLOW_ABI_VERSION`], and the layout before gets a reader in the agent's `maps/layouts.rs`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowEntry {
    /// Kernel clock of the last packet, ns.
    pub last_seen_ns: u64,
    /// Kernel clock of the first packet, ns.
    pub created_ns: u64,
    /// Generation that admitted it.
    pub generation: u64,
    /// Epoch under which it was last judged (D15).
    pub epoch: u32,
    /// Index of the rule that admitted it, in that generation, or `NO_RULE`.
    pub rule: u32,
    /// [`crate::abi::RuleEntry::identity`] of it, 0 without.
    pub rule_identity: u32,
    /// Device of the first packet, ifindex; 0: not known ([`flow_flag::ADOPTED`]).
    pub device: u32,
    /// TCP: the acknowledgement number that answers the latest SYN of the original direction.
    pub original_next_seq: u32,
    /// TCP: the same for the reply direction.
    pub reply_next_seq: u32,
    /// A later SYN on a confirmed flow: its acknowledgement number, valid while `pending` is 1 (D16).
    pub pending_next_seq: u32,
    /// Bits of [`flow_flag`].
    pub flags: u8,
    /// Hook bits that admitted it (D42).
    pub hooks: u8,
    /// [`crate::verdict::Stage`] that admitted it.
    pub stage: u8,
    /// [`crate::abi::Hook`] of the first packet.
    pub hook: u8,
    /// [`TcpState`] of the original direction.
    pub state_original: u8,
    /// [`TcpState`] of the reply direction.
    pub state_reply: u8,
    /// A later SYN waits for its answer: [`PENDING_ORIGINAL`] or [`PENDING_REPLY`], 0: none.
    pub pending: u8,
    /// Hook bits that admitted the SYN in `pending`.
    pub pending_hooks: u8,
    /// TCP: payload of the latest SYN of the original direction (fast open): its answer may acknowledge this too.
    pub syn_payload: u16,
    /// The same for the SYN in `pending`.
    pub pending_payload: u16,
    /// [`crate::abi::Hook`] that judged the SYN in `pending`.
    pub pending_hook: u8,
    /// 1: the SYN in `pending` had come in through a device.
    pub pending_from_device: u8,
    /// Always zero.
    pub pad: [u8; 2],
    /// Device that judged the SYN in `pending`, ifindex.
    pub pending_device: u32,
    /// Always zero.
    pub spare: [u64; 1],
}

const _: () = assert!(size_of::<FlowEntry>() == 80, "no hidden padding");
const _: () = assert!(size_of::<FlowKey>() == 48, "no hidden padding, and six words for `room`");
const _: () = assert!(size_of::<FragmentKey>() == 48, "no hidden padding, and six words for `room`");

/// Key of a fragmented datagram, device-independent (D36). `protocol` is 0 for IPv6. The hook is part of it: what
/// ingress admitted must still meet the list of egress.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FragmentKey {
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Identification.
    pub id: u32,
    /// IPv4 only.
    pub protocol: u8,
    /// A [`crate::abi::Hook`].
    pub hook: u8,
    /// Always zero.
    pub pad: [u8; 2],
}

/// What the first fragment got.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentEntry {
    /// Kernel clock at which the record ends, ns.
    pub expires_ns: u64,
    /// The verdict of the first fragment.
    pub decision: crate::verdict::Decision,
    /// Bytes of header in the first fragment: later offsets below are refused.
    pub header: u16,
    /// Its ports (or ICMP type and code), to tell a rewrite from a duplicate.
    pub sport: u16,
    /// See `sport`.
    pub dport: u16,
    /// 1: the record is dead, everything of this datagram is refused.
    pub dead: u8,
    /// Always zero.
    pub pad: u8,
}
