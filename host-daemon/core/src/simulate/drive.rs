//! Runs a scenario: the toy host second by second, and the daemon's paces over it. Beside it the same host without kvmpilot.

use std::sync::Arc;
use std::time::Duration;

use super::host::Host;
use super::record::{Event, Recorder};
use super::report::Report;
use super::scenario::Scenario;
use crate::decide::History;
use crate::order::Proposal;
use crate::policy::{Actuator, DomainPolicy, Mode, Policy, Wishes};
use crate::sample::Sample;
use crate::windows::{Moment, Windows};

const SECOND: Duration = Duration::from_secs(1);
/// Part of a second from a decision to its effect: the ledger, libvirt's call, and reading it back.
const ORDER_TAKES: f64 = 0.2;

/// Runs `scenario` under `policy`, whose mode, cycle and classes the scenario sets. `progress` hears of each hour.
#[must_use]
pub fn run(scenario: &Scenario, policy: &Policy, mut progress: impl FnMut(u64)) -> Report {
    let policy = policy_of(scenario, policy);
    let (mut with, mut without) = (Host::new(scenario), Host::new(scenario));
    let mut recorder = Recorder::new(scenario, &with, &policy);
    let mut driver = Driver::new(policy);
    let length = super::memory::count(scenario.hours * 3600.0);
    for second in 1..=length {
        without.begin();
        without.advance(1.0);
        without.end();
        with.begin();
        with.advance(ORDER_TAKES);
        let events = driver.carry_out(&mut with);
        with.advance(1.0 - ORDER_TAKES);
        with.end();
        recorder.second(&with, &without, driver.history(), events);
        driver.turn(&with, &mut recorder);
        if second.is_multiple_of(3600) {
            progress(second / 3600);
        }
    }
    recorder.finish(&with, &without)
}

/// Samples of the toy host at these seconds, in rising order, without kvmpilot and with all details: for benchmarks.
#[must_use]
pub fn samples(scenario: &Scenario, seconds: &[u64]) -> Vec<Sample> {
    let mut host = Host::new(scenario);
    let mut samples = Vec::new();
    for second in 1..=seconds.last().copied().unwrap_or(0) {
        host.begin();
        host.advance(1.0);
        host.end();
        if seconds.contains(&second) {
            samples.push(host.sample(true));
        }
    }
    samples
}

fn policy_of(scenario: &Scenario, policy: &Policy) -> Policy {
    let mut policy = policy.clone();
    policy.mode = scenario.mode;
    policy.periods.cycle = Duration::from_secs(scenario.cycle_s);
    let own = scenario.domain.iter().map(|spec| DomainPolicy {
        name: if spec.count > 1 { format!("{}*", spec.name) } else { spec.name.clone() },
        wishes: Wishes { class: Some(spec.class), ..Wishes::default() },
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
    /// Decided, and not carried out yet.
    open: Vec<Proposal>,
}

impl Driver {
    fn new(policy: Policy) -> Self {
        let (history, windows) = (History::default(), Windows::default());
        Self { policy, history, windows, orders: 0, open: Vec::new() }
    }

    const fn history(&self) -> &History {
        &self.history
    }

    /// One turn of the fast loop, and of the slower ones when they are due, as in the daemon.
    fn turn(&mut self, host: &Host, recorder: &mut Recorder) {
        let now = SECOND * u32::try_from(host.second).unwrap_or(u32::MAX);
        let plan = self.windows.plan(now, &self.policy, false);
        let sample = Arc::new(host.sample(plan.detail));
        let moment = Moment { now, wall_unix_s: host.second };
        let decided =
            self.windows.decide(&sample, plan.due, moment, &self.policy, &mut self.history, |model, _| model);
        let release = decided.release.map(|(_, decision)| decision);
        let arrival = decided.arrival.map(|(_, decision)| decision);
        let tick = decided.tick.map(|(_, decision)| decision);
        let cycle = decided.cycle.map(|(_, decision)| decision);
        for decision in [release, arrival, tick, cycle].into_iter().flatten() {
            recorder.decided(&decision);
            self.admit(decision.proposals);
        }
    }

    /// What may go ahead, one order for each target, as in the daemon's book of orders.
    fn admit(&mut self, proposals: Vec<Proposal>) {
        for proposal in proposals {
            let target = proposal.action.target();
            let taken =
                |other: &Proposal| (other.domain, other.action.target()) == (proposal.domain, target.clone());
            let actuator = proposal.action.actuator();
            let mode = self.policy.of(proposal.domain_name.as_str()).mode(actuator).value;
            let goes_ahead = mode == Mode::Auto || (proposal.release && mode != Mode::Observe);
            if goes_ahead && actuator != Actuator::Resize && !self.open.iter().any(taken) {
                self.open.push(proposal);
            }
        }
    }

    /// A while after the decision its orders are in force, or refused because somebody was faster.
    fn carry_out(&mut self, host: &mut Host) -> Vec<Event> {
        let began = SECOND * u32::try_from(host.second - 1).unwrap_or(u32::MAX);
        let now = began + SECOND.mul_f64(ORDER_TAKES);
        let mut events = Vec::new();
        for proposal in std::mem::take(&mut self.open) {
            self.orders += 1;
            let done = host.apply(proposal.domain, &proposal.action);
            if done {
                self.history.applied(self.orders, &proposal, now);
            }
            events.push(Event {
                at_s: host.second - 1,
                order: self.orders,
                domain: proposal.domain_name.clone(),
                rule: proposal.reason.rule.clone(),
                target: proposal.action.target(),
                change: proposal.action.to_string(),
                done,
            });
        }
        events
    }
}
