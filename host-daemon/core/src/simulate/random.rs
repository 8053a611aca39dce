//! [`Random`]: the simulator's own generator, so that a seed means the same run for ever.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, not including, 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what a float holds")]
    pub(super) fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Exponentially distributed: the time to the next of events that come at random.
    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.part()).ln() * mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_sequence_with_the_mean_that_was_asked_for() {
        let mut random = Random::new(7);
        let mut again = Random::new(7);
        let mut sum = 0.0;
        for _ in 0..20_000 {
            let value = random.exponential(3.0);
            assert_eq!(value.to_bits(), again.exponential(3.0).to_bits());
            sum += value;
        }
        assert!((sum / 20_000.0 - 3.0).abs() < 0.1, "{sum}");
        assert_ne!(Random::new(7).next(), Random::new(8).next());
    }
}
