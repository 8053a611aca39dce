//! [`Managed`]: a value that kvmpilot may hold away from its original, and how it is told whether somebody else has
//! changed it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::balloon::worth;
use crate::ledger::{LedgerEntry, Value};
use crate::units::KiB;

/// When something was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// On the daemon's monotonic clock.
    pub at: Duration,
    /// On the wall's, in seconds since 1970.
    pub unix_s: u64,
}

/// A look at a live value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// When.
    pub(super) moment: Moment,
    /// Whether what others change is put back.
    pub(super) enforce: bool,
}

/// A value that kvmpilot may hold away from its original.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managed<T> {
    /// As we found it; `None` before the first reading.
    pub original: Option<T>,
    /// What we set it to; `None` while the original is in force.
    pub ours: Option<T>,
    /// A change of ours had no clear outcome: what is live now is ours or the original.
    unsure: bool,
    /// What it may be then; empty where any value may be ours.
    #[serde(default = "Vec::new")]
    candidates: Vec<T>,
    /// Somebody else has changed it since we set it.
    #[serde(default)]
    pub drift: Option<Drift<T>>,
}

/// A change by somebody else of a value that we had set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift<T> {
    /// What we had set.
    pub ours: T,
    /// What it was before us.
    pub before: T,
    /// What it is now.
    pub live: T,
    /// When that was found.
    pub found: Moment,
}

impl<T> Default for Managed<T> {
    fn default() -> Self {
        Self { original: None, ours: None, unsure: false, candidates: Vec::new(), drift: None }
    }
}

impl<T: Clone + PartialEq> Managed<T> {
    /// Takes note of the live value. Whether somebody else has taken it over just now: unless what they change is put back,
    /// their value is the original from now on, and stays theirs until it is what it was before us.
    pub(super) fn observe(&mut self, live: &T, look: Look) -> bool {
        if std::mem::take(&mut self.unsure) {
            let candidates = std::mem::take(&mut self.candidates);
            if candidates.is_empty() || self.original.as_ref() == Some(live) || candidates.contains(live) {
                self.set(live);
                return false;
            }
            // Neither of both: what we set last, or were about to, is not in force any more.
            self.ours = self.ours.take().or_else(|| candidates.into_iter().next());
        }
        let Some(ours) = self.ours.clone() else {
            self.drift = self.drift.take().filter(|drift| drift.before != *live);
            if let Some(drift) = &mut self.drift {
                drift.live = live.clone();
            }
            self.original = Some(live.clone());
            return false;
        };
        if ours == *live {
            self.drift = None;
            return false;
        }
        let before = self.original.clone().unwrap_or_else(|| live.clone());
        let found = self.drift.take().map_or(look.moment, |drift| drift.found);
        self.drift = Some(Drift { ours, before, live: live.clone(), found });
        if look.enforce {
            return false;
        }
        self.ours = None;
        self.original = Some(live.clone());
        true
    }

    /// Takes note of a change whose outcome is not clear, from its entry in the ledger.
    pub(super) fn doubt(&mut self, entry: &LedgerEntry, value: impl Fn(&Value) -> Option<T>) {
        let Some(original) = value(&entry.original) else { return };
        self.original = Some(original);
        self.candidates =
            [Some(&entry.intended), entry.applied.as_ref()].into_iter().flatten().filter_map(value).collect();
        self.unsure = true;
    }

    /// Takes note of a value that we set.
    pub(super) fn set(&mut self, value: &T) {
        self.restored();
        self.ours = (self.original.as_ref() != Some(value)).then(|| value.clone());
    }

    /// Takes note that the original is back.
    pub(super) fn restored(&mut self) {
        *self = Self { original: self.original.take(), ..Self::default() };
    }

    pub(super) const fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// Whether it belongs to somebody else, who changed what we had set.
    #[must_use]
    pub const fn is_theirs(&self) -> bool {
        self.ours.is_none() && self.drift.is_some()
    }
}

impl Managed<KiB> {
    /// Until it is clear whether a balloon was sent it counts as sent: its guest gets back what it needs meanwhile.
    pub(super) fn suppose_sent(&mut self) {
        let sent = self.candidates.first().copied().filter(|_| self.unsure);
        self.ours = sent.map_or(self.ours, |sent| Some(sent).filter(|_| self.original != Some(sent)));
    }

