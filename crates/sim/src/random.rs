//! The one source of chance: SplitMix64, frozen, so that a seed means the same for ever.

/// SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A source of its own for case `case` of a run.
    #[must_use]
    pub fn of_case(seed: u64, case: u64) -> Self {
        let mut mixed = Self(seed ^ Self(case).word());
        Self(mixed.word())
    }

    pub const fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.word()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A number of `low..=high`; `low` when the range is empty.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// A number of `low..=high` such that each doubling is as likely as the next one.
    ///
    /// Without logarithms: those of two machines need not agree in the last bit.
    pub fn scaled(&mut self, low: u64, high: u64) -> u64 {
        let low = low.max(1);
        let doublings = u64::from((high / low).max(1).ilog2()) + 1;
        loop {
            let floor = low << self.below(doublings);
            let drawn = self.within(floor, floor.saturating_mul(2).saturating_sub(1));
            if drawn <= high {
                return drawn;
            }
        }
    }

    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// True in `per_mille` of 1000 draws.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_for_ever() {
        let mut random = Random::new(0);
        assert_eq!(random.word(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(random.word(), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(Random::of_case(1, 2).word(), Random::of_case(1, 2).word());
        assert_ne!(Random::of_case(1, 2).word(), Random::of_case(1, 3).word());
    }

    #[test]
    fn draws_cover_their_range_and_stay_in_it() {
        let mut random = Random::new(7);
        let drawn: Vec<u64> = (0..20_000).map(|_| random.scaled(1, 100)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&1), Some(&100)));
        assert!(drawn.iter().filter(|n| **n < 10).count() > 5_000);
        assert!((0..1_000).all(|_| (3..=5).contains(&random.within(3, 5))));
        assert_eq!(random.below(0), 0);
    }
}
