//! The seam: what the decision asks of its tables. The kernel answers from BPF maps, tests from vectors.

use crate::abi::{DeviceEntry, FlowEvent, ListEntry, ListKind, PortKey, PortRange, RuleEntry, Scratch};
use crate::addr::Addr;
use crate::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey};
use crate::packet::Packet;
use crate::scan::Classes;

/// Which of the three flow tables an entry lives in (D18).
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowTable {
    /// A reply was seen.
    Confirmed = 0,
    /// Not yet.
    Unconfirmed = 1,
    /// Admitted by a failsafe.
    Failsafe = 2,
}

impl FlowTable {
    /// In the order of lookup.
    pub const ALL: [Self; 3] = [Self::Confirmed, Self::Unconfirmed, Self::Failsafe];
}

/// Where a new flow competes for place (D18): a flood from outside takes none from flows that begin here, and neither
/// takes any from flows of failsafes.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// First seen at ingress.
    FromOutside = 0,
    /// First seen at egress: of local processes, and of pods whose devices carry no program.
    FromInside = 1,
    /// A failsafe's, at ingress.
    FailsafeInbound = 2,
    /// A failsafe's, at egress.
    FailsafeOutbound = 3,
}

impl Room {
    /// Table of such flows.
    #[inline(always)]
    pub const fn table(self) -> FlowTable {
        match self {
            Self::FromOutside | Self::FromInside => FlowTable::Unconfirmed,
            Self::FailsafeInbound | Self::FailsafeOutbound => FlowTable::Failsafe,
        }
    }
}

/// What the whole node has in common while one packet is judged, read once (D23).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeState {
    /// Clock, ns, the tests' offset included.
    pub now_ns: u64,
    /// [`crate::abi::Settings::generation`].
    pub generation: u64,
    /// [`crate::abi::Settings::flags`].
    pub settings: u32,
    /// [`crate::abi::Control::epoch`].
    pub epoch: u32,
    /// [`crate::abi::Control::grace_until_ns`].
    pub record_only_until_ns: u64,
}

/// One generation, read once per packet (D23), and the state tables that outlive it.
pub trait Tables {
    /// Clock, epoch and settings; `None`: the generation has no settings.
    fn node(&self) -> Option<NodeState>;
    /// A device.
    fn device(&self, ifindex: u32) -> Option<DeviceEntry>;
    /// The list of an endpoint (index already minus one): its index plus one, 0 for none. `None`: table missing.
    fn list_of(&self, endpoint: u32, kind: ListKind) -> Option<u32>;
    /// `own_flag` bits of an address; 0 if it is not ours.
    fn own_addr(&self, addr: &Addr) -> u32;
    /// `frontend_flag` bits of (address, protocol, port); 0 if it is none.
    fn frontend(&self, addr: &Addr, protocol: u8, port: u16) -> u32;
    /// A range of node ports (D3), by number.
    fn node_ports(&self, number: u32) -> Option<PortRange>;
    /// Whether a failsafe of this direction holds for (protocol, port) with that peer.
    fn failsafe(&self, direction: u8, protocol: u8, port: u16, peer: &Addr) -> bool;
    /// Whether `peer` is another node's end of a tunnel of this protocol and port (D39).
    fn infra(&self, peer: &Addr, protocol: u8, port: u16) -> bool;
    /// Whether the kernel's own routing would forward this packet (D3).
    fn would_forward(&self, packet: &Packet) -> bool;
    /// D27: whether the kernel would answer the source by another device than this, or not at all.
    fn lives_elsewhere(&self, packet: &Packet) -> bool;
    /// Class of an address; 0: in no set.
    fn addr_class(&self, addr: &Addr) -> u32;
    /// Class of a port; 0: no port rule.
    fn port_class(&self, key: &PortKey) -> u32;
    /// [`crate::scan::scan`] over list `list` (index already minus one), with the classes in `work.facts`.
    fn scan(&self, list: u32, work: &Scratch) -> u64;
    /// A rule of the generation.
    fn rule(&self, index: u32) -> Option<RuleEntry>;

    /// Copies a flow into `out`; false if there is none.
    fn flow(&self, table: FlowTable, key: &FlowKey, out: &mut FlowEntry) -> bool;
    /// Writes a new flow. In its room there is always place: if need be, the oldest flow of the source that holds most
    /// of the neighbours goes (D18).
    fn flow_begin(&self, room: Room, source: &Addr, key: &FlowKey, entry: &FlowEntry);
    /// Writes a flow; false if there is no room.
    fn flow_put(&self, table: FlowTable, key: &FlowKey, entry: &FlowEntry) -> bool;
    /// Writes what a packet of an established flow changes, into the entry that [`Tables::flow`] found last: its time,
    /// hooks and epoch, and the state and numbers of its direction.
    fn flow_touch(&self, table: FlowTable, key: &FlowKey, entry: &FlowEntry, original: bool);
    /// Counts what happens to the flow tables.
    fn flow_event(&self, event: FlowEvent);
    /// Removes a flow.
    fn flow_remove(&self, table: FlowTable, key: &FlowKey);
    /// Copies a fragment record into `out`; false if there is none.
    fn fragment(&self, key: &FragmentKey, out: &mut FragmentEntry) -> bool;
    /// Writes the record of a datagram that has none. Makes room like [`Tables::flow_begin`].
    fn fragment_begin(&self, source: &Addr, key: &FragmentKey, entry: &FragmentEntry);
    /// Writes a fragment record again.
    fn fragment_put(&self, key: &FragmentKey, entry: &FragmentEntry);
}

/// What a list scan reads.
pub trait Rows {
    /// A list of the generation.
    fn list(&self, index: u32) -> Option<ListEntry>;
    /// A word of the bitmap rows.
    fn word(&self, index: u32) -> Option<u64>;
    /// A rule.
    fn rule(&self, index: u32) -> Option<RuleEntry>;
    /// [`crate::scan::next_match`]; a call of its own, because the BPF verifier wants it so.
    fn next(&self, list: u32, classes: Classes, position: u32) -> u64;
    /// A rule matched that does not end the scan: Log, Skip, staged.
    fn passed(&self, index: u32, rule: &RuleEntry);
}