    /// What a balloon that rests at `current` stands for while it is not clear where it was sent: guests stop beside their target,
    /// and some on their way to it.
    pub(super) fn stands_for(&self, current: KiB, maximum: KiB) -> KiB {
        let known = || self.original.iter().chain(&self.candidates).copied();
        if let Some(near) = known().find(|value| value.0.abs_diff(current.0) <= worth(maximum).0) {
            return near;
        }
        let ours = self.candidates.first().copied();
        let is_between = known().min() <= Some(current) && Some(current) <= known().max();
        ours.filter(|_| is_between).unwrap_or(current)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ledger::LedgerTarget;

    #[test]
    fn a_balloon_that_stops_on_its_way_to_where_it_was_sent_is_ours() {
        let memory = |value: &Value| match value {
            Value::Memory(memory) => Some(*memory),
            _ => None,
        };
        let entry = LedgerEntry {
            domain: Uuid::nil(),
            domain_name: "web".into(),
            incarnation: "1:1".into(),
            target: LedgerTarget::Balloon,
            original: Value::Memory(KiB(4_000_000)),
            applied: None,
            intended: Value::Memory(KiB(3_500_000)),
        };
        for (rests_at, stands_for) in
            [(3_500_100, 3_500_000), (3_999_900, 4_000_000), (3_650_000, 3_500_000), (3_000_000, 3_000_000)]
        {
            let mut balloon = Managed::default();
            balloon.doubt(&entry, memory);
            balloon.suppose_sent();
            assert_eq!(balloon.ours, Some(KiB(3_500_000)));
            assert_eq!(balloon.stands_for(KiB(rests_at), KiB(4_000_000)), KiB(stands_for), "{rests_at}");
        }
        assert_eq!(Managed::default().stands_for(KiB(7), KiB(4_000_000)), KiB(7), "nothing is known");
    }

    fn look(at: u64, enforce: bool) -> Look {
        Look { moment: Moment { at: Duration::from_secs(at), unix_s: 1000 + at }, enforce }
    }

    fn held() -> Managed<u64> {
        let mut value = Managed::default();
        assert!(!value.observe(&1024, look(1, false)));
        value.set(&8192);
        assert!(!value.observe(&8192, look(2, false)) && value.drift.is_none());
        value
    }

    #[test]
    fn what_others_set_is_theirs_until_it_is_back_where_it_was_before_us() {
        let mut value = held();
        assert!(value.observe(&3000, look(3, false)), "taken over");
        assert!(value.is_theirs());
        assert_eq!((value.original, value.ours), (Some(3000), None));
        assert!(!value.observe(&2000, look(4, false)), "they may change it as they like");
        let drift = value.drift.as_ref().unwrap();
        assert_eq!((drift.ours, drift.before, drift.live, drift.found.unix_s), (8192, 1024, 2000, 1003));
        value.observe(&1024, look(5, false));
        assert!(!value.is_theirs() && value.original == Some(1024), "handed back");
    }

    #[test]
    fn where_it_is_enforced_ours_stays_ours() {
        let mut value = held();
        for at in [3, 4] {
            assert!(!value.observe(&3000, look(at, true)));
            assert!(!value.is_theirs());
            assert_eq!((value.original, value.ours), (Some(1024), Some(8192)));
            assert_eq!(
                value.drift.as_ref().map(|drift| (drift.live, drift.found.unix_s)),
                Some((3000, 1003))
            );
        }
        value.observe(&8192, look(5, true));
        assert_eq!(value.drift, None);
    }

    #[test]
    fn a_doubtful_change_is_told_from_somebody_else_s() {
        let entry = |applied: Option<u64>, intended| LedgerEntry {
            domain: Uuid::nil(),
            domain_name: "web".into(),
            incarnation: "1:1".into(),
            target: LedgerTarget::CpuShares,
            original: Value::Shares(1024),
            applied: applied.map(Value::Shares),
            intended: Value::Shares(intended),
        };
        let shares = |value: &Value| match value {
            Value::Shares(shares) => Some(*shares),
            _ => None,
        };
        for (live, ours, theirs) in
            [(1024, None, false), (4096, Some(4096), false), (8192, Some(8192), false), (3000, None, true)]
        {
            let mut value = held();
            value.doubt(&entry(Some(8192), 4096), shares);
            assert_eq!(value.observe(&live, look(3, false)), theirs, "{live}");
            assert_eq!((value.ours, value.is_theirs()), (ours, theirs), "{live}");
        }
    }
}
