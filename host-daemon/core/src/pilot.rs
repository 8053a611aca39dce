//! One turn of the pilot: what the samples of one moment mean to its three paces. The daemon makes a turn a second;
//! `kvmpilot replay` makes the same turns again from a recording, so nothing here may depend on anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::decide::{self, Decision, History};
use crate::model::{GuestModel, GuestReading, Model};
use crate::policy::Policy;
use crate::sample::Sample;

/// Name of the agent's process in a guest: its own work is not the guest's.
const AGENT: &str = "qemu-ga";
/// Age in polls above which what a guest told is not decided on.
const GUEST_PERIODS: u32 = 3;
/// A window may close a little early, else a 5 s window of 1 s turns that come 1 ms early lasts 6 s.
const EARLY: Duration = Duration::from_millis(100);

/// One window for each pace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Windows {
    release: Window,
    tick: Window,
    cycle: Window,
}

/// From one sample to a later one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Window(Option<(Arc<Sample>, Duration)>);

impl Window {
    /// The model of the window if `period` has passed by now; a new one begins then. The first call begins the first.
    fn close(&mut self, moment: &Moment<'_>, period: Duration) -> Option<Model> {
        let now = moment.at;
        let Some((begin, at)) = &self.0 else {
            self.0 = Some((Arc::clone(moment.sample), now));
            return None;
        };
        let elapsed = now.saturating_sub(*at);
        if elapsed.is_zero() || elapsed + EARLY < period {
            return None;
        }
        let model = Model::new(begin, moment.sample, now, elapsed, moment.unix_s);
        self.0 = Some((Arc::clone(moment.sample), now));
        Some(model)
    }
}

/// What was known at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// What was read.
    pub sample: &'a Arc<Sample>,
    /// When, on the daemon's monotonic clock.
    pub at: Duration,
    /// When, in seconds since 1970: judges the age of balloon statistics.
    pub unix_s: u64,
}

/// What the guests' agents told, and what has become stale of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guests {
    /// The last polls of each guest.
    pub readings: BTreeMap<Uuid, Readings>,
    /// When kvmpilot last changed levels inside a guest, on the daemon's monotonic clock.
    pub levelled: BTreeMap<Uuid, Duration>,
    /// Domains that are being changed at this moment.
    pub busy: BTreeSet<Uuid>,
}

/// The last two polls of one guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    /// The poll before the last.
    pub previous: Option<GuestReading>,
    /// The last good poll.
    pub latest: Option<GuestReading>,
}

impl Guests {
    /// Adds what the agents told to a model: all of it to show, and to decide on only what is newer than our last step
    /// on the ladder and not too old.
    fn add_to(&self, mut model: Model, policy: &Policy, to_decide: bool) -> Model {
        let oldest = model.at.saturating_sub(policy.periods.guest * GUEST_PERIODS);
        for domain in &mut model.domains {
            let Some(readings) = self.readings.get(&domain.uuid) else { continue };
            let levelled = self.levelled.get(&domain.uuid);
            let current = |at: Duration| at >= oldest && levelled.is_none_or(|levelled| at > *levelled);
            let usable = |at: Duration| !to_decide || (current(at) && !self.busy.contains(&domain.uuid));
            domain.guest = readings
                .latest
                .as_ref()
                .filter(|latest| usable(latest.at))
                .map(|latest| GuestModel::new(readings.previous.as_ref(), latest, AGENT));
        }
        model
    }
}

/// Which paces are to end their windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Due {
    /// Those whose period has passed.
    ByPeriod,
    /// These, as a recording tells.
    These {
        /// The tick.
        tick: bool,
        /// The priority cycle.
        cycle: bool,
    },
}

/// What one turn came to. A pace is `None` when its window goes on.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// Back-to-safe actions, each turn.
    pub release: Option<(Model, Decision)>,
    /// Class, weights, balloons.
    pub tick: Option<(Model, Decision)>,
    /// The tick's model with all that the guests told, also what is too old to decide on.
    pub shown: Option<Model>,
    /// States, ladder, placement.
    pub cycle: Option<(Model, Decision)>,
}

impl Turn {
    /// The paces that ended a window, for a recording.
    #[must_use]
    pub const fn due(&self) -> Due {
        Due::These { tick: self.tick.is_some(), cycle: self.cycle.is_some() }
    }
}

