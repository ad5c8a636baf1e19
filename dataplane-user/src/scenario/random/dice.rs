//! Seeded chance. Our own few lines, so that a seed means the same run for ever.

/// SplitMix64 (Steele, Lea, Flood 2014): good enough to choose test cases, nothing else.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// From 0 to `end` - 1; 0 when `end` is 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.bits() >> 11) as usize % end.max(1)
    }
    /// From `first` to `last`, both included.
    pub(super) fn between(&mut self, first: usize, last: usize) -> usize {
        first + self.below(last - first + 1)
    }
    pub(super) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
    /// One of the items, which must not be none.
    pub(super) fn pick<'a, T: ?Sized + ToOwned + 'a>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len())]
    }
    /// One of the items, which must not be none.
    pub(super) fn one<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }
    /// One of the items; the number beside each is its weight.
    pub(super) fn weighted<T: Clone>(&mut self, items: &[(usize, T)]) -> T {
        let mut at = self.below(items.iter().map(|(weight, _)| weight).sum());
        for (weight, item) in items {
            if at < *weight {
                return item.clone();
            }
            at -= weight;
        }
        items[0].1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_run() {
        // The reference values of the published generator, seed 1234567.
        let mut dice = Dice::new(1_234_567);
        assert_eq!(dice.bits(), 6_457_827_717_110_365_317);
        assert_eq!(dice.bits(), 3_203_168_211_198_807_973);
    }
}
