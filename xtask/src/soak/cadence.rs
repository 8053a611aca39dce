//! Whether the daemon's fast cycle comes when it is due: each turn of a soak is a tick, and each tick is told to those who
//! follow, with the time of its measurement.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use kvmpilot_tests::api::Events;
use serde::Serialize;

use crate::process;

/// `[loops] fast` and `[weight] period` of the soak.
const PERIOD: Duration = Duration::from_secs(1);
/// A turn was missed when so much lies between two.
const MISSED: Duration = Duration::from_secs(2);
/// Nothing at all for so long: the loop stands still.
const SILENT: Duration = Duration::from_secs(15);
/// How often this process looks whether it is late itself.
const LOOK: Duration = Duration::from_millis(100);
/// Lateness that is remembered.
const LATE: Duration = Duration::from_millis(250);

/// The daemon's threads that wait for its timers, and wake the loop.
const WAKERS: &str = "tokio-rt-worker";

/// Follows one life of the daemon in the background, until that ends.
#[derive(Clone, Debug)]
pub(super) struct Cadence {
    state: Arc<Mutex<State>>,
    waits: Waits,
}

#[derive(Debug)]
struct State {
    heard: Instant,
    last_unix_ms: u64,
    summary: CadenceSummary,
    /// When turns were missed, and how long it was since the turn before, ms.
    missed: Vec<(u64, u64)>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct CadenceSummary {
    /// Turns that were told of.
    pub(super) turns: u64,
    /// The longest time between two.
    pub(super) longest_ms: u64,
    /// Missed because the whole machine stood still: this process was as late.
    pub(super) excused: u64,
}

impl Cadence {
    pub(super) fn follow(socket: &Path, pid: u32) -> Result<Self> {
        let events = Events::follow(socket)?;
        let state = State {
            heard: Instant::now(),
            last_unix_ms: 0,
            summary: CadenceSummary::default(),
            missed: Vec::new(),
        };
        let cadence = Self { state: Arc::new(Mutex::new(state)), waits: Waits::watch(pid) };
        let heard = cadence.clone();
        thread::spawn(move || {
            for (name, data) in events {
                if name == "tick"
                    && let Some(unix_ms) = data["unix_ms"].as_u64().filter(|unix_ms| *unix_ms > 0)
                {
                    heard.lock().take(unix_ms);
                }
            }
        });
        Ok(cadence)
    }

    /// Whether every turn came so far, but for those that nobody on this machine could have made.
    pub(super) fn check(&self, lateness: &Lateness) -> Result<()> {
        let mut state = self.lock();
        for (unix_ms, gap_ms) in std::mem::take(&mut state.missed) {
            let from_unix_ms = unix_ms.saturating_sub(gap_ms);
            let (late, waited) =
                (lateness.between(from_unix_ms, unix_ms), self.waits.between(from_unix_ms, unix_ms));
            let gap = Duration::from_millis(gap_ms);
            ensure!(
                gap.saturating_sub(late.max(waited)) <= MISSED,
                "missed cadence: {gap:?} between two turns of the fast cycle, period {PERIOD:?}; meanwhile its threads waited \
                 {waited:?} for a pcpu, and this process was {late:?} late"
            );
            state.summary.excused += 1;
        }
        let silence = state.heard.elapsed();
        let now = unix_ms();
        let since = now.saturating_sub(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX));
        let (late, waited) = (lateness.between(since, now), self.waits.between(since, now));
        ensure!(
            silence.saturating_sub(late.max(waited)) < SILENT,
            "missed cadence: no turn of the fast cycle for {silence:?}; meanwhile its threads waited {waited:?} for a pcpu, and \
             this process was {late:?} late"
        );
        Ok(())
    }

