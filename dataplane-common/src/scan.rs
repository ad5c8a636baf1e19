//! First match over bitmap rows: the classifier behind [`crate::tables::Tables::first_match`].
//!
//! A packet has four classes (source, destination, destination port, source port), looked up once. Each class has a
//! row of bits per list (see [`ListEntry`]); the AND of the four rows holds exactly the rules that match, in order.
//! The cost grows with the words that are not empty, not with the number of rules.

use crate::abi::{ListEntry, RuleAction, RuleEntry, rule_flag};
use crate::limits::MAX_SCAN_STEPS;

/// The classes of one packet. 0: in no set, no rule names this port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Classes {
    /// Of the source address.
    pub source: u32,
    /// Of the destination address.
    pub destination: u32,
    /// Of (protocol, destination port), or of (ICMP, type and code).
    pub dport: u32,
    /// Of (protocol, source port).
    pub sport: u32,
}

/// Rows and rules of one generation.
pub trait Rows {
    /// A word of `pc_rows`.
    fn row(&self, index: u32) -> Option<u64>;
    /// An entry of `pc_rules`.
    fn rule(&self, index: u32) -> Option<RuleEntry>;
    /// A rule matched that does not end the scan: Log, Pass, a staged rule.
    fn passed(&self, rule: &RuleEntry);
}

/// How a scan ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Scan {
    /// The first final rule that matches, by its index in `pc_rules`.
    Rule(u32),
    /// No rule decides.
    End,
    /// A row or rule is missing: refuse.
    Missing,
    /// More steps than [`MAX_SCAN_STEPS`]: refuse. The compiler keeps lists below that.
    Limit,
}

/// Offset of the four rows of one packet in one list.
struct RowOffsets([u32; 4]);

impl RowOffsets {
    #[inline(always)]
    fn new(list: &ListEntry, classes: &Classes) -> Self {
        let stride = list.words.wrapping_add(1);
        Self([
            list.source_rows.wrapping_add(classes.source.wrapping_mul(stride)),
            list.destination_rows.wrapping_add(classes.destination.wrapping_mul(stride)),
            list.dport_rows.wrapping_add(classes.dport.wrapping_mul(stride)),
            list.sport_rows.wrapping_add(classes.sport.wrapping_mul(stride)),
        ])
    }

    /// AND of word `index` of the four rows; word 0 is the summary.
    #[inline(always)]
    fn word<R: Rows>(&self, rows: &R, index: u32) -> Option<u64> {
        let mut word = u64::MAX;
        for offset in self.0 {
            word &= rows.row(offset.wrapping_add(index))?;
        }
        Some(word)
    }
}

/// Bits of word `word` at or behind position `from` of the list.
#[inline(always)]
const fn at_or_behind(word: u32, from: u32) -> u64 {
    let start = word * 64;
    if from <= start {
        u64::MAX
    } else if from - start >= 64 {
        0
    } else {
        u64::MAX << ((from - start) & 63)
    }
}

