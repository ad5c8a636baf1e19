//! Flows that lived before we saw them (D17): their keys and entries.

use std::net::IpAddr;

use dataplane_common::abi::Hook;
use dataplane_common::addr::Addr;
use dataplane_common::flow::{FlowEntry, FlowKey, SPACE_HIGH_ASKED, TcpState, flow_flag};
use dataplane_common::packet::protocol;
use dataplane_common::verdict::{NO_RULE, Stage};

/// ICMP echo request, v4 and v6: the key space of pings.
const ECHO_REQUEST: (u8, u8) = (8, 128);
/// An adopted flow is admitted at both.
pub const BOTH_HOOKS: u8 = Hook::Ingress.bit() | Hook::Egress.bit();

/// Two ends, in the direction in which the flow began. An echo's two ports are its identifier; 0 where the protocol
/// has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
}

impl Ends {
    /// The other direction.
    pub fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }

    /// The table's key, and whether the source is its low end.
    pub fn key(&self, protocol: u8) -> (FlowKey, bool) {
        let source = (Addr::from(self.source.0), self.source.1);
        let destination = (Addr::from(self.destination.0), self.destination.1);
        let original_is_low = source <= destination;
        let (low, high) = if original_is_low { (source, destination) } else { (destination, source) };
        let asked_by = if original_is_low { 0 } else { SPACE_HIGH_ASKED };
        let space = match protocol {
            protocol::ICMP => ECHO_REQUEST.0 | asked_by,
            protocol::ICMPV6 => ECHO_REQUEST.1 | asked_by,
            _ => 0,
        };
        let key = FlowKey {
            low: low.0,
            high: high.0,
            low_port: low.1,
            high_port: high.1,
            protocol,
            space,
            pad: [0; 2],
        };
        (key, original_is_low)
    }
}

/// When and under what a flow is adopted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    pub now_ns: u64,
    pub generation: u64,
    pub epoch: u32,
}

impl Adoption {
    /// Confirmed, and admitted at both hooks. `forwarded`: who began it is no address of this node, behind a
    /// translation of ours, too. `handshake`: a TCP SYN was answered, the last ACK not seen yet; such an entry lives as
    /// short as one of our own does.
    pub fn entry(&self, original_is_low: bool, forwarded: bool, handshake: bool) -> FlowEntry {
        let state = if handshake { TcpState::SynSent } else { TcpState::Established } as u8;
        let low = if original_is_low { flow_flag::ORIGINAL_IS_LOW } else { 0 };
        let from = if forwarded { flow_flag::FROM_DEVICE } else { 0 };
        FlowEntry {
            last_seen_ns: self.now_ns,
            created_ns: self.now_ns,
            generation: self.generation,
            epoch: self.epoch,
            rule: NO_RULE,
            flags: flow_flag::CONFIRMED | flow_flag::ADOPTED | low | from,
            hooks: BOTH_HOOKS,
            stage: Stage::Flow as u8,
            state_original: state,
            state_reply: state,
            ..FlowEntry::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str, port: u16) -> (IpAddr, u16) {
        (text.parse().unwrap(), port)
    }

    #[test]
    fn both_directions_have_one_key() {
        let ends = Ends { source: end("10.0.0.9", 40000), destination: end("10.0.0.1", 22) };
        let (key, low) = ends.key(protocol::TCP);
        let (back, back_low) = ends.reversed().key(protocol::TCP);
        assert_eq!((key, low, back_low), (back, false, true));
    }

    /// Pings of both ends may share an identifier.
    #[test]
    fn pings_of_two_ends_are_two_flows() {
        let ends = Ends { source: end("fd00::9", 7), destination: end("fd00::1", 7) };
        let (key, _) = ends.key(protocol::ICMPV6);
        let (back, _) = ends.reversed().key(protocol::ICMPV6);
        assert_ne!(key, back);
        assert_eq!((key.space, back.space), (128 | SPACE_HIGH_ASKED, 128));
    }
}