    pub(super) fn summary(&self) -> CadenceSummary {
        self.lock().summary.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the threads that a turn needs have waited for a pcpu so far, by the kernel's books (`schedstat`), and when that was
/// read: who does not get one cannot be in time. A turn needs the loop's thread, and before it one of those that wake it.
#[derive(Clone, Debug, Default)]
struct Waits(Arc<Mutex<Vec<Waited>>>, u32);

/// When, in ms since 1970, and by then how long each thread had waited.
type Waited = (u64, BTreeMap<u32, Duration>);

impl Waits {
    /// Looks in the background as long as that process lives.
    fn watch(pid: u32) -> Self {
        let waits = Self(Arc::default(), pid);
        let seen = waits.clone();
        thread::spawn(move || {
            while let Ok(waited) = process::waits(pid, WAKERS) {
                seen.0.lock().unwrap_or_else(PoisonError::into_inner).push((unix_ms(), waited));
                thread::sleep(LOOK);
            }
        });
        waits
    }

    /// From the last look before to the first one after.
    fn between(&self, from_unix_ms: u64, to_unix_ms: u64) -> Duration {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.iter().rfind(|(at, _)| *at <= from_unix_ms).or_else(|| seen.first());
        let after = seen.iter().find(|(at, _)| *at >= to_unix_ms).or_else(|| seen.last());
        let Some(((_, before), (_, after))) = before.zip(after) else { return Duration::ZERO };
        let waited = |(thread, after): (&u32, &Duration)| {
            (*thread, after.saturating_sub(before.get(thread).copied().unwrap_or_default()))
        };
        let (own, wakers): (Vec<_>, Vec<_>) =
            after.iter().map(waited).partition(|(thread, _)| *thread == self.1);
        let longest = |threads: Vec<(u32, Duration)>| threads.into_iter().map(|(_, waited)| waited).max();
        longest(own).unwrap_or_default() + longest(wakers).unwrap_or_default()
    }
}

impl State {
    fn take(&mut self, unix_ms: u64) {
        self.heard = Instant::now();
        // The first that is told is the last one again.
        if unix_ms <= self.last_unix_ms {
            return;
        }
        if self.last_unix_ms > 0 {
            let gap_ms = unix_ms - self.last_unix_ms;
            self.summary.longest_ms = self.summary.longest_ms.max(gap_ms);
            if Duration::from_millis(gap_ms) > MISSED {
                self.missed.push((unix_ms, gap_ms));
            }
        }
        self.summary.turns += 1;
        self.last_unix_ms = unix_ms;
    }
}

/// How late this process was woken, and when: what the machine does to everybody is not the daemon's fault.
#[derive(Clone, Debug, Default)]
pub(super) struct Lateness(Arc<Mutex<Vec<(u64, Duration)>>>);

impl Lateness {
    /// Looks in the background as long as this process lives.
    pub(super) fn watch() -> Self {
        let lateness = Self::default();
        let seen = lateness.clone();
        thread::spawn(move || {
            loop {
                let began = Instant::now();
                thread::sleep(LOOK);
                let late = began.elapsed().saturating_sub(LOOK);
                if late > LATE {
                    seen.0.lock().unwrap_or_else(PoisonError::into_inner).push((unix_ms(), late));
                }
            }
        });
        lateness
    }

    fn between(&self, from_unix_ms: u64, to_unix_ms: u64) -> Duration {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that ends a little after the turn has kept the turn back all the same.
        let at = from_unix_ms..=to_unix_ms + u64::try_from(MISSED.as_millis()).unwrap_or(0);
        seen.iter().filter(|(ended, _)| at.contains(ended)).map(|(_, late)| *late).sum()
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(turns: &[u64]) -> Cadence {
        let state = State {
            heard: Instant::now(),
            last_unix_ms: 0,
            summary: CadenceSummary::default(),
            missed: Vec::new(),
        };
        let cadence = Cadence { state: Arc::new(Mutex::new(state)), waits: Waits::default() };
        turns.iter().for_each(|turn| cadence.lock().take(*turn));
        cadence
    }

    #[test]
    fn turns_that_come_in_time_are_no_fault_and_one_that_does_not_is() {
        let cadence = told(&[1000, 1000, 2000, 3100, 5000]);
        cadence.check(&Lateness::default()).unwrap();
        assert_eq!((cadence.summary().turns, cadence.summary().longest_ms), (4, 1900));
        let error = told(&[1000, 2000, 4500]).check(&Lateness::default()).unwrap_err().to_string();
        assert!(error.contains("2.5s between two turns"), "{error}");
    }

    #[test]
    fn what_the_whole_machine_missed_is_excused() {
        let lateness = Lateness::default();
        lateness.0.lock().unwrap().push((4400, Duration::from_millis(700)));
        let cadence = told(&[1000, 2000, 4500]);
        cadence.check(&lateness).unwrap();
        assert_eq!(cadence.summary().excused, 1);
        assert!(told(&[1000, 2000, 5500]).check(&lateness).is_err());
    }

    #[test]
    fn who_has_no_pcpu_cannot_be_in_time() {
        let cadence = told(&[1000, 2000, 6000]);
        // The loop's thread is 0. Of two that wake it the one that waited longest counts.
        let looks =
            [(1900, 100, 0), (2100, 150, 0), (5900, 2000, 400), (6100, 2100, 500), (7000, 8000, 1000)];
        let looks = looks.map(|(at, own, waker)| {
            let waits = [(0, own), (1, waker), (2, waker / 2)];
            (at, BTreeMap::from(waits.map(|(thread, ms)| (thread, Duration::from_millis(ms)))))
        });
        cadence.waits.0.lock().unwrap().extend(looks.clone());
        assert_eq!(cadence.waits.between(2000, 6000), Duration::from_millis(2500));
        cadence.check(&Lateness::default()).unwrap();
        let cadence = told(&[1000, 2000, 7000]);
        cadence.waits.0.lock().unwrap().extend(looks[..4].iter().cloned());
        assert!(cadence.check(&Lateness::default()).is_err(), "it waited for half of that only");
    }
}
