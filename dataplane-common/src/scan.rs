//! The scan of one list: the first final rule whose bit stands in all four rows (`abi::ListEntry`).

use crate::abi::{RuleAction, rule_flag};
use crate::limits::{MAX_CONTINUE_RULES_PER_LIST, MAX_RULES_PER_LIST, MAX_WORDS_PER_LIST};
use crate::tables::Rows;

/// No rule of the list decides.
pub const SCAN_NONE: u64 = 1 << 32;
/// A table is missing or torn.
pub const SCAN_BROKEN: u64 = 2 << 32;
/// More rules than [`MAX_CONTINUE_RULES_PER_LIST`] matched without ending the scan.
pub const SCAN_LIMIT: u64 = 3 << 32;

/// The packet's classes, two to a word so that a BPF global function can take them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Classes {
    /// Source class in the high half, destination class in the low half.
    pub addresses: u64,
    /// Source port class in the high half, destination port class in the low half.
    pub ports: u64,
}

/// Position within the list of the first rule at or after `position` whose bit stands in all four rows, or one of
/// the `SCAN_*` values.
#[inline(always)]
pub fn next_match<R: Rows>(rows: &R, list: u32, classes: Classes, position: u32) -> u64 {
    let Some(list) = rows.list(list) else { return SCAN_BROKEN };
    if position >= MAX_RULES_PER_LIST {
        return SCAN_NONE;
    }
    let stride = list.words.wrapping_add(1);
    let at = |first: u32, class: u64| first.wrapping_add((class as u32).wrapping_mul(stride));
    let source = at(list.source_rows, classes.addresses >> 32);
    let destination = at(list.destination_rows, classes.addresses);
    let sport = at(list.sport_rows, classes.ports >> 32);
    let dport = at(list.dport_rows, classes.ports);
    let all = |offset: u32| -> Option<u64> {
        let s = rows.word(source.wrapping_add(offset))?;
        let d = rows.word(destination.wrapping_add(offset))?;
        let p = rows.word(dport.wrapping_add(offset))?;
        let q = rows.word(sport.wrapping_add(offset))?;
        Some(s & d & p & q)
    };
    let Some(summary) = all(0) else { return SCAN_BROKEN };
    let first_word = position >> 6;
    let mut summary = summary & (u64::MAX << (first_word & 63));
    let mut step = 0u32;
    while step < MAX_WORDS_PER_LIST {
        step += 1;
        if summary == 0 {
            return SCAN_NONE;
        }
        let word = summary.trailing_zeros();
        let Some(mut bits) = all(word + 1) else { return SCAN_BROKEN };
        if word == first_word {
            bits &= u64::MAX << (position & 63);
        }
        if bits != 0 {
            let found = (word << 6) | bits.trailing_zeros();
            return if found < list.rule_count { u64::from(found) } else { SCAN_NONE };
        }
        summary &= summary - 1;
    }
    SCAN_NONE
}

/// The index (in the generation's rules) of the first final rule that matches, or one of the `SCAN_*` values.
/// Log rules and staged rules on the way are told to `rows` and passed.
#[inline(always)]
pub fn scan<R: Rows>(rows: &R, list: u32, classes: Classes) -> u64 {
    let Some(base) = rows.list(list).map(|list| list.rule_base) else { return SCAN_BROKEN };
    let mut position = 0u32;
    let mut step = 0u32;
    while step <= MAX_CONTINUE_RULES_PER_LIST {
        step += 1;
        let found = rows.next(list, classes, position);
        if found >= SCAN_NONE {
            return found;
        }
        let found = found as u32;
        let index = base.wrapping_add(found);
        let Some(rule) = rows.rule(index) else { return SCAN_BROKEN };
        let staged = rule.flags & rule_flag::STAGED != 0;
        if !staged && (rule.action == RuleAction::Allow as u8 || rule.action == RuleAction::Deny as u8) {
            return u64::from(index);
        }
        if rule.flags & rule_flag::UNCOUNTED == 0 {
            rows.passed(index, &rule);
        }
        // A staged rule that decides in shadow is a Skip too: what its policy would not have looked at is not counted.
        let next = if rule.action == RuleAction::Skip as u8 { rule.resume } else { found + 1 };
        if next <= found {
            return SCAN_BROKEN;
        }
        position = next;
    }
    SCAN_LIMIT
}
