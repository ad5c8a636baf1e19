//! Adoption (D17): what lived before its packets were seen is taken from the kernel, so that nothing is cut.

mod conntrack;
mod dump;
mod sockets;

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;
use dataplane_common::limits::MAX_FLOWS_CONFIRMED;
use dataplane_common::packet::protocol;

use crate::maps::State;
use crate::maps::adopt::{Adoption, Ends};

/// Of the table of confirmed flows, so that there is room for what begins after it.
const MOST: u64 = MAX_FLOWS_CONFIRMED as u64 * 3 / 4;

/// A live flow, as some table of the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Live {
    protocol: u8,
    original: Ends,
    /// The flow on the other side of an address translation.
    translated: Option<Ends>,
    /// TCP: the last packet of the handshake was not seen yet.
    handshake: bool,
}

/// What an adoption found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Flows from tables of another layout (D49).
    pub moved: u64,
    /// Flows from connection tracking.
    pub conntrack: u64,
    /// Flows from sockets.
    pub sockets: u64,
    /// Entries that could not be read.
    pub unreadable: u64,
    /// What could not be asked, or not wholly: such flows have only their grace.
    pub errors: Vec<String>,
}

/// Whether flows of this protocol are kept by port.
fn has_ports(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDPLITE)
}

/// Within the host: such packets meet no device of ours (D5).
fn stays_inside(live: &Live) -> bool {
    live.original.source.0.is_loopback() || live.original.destination.0.is_loopback()
}

/// Puts every live flow into the table of confirmed flows. `own`: addresses of this node. A failure costs what it names,
/// nothing else.
pub(super) fn adopt(state: &mut State, as_of: Adoption, own: &BTreeSet<IpAddr>) -> Found {
    let mut found = Found::default();
    let mut room = MOST;
    let mut broken: Option<String> = None;
    let mut put = |live: Live, count: &mut u64| {
        if stays_inside(&live) {
            return true;
        }
        let forwarded = !own.contains(&live.original.source.0);
        for ends in [Some(live.original), live.translated].into_iter().flatten() {
            if room == 0 {
                broken.get_or_insert_with(|| {
                    format!("more than {MOST} live flows: the rest was not taken over")
                });
                return false;
            }
            let (key, original_is_low) = ends.key(live.protocol);
            match state.adopt_flow(&key, &as_of.entry(original_is_low, forwarded, live.handshake)) {
                Ok(new) => {
                    *count += u64::from(new);
                    room -= 1;
                }
                Err(e) => {
                    broken.get_or_insert_with(|| format!("{:#}", anyhow::Error::from(e)));
                    return false;
                }
            }
        }
        true
    };
    // A dump that was interrupted may miss entries: once more, and what is known already costs nothing.
    let mut ask = |source: &mut dyn FnMut(&mut u64) -> Result<dump::Ended>, count: &mut u64| {
        for attempt in 0..3 {
            match source(count) {
                Ok(ended) if ended.interrupted && attempt < 2 => {}
                Ok(ended) => {
                    found.unreadable += ended.unreadable;
                    return;
                }
                Err(e) => {
                    found.errors.push(format!("{e:#}"));
                    return;
                }
            }
        }
    };
    let (mut tracked, mut own) = (0, 0);
    ask(&mut |count| conntrack::read(|live| put(live, count)), &mut tracked);
    for family in sockets::FAMILIES {
        for number in [protocol::TCP, protocol::UDP] {
            ask(&mut |count| sockets::read(family, number, |live| put(live, count)), &mut own);
        }
    }
    found.errors.extend(broken);
    (found.conntrack, found.sockets) = (tracked, own);
    found
}
