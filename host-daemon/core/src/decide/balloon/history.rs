//! What is remembered of balloons: what guests reported, how they followed, and when they were short.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::accounting::{Accounting, Books};
use crate::units::KiB;

/// A balloon that rests for so long has arrived. Where it was sent libvirt does not tell: a guest that was put back while it was
/// paused, or by a daemon that has ended since, is on its way when the next one meets it, and would have lost what it had not
/// got back yet (the soak found one with 254 MiB for its original, of 384).
const STILL: Duration = Duration::from_secs(10);
/// A balloon that strays from its target for so long was moved by somebody else.
const STRAYED: Duration = Duration::from_secs(10);

/// A balloon that is not where it was sent after so long will not come there.
const ON_ITS_WAY: Duration = Duration::from_secs(60);

/// What is remembered of one domain's balloon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::decide) struct BalloonHistory {
    /// How the guest counts its balloon.
    pub(super) books: Books,
    /// Demand over the policy's window, newest last. Only what no later one exceeds: the first is the largest.
    pub(super) needs: VecDeque<(Duration, KiB)>,
    /// The last report that was looked at, and what the guest needed then.
    pub(super) report: Option<(u64, KiB)>,
    /// How fast the need rose between the last two reports, KiB a second.
    pub(super) rise_kib_per_s: f64,
    /// When the guest's report was last fresh enough.
    pub(super) fresh_at: Option<Duration>,
    /// When the balloon last moved, and where to.
    pub(super) moved: Option<(Duration, KiB)>,
    /// A target of ours that was not reached yet.
    pub(super) asked: Option<Asked>,
    /// When memory was last taken or given back.
    pub(super) took_at: Option<Duration>,
    /// When the guest was last seen short of memory.
    pub(super) pressed_at: Option<Duration>,
    /// What was given back last: when, and up to where.
    pub(super) released: Option<(Duration, KiB)>,
    /// Forced releases in a row, and until when nothing is taken because of them.
    pub(super) forced: u32,
    pub(super) rests_until: Duration,
    /// Memory with which the guest was seen thrashing, and when: what it says it needs is not all of it.
    pub(super) learned: Option<(Duration, KiB)>,
    /// Since when the agent has been gone that was there before.
    pub(super) agent_seen: bool,
    pub(super) agent_gone_since: Option<Duration>,
    /// Since when the guest counts as one that does not follow.
    pub(super) uncooperative_since: Option<Duration>,
    strayed_since: Option<Duration>,
    /// Since when it has been seen without a break, and at one place.
    #[serde(default)]
    still_since: Option<Duration>,
}

/// A target that was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) at: Duration,
    pub(super) to: KiB,
    /// Whether it takes memory.
    pub(super) takes: bool,
}

impl BalloonHistory {
    /// How the guest counts its balloon.
    pub(in crate::decide) fn accounting(&self) -> Accounting {
        self.books.accounting
    }

    /// Takes note of a target that was set. It takes memory if it is below `from`.
    pub(in crate::decide) fn applied(&mut self, from: KiB, to: KiB, at: Duration) {
        self.asked = Some(Asked { at, to, takes: to < from });
        self.strayed_since = None;
    }

    /// Everything was put back, or nothing is known of what is in force.
    pub(in crate::decide) fn forget_target(&mut self) {
        self.asked = None;
        self.strayed_since = None;
    }

    /// Takes note of where the balloon is.
    pub(in crate::decide) fn follow(&mut self, current: KiB, maximum: KiB, at: Duration) {
        if self.moved.is_none_or(|(_, before)| current != before) {
            self.moved = Some((at, current));
            self.still_since = None;
        }
        self.still_since.get_or_insert(at);
        let reached = |asked: Asked| {
            let near = super::worth(maximum);
            if asked.takes { current <= asked.to + near } else { current + near >= asked.to }
        };
        if self.asked.is_some_and(reached) {
            self.asked = None;
        }
    }

    /// It cannot be seen: the domain does not run, or could not be read.
    pub(in crate::decide) const fn unseen(&mut self) {
        self.still_since = None;
    }

    /// Whether it has been at one place for long enough to be where it belongs.
    pub(in crate::decide) fn is_still(&self, at: Duration) -> bool {
        self.still_since.is_some_and(|since| at.saturating_sub(since) >= STILL)
    }

    /// Whether a target of ours was not reached yet, and may still be.
    pub(in crate::decide) fn is_on_its_way(&self, at: Duration) -> bool {
        self.asked.is_some_and(|asked| at.saturating_sub(asked.at) < ON_ITS_WAY)
    }

    /// Whether a balloon that had been at `ours` has been elsewhere for so long that somebody else moved it.
    pub(in crate::decide) fn strays(&mut self, current: KiB, ours: KiB, maximum: KiB, at: Duration) -> bool {
        if self.asked.is_some() || current.0.abs_diff(ours.0) <= super::worth(maximum).0 {
            self.strayed_since = None;
            return false;
        }
        let since = *self.strayed_since.get_or_insert(at);
        at.saturating_sub(since) >= STRAYED
    }

    /// Whether a target of ours is not reached, and the guest has not moved for a while.
    pub(in crate::decide) fn is_inactive(&self, at: Duration) -> bool {
        self.idle_for(at).is_some_and(|idle| idle >= super::progress::INACTIVE)
    }

    /// How long the guest has not moved although it should come down.
    pub(super) fn idle_for(&self, at: Duration) -> Option<Duration> {
        let asked = self.asked.filter(|asked| asked.takes)?.at;
        Some(at.saturating_sub(self.moved.map_or(asked, |(moved, _)| moved.max(asked))))
    }
}

/// What is remembered of the host's memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::decide) struct HostMemoryHistory {
    /// Last reading of what was available.
    pub(super) last: Option<(Duration, KiB)>,
    /// Falls of it between two readings, oldest first. Only what no later one exceeds: the first is the largest.
    pub(super) falls: VecDeque<(Duration, KiB)>,
}
