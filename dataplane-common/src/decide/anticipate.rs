//! D10: what XDP drops before TC sees it. Always a part of what [`super::run`] denies by the untracked ingress list, by
//! the same steps in the same order; whatever is not sure passes, because TC judges every packet.

use super::{OPEN, addresses, begin, early, open};
use crate::abi::{Hook, ListKind, Scratch};
use crate::frame::Frame;
use crate::packet::FragmentPart;
use crate::parse::{ParseResult, parse};
use crate::tables::Tables;
use crate::verdict::{NO_RULE, Stage, Verdict};

/// Whether a rule of the untracked ingress list denies this packet. Then the decision is in `work`; else it means
/// nothing. Reads and writes no state: neither flows nor fragments.
///
/// Fragments pass. TC judges the first of a datagram, and the later ones by what the first got (D36).
#[inline(always)]
#[must_use]
pub fn denied_untracked<F: Frame, T: Tables>(frame: &F, tables: &T, work: &mut Scratch, device: u32) -> bool {
    work.packet = Default::default();
    work.decision = OPEN;
    // At TC ingress nothing depends on where a packet came from.
    if !begin(tables, work, Hook::Ingress, device, false) || work.facts.endpoint == 0 {
        return false;
    }
    if parse(frame, &mut work.packet) != ParseResult::Ip || work.packet.fragment != FragmentPart::Whole {
        return false;
    }
    addresses(tables, work);
    early::martian(tables, work);
    if !open(work) {
        return false;
    }
    early::failsafe(tables, work);
    if !open(work) {
        return false;
    }
    early::untracked(tables, work);
    work.decision.verdict as u8 == Verdict::Deny as u8
        && work.decision.stage as u8 == Stage::Untracked as u8
        // Without a rule: a missing table or a list that is too long. TC says which.
        && work.decision.rule != NO_RULE
}

/// After [`denied_untracked`]: scans the list once more, so that the rules that matched without deciding are counted
/// and told. Nobody else will: the packet ends here.
#[inline(always)]
pub fn tell_passed<T: Tables>(tables: &T, work: &Scratch) {
    let list = tables.list_of(work.facts.endpoint.wrapping_sub(1), ListKind::UntrackedIngress);
    if let Some(list) = list.and_then(|list| list.checked_sub(1)) {
        let _ = tables.scan(list, work);
    }
}
