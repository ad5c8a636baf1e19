//! Limits, checked before anything is written; the error says what to do (D22, D50).

use dataplane_common::limits;

/// Why a snapshot cannot be compiled. The generation before stays in force (D22).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A named limit is crossed.
    #[error("{object}: {count} {what}, but a generation holds at most {max} ({name}). {remedy}")]
    Limit {
        /// Constant of `dataplane_common::limits`.
        name: &'static str,
        /// The object that crossed it.
        object: String,
        count: usize,
        max: usize,
        what: &'static str,
        remedy: &'static str,
    },
}

/// A limit of `dataplane_common::limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    RulesPerList,
    ContinueRulesPerList,
    Rules,
    Lists,
    Endpoints,
    Devices,
    Prefixes,
    PortPrefixes,
    RowWords,
    OwnAddresses,
    InternalRanges,
    Frontends,
    Failsafes,
    InfraPeers,
    NodePortRanges,
}

impl Limit {
    /// Constant's name, its value, what is counted, and what to do.
    fn describe(self) -> (&'static str, usize, &'static str, &'static str) {
        match self {
            Self::RulesPerList => (
                "MAX_RULES_PER_LIST",
                limits::MAX_RULES_PER_LIST as usize,
                "compiled rules in one list",
                "Merge rules that differ only in nets or ports into one rule with lists, or use a GlobalNetworkSet.",
            ),
            Self::ContinueRulesPerList => (
                "MAX_CONTINUE_RULES_PER_LIST",
                limits::MAX_CONTINUE_RULES_PER_LIST as usize,
                "rules with action Log or Pass, staged rules or negated named ports in one list",
                "Remove Log rules, write numbers instead of names in notPorts, or preview fewer staged rules at a time.",
            ),
            Self::Rules => (
                "MAX_RULES",
                limits::MAX_RULES as usize,
                "compiled rules on this node",
                "Let fewer policies select each host endpoint, or merge rules.",
            ),
            Self::Lists => (
                "MAX_LISTS",
                limits::MAX_LISTS as usize,
                "rule lists on this node",
                "Use fewer host endpoints on this node, for example one with interfaceName \"*\".",
            ),
            Self::Endpoints => (
                "MAX_ENDPOINTS",
                limits::MAX_ENDPOINTS as usize,
                "host endpoints that govern a device of this node",
                "Use one host endpoint with interfaceName \"*\" instead of one per device.",
            ),
            Self::Devices => (
                "MAX_DEVICES",
                limits::MAX_DEVICES as usize,
                "network devices on this node",
                "Spread the workloads over more nodes.",
            ),
            Self::Prefixes => (
                "MAX_PREFIXES",
                limits::MAX_PREFIXES as usize,
                "address prefixes that rules refer to",
                "Aggregate the CIDRs of the largest network sets, or narrow the selectors.",
            ),
            Self::PortPrefixes => (
                "MAX_PORT_PREFIXES",
                limits::MAX_PORT_PREFIXES as usize,
                "port prefixes",
                "Use fewer different port ranges; ranges aligned to powers of two need least room.",
            ),
            Self::RowWords => (
                "MAX_ROW_WORDS",
                limits::MAX_ROW_WORDS as usize,
                "64-bit words of rule rows (address classes times rules)",
                "Use fewer different address sets in rules, or fewer rules per host endpoint.",
            ),
            Self::OwnAddresses => (
                "MAX_OWN_ADDRESSES",
                limits::MAX_OWN_ADDRESSES as usize,
                "own and broadcast addresses of this node",
                "Remove addresses from this node's devices.",
            ),
            Self::InternalRanges => (
                "MAX_INTERNAL_RANGES",
                limits::MAX_INTERNAL_RANGES as usize,
                "addresses and ranges of pods, Services and nodes for portcullis.dev/anti-spoof",
                "Give the agent Nodes with podCIDRs instead of single Pods, or take the annotation off.",
            ),
            Self::Frontends => (
                "MAX_FRONTENDS",
                limits::MAX_FRONTENDS as usize,
                "Service frontends (addresses times ports)",
                "Narrow nodePortAddresses, so that NodePorts count on fewer own addresses.",
            ),
            Self::Failsafes => (
                "MAX_FAILSAFES",
                limits::MAX_FAILSAFES as usize,
                "failsafe entries",
                "Shorten failsafeInboundHostPorts and failsafeOutboundHostPorts in the FelixConfiguration.",
            ),
            Self::InfraPeers => (
                "MAX_INFRA_PEERS",
                limits::MAX_INFRA_PEERS as usize,
                "tunnel peers (nodes times kinds of tunnel)",
                "Turn infraTunnels off and write policies for the tunnels.",
            ),
            Self::NodePortRanges => (
                "MAX_NODE_PORT_RANGES",
                limits::MAX_NODE_PORT_RANGES,
                "kubeNodePortRanges",
                "Merge neighbouring ranges in the FelixConfiguration.",
            ),
        }
    }
}

/// Refuses `count` above the limit, blaming `object`.
pub fn check(limit: Limit, count: usize, object: &str) -> Result<(), Error> {
    let (name, max, what, remedy) = limit.describe();
    if count <= max {
        return Ok(());
    }
    Err(Error::Limit { name, object: object.to_owned(), count, max, what, remedy })
}
