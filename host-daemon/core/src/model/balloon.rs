//! [`BalloonModel`]: a domain's balloon and the memory that its guest reports. The guest writes these figures, so what
//! cannot be true is left out and said.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{per_second, rise_of};
use crate::sample::BalloonSample;
use crate::units::KiB;

/// Balloon and guest memory at the end of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BalloonModel {
    /// Memory that the domain has.
    pub current: KiB,
    /// Memory that the balloon holds: the domain's maximum less `current`.
    pub inflated: KiB,
    /// What the guest can still use without swapping (its MemAvailable).
    pub usable: Option<KiB>,
    /// What the guest sees as its memory (its MemTotal). Guests that count the balloon as used see their maximum.
    pub available: Option<KiB>,
    /// Free in the guest.
    pub unused: Option<KiB>,
    /// What the guest has in use: available - usable; with the balloon, in guests that count it as used.
    pub demand: Option<KiB>,
    /// Pages swapped in during the window, in KiB.
    pub swapped_in: Option<KiB>,
    /// Swapping in, KiB a second between the last two reports.
    pub swap_in_kib_per_s: Option<f64>,
    /// Major faults a second, between the last two reports.
    pub major_faults_per_s: Option<f64>,
    /// Processes that the guest killed for want of memory during the window. Linux 6.12 and QEMU 9.2 tell; so for the next two.
    pub oom_kills: Option<u64>,
    /// Allocations that had to wait for memory during the window.
    pub alloc_stalls: Option<u64>,
    /// Memory that waiting allocations reclaimed themselves, KiB a second between the last two reports.
    pub direct_reclaim_kib_per_s: Option<f64>,
    /// Age of the guest's report.
    pub age: Option<Duration>,
    /// Age that it had when it was read; unknown in older recordings.
    pub age_when_read: Option<Duration>,
    /// When the guest reported, in seconds since 1970: tells reports apart.
    pub reported_unix_s: Option<u64>,
    /// Why the guest's figures cannot be true, if so; they are left out then.
    pub doubt: Option<Doubt>,
}

/// What cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Doubt {
    /// More memory than the domain can have.
    MoreThanMaximum,
    /// More usable or free than there is.
    MoreThanAvailable,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MoreThanMaximum => "more memory than the domain can have",
            Self::MoreThanAvailable => "more usable memory than there is",
        })
    }
}

impl BalloonModel {
    /// Derives the window. Rates are between the guest's reports, not between our readings: several readings may fall
    /// between two reports, and a fast window sees the whole rise at once.
    #[must_use]
    pub fn new(
        begin: Option<BalloonSample>,
        end: &BalloonSample,
        maximum: KiB,
        elapsed: Duration,
        wall_unix_s: u64,
    ) -> Self {
        let doubt = doubt(end, maximum);
        let believed = |kib: Option<u64>| kib.filter(|_| doubt.is_none()).map(KiB);
        let (available, usable) = (believed(end.available_kib), believed(end.usable_kib));
        let before = |counter: fn(&BalloonSample) -> Option<u64>| begin.as_ref().and_then(counter);
        let rise = |counter: fn(&BalloonSample) -> Option<u64>| rise_of(before(counter), counter(end));
        let apart =
            rise(|sample| sample.last_update_unix_s).map_or(elapsed, Duration::from_secs).max(elapsed);
        let rate = |counter: fn(&BalloonSample) -> Option<u64>| per_second(rise(counter), apart);
        // A report from the future (clock step) has no age that we could trust.
        let age_at =
            |wall: u64| end.last_update_unix_s.and_then(|at| wall.checked_sub(at)).map(Duration::from_secs);
        Self {
            current: KiB(end.current_kib),
            inflated: maximum - KiB(end.current_kib),
            usable,
            available,
            unused: believed(end.unused_kib),
            demand: available.zip(usable).map(|(available, usable)| available - usable),
            swapped_in: rise(|sample| sample.swap_in_kib).map(KiB),
            swap_in_kib_per_s: rate(|sample| sample.swap_in_kib),
            major_faults_per_s: rate(|sample| sample.major_faults),
            oom_kills: rise(|sample| sample.oom_kills),
            alloc_stalls: rise(|sample| sample.alloc_stalls),
            direct_reclaim_kib_per_s: rate(|sample| sample.direct_reclaim_bytes).map(|bytes| bytes / 1024.0),
            age: age_at(wall_unix_s),
            age_when_read: end.read_unix_s.and_then(age_at),
            reported_unix_s: end.last_update_unix_s,
            doubt,
        }
    }
}

/// Age up to which figures of a guest that reports say how it is. Balloons that nobody needs to know have to be read more often
/// than that, sweeps that come late included: what is old is not decided on, and never counts as idle.
pub const BALLOON_RECENT: Duration = Duration::from_secs(260);

impl BalloonModel {
    /// Whether the figures say nothing any more: the guest had been silent for longer than `stale_after` when they were
    /// read, or nobody has read them since long ago.
    #[must_use]
    pub fn is_stale(&self, stale_after: Duration) -> bool {
        let Some(age) = self.age else { return true };
        match self.age_when_read {
            Some(then) => then > stale_after || age > BALLOON_RECENT.max(stale_after),
            None => age > stale_after,
        }
    }
}

