//! What judges a scenario's packets: the reference model or the kernel.

use std::net::IpAddr;
use std::time::Duration;

use dataplane_common::abi::Hook;

use crate::policy::{NodeView, World};

/// One packet on its way, as the device (or a process) hands it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketIn {
    pub device: String,
    pub hook: Hook,
    /// Egress only: the device a forwarded packet came from; `None`: sent by a local process.
    pub from: Option<String>,
    /// The whole Ethernet frame, tags in place.
    pub frame: Vec<u8>,
}

/// What an engine says. `reason` is a [`dataplane_common::verdict::Reason`] name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// `Allow`, `Deny` or `Ungoverned`.
    pub verdict: String,
    /// A [`dataplane_common::verdict::Stage`] name; `none` when ungoverned.
    pub stage: String,
    pub tier: Option<String>,
    pub policy: Option<String>,
    pub rule: Option<u32>,
    pub reason: String,
    /// How it came about, a line each, for `explain` and failed expectations. Not compared.
    pub trace: Vec<String>,
}

/// A live flow that adoption finds (D17).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveFlow {
    pub protocol: u8,
    pub original: FlowTuple,
    /// The tuple of the returning packets, when NAT changed it.
    pub reply: Option<FlowTuple>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTuple {
    pub src: IpAddr,
    pub sport: u16,
    pub dst: IpAddr,
    pub dport: u16,
}

/// Something that judges packets, with state (flows, fragments, time) from packet to packet.
pub trait Engine {
    /// `model` or `kernel`.
    fn name(&self) -> &'static str;
    /// The state of the world from now on. Flows stay. Devices that become governed begin their grace, except in
    /// the first call (scenario-format.md, `conntrack:`).
    fn set_world(&mut self, world: &World, view: &NodeView) -> anyhow::Result<()>;
    /// Takes over live flows.
    fn adopt(&mut self, flows: &[LiveFlow]) -> anyhow::Result<()>;
    /// Lets time pass.
    fn advance(&mut self, by: Duration) -> anyhow::Result<()>;
    /// Judges one packet.
    fn judge(&mut self, packet: &PacketIn) -> anyhow::Result<Outcome>;
}
