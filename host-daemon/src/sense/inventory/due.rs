//! What a sweep has to do about one domain. Pure: the caller brings the clock.
//!
//! A domain that settled costs nothing but its line in the list. It is glanced at before each priority cycle, and read whole four
//! times an hour, each at a second of its own, so that the calls are spread; sooner only where something is the matter.

use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::model::BALLOON_RECENT;
use kvmpilot_core::sample::DomainState;
use tokio::time::Instant;

use super::entry::InventoryEntry;
use crate::libvirt::ActiveDomain;

/// Between two whole readings of a domain that nothing is the matter with.
const WHOLE: Duration = Duration::from_secs(900);
/// Longest time between two glances at it. The sweep that has the next one may come late, and what it saw must not be old by
/// then: with a minute's bound and these four nothing was ever idle long enough to be taken.
const GLANCE: Duration = Duration::from_secs(BALLOON_RECENT.as_secs() - 20);
/// Time for which a domain that is new, or in a new state, and a balloon that moves are looked at in each sweep.
pub(super) const FRESH: Duration = Duration::from_secs(60);

/// Time between two glances where a priority cycle takes `cycle`: each of them is to see something new.
pub(super) fn glance_of(cycle: Duration) -> Duration {
    (cycle * 4 / 5).min(GLANCE)
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// It was confirmed by the list.
    Nothing,
    /// See after its balloon and its job.
    Glance,
    /// Read it whole.
    Whole,
}

/// What a sweep knows beside the domain itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sweep {
    /// When the inventory began: the turns of all domains are counted from there.
    pub(super) began: Instant,
    /// Now.
    pub(super) now: Instant,
    /// Events may have been lost.
    pub(super) everything: bool,
    /// Time between two glances.
    pub(super) glance: Duration,
}

impl Sweep {
    /// What is due for a domain that libvirt listed as `listed` and that is known as `entry`. `often`: its balloon matters.
    /// `is_stuck`: the call that hung has not returned.
    pub(super) fn of(
        &self,
        listed: &ActiveDomain,
        entry: &InventoryEntry,
        often: bool,
        is_stuck: impl Fn() -> bool,
    ) -> Due {
        let Some(domain) = entry.domain.as_ref().filter(|_| entry.run == listed.id) else {
            return self.whole_unless_paused(entry, is_stuck);
        };
        let differs = entry.name != listed.name || listed.state.is_some_and(|state| state != domain.state);
        let matters = differs || self.everything || entry.is_restless();
        if matters || self.is_turn(listed.uuid, entry.read_at, WHOLE) {
            return self.whole_unless_paused(entry, is_stuck);
        }
        // A paused QEMU answers, but its guest reports nothing new.
        if domain.state != DomainState::Running {
            return Due::Nothing;
        }
        let is_fresh = |at: Option<Instant>| at.is_some_and(|at| self.now.duration_since(at) < FRESH);
        let looked_at = often || is_fresh(Some(entry.since)) || is_fresh(entry.balloon_moved_at);
        if looked_at || self.is_turn(listed.uuid, entry.glanced_at, self.glance) {
            Due::Glance
        } else {
            Due::Nothing
        }
    }

    /// The pause spares a QEMU that hangs. As soon as the call that hung has returned, it may be well again.
    fn whole_unless_paused(&self, entry: &InventoryEntry, is_stuck: impl Fn() -> bool) -> Due {
        let is_over = entry.retry_at.is_none_or(|at| at <= self.now);
        if is_over || entry.hung && !is_stuck() { Due::Whole } else { Due::Nothing }
    }

    /// Whether a domain's turn has come since `last`: each has its own place in the period.
    fn is_turn(&self, domain: Uuid, last: Option<Instant>, period: Duration) -> bool {
        let Some(last) = last else { return true };
        let period = period.as_millis().max(1);
        let (high, low) = domain.as_u64_pair();
        // Fibonacci hashing: UUIDs that were given out in a row are spread as well as random ones.
        let place = u128::from((high ^ low).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % period;
        let turn = |at: Instant| (at.saturating_duration_since(self.began).as_millis() + place) / period;
        turn(self.now) > turn(last)
    }
}

#[cfg(test)]
mod tests {
    use kvmpilot_core::sample::{DomainSample, Job};

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn listed(uuid: Uuid) -> ActiveDomain {
        ActiveDomain { uuid, name: "web".to_owned(), state: Some(DomainState::Running), id: Some(7) }
    }

    /// A domain that was read at `at` and has been as it is for an hour.
    fn settled(uuid: Uuid, at: Instant) -> InventoryEntry {
        let domain: DomainSample = serde_json::from_value(serde_json::json!({
            "uuid": uuid, "name": "web", "state": "running", "accel": "kvm", "vcpus": [], "memory_maximum_kib": 1024,
            "job_active": false, "interfaces": [], "threads": [],
        }))
        .unwrap();
        let entry = InventoryEntry::read(domain, at, Vec::new());
        InventoryEntry { run: Some(7), since: at - 3600 * S, ..entry }
    }

    /// What is due at each sweep of an hour, each done as soon as it is due.
    fn an_hour(uuid: Uuid, edit: impl Fn(&mut InventoryEntry, Instant)) -> Vec<(u32, Due)> {
        let began = Instant::now() + 7200 * S;
        let mut entry = settled(uuid, began);
        let mut dues = Vec::new();
        for second in (5..=3600).step_by(5) {
            let now = began + S * second;
            edit(&mut entry, now);
            let sweep = Sweep { began, now, everything: false, glance: GLANCE };
            match sweep.of(&listed(uuid), &entry, false, || false) {
                Due::Nothing => continue,
                Due::Glance => entry.glanced_at = Some(now),
                Due::Whole => (entry.read_at, entry.glanced_at) = (Some(now), Some(now)),
            }
            let due = if entry.read_at == Some(now) { Due::Whole } else { Due::Glance };
            dues.push((second, due));
        }
        dues
    }

