//! The daemon's own cost against its budget: what is given up when it costs too much, and when it comes back. In the order
//! of what is missed least: flows, watches, detail.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::input;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::policy::OverheadPolicy;

/// Ticks in a row over the budget before something is given up.
const PATIENCE: u32 = 3;
/// Longest calm that is asked for, unless the configured one is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// Calm is a cost below this part of the budget: what comes back costs something too.
const CALM: f64 = 0.7;
/// A new excess within so many pauses after something came back is blamed on it.
const BLAME: u32 = 4;

/// What can be given up, first to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shed {
    /// Tier 3: flows on the taps.
    Flows,
    /// Tier 2: watches on demand.
    Watches,
    /// Histograms, matrix rows and what else is read for each thread: every 30 s instead of every tick.
    Detail,
}

impl Shed {
    /// First to last.
    pub const ALL: [Self; 3] = [Self::Flows, Self::Watches, Self::Detail];
}

impl fmt::Display for Shed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flows => "flows (tier 3)",
            Self::Watches => "watches (tier 2)",
            Self::Detail => "detail of threads",
        })
    }
}

/// What was given up, and how things went since then.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overhead {
    shed: Vec<Shed>,
    over: u32,
    calm_since: Option<Duration>,
    pause: Option<Duration>,
    came_back: Option<Duration>,
    bill: Option<Bill>,
}

/// Cost and budget of the last tick, as parts of one pcpu.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bill {
    /// The daemon's threads.
    pub daemon: f64,
    /// Its eBPF programs, estimated.
    pub programs: f64,
    /// What both together may cost.
    pub budget: f64,
}

/// A change of what is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverheadStep {
    /// Give this up.
    Shed(Shed),
    /// Take it back.
    TakeBack(Shed),
}

impl Bill {
    /// Everything.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.daemon + self.programs
    }
}

impl fmt::Display for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |part: f64| part * 100.0;
        write!(
            f,
            "own cost {:.2} % of one CPU (daemon {:.2} %, probes {:.2} %), budget {:.2} %",
            percent(self.total()),
            percent(self.daemon),
            percent(self.programs),
            percent(self.budget)
        )
    }
}

/// What daemon and programs may cost together as a part of one pcpu.
fn budget(vcpus: usize, policy: &OverheadPolicy) -> f64 {
    policy.budget * (f64::from(u32::try_from(vcpus).unwrap_or(u32::MAX)) / 100.0).max(1.0)
}

impl Overhead {
    /// What is given up now, in the order in which it was.
    #[must_use]
    pub fn shed(&self) -> &[Shed] {
        &self.shed
    }

    /// Whether this is given up now.
    #[must_use]
    pub fn is_shed(&self, what: Shed) -> bool {
        self.shed.contains(&what)
    }

    /// Cost and budget of the last tick that knew them.
    #[must_use]
    pub const fn bill(&self) -> Option<Bill> {
        self.bill
    }

    /// Calm that is asked for before something comes back.
    #[must_use]
    pub fn pause(&self, policy: &OverheadPolicy) -> Duration {
        self.pause.unwrap_or(policy.calm)
    }

    /// Looks at one tick. `present` is what could be given up, because it is switched on. A tick without figures changes
    /// nothing.
    pub fn tick(
        &mut self,
        model: &Model,
        policy: &OverheadPolicy,
        present: &[Shed],
    ) -> (Option<OverheadStep>, Option<Finding>) {
        if !policy.enabled {
            let back = self.shed.pop().map(OverheadStep::TakeBack);
            *self = Self { shed: std::mem::take(&mut self.shed), ..Self::default() };
            return (back, None);
        }
        let Some(daemon) = model.own.daemon else { return (None, self.finding(policy)) };
        let vcpus = model.domains.iter().map(|domain| domain.vcpus.len()).sum();
        let bill = Bill { daemon, programs: model.own.programs_cpu(), budget: budget(vcpus, policy) };
        self.bill = Some(bill);
        let step = self.step(model.at, bill, policy, present);
        (step, self.finding(policy))
    }

