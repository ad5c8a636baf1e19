//! World and node → what holds on this node: which host endpoint governs which device, its lists in order, the
//! address sets that rules refer to, own addresses and frontends. Pure and deterministic.
//!
//! Reading order: `auto` (host endpoints made from Nodes) → `binding` → `labels`, `peers`, `questions` and `members`
//! (selectors to addresses) → `sets`, `resolver` and `rules` → `lists` → `local` and `services` (what is ours) → `live`
//! (all of it, kept up to date).

pub mod auto;
pub mod binding;
pub mod labels;
pub mod lists;
pub mod live;
pub mod local;
mod members;
mod peers;
mod questions;
mod resolver;
pub mod rules;
pub mod services;
pub mod sets;
pub mod shadow;
pub mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

pub use binding::{DeviceBinding, LostEndpoint, LostReason};
pub use lists::{EndpointLists, List, PolicyBlock, PolicyId, TierBlock, TierEnd};
pub use live::Index;
pub use rules::{PortAlternative, PortMatch, Resolved, Side};
pub use sets::{SetId, Sets};
pub use shadow::RuleId;
pub use status::ObjectStatus;

use crate::policy::{Failsafe, HostEndpoint, NodeView, OnPolicyChange, PortRange, Protocol, World};

/// Everything that one node enforces, resolved to addresses and devices.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Name of this node.
    pub node: String,
    /// Every device, governed or not, by name.
    pub devices: BTreeMap<String, DeviceBinding>,
    /// Host endpoints that govern at least one device, by name.
    pub endpoints: Vec<EndpointLists>,
    /// Address sets that rules refer to.
    pub sets: Sets,
    /// Own addresses, broadcast addresses and loopback ranges, with `own_flag` bits.
    pub own: BTreeMap<IpNet, u32>,
    /// Ranges of pods, Services and nodes, with `own_flag` bits; empty where no device asks for them (D27).
    pub internal: BTreeMap<IpNet, u32>,
    /// (address, protocol, port) → `frontend_flag` bits (D3).
    pub frontends: BTreeMap<(IpAddr, Protocol, u16), u32>,
    /// Inbound failsafes (D1).
    pub failsafe_inbound: Vec<Failsafe>,
    /// Outbound failsafes (D2).
    pub failsafe_outbound: Vec<Failsafe>,
    /// Other nodes' ends of tunnels: (peer, outer protocol, outer UDP port or 0) (D39).
    pub infra: BTreeSet<(IpAddr, Protocol, u16)>,
    /// `kubeNodePortRanges`, empty as soon as a Service document exists (D3).
    pub node_ports: Vec<PortRange>,
    /// D15, node-wide.
    pub on_policy_change: OnPolicyChange,
    /// D17.
    pub grace_seconds: u32,
    /// For people.
    pub facts: Facts,
}

/// What `status` and `lint` say about a snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Device → host endpoint that governs it.
    pub governed: BTreeMap<String, String>,
    /// Devices that carry host traffic and that nothing governs (D21).
    pub unprotected: BTreeSet<String>,
    /// Workload devices, governed or not (D47).
    pub workload: BTreeSet<String>,
    /// Host endpoints of this node that bind nothing, and why.
    pub lost: Vec<LostEndpoint>,
    /// Selectors of rules that match no address.
    pub empty_selectors: Vec<EmptySelector>,
    /// Policies that select no host endpoint that governs a device here.
    pub idle_policies: Vec<PolicyId>,
    /// Policies that select no host endpoint of any node (D43: "not for hosts").
    pub not_for_hosts: Vec<PolicyId>,
    /// Those among them that act on nothing but host endpoints (`preDNAT`, `doNotTrack`, `applyOnForward`): they miss.
    pub misses: Vec<PolicyId>,
    /// Every host endpoint, those made from Nodes included (D44), with the labels selectors see.
    pub host_endpoints: BTreeMap<String, HostEndpoint>,
}

/// A rule's selector that resolves to nothing: the rule matches nothing there (D14).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EmptySelector {
    /// Whose rule; `None` for a profile's.
    pub policy: Option<PolicyId>,
    /// `spec.ingress[2].source.selector`.
    pub path: String,
    /// As written.
    pub text: String,
}

impl Snapshot {
    /// Rules that an earlier rule covers wherever they stand, each with one that covers it. Only when somebody asks:
    /// rules are compared two by two.
    pub fn shadowed(&self) -> BTreeMap<RuleId, RuleId> {
        shadow::shadowed(&self.endpoints, &self.sets)
    }
    /// Resolves the world for one node. Who does so again and again keeps an [`Index`], which says the same.
    pub fn build(world: &World, view: &NodeView) -> Self {
        Index::new(world, view).into_snapshot()
    }
}
