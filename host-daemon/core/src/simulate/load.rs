//! [`Load`]: a quantity over time.

use serde::{Deserialize, Serialize};

/// A quantity over time: pcpus that are wanted, or MiB that are in use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case", deny_unknown_fields)]
pub enum Load {
    /// Always the same.
    Steady {
        /// How much.
        level: f64,
    },
    /// From the time of each step on its level; 0 before the first.
    Steps {
        /// Second and level.
        steps: Vec<(u64, f64)>,
    },
    /// High in the first half of each period.
    Square {
        /// Seconds.
        period_s: u64,
        /// In the second half.
        low: f64,
        /// In the first half.
        high: f64,
    },
    /// A sine with its trough at the beginning.
    Diurnal {
        /// Seconds of a day.
        #[serde(default = "day_s")]
        period_s: u64,
        /// Trough.
        low: f64,
        /// Crest.
        high: f64,
    },
    /// High now and then, for a while.
    Bursts {
        /// Between bursts.
        low: f64,
        /// In a burst.
        high: f64,
        /// Mean seconds between the beginnings of two bursts.
        every_s: u64,
        /// Seconds of a burst.
        length_s: u64,
    },
}

const fn day_s() -> u64 {
    24 * 3600
}

impl Load {
    /// The level at a second, for the domain with this number.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "seconds of a few days")]
    pub fn at(&self, second: u64, seed: u64) -> f64 {
        match self {
            Self::Steady { level } => *level,
            Self::Steps { steps } => {
                let past = steps.iter().rev().find(|(from, _)| *from <= second);
                past.map_or(0.0, |(_, level)| *level)
            }
            Self::Square { period_s, low, high } => {
                let period = (*period_s).max(2);
                if second % period < period / 2 { *high } else { *low }
            }
            Self::Diurnal { period_s, low, high } => {
                let turn = second as f64 / (*period_s).max(1) as f64 * std::f64::consts::TAU;
                low + (high - low) * (1.0 - turn.cos()) / 2.0
            }
            Self::Bursts { low, high, every_s, length_s } => {
                // One burst in each slot, at a place of its own.
                let every = (*every_s).max(1);
                let (slot, within) = (second / every, second % every);
                let room = every.saturating_sub(*length_s).max(1);
                let from = random(seed, slot) % room;
                if (from..from + length_s).contains(&within) { *high } else { *low }
            }
        }
    }
}

/// splitmix64 (Steele, Lea, Flood 2014): good enough to spread bursts, and the same everywhere.
#[must_use]
pub(super) fn random(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
