//! The word that says what is in force.

/// The single word that a packet reads first.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Control {
    /// Active slot of the outer maps plus one; 0: no generation, nothing is enforced (D46).
    pub active: u32,
    /// Policy epoch (D15): moves with every generation and every membership that is taken away.
    pub epoch: u32,
    /// Added to the kernel's clock: tests advance time with it; 0 in production. ns.
    pub clock_offset_ns: u64,
    /// Until then (kernel clock, ns) flows are only recorded and learnt, per D17 (a): 0 = enforce.
    pub grace_until_ns: u64,
    /// `apply --confirm`: at this time (kernel clock, ns) go back to `fallback`; 0 = none.
    pub confirm_until_ns: u64,
    /// Slot plus one of the generation before.
    pub fallback: u32,
    /// Bits of [`control_flag`].
    pub flags: u32,
    /// Until then (kernel clock, ns) enforcement is suspended: counts, does not drop.
    pub suspend_until_ns: u64,
    /// Which apply waits for its confirmation, or was the last that did; 0: there was none.
    pub trial: u64,
    /// Always zero.
    pub spare: [u64; 3],
}

/// [`Control::flags`].
pub mod control_flag {
    /// Node-wide audit: counts, does not drop.
    pub const AUDIT: u32 = 1 << 0;
    /// [`super::Control::trial`] was confirmed.
    pub const CONFIRMED: u32 = 1 << 1;
    /// [`super::Control::trial`] was undone.
    pub const UNDONE: u32 = 1 << 2;
}

impl Control {
    /// Whether an apply waits for its confirmation, in time or not.
    #[inline(always)]
    pub const fn waits(&self) -> bool {
        self.confirm_until_ns != 0
    }
    /// Whether nobody confirmed in time: the generation before is in force, though nobody has written so.
    #[inline(always)]
    pub const fn expired(&self, now_ns: u64) -> bool {
        self.confirm_until_ns != 0 && now_ns >= self.confirm_until_ns && self.fallback != 0
    }
    /// What is in force: slot plus one (0: nothing), and the policy epoch. Going back is a change of policy like
    /// any other, so it has an epoch of its own: flows that only the undone generation would admit are judged again
    /// where `recheck` asks for it (D15).
    #[inline(always)]
    pub const fn in_force(&self, now_ns: u64) -> (u32, u32) {
        if self.expired(now_ns) {
            (self.fallback, self.epoch.wrapping_add(1))
        } else {
            (self.active, self.epoch)
        }
    }
    /// Whether what is denied passes nevertheless: audit, or a suspension that still runs.
    #[inline(always)]
    pub const fn spares(&self, now_ns: u64) -> bool {
        self.flags & control_flag::AUDIT != 0 || now_ns < self.suspend_until_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIAL: Control = Control {
        active: 2,
        epoch: 7,
        clock_offset_ns: 0,
        grace_until_ns: 0,
        confirm_until_ns: 100,
        fallback: 1,
        flags: 0,
        suspend_until_ns: 0,
        trial: 9,
        spare: [0; 3],
    };

    #[test]
    fn the_generation_before_is_in_force_from_the_deadline_on() {
        assert_eq!(TRIAL.in_force(99), (2, 7));
        assert_eq!(TRIAL.in_force(100), (1, 8));
        assert_eq!(Control { confirm_until_ns: 0, ..TRIAL }.in_force(100), (2, 7));
        // Without a generation to go back to, the one that is there stays: never nothing.
        assert_eq!(Control { fallback: 0, ..TRIAL }.in_force(100), (2, 7));
    }

    #[test]
    fn a_suspension_ends_by_itself_and_audit_does_not() {
        let suspended = Control { suspend_until_ns: 50, ..TRIAL };
        assert!(suspended.spares(49) && !suspended.spares(50) && !TRIAL.spares(0));
        assert!(Control { flags: control_flag::AUDIT, ..TRIAL }.spares(u64::MAX));
    }
}