/// Makes one turn. `guests` is asked only when a pace needs it.
#[must_use]
pub fn turn(
    windows: &mut Windows,
    moment: &Moment<'_>,
    due: Due,
    guests: impl FnOnce() -> Guests,
    policy: &Policy,
    history: &mut History,
) -> Turn {
    /// A window that the recording ends has no shortest length.
    fn period(due: Due, ends: bool, configured: Duration) -> Option<Duration> {
        match due {
            Due::ByPeriod => Some(configured),
            Due::These { .. } => ends.then_some(Duration::ZERO),
        }
    }
    let (ends_tick, ends_cycle) = match due {
        Due::These { tick, cycle } => (tick, cycle),
        Due::ByPeriod => (false, false),
    };
    let release = windows.release.close(moment, Duration::ZERO).map(|model| {
        let decision = decide::release(&model, policy, history);
        (model, decision)
    });
    let tick = period(due, ends_tick, policy.weight.period);
    let tick = tick.and_then(|period| windows.tick.close(moment, period));
    let cycle = period(due, ends_cycle, policy.periods.cycle);
    let cycle = cycle.and_then(|period| windows.cycle.close(moment, period));
    let guests = if tick.is_some() || cycle.is_some() { guests() } else { Guests::default() };
    let shown = tick.clone().map(|model| guests.add_to(model, policy, false));
    let tick = tick.map(|model| {
        let model = guests.add_to(model, policy, true);
        let decision = decide::tick(&model, policy, history);
        (model, decision)
    });
    let cycle = cycle.map(|model| {
        let model = guests.add_to(model, policy, true);
        let decision = decide::cycle(&model, policy, history);
        (model, decision)
    });
    Turn { release, tick, shown, cycle }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_closes_when_it_is_long_enough() {
        let sample = Arc::new(Sample::default());
        let mut window = Window::default();
        let mut close = |ms: u64| {
            let moment = Moment { sample: &sample, at: Duration::from_millis(ms), unix_s: 0 };
            window.close(&moment, Duration::from_secs(5)).map(|model| model.elapsed.as_millis())
        };
        assert_eq!(
            [close(0), close(1000), close(4950), close(5000), close(9900)],
            [None, None, Some(4950), None, Some(4950)]
        );
    }

    #[test]
    fn paces_that_a_recording_names_end_when_it_says() {
        let sample = Arc::new(Sample::default());
        let (mut windows, mut history, policy) = (Windows::default(), History::default(), Policy::default());
        let mut ends = |s: u64, tick, cycle| {
            let moment = Moment { sample: &sample, at: Duration::from_secs(s), unix_s: 0 };
            let due = Due::These { tick, cycle };
            let turn = turn(&mut windows, &moment, due, Guests::default, &policy, &mut history);
            (turn.tick.map(|(model, _)| model.elapsed.as_secs()), turn.cycle.is_some())
        };
        assert_eq!(ends(0, true, true), (None, false), "they begin");
        assert_eq!(ends(2, false, false), (None, false));
        assert_eq!(ends(3, true, false), (Some(3), false));
        assert_eq!(ends(4, true, true), (Some(1), true));
    }

    #[test]
    fn what_a_guest_told_before_our_last_step_is_shown_and_not_decided_on() {
        let uuid = Uuid::from_u128(7);
        let domain = crate::sample::DomainSample {
            uuid,
            name: "web".into(),
            state: crate::sample::DomainState::Running,
            ..crate::record::tests::domain()
        };
        let sample = Sample { domains: vec![domain], ..Sample::default() };
        let s = Duration::from_secs;
        let model = Model::new(&sample, &sample, s(100), s(5), 0);
        let reading =
            GuestReading { at: s(90), host_cpu_ns: None, sample: crate::sample::GuestSample::default() };
        let readings = Readings { previous: None, latest: Some(reading) };
        let mut guests = Guests { readings: [(uuid, readings)].into(), ..Guests::default() };
        let policy = Policy::default();
        let told = |guests: &Guests, to_decide| {
            guests.add_to(model.clone(), &policy, to_decide).domains[0].guest.is_some()
        };
        assert!(told(&guests, false) && told(&guests, true));
        guests.levelled.insert(uuid, s(95));
        assert!(told(&guests, false) && !told(&guests, true));
        guests.levelled.clear();
        guests.busy.insert(uuid);
        assert!(told(&guests, false) && !told(&guests, true));
    }
}
