//! What is counted, and where.

use crate::verdict::{Reason, Verdict};

/// Packets and bytes, per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes from the network header on.
    pub bytes: u64,
}

/// Key of `pc_dev_counters`: what `pc_counters` counts, for each device.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct DeviceCounterKey {
    /// ifindex.
    pub device: u32,
    /// Index into `pc_counters`.
    pub counter: u32,
}

/// Hits of a rule, per CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuleHits {
    /// Packets.
    pub packets: u64,
    /// Bytes from the network header on.
    pub bytes: u64,
    /// Kernel clock of the last of them, ns: the latest CPU's counts.
    pub last_seen_ns: u64,
}

/// What happens to flow tables, entries of `pc_flow_events` (D18): per CPU, a u64 each.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FlowEvent {
    /// A flow that a reply confirmed found the confirmed table full, and stays where it is.
    ConfirmedFull = 0,
    /// An unconfirmed flow made room for another.
    UnconfirmedGone = 1,
    /// An unconfirmed flow of a failsafe made room for another.
    FailsafeGone = 2,
    /// A new flow found no room at all: its packet passed, its answer may be refused.
    NotRecorded = 3,
    /// A record of a fragmented datagram made room for another (D36).
    FragmentGone = 4,
}

impl FlowEvent {
    /// Every event, by number.
    pub const ALL: [Self; 5] = [
        Self::ConfirmedFull,
        Self::UnconfirmedGone,
        Self::FailsafeGone,
        Self::NotRecorded,
        Self::FragmentGone,
    ];
    /// As metrics write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConfirmedFull => "confirmed_full",
            Self::UnconfirmedGone => "unconfirmed_evicted",
            Self::FailsafeGone => "failsafe_evicted",
            Self::NotRecorded => "not_recorded",
            Self::FragmentGone => "fragment_evicted",
        }
    }
}

/// Key of `pc_ethertypes` (D20): packets that are not IP, on governed devices.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct EthertypeKey {
    /// Host order, behind tags of VID 0; below 0x600: an 802.2 frame.
    pub ethertype: u16,
    /// A [`Hook`].
    pub hook: u8,
    /// A [`Verdict`].
    pub verdict: u8,
}

/// Hooks, and bits of a flow's admission.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Hook {
    /// TC ingress.
    #[default]
    Ingress = 0,
    /// TC egress.
    Egress = 1,
}

impl Hook {
    /// As events and metrics write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
    /// This hook's bit.
    #[inline(always)]
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Stands for a [`Hook`] where packets are counted and told: XDP judges no packet, it drops before TC ingress what that
/// would deny by the untracked list (D10).
pub const HOOK_XDP: u8 = 2;

/// Name of a [`Hook`], or of [`HOOK_XDP`], by the number in an event.
pub const fn hook_name(number: u8) -> &'static str {
    match number {
        0 => Hook::Ingress.name(),
        1 => Hook::Egress.name(),
        HOOK_XDP => "xdp",
        _ => "?",
    }
}

/// Entries of `pc_counters`: per hook, and for XDP, the three verdicts, and what was denied but spared.
pub const COUNTERS: u32 = 3 * COUNTER_CLASSES * 128;
const COUNTER_CLASSES: u32 = 4;

/// Index into `pc_counters`: hook, verdict and reason.
#[inline(always)]
pub const fn counter_index(hook: Hook, verdict: Verdict, reason: Reason) -> u32 {
    (hook as u32 * COUNTER_CLASSES + verdict as u32) * 128 + (reason as u32 & 127)
}

/// Index into `pc_counters` of packets that XDP dropped.
#[inline(always)]
pub const fn xdp_index(reason: Reason) -> u32 {
    (HOOK_XDP as u32 * COUNTER_CLASSES + Verdict::Deny as u32) * 128 + (reason as u32 & 127)
}

/// Index into `pc_counters` of packets that were denied and passed all the same ([`Control::spares`]).
#[inline(always)]
pub const fn spared_index(hook: Hook, reason: Reason) -> u32 {
    (hook as u32 * COUNTER_CLASSES + COUNTER_CLASSES - 1) * 128 + (reason as u32 & 127)
}

/// What an index into `pc_counters` stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    /// A [`Hook`], or [`HOOK_XDP`].
    pub hook: u8,
    /// `None`: denied, and passed all the same ([`Control::spares`]).
    pub verdict: Option<Verdict>,
    /// Why.
    pub reason: Reason,
}

/// Back from an index into `pc_counters`; `None`: none of ours.
pub fn counted(index: u32) -> Option<Counted> {
    let (class, reason) = (index / 128, Reason::from_number((index % 128) as u8)?);
    let verdict = match class % COUNTER_CLASSES {
        0 => Some(Verdict::Ungoverned),
        1 => Some(Verdict::Allow),
        2 => Some(Verdict::Deny),
        _ => None,
    };
    let hook = (class / COUNTER_CLASSES) as u8;
    (hook <= HOOK_XDP).then_some(Counted { hook, verdict, reason })
}

/// Key of `pc_rule_hits`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RuleCounterKey {
    /// [`RuleEntry::identity`].
    pub identity: u32,
    /// ifindex of the device.
    pub device: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_one_thing() {
        let mut seen = [false; COUNTERS as usize];
        let mut mark = |index: u32| {
            assert!(!core::mem::replace(&mut seen[index as usize], true), "{index} twice");
        };
        for reason in Reason::ALL {
            mark(xdp_index(*reason));
            let found = Counted { hook: HOOK_XDP, verdict: Some(Verdict::Deny), reason: *reason };
            assert_eq!(counted(xdp_index(*reason)), Some(found));
        }
        for hook in [Hook::Ingress, Hook::Egress] {
            for reason in Reason::ALL {
                for verdict in [Verdict::Ungoverned, Verdict::Allow, Verdict::Deny] {
                    let index = counter_index(hook, verdict, *reason);
                    mark(index);
                    let found = Counted { hook: hook as u8, verdict: Some(verdict), reason: *reason };
                    assert_eq!(counted(index), Some(found));
                }
                let index = spared_index(hook, *reason);
                mark(index);
                assert_eq!(
                    counted(index),
                    Some(Counted { hook: hook as u8, verdict: None, reason: *reason })
                );
            }
        }
    }
}