    fn step(
        &mut self,
        now: Duration,
        bill: Bill,
        policy: &OverheadPolicy,
        present: &[Shed],
    ) -> Option<OverheadStep> {
        self.over = if bill.total() > bill.budget { self.over.saturating_add(1) } else { 0 };
        if bill.total() > bill.budget * CALM {
            self.calm_since = None;
        }
        if self.over >= PATIENCE {
            let next = Shed::ALL.into_iter().find(|what| !self.is_shed(*what) && present.contains(what))?;
            // The next step waits for ticks that show what this one has done.
            self.over = 0;
            let pause = self.pause(policy);
            let blamed = self.came_back.is_some_and(|at| now.saturating_sub(at) < pause * BLAME);
            self.pause =
                Some(if blamed { (pause * 2).min(LONGEST_PAUSE.max(policy.calm)) } else { policy.calm });
            self.came_back = None;
            self.shed.push(next);
            return Some(OverheadStep::Shed(next));
        }
        if bill.total() <= bill.budget * CALM {
            let since = *self.calm_since.get_or_insert(now);
            if now.saturating_sub(since) >= self.pause(policy)
                && let Some(back) = self.shed.pop()
            {
                self.calm_since = Some(now);
                self.came_back = Some(now);
                return Some(OverheadStep::TakeBack(back));
            }
        }
        None
    }

