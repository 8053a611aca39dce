//! Runs a scenario: the toy host second by second, and the daemon's paces over it. Beside it the same host without kvmpilot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::host::Host;
use super::report::{Recorder, Report};
use super::scenario::{Event, Scenario};
use crate::decide::{self, Decision, History};
use crate::model::Model;
use crate::order::Proposal;
use crate::policy::{DomainPolicy, Mode, Policy};
use crate::sample::Sample;

const SECOND: Duration = Duration::from_secs(1);

/// Runs `scenario` under `policy`, whose mode, cycle and classes the scenario sets. `progress` hears of each hour.
#[must_use]
pub fn run(scenario: &Scenario, policy: &Policy, mut progress: impl FnMut(u64)) -> Report {
    let policy = policy_of(scenario, policy);
    let (mut with, mut without) = (Host::new(scenario), Host::new(scenario));
    let mut recorder = Recorder::new(scenario, &with, &policy);
    let mut driver = Driver { policy, history: History::default(), windows: Windows::default(), orders: 0 };
    let length = super::memory::count(scenario.hours * 3600.0);
    for second in 1..=length {
        with.step();
        without.step();
        let events = driver.turn(&mut with, scenario.mode);
        recorder.second(&with, &without, &driver.history, events);
        if second.is_multiple_of(3600) {
            progress(second / 3600);
        }
    }
    recorder.finish()
}

fn policy_of(scenario: &Scenario, policy: &Policy) -> Policy {
    let mut policy = policy.clone();
    policy.mode = scenario.mode;
    policy.periods.cycle = Duration::from_secs(scenario.cycle_s);
    let own = scenario.domain.iter().map(|spec| DomainPolicy {
        name: if spec.count > 1 { format!("{}*", spec.name) } else { spec.name.clone() },
        class: spec.class,
        ..DomainPolicy::default()
    });
    policy.domains = own.collect();
    policy
}

/// The daemon's part.
struct Driver {
    policy: Policy,
    history: History,
    windows: Windows,
    orders: u64,
}

#[derive(Default)]
struct Windows {
    release: Option<(Arc<Sample>, Duration)>,
    tick: Option<(Arc<Sample>, Duration)>,
    cycle: Option<(Arc<Sample>, Duration)>,
}

impl Driver {
    /// One turn of the fast loop, and of the slower ones when they are due, as in the daemon.
    fn turn(&mut self, host: &mut Host, mode: Mode) -> Vec<Event> {
        let sample = Arc::new(host.sample());
        let now = SECOND * u32::try_from(host.second).unwrap_or(u32::MAX);
        let mut wanted = Vec::new();
        let Windows { release, tick, cycle } = &mut self.windows;
        let paces: [(_, Duration, fn(&Model, &Policy, &mut History) -> Decision); 3] = [
            (release, SECOND, decide::release),
            (tick, self.policy.weight.period, decide::tick),
            (cycle, self.policy.periods.cycle, decide::cycle),
        ];
        for (window, period, decide) in paces {
            if let Some(model) = close(window, &sample, now, period) {
                let decision = decide(&model, &self.policy, &mut self.history);
                wanted.extend(decision.proposals);
            }
        }
        if mode != Mode::Auto {
            wanted.retain(|proposal| proposal.release);
        }
        self.carry_out(host, wanted, now)
    }

    /// The first proposal for a target counts, as in the daemon's book of orders.
    fn carry_out(&mut self, host: &mut Host, wanted: Vec<Proposal>, now: Duration) -> Vec<Event> {
        let mut done = BTreeMap::new();
        let mut events = Vec::new();
        for proposal in wanted {
            if done.insert((proposal.domain, proposal.action.target()), ()).is_some() {
                continue;
            }
            self.orders += 1;
            host.apply(proposal.domain, &proposal.action);
            self.history.applied(self.orders, &proposal, now);
            events.push(Event {
                at_s: host.second,
                order: self.orders,
                domain: proposal.domain_name.clone(),
                rule: proposal.reason.rule.clone(),
                change: proposal.action.to_string(),
            });
        }
        events
    }
}

/// The model of a window that is long enough; the next one begins.
fn close(
    window: &mut Option<(Arc<Sample>, Duration)>,
    sample: &Arc<Sample>,
    now: Duration,
    period: Duration,
) -> Option<Model> {
    let Some((begin, at)) = window else {
        *window = Some((Arc::clone(sample), now));
        return None;
    };
    let elapsed = now.saturating_sub(*at);
    if elapsed < period {
        return None;
    }
    let model = Model::new(begin, sample, now, elapsed, now.as_secs());
    *window = Some((Arc::clone(sample), now));
    Some(model)
}