    #[test]
    fn a_settled_domain_costs_a_glance_in_four_minutes_and_four_readings_an_hour() {
        let dues = an_hour(Uuid::from_u128(1), |_, _| ());
        let whole = dues.iter().filter(|(_, due)| *due == Due::Whole).count();
        assert_eq!(whole, 4, "{dues:?}");
        assert!((14..=19).contains(&dues.len()), "{} looks: {dues:?}", dues.len());
        let gaps = dues.windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(gaps.max() <= Some(240), "{dues:?}");
    }

    #[test]
    fn domains_take_their_turns_at_different_times() {
        let mut by_sweep = std::collections::BTreeMap::<u32, u32>::new();
        for n in 0..500 {
            for (second, due) in an_hour(Uuid::from_u128(0x4dea_22b3 << 64 | n), |_, _| ()) {
                if due == Due::Whole {
                    *by_sweep.entry(second).or_default() += 1;
                }
            }
        }
        // 500 domains over 180 sweeps are 2.8 in each.
        let most = by_sweep.values().max().unwrap();
        assert!(*most <= 12 && by_sweep.len() >= 600, "{most} in one of {} sweeps", by_sweep.len());
    }

    #[test]
    fn what_is_not_as_known_is_read_at_once() {
        let (uuid, began) = (Uuid::from_u128(1), Instant::now() + 7200 * S);
        let known = settled(uuid, began);
        let now = began + S;
        let sweep = Sweep { began: now, now, everything: false, glance: GLANCE };
        let of = |listed: &ActiveDomain, entry: &InventoryEntry| sweep.of(listed, entry, false, || true);
        let list = listed(uuid);
        assert_eq!(of(&list, &known), Due::Nothing);
        let paused = Some(DomainState::Paused);
        for other in [
            ActiveDomain { name: "mail".to_owned(), ..list.clone() },
            ActiveDomain { id: Some(8), ..list.clone() },
            ActiveDomain { state: paused, ..list.clone() },
        ] {
            assert_eq!(of(&other, &known), Due::Whole, "{other:?}");
        }
        assert_eq!(of(&ActiveDomain { state: None, ..list.clone() }, &known), Due::Nothing, "nobody tells");
        assert_eq!(of(&list, &InventoryEntry::new("web", now)), Due::Whole, "never read");
        let everything = Sweep { everything: true, ..sweep };
        assert_eq!(everything.of(&list, &known, false, || true), Due::Whole);
    }

    #[test]
    fn trouble_and_jobs_are_followed_with_the_pauses_of_a_domain_that_hangs() {
        let (uuid, began) = (Uuid::from_u128(1), Instant::now() + 7200 * S);
        let now = began + S;
        let sweep = Sweep { began: now, now, everything: false, glance: GLANCE };
        let of = |entry: &InventoryEntry, stuck: bool| sweep.of(&listed(uuid), entry, false, || stuck);
        let known = settled(uuid, began);
        let with = |edit: &dyn Fn(&mut InventoryEntry)| {
            let mut entry = known.clone();
            edit(&mut entry);
            entry
        };
        let job = |job| with(&move |entry| entry.domain.as_mut().unwrap().job = job);
        assert_eq!(of(&job(Some(Job::Backup)), true), Due::Whole);
        assert_eq!(of(&job(None), true), Due::Nothing);
        assert_eq!(of(&with(&|entry| entry.troubled = true), true), Due::Whole);
        let hung = with(&|entry| {
            (entry.failures, entry.hung, entry.retry_at) = (3, true, Some(now + S));
        });
        assert_eq!((of(&hung, true), of(&hung, false)), (Due::Nothing, Due::Whole));
        let failed = with(&|entry| (entry.failures, entry.retry_at) = (3, Some(now - S)));
        assert_eq!(of(&failed, true), Due::Whole);
    }

    #[test]
    fn a_balloon_is_looked_at_while_it_matters() {
        let (uuid, began) = (Uuid::from_u128(1), Instant::now() + 7200 * S);
        let now = began + S;
        let sweep = Sweep { began: now, now, everything: false, glance: GLANCE };
        let known = settled(uuid, began);
        assert_eq!(sweep.of(&listed(uuid), &known, true, || false), Due::Glance);
        let young = InventoryEntry { since: now - 59 * S, ..known.clone() };
        let old = InventoryEntry { since: now - 60 * S, ..known.clone() };
        let moves = InventoryEntry { balloon_moved_at: Some(now - 59 * S), ..known.clone() };
        let rests = InventoryEntry { balloon_moved_at: Some(now - 60 * S), ..known };
        let of = |entry: &InventoryEntry| sweep.of(&listed(uuid), entry, false, || false);
        let expected = [Due::Glance, Due::Nothing, Due::Glance, Due::Nothing];
        assert_eq!([&young, &old, &moves, &rests].map(of), expected);
        let mut paused = young;
        paused.domain.as_mut().unwrap().state = DomainState::Paused;
        let list = ActiveDomain { state: Some(DomainState::Paused), ..listed(uuid) };
        assert_eq!(sweep.of(&list, &paused, true, || false), Due::Nothing);
    }
}
