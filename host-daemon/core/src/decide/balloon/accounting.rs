//! How a guest counts its balloon. Linux lowers its MemTotal by what the balloon takes, so that available - usable is what
//! is in use. Windows, and Linux with deflate-on-oom, keep their MemTotal and count the balloon as used: there available -
//! usable grows with the balloon, and who takes that for need would be misled by his own hand.
//!
//! A guest that sees more memory than it has counts the balloon as used. Otherwise only a change tells: nothing is known
//! before the first small step, and nothing more is taken until a report from after it has told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::BalloonModel;
use crate::units::KiB;

/// Least change of the balloon that tells something.
const TELLS: u64 = 1024;
/// Age of a report has whole seconds; one that is this much younger than the last move was surely made after it.
const SURELY: Duration = Duration::from_secs(2);

/// How a guest counts its balloon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accounting {
    /// Not known yet.
    #[default]
    Unknown,
    /// The guest's total shrinks.
    Shrinks,
    /// The guest counts the balloon as used.
    CountsAsUsed,
}

impl Accounting {
    /// The memory in use of which the balloon is no part; `None` where the guest's figures are not known.
    #[must_use]
    pub fn demand(self, balloon: &BalloonModel) -> Option<KiB> {
        let used = balloon.demand?;
        // Unknown: the larger of both readings, which harms nobody.
        Some(if self == Self::CountsAsUsed { used - balloon.inflated } else { used })
    }

    /// The memory that the guest has, of which the balloon is no part.
    pub(super) fn total(self, balloon: &BalloonModel) -> Option<KiB> {
        let total = balloon.available?;
        Some(if self == Self::CountsAsUsed { total - balloon.inflated } else { total })
    }
}

/// What tells how a guest counts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Books {
    pub(super) accounting: Accounting,
    /// First figures of a balloon at rest.
    first: Option<Figures>,
    /// Figures after a change that fitted neither way.
    pub(super) unclear: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Figures {
    maximum: KiB,
    inflated: KiB,
    total: KiB,
}

impl Books {
    /// Looks at a reading of which the balloon last moved at `moved`. Returns whether something new was learned.
    pub(super) fn learn(&mut self, balloon: &BalloonModel, at: Duration, moved: Duration) -> bool {
        let (Some(total), Some(age)) = (balloon.available, balloon.age) else { return false };
        let reported = at.saturating_sub(age);
        // A balloon that has not moved since we know it has no report from before.
        if self.first.is_some() && reported < moved + SURELY {
            return false;
        }
        let now = Figures { maximum: balloon.current + balloon.inflated, inflated: balloon.inflated, total };
        let first = *self.first.get_or_insert(now);
        if first.maximum != now.maximum {
            *self = Self { first: Some(now), ..Self::default() };
            return true;
        }
        let before = self.accounting;
        if total > balloon.current {
            self.accounting = Accounting::CountsAsUsed;
        } else if first.inflated.0.abs_diff(now.inflated.0) >= TELLS {
            let grown = now.inflated.as_f64() - first.inflated.as_f64();
            let followed = (first.total.as_f64() - now.total.as_f64()) / grown;
            match followed {
                0.75..=1.25 => self.accounting = Accounting::Shrinks,
                -0.25..=0.25 => self.accounting = Accounting::CountsAsUsed,
                _ => {}
            }
            self.unclear = self.accounting == Accounting::Unknown;
        }
        self.accounting != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAXIMUM: u64 = 512;
    /// What the guest's kernel keeps for itself.
    const KERNEL: u64 = 30;

    /// A guest that uses 100 MiB, at rest.
    fn reading(current: u64, total: u64, usable: u64) -> BalloonModel {
        let mib = KiB::from_mib;
        BalloonModel {
            current: mib(current),
            inflated: mib(MAXIMUM - current),
            available: Some(mib(total)),
            usable: Some(mib(usable)),
            demand: Some(mib(total - usable)),
            age: Some(Duration::from_secs(1)),
            ..BalloonModel::default()
        }
    }

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn a_total_that_shrinks_with_the_first_step_is_linux() {
        let mut books = Books::default();
        assert!(!books.learn(&reading(512, 482, 382), at(10), at(0)));
        assert_eq!(books.accounting, Accounting::Unknown);
        // The report from before the step says nothing.
        assert!(!books.learn(&reading(507, 482, 382), at(12), at(11)));
        assert_eq!(books.accounting, Accounting::Unknown);
        let after = reading(507, 477, 377);
        assert!(books.learn(&after, at(16), at(11)));
        assert_eq!(books.accounting, Accounting::Shrinks);
        assert_eq!(books.accounting.demand(&after), Some(KiB::from_mib(100)));
    }

    #[test]
    fn a_total_that_stays_counts_the_balloon_as_used() {
        let mut books = Books::default();
        books.learn(&reading(512, MAXIMUM - KERNEL, 382), at(10), at(0));
        // The balloon's 5 MiB look like 5 MiB more in use.
        let after = reading(507, MAXIMUM - KERNEL, 377);
        assert_eq!(books.accounting.demand(&after), Some(KiB::from_mib(105)), "not known: the larger one");
        books.learn(&after, at(16), at(11));
        assert_eq!(books.accounting, Accounting::CountsAsUsed);
        for inflated in [5, 100, 300] {
            let later = reading(MAXIMUM - inflated, MAXIMUM - KERNEL, 382 - inflated);
            assert_eq!(books.accounting.demand(&later), Some(KiB::from_mib(100)));
            assert_eq!(books.accounting.total(&later), Some(KiB::from_mib(482 - inflated)));
        }
    }

    #[test]
    fn a_guest_that_sees_more_than_it_has_needs_no_step() {
        let mut books = Books::default();
        books.learn(&reading(256, MAXIMUM - KERNEL, 126), at(10), at(0));
        assert_eq!(books.accounting, Accounting::CountsAsUsed);
    }

    #[test]
    fn what_fits_neither_way_stays_unknown_and_a_new_maximum_starts_again() {
        let mut books = Books::default();
        books.learn(&reading(512, 482, 382), at(10), at(0));
        books.learn(&reading(502, 477, 377), at(16), at(11));
        assert_eq!((books.accounting, books.unclear), (Accounting::Unknown, true));
        let mut known = Books { accounting: Accounting::Shrinks, ..books };
        let plugged = BalloonModel { inflated: KiB::from_mib(1000), ..reading(502, 477, 377) };
        assert!(known.learn(&plugged, at(20), at(11)));
        assert_eq!((known.accounting, known.unclear), (Accounting::Unknown, false));
    }
}
