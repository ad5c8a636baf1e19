//! D36: later fragments inherit what their first one got.

use super::{flag_of, governed};
use crate::abi::{Facts, Scratch};
use crate::flow::{FragmentEntry, FragmentKey};
use crate::packet::{FragmentPart, Packet, flag};
use crate::tables::Tables;
use crate::verdict::{Reason, Stage, Verdict};

/// As long as the kernel's reassembly waits, ns.
const LIFE_V4: u64 = 30_000_000_000;
const LIFE_V6: u64 = 60_000_000_000;

#[inline(always)]
fn key(packet: &Packet, facts: &Facts) -> FragmentKey {
    let v4 = packet.tuple.src.is_v4();
    FragmentKey {
        src: packet.tuple.src,
        dst: packet.tuple.dst,
        id: packet.fragment_id,
        protocol: if v4 { packet.header_protocol } else { 0 },
        hook: facts.hook,
        pad: [0; 2],
    }
}

#[inline(always)]
fn ports(packet: &Packet) -> (u16, u16) {
    if packet.flags & flag::PORTS != 0 {
        (packet.tuple.sport, packet.tuple.dport)
    } else {
        (packet.tuple.sport, u16::from(packet.icmp_type) << 8 | u16::from(packet.icmp_code))
    }
}

/// Decides every later fragment, and a first one that contradicts its record.
#[inline(never)]
pub(super) fn before<T: Tables>(tables: &T, work: &mut Scratch) {
    work.fragment_key = key(&work.packet, &work.facts);
    let known = tables.fragment(&work.fragment_key, &mut work.fragment)
        && work.fragment.expires_ns > work.facts.now_ns;
    work.facts.fragment_known = flag_of(known);
    if work.packet.fragment == FragmentPart::First {
        if known
            && (work.fragment.dead != 0 || (work.fragment.sport, work.fragment.dport) != ports(&work.packet))
        {
            die(tables, work, Reason::FragmentRewrite);
        }
        return;
    }
    if !known {
        governed(work, Verdict::Deny, Stage::Fragment, Reason::FragmentUnknown);
    } else if work.fragment.dead != 0 {
        governed(work, Verdict::Deny, Stage::Fragment, Reason::FragmentDenied);
    } else if work.packet.fragment_offset < work.fragment.header {
        die(tables, work, Reason::FragmentOverlap);
    } else if work.fragment.decision.verdict as u8 == Verdict::Deny as u8 {
        governed(work, Verdict::Deny, Stage::Fragment, Reason::FragmentDenied);
    } else {
        governed(work, Verdict::Allow, Stage::Fragment, Reason::FragmentAllowed);
    }
}

#[inline(always)]
fn die<T: Tables>(tables: &T, work: &mut Scratch, reason: Reason) {
    work.fragment.dead = 1;
    tables.fragment_put(&work.fragment_key, &work.fragment);
    governed(work, Verdict::Deny, Stage::Malformed, reason);
}

/// Records what a first fragment got.
#[inline(never)]
pub(super) fn after<T: Tables>(tables: &T, work: &mut Scratch) {
    let life = if work.packet.tuple.src.is_v4() { LIFE_V4 } else { LIFE_V6 };
    let (sport, dport) = ports(&work.packet);
    work.fragment = FragmentEntry {
        expires_ns: work.facts.now_ns + life,
        decision: work.decision,
        header: work.packet.l4_header,
        sport,
        dport,
        dead: 0,
        pad: 0,
    };
    if work.facts.fragment_known != 0 {
        tables.fragment_put(&work.fragment_key, &work.fragment);
    } else {
        tables.fragment_begin(&work.fragment_key.src, &work.fragment_key, &work.fragment);
    }
}