/// The first final rule of `list` that matches a packet of these classes.
#[inline(always)]
pub fn first_match<R: Rows>(rows: &R, list: &ListEntry, classes: &Classes) -> Scan {
    let offsets = RowOffsets::new(list, classes);
    let Some(mut summary) = offsets.word(rows, 0) else { return Scan::Missing };
    let (mut at, mut word, mut from) = (0u32, 0u64, 0u32);
    let mut step = 0;
    while step < MAX_SCAN_STEPS {
        step += 1;
        if word == 0 {
            if summary == 0 {
                return Scan::End;
            }
            at = summary.trailing_zeros() & 63;
            summary &= summary - 1;
            let Some(next) = offsets.word(rows, at + 1) else { return Scan::Missing };
            word = next & at_or_behind(at, from);
            continue;
        }
        let index = list.rule_base.wrapping_add(at * 64).wrapping_add(word.trailing_zeros() & 63);
        word &= word - 1;
        let Some(rule) = rows.rule(index) else { return Scan::Missing };
        let skips = rule.action == RuleAction::Skip as u8;
        if !skips && rule.action != RuleAction::Log as u8 && rule.flags & rule_flag::STAGED == 0 {
            return Scan::Rule(index);
        }
        rows.passed(&rule);
        if skips && rule.flags & rule_flag::STAGED == 0 && rule.resume > from {
            from = rule.resume;
            word &= at_or_behind(at, from);
            summary &= if from >= 4096 { 0 } else { u64::MAX << ((from >> 6) & 63) };
        }
    }
    Scan::Limit
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::cell::Cell;
    use std::vec;
    use std::vec::Vec;

    struct Table {
        rows: Vec<u64>,
        rules: Vec<RuleEntry>,
        passed: Cell<u32>,
    }

    impl Rows for Table {
        fn row(&self, index: u32) -> Option<u64> {
            self.rows.get(index as usize).copied()
        }
        fn rule(&self, index: u32) -> Option<RuleEntry> {
            self.rules.get(index as usize).copied()
        }
        fn passed(&self, _rule: &RuleEntry) {
            self.passed.set(self.passed.get() + 1);
        }
    }

    /// One list in which class 1 of the source matches `matching`, and every other class matches everything.
    fn table(rules: Vec<RuleEntry>, matching: impl Fn(usize) -> bool) -> (Table, ListEntry) {
        let words = rules.len().div_ceil(64).max(1);
        let row = |f: &dyn Fn(usize) -> bool| {
            let mut row = vec![0u64; words + 1];
            for position in (0..rules.len()).filter(|p| f(*p)) {
                row[1 + position / 64] |= 1 << (position % 64);
                row[0] |= 1 << (position / 64);
            }
            row
        };
        let mut rows = row(&|_| false);
        rows.extend(row(&matching));
        let all = rows.len() as u32;
        rows.extend(row(&|_| true));
        let list = ListEntry {
            rule_count: rules.len() as u32,
            words: words as u32,
            destination_rows: all,
            dport_rows: all,
            sport_rows: all,
            ..ListEntry::default()
        };
        (Table { rows, rules, passed: Cell::new(0) }, list)
    }

    fn rule(action: RuleAction, resume: u32) -> RuleEntry {
        RuleEntry { action: action as u8, resume, ..RuleEntry::default() }
    }

    const MATCHES: Classes = Classes { source: 1, destination: 0, dport: 0, sport: 0 };

    #[test]
    fn the_first_matching_rule_wins_wherever_it_stands() {
        for first in [0, 63, 64, 1000, 4095] {
            let (table, list) = table(vec![rule(RuleAction::Allow, 0); 4096], |p| p >= first);
            assert_eq!(first_match(&table, &list, &MATCHES), Scan::Rule(first as u32));
            assert_eq!(first_match(&table, &list, &Classes::default()), Scan::End);
        }
    }

    #[test]
    fn pass_resumes_behind_the_tier() {
        for resume in [2, 64, 65, 130] {
            let mut rules = vec![rule(RuleAction::Deny, 0); 200];
            rules[1] = rule(RuleAction::Skip, resume);
            let (table, list) = table(rules, |p| p >= 1);
            assert_eq!(first_match(&table, &list, &MATCHES), Scan::Rule(resume));
        }
        let (table, list) = table(vec![rule(RuleAction::Skip, 4096)], |_| true);
        assert_eq!(first_match(&table, &list, &MATCHES), Scan::End);
    }

    #[test]
    fn log_and_staged_rules_are_told_and_decide_nothing() {
        let staged = RuleEntry { flags: rule_flag::STAGED, ..rule(RuleAction::Deny, 0) };
        let (table, list) =
            table(vec![rule(RuleAction::Log, 0), staged, rule(RuleAction::Allow, 0)], |_| true);
        assert_eq!(first_match(&table, &list, &MATCHES), Scan::Rule(2));
        assert_eq!(table.passed.get(), 2);
    }

    #[test]
    fn every_word_and_every_continuing_rule_fit_into_the_steps() {
        use crate::limits::MAX_CONTINUE_RULES_PER_LIST;
        let mut rules = vec![rule(RuleAction::Log, 0); MAX_CONTINUE_RULES_PER_LIST as usize];
        rules.resize(4096, rule(RuleAction::Deny, 0));
        let last = rules.len() - 1;
        // Log rules all match, then one rule in every last bit of a word cannot be reached but the very last.
        let (table, list) = table(rules, |p| p < MAX_CONTINUE_RULES_PER_LIST as usize || p == last);
        assert_eq!(first_match(&table, &list, &MATCHES), Scan::Rule(last as u32));
    }

    #[test]
    fn a_torn_table_is_closed() {
        let (mut table, list) = table(vec![rule(RuleAction::Allow, 0)], |_| true);
        table.rows.truncate(3);
        assert_eq!(first_match(&table, &list, &MATCHES), Scan::Missing);
    }
}
