//! The seam: what the decision asks of its tables. The kernel answers from BPF maps, tests from vectors.

use crate::abi::{Control, DeviceEntry, EndpointEntry, ListKind, RuleEntry, Settings};
use crate::addr::Addr;
use crate::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey};
use crate::packet::Packet;

/// A list scan's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleHit {
    /// The first final rule that matches: its index in the generation, and the rule.
    Rule(u32, RuleEntry),
    /// No rule of the list decides.
    None,
    /// A table is missing, or the scan reached its limit: closed.
    Broken,
}

/// Which of the three flow tables an entry lives in (D18).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowTable {
    /// A reply was seen.
    Confirmed,
    /// Not yet.
    Unconfirmed,
    /// Admitted by a failsafe.
    Failsafe,
}

/// One generation, read once per packet (D23), and the state tables that outlive it.
pub trait Tables {
    /// The clock, ns.
    fn now_ns(&self) -> u64;
    /// The control word as read at the packet's start.
    fn control(&self) -> Control;
    /// Settings of the generation.
    fn settings(&self) -> Option<Settings>;
    /// The packet's device.
    fn device(&self) -> Option<DeviceEntry>;
    /// The endpoint at `index` (already minus one).
    fn endpoint(&self, index: u32) -> Option<EndpointEntry>;
    /// `own_flag` bits of an address; 0 if it is not ours.
    fn own_addr(&self, addr: &Addr) -> u32;
    /// `frontend_flag` bits of (address, protocol, port); 0 if it is none.
    fn frontend(&self, addr: &Addr, protocol: u8, port: u16) -> u32;
    /// Whether a failsafe of this direction holds for (protocol, port) with that peer.
    fn failsafe(&self, direction: u8, protocol: u8, port: u16, peer: &Addr) -> bool;
    /// Whether `peer` is another node's end of a tunnel of this protocol and port (D39).
    fn infra(&self, peer: &Addr, protocol: u8, port: u16) -> bool;
    /// Whether the kernel's own routing would forward this packet (D3).
    fn would_forward(&self, packet: &Packet) -> bool;
    /// D27: whether the source routes elsewhere.
    fn spoofed(&self, packet: &Packet) -> bool;
    /// The first final rule of `list` (index already minus one) that matches. Log rules on the way are reported.
    fn first_match(&self, list: u32, kind: ListKind, packet: &Packet) -> RuleHit;

    /// A flow, copied.
    fn flow(&self, table: FlowTable, key: &FlowKey) -> Option<FlowEntry>;
    /// Writes a flow; false if there is no room.
    fn flow_put(&self, table: FlowTable, key: &FlowKey, entry: &FlowEntry) -> bool;
    /// Removes a flow.
    fn flow_remove(&self, table: FlowTable, key: &FlowKey);
    /// A fragment record.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry>;
    /// Writes a fragment record.
    fn fragment_put(&self, key: &FragmentKey, entry: &FragmentEntry);
}
