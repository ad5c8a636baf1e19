//! What later fragments inherit from their first one (D36).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use dataplane_common::abi::Hook;
use dataplane_common::verdict::{Reason, Stage};

use super::flows::icmp_request;
use super::frame::{Packet, Part};
use super::stages::{self, Judgement};

/// Per hook: a forwarded datagram meets policy at both.
type Key = (IpAddr, IpAddr, u32, u8, u8);

#[derive(Clone, Debug)]
struct Record {
    allowed: bool,
    header_bytes: usize,
    identity: (u16, u16, u16),
    dead: bool,
    expires: Duration,
}

/// Records of first fragments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fragments {
    records: BTreeMap<Key, Record>,
}

fn key(packet: &Packet, hook: Hook) -> Key {
    // IPv4 tells datagrams apart by protocol too; IPv6 does not.
    let protocol = if packet.v6() { 0 } else { packet.header_protocol };
    (packet.src, packet.dst, packet.fragment_id, protocol, hook.bit())
}

/// What a duplicate of the first fragment must repeat: what names its flow, and an ICMP message's type and code.
fn identity(packet: &Packet) -> (u16, u16, u16) {
    let Some(icmp) = packet.icmp else {
        let (sport, dport) = packet.ports.unwrap_or((0, 0));
        return (sport, dport, 0);
    };
    let id = if icmp_request(packet.v6(), icmp.kind).is_some() { icmp.id } else { 0 };
    (u16::from(icmp.kind), u16::from(icmp.code), id)
}

impl Fragments {
    /// The verdict that records alone give, if they give one.
    pub(crate) fn judge(&mut self, packet: &Packet, hook: Hook, now: Duration) -> Option<Judgement> {
        self.records.retain(|_, record| record.expires > now);
        let record = self.records.get_mut(&key(packet, hook));
        match (packet.part, record) {
            (Part::Whole, _) | (Part::First, None) => None,
            (Part::First, Some(record)) => {
                if record.dead || record.identity != identity(packet) {
                    record.dead = true;
                    return Some(stages::deny(Stage::Malformed, Reason::FragmentRewrite));
                }
                None
            }
            (Part::Later { .. }, None) => Some(stages::deny(Stage::Fragment, Reason::FragmentUnknown)),
            (Part::Later { offset }, Some(record)) => {
                if record.dead {
                    return Some(stages::deny(Stage::Fragment, Reason::FragmentDenied));
                }
                if offset < record.header_bytes {
                    record.dead = true;
                    return Some(stages::deny(Stage::Malformed, Reason::FragmentOverlap));
                }
                Some(match record.allowed {
                    true => stages::allow(Stage::Fragment, Reason::FragmentAllowed),
                    false => stages::deny(Stage::Fragment, Reason::FragmentDenied),
                })
            }
        }
    }

    /// Remembers what a first fragment got.
    pub(crate) fn record(&mut self, packet: &Packet, hook: Hook, judgement: &Judgement, now: Duration) {
        if packet.part != Part::First {
            return;
        }
        let lives = Duration::from_secs(if packet.v6() { 60 } else { 30 });
        let new = Record {
            allowed: judgement.allow,
            header_bytes: packet.header_bytes,
            identity: identity(packet),
            dead: false,
            expires: now + lives,
        };
        self.records.insert(key(packet, hook), new);
    }
}