/// Whether a report is bad enough news since the one before it that nobody should wait for the next turn: less usable by
/// a hundredth of what the guest has, or signs of want.
#[must_use]
pub fn is_bad_news(before: &BalloonSample, now: &BalloonSample) -> bool {
    let lost = before.usable_kib.zip(now.usable_kib).is_some_and(|(before, now_usable)| {
        KiB(before) - KiB(now_usable) >= KiB(now.current_kib).part(0.01).max(KiB(1))
    });
    let rose = |counter: fn(&BalloonSample) -> Option<u64>| {
        rise_of(counter(before), counter(now)).is_some_and(|rise| rise > 0)
    };
    lost || rose(|sample| sample.swap_in_kib)
        || rose(|sample| sample.oom_kills)
        || rose(|sample| sample.alloc_stalls)
}

fn doubt(end: &BalloonSample, maximum: KiB) -> Option<Doubt> {
    let available = end.available_kib?;
    if available > maximum.0 {
        return Some(Doubt::MoreThanMaximum);
    }
    let parts = [end.usable_kib, end.unused_kib, end.disk_caches_kib];
    parts.into_iter().flatten().any(|part| part > available).then_some(Doubt::MoreThanAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024;
    const S: Duration = Duration::from_secs(1);

    fn sample(available: u64, usable: u64) -> BalloonSample {
        BalloonSample {
            current_kib: 512 * MIB,
            available_kib: Some(available),
            usable_kib: Some(usable),
            last_update_unix_s: Some(100),
            ..BalloonSample::default()
        }
    }

    fn model(begin: Option<BalloonSample>, end: &BalloonSample) -> BalloonModel {
        BalloonModel::new(begin, end, KiB::from_mib(1024), S, 101)
    }

    #[test]
    fn what_cannot_be_true_is_left_out() {
        let good = model(None, &sample(480 * MIB, 400 * MIB));
        assert_eq!((good.doubt, good.demand), (None, Some(KiB::from_mib(80))));
        assert_eq!((good.inflated, good.age), (KiB::from_mib(512), Some(S)));
        for (available, usable, doubt) in [
            (480 * MIB, 481 * MIB, Doubt::MoreThanAvailable),
            (u64::MAX, 1, Doubt::MoreThanMaximum),
            (1025 * MIB, 100, Doubt::MoreThanMaximum),
            (480 * MIB, u64::MAX, Doubt::MoreThanAvailable),
        ] {
            let bad = model(None, &sample(available, usable));
            assert_eq!(bad.doubt, Some(doubt));
            assert_eq!((bad.demand, bad.usable, bad.available), (None, None, None));
        }
        let free = BalloonSample { unused_kib: Some(u64::MAX), ..sample(480 * MIB, 400 * MIB) };
        assert_eq!(model(None, &free).demand, None);
    }

    #[test]
    fn bad_news_is_less_to_use_or_a_sign_of_want() {
        let before = BalloonSample { oom_kills: Some(0), ..sample(480 * MIB, 400 * MIB) };
        assert!(!is_bad_news(&before, &before));
        assert!(!is_bad_news(&before, &BalloonSample { usable_kib: Some(396 * MIB), ..before }));
        assert!(!is_bad_news(&before, &BalloonSample { usable_kib: Some(450 * MIB), ..before }));
        assert!(is_bad_news(&before, &BalloonSample { usable_kib: Some(394 * MIB), ..before }));
        assert!(is_bad_news(&before, &BalloonSample { oom_kills: Some(1), ..before }));
    }

    #[test]
    fn a_silent_guest_is_told_from_figures_that_nobody_has_read_again() {
        let stale = |read: Option<u64>, now: u64| {
            let sample = BalloonSample { read_unix_s: read, ..sample(480 * MIB, 400 * MIB) };
            let model = BalloonModel::new(None, &sample, KiB::from_mib(1024), S, now);
            (model.is_stale(10 * S), model.age)
        };
        // The guest reported at 100.
        assert_eq!(stale(Some(101), 345), (false, Some(245 * S)), "read four minutes ago");
        assert_eq!(stale(Some(111), 112), (true, Some(12 * S)), "silent");
        assert_eq!(stale(Some(101), 361), (true, Some(261 * S)), "not read for long");
        assert_eq!((stale(None, 110).0, stale(None, 111).0), (false, true), "an older recording");
        assert_eq!(stale(Some(99), 99), (true, None), "a clock that was put back");
    }

    #[test]
    fn rates_are_between_reports_and_never_negative() {
        let counted = |at: u64, count: u64| BalloonSample {
            last_update_unix_s: Some(at),
            major_faults: Some(count),
            swap_in_kib: Some(count),
            oom_kills: Some(count),
            direct_reclaim_bytes: Some(count * 1024),
            ..sample(480 * MIB, 400 * MIB)
        };
        let five_apart = model(Some(counted(95, 0)), &counted(100, 50));
        assert_eq!(five_apart.major_faults_per_s, Some(10.0));
        assert_eq!(five_apart.direct_reclaim_kib_per_s, Some(10.0));
        assert_eq!((five_apart.swapped_in, five_apart.oom_kills), (Some(KiB(50)), Some(50)));
        let same = model(Some(counted(100, 50)), &counted(100, 50));
        assert_eq!(same.major_faults_per_s, Some(0.0));
        let rebooted = model(Some(counted(95, 50)), &counted(100, 3));
        assert_eq!((rebooted.major_faults_per_s, rebooted.swapped_in), (None, None));
    }
}