    fn finding(&self, policy: &OverheadPolicy) -> Option<Finding> {
        let bill = self.bill?;
        if self.shed.is_empty() && self.over == 0 {
            return None;
        }
        let given_up: Vec<String> = self.shed.iter().map(ToString::to_string).collect();
        let given_up = if given_up.is_empty() { "nothing".to_owned() } else { given_up.join(", ") };
        Some(Finding {
            domain: None,
            domain_name: None,
            name: "overhead".to_owned(),
            severity: Severity::Warning,
            summary: format!(
                "kvmpilot costs more than its budget, or did: {bill}; given up: {given_up}. `[overhead] budget` says how \
                 much it may cost"
            ),
            evidence: vec![
                input("daemon_percent", format!("{:.3}", bill.daemon * 100.0)),
                input("programs_percent", format!("{:.3}", bill.programs * 100.0)),
                input("budget_percent", format!("{:.3}", bill.budget * 100.0)),
                input("comes_back_after_calm_s", self.pause(policy).as_secs()),
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::OwnModel;

    const TICK: Duration = Duration::from_secs(5);

    fn at(n: u32, daemon: Option<f64>) -> Model {
        Model { at: TICK * n, own: OwnModel { daemon, ..OwnModel::default() }, ..Model::default() }
    }

    fn run(overhead: &mut Overhead, from: u32, costs: &[f64], present: &[Shed]) -> Vec<Option<OverheadStep>> {
        let policy = OverheadPolicy::default();
        (from..).zip(costs).map(|(n, cost)| overhead.tick(&at(n, Some(*cost)), &policy, present).0).collect()
    }

    #[test]
    fn sheds_in_order_and_takes_back_in_reverse() {
        use OverheadStep::{Shed as Gone, TakeBack};
        let mut overhead = Overhead::default();
        let steps = run(&mut overhead, 0, &[0.02; 12], &Shed::ALL);
        let when: Vec<_> =
            steps.iter().enumerate().filter_map(|(n, step)| step.map(|step| (n, step))).collect();
        assert_eq!(when, [(2, Gone(Shed::Flows)), (5, Gone(Shed::Watches)), (8, Gone(Shed::Detail))]);
        assert_eq!(overhead.shed(), Shed::ALL);
        let steps = run(&mut overhead, 12, &[0.005; 40], &Shed::ALL);
        let when: Vec<_> =
            steps.iter().enumerate().filter_map(|(n, step)| step.map(|step| (n, step))).collect();
        let expected =
            [(12, TakeBack(Shed::Detail)), (24, TakeBack(Shed::Watches)), (36, TakeBack(Shed::Flows))];
        assert_eq!(when, expected);
        assert!(overhead.shed().is_empty());
    }

    #[test]
    fn what_is_not_there_is_not_shed_and_no_figure_changes_nothing() {
        let mut overhead = Overhead::default();
        let steps = run(&mut overhead, 0, &[0.02; 3], &[Shed::Detail]);
        assert_eq!(steps[2], Some(OverheadStep::Shed(Shed::Detail)));
        assert!(run(&mut overhead, 3, &[0.02; 30], &[Shed::Detail]).iter().all(Option::is_none));
        let before = overhead.clone();
        let (step, finding) = overhead.tick(&at(90, None), &OverheadPolicy::default(), &Shed::ALL);
        assert_eq!((step, &overhead), (None, &before));
        assert!(finding.unwrap().summary.contains("detail of threads"));
    }

    #[test]
    fn what_was_too_much_again_comes_back_later_each_time() {
        let mut overhead = Overhead::default();
        let mut n = 0;
        for pause in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
            run(&mut overhead, n, &[0.02; 3], &[Shed::Flows]);
            n += 3;
            assert_eq!(overhead.pause(&OverheadPolicy::default()), Duration::from_secs(pause));
            assert_eq!(overhead.shed(), [Shed::Flows]);
            let calm = usize::try_from(pause / 5).unwrap();
            let steps = run(&mut overhead, n, &vec![0.001; calm + 1], &[Shed::Flows]);
            n += u32::try_from(steps.len()).unwrap();
            assert!(steps[..calm].iter().all(Option::is_none));
            assert_eq!(steps[calm], Some(OverheadStep::TakeBack(Shed::Flows)));
        }
        // Long after, it is another story.
        run(&mut overhead, n + 4 * 3600, &[0.02; 3], &[Shed::Flows]);
        assert_eq!(overhead.pause(&OverheadPolicy::default()), OverheadPolicy::default().calm);
    }

    #[test]
    fn the_budget_grows_with_the_vcpus_and_can_be_switched_off() {
        let policy = OverheadPolicy::default();
        assert!((budget(5, &policy) - 0.01).abs() < 1e-12);
        assert!((budget(1000, &policy) - 0.1).abs() < 1e-12);
        let mut overhead = Overhead::default();
        run(&mut overhead, 0, &[0.02; 9], &Shed::ALL);
        let off = OverheadPolicy { enabled: false, ..policy };
        for back in [Shed::Detail, Shed::Watches, Shed::Flows] {
            let step = overhead.tick(&at(100, Some(0.5)), &off, &Shed::ALL);
            assert_eq!(step, (Some(OverheadStep::TakeBack(back)), None));
        }
        assert_eq!(overhead, Overhead::default());
    }

    proptest! {
        /// Whatever the cost does: one step a tick, the last one to go is the first to come back, no step down without
        /// three ticks over the budget, none back without the calm that was asked for.
        #[test]
        fn steps_are_ordered_and_earned(costs in proptest::collection::vec(prop_oneof![
            Just(None), Just(Some(0.02)), Just(Some(0.008)), Just(Some(0.004)), (0.0..0.03).prop_map(Some),
        ], 0..200)) {
            let (mut overhead, policy) = (Overhead::default(), OverheadPolicy::default());
            let mut known = Vec::new();
            for (n, cost) in (0..).zip(costs) {
                let (before, pause) = (overhead.shed().to_vec(), overhead.pause(&policy));
                let (step, _) = overhead.tick(&at(n, cost), &policy, &Shed::ALL);
                known.extend(cost.map(|cost| (n, cost)));
                let mut expected = before.clone();
                match step {
                    None => {}
                    Some(OverheadStep::Shed(what)) => {
                        prop_assert_eq!(what, Shed::ALL[before.len()]);
                        prop_assert!(known.iter().rev().take(3).all(|(_, cost)| *cost > policy.budget));
                        expected.push(what);
                    }
                    Some(OverheadStep::TakeBack(what)) => {
                        prop_assert_eq!(Some(what), expected.pop());
                        let calm = |(at, _): &&(u32, f64)| TICK * (n - *at) <= pause;
                        prop_assert!(known.iter().rev().take_while(calm).all(|(_, cost)| *cost <= policy.budget));
                    }
                }
                prop_assert_eq!(overhead.shed(), expected.as_slice());
                prop_assert!((policy.calm..=LONGEST_PAUSE).contains(&overhead.pause(&policy)));
            }
        }
    }
}
