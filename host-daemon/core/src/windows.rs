//! The three paces and their windows: each window keeps the sample that it began with. From samples to decisions, the same
//! for the daemon, for a recording, for the simulator and for the benchmark.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::{self, Decision, History};
use crate::model::Model;
use crate::policy::Policy;
use crate::sample::Sample;

/// While detail is shed, it is read at the first two ticks of so many: both ends of a window need it.
const SPARSE_TICKS: u32 = 6;

/// One window for each pace of the daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Windows {
    release: Window,
    tick: Window,
    cycle: Window,
    ticks: u32,
    /// The next sample ends the tick's window before its time.
    #[serde(default)]
    early: bool,
}

/// The windows that a sample ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// The tick's.
    pub tick: bool,
    /// The priority cycle's.
    pub cycle: bool,
}

/// What the next sample is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The windows that it will end.
    pub due: Due,
    /// Whether it must hold everything: histograms, rows of the steal matrix, and where the vcpus' time went.
    pub detail: bool,
}

/// When a sample was taken.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// On the daemon's monotonic clock.
    pub now: Duration,
    /// On the wall's.
    pub wall_unix_s: u64,
}

/// What came of one sample. A pace that was not due is `None`.
#[derive(Debug, Default)]
pub struct Decided {
    /// Each sample but the first.
    pub release: Option<(Model, Decision)>,
    /// While there are domains that have just come, with the release pace's model.
    pub arrival: Option<(Model, Decision)>,
    /// The model is that to show: with all that the guests told.
    pub tick: Option<(Model, Decision)>,
    /// The priority cycle's.
    pub cycle: Option<(Model, Decision)>,
}

impl Windows {
    /// Which windows the next sample will close. `sparse` if detail is shed.
    pub fn plan(&mut self, now: Duration, policy: &Policy, sparse: bool) -> Plan {
        let due = self.due(now, policy);
        let Due { tick, cycle } = due;
        let skips = sparse && self.ticks % SPARSE_TICKS > 1;
        self.ticks = self.ticks.wrapping_add(u32::from(tick));
        let detail = cycle || (tick && !skips);
        Plan { due, detail }
    }

    /// The windows that a sample of now would end.
    #[must_use]
    pub fn due(&self, now: Duration, policy: &Policy) -> Due {
        Due {
            tick: self.early || self.tick.is_due(now, policy.weight.period),
            cycle: self.cycle.is_due(now, policy.periods.cycle),
        }
    }

    /// Closes the windows that are due and decides on them. `with_guests` adds what the agents told, in place of
    /// what it has added before: to show, or (`true`) as far as it may be decided on.
    pub fn decide(
        &mut self,
        sample: &Arc<Sample>,
        due: Due,
        moment: Moment,
        policy: &Policy,
        history: &mut History,
        with_guests: impl Fn(Model, bool) -> Model,
    ) -> Decided {
        let mut decided = Decided::default();
        if let Some(model) = self.release.close(sample, moment) {
            let decision = decide::release(&model, policy, history);
            let arrival = decide::arrival(&model, policy, history);
            decided.arrival = arrival.map(|arrival| (model.clone(), arrival));
            decided.release = Some((model, decision));
        }
        if due.tick
            && let Some(model) = self.tick.close(sample, moment)
        {
            let model = with_guests(model, true);
            let decision = decide::tick(&model, policy, history);
            // Anew: a copy of the model before costs more.
            decided.tick = Some((with_guests(model, false), decision));
        }
        if due.cycle
            && let Some(model) = self.cycle.close(sample, moment)
        {
            let model = with_guests(model, true);
            let decision = decide::cycle(&model, policy, history);
            decided.cycle = Some((model, decision));
        }
        self.early = history.calls_for_tick();
        decided
    }
}

/// From one sample to a later one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Window(Option<(Arc<Sample>, Duration)>);

impl Window {
    /// Whether it is `period` long by now, or has not begun.
    fn is_due(&self, now: Duration, period: Duration) -> bool {
        /// A window may close a little early, else a 5 s window of 1 s turns that come 1 ms early lasts 6 s.
        const EARLY: Duration = Duration::from_millis(100);
        self.0.as_ref().is_none_or(|(_, at)| now.saturating_sub(*at) + EARLY >= period)
    }

    /// The model of the window; a new one begins. The first call begins the first.
    fn close(&mut self, sample: &Arc<Sample>, moment: Moment) -> Option<Model> {
        let Moment { now, wall_unix_s } = moment;
        let Some((begin, at)) = &self.0 else {
            self.0 = Some((Arc::clone(sample), now));
            return None;
        };
        let elapsed = now.saturating_sub(*at);
        if elapsed.is_zero() {
            return None;
        }
        let model = Model::new(begin, sample, now, elapsed, wall_unix_s);
        self.0 = Some((Arc::clone(sample), now));
        Some(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One turn at each time, each taking no time: how long the tick was that it ended, and what the sample held.
    fn turns(windows: &mut Windows, times_ms: &[u32], sparse: bool) -> Vec<(Option<u128>, bool)> {
        let (sample, policy) = (Arc::new(Sample::default()), Policy::default());
        let mut history = History::default();
        let mut turn = |at: u32| {
            let now = MS * at;
            let plan = windows.plan(now, &policy, sparse);
            let moment = Moment { now, wall_unix_s: 0 };
            let decided = windows.decide(&sample, plan.due, moment, &policy, &mut history, |model, _| model);
            let tick = decided.tick.map(|(model, _)| model.elapsed.as_millis());
            (tick, plan.detail)
        };
        times_ms.iter().map(|at| turn(*at)).collect()
    }

    #[test]
    fn a_window_closes_when_it_is_long_enough_and_has_detail_at_both_ends() {
        let seen = turns(&mut Windows::default(), &[0, 1000, 4950, 5000, 9900], false);
        let expected = [(None, true), (None, false), (Some(4950), true), (None, false), (Some(4950), true)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn an_early_tick_begins_a_whole_window() {
        let mut windows = Windows::default();
        assert_eq!(turns(&mut windows, &[0, 1000, 2000], false)[0].0, None);
        windows.early = true;
        let seen = turns(&mut windows, &[3000, 4000, 7000, 8000], false);
        let expected = [(Some(3000), true), (None, false), (None, false), (Some(5000), true)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn shed_detail_is_read_in_pairs() {
        let times: Vec<u32> = (0..13).map(|n| n * 5000).collect();
        let seen = turns(&mut Windows::default(), &times, true);
        let detail: Vec<usize> = seen.iter().enumerate().filter(|(_, seen)| seen.1).map(|(n, _)| n).collect();
        assert_eq!(detail, [0, 1, 6, 7, 12]);
        assert!(seen[1..].iter().all(|(tick, _)| *tick == Some(5000)), "{seen:?}");
    }
}
