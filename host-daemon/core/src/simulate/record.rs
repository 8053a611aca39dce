//! [`Recorder`]: takes notes while a scenario runs, with and without kvmpilot side by side.

use std::collections::BTreeMap;

use super::host::{Domain, Host, Second};
use super::load::Load;
use super::scenario::Scenario;
use crate::decide::{Decision, History};
use crate::policy::{Class, ClassSetting, Policy};

/// Part of a vcpu that a domain must have used in a window for its work to be compared.
const USED: f64 = 0.01;
/// Seconds in which a value that goes away and comes back is an oscillation.
const OSCILLATION_S: u64 = 120;
/// Seconds without an order that protects somebody after which a step has been answered.
const QUIET_S: u64 = 60;

/// Something that was done, or could not be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    pub(super) at_s: u64,
    pub(super) order: u64,
    pub(super) domain: String,
    pub(super) rule: String,
    pub(super) target: String,
    pub(super) change: String,
    pub(super) done: bool,
}

/// Sums of one domain, with and without kvmpilot.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    pub(super) with: Second,
    pub(super) without: Second,
    window: (Second, Second),
    pub(super) windows: u64,
    pub(super) unharmed: u64,
    pub(super) worst_window: Option<f64>,
    /// Waits by length until the beginning that does not count was over.
    settled: (Vec<u32>, Vec<u32>),
    pub(super) waits: (Vec<u64>, Vec<u64>),
    pub(super) reclaimed_mib: f64,
    pub(super) memory_mib: f64,
    pub(super) short_s: u64,
    pressed_since: Option<u64>,
    taking: bool,
    pub(super) turns: u64,
    pub(super) last_over_target: u64,
}

/// Takes notes while a scenario runs.
pub(super) struct Recorder {
    pub(super) scenario: Scenario,
    guard_mib: f64,
    latency_target: f64,
    pub(super) sums: Vec<Sums>,
    pub(super) classes: Vec<Class>,
    pub(super) names: Vec<String>,
    pub(super) events: Vec<Event>,
    pub(super) release_s: Option<u64>,
    pub(super) most_reclaimed_mib: f64,
    pub(super) held: u64,
    pub(super) verdicts: (u64, u64),
    pub(super) second: u64,
}

impl Recorder {
    pub(super) fn new(scenario: &Scenario, host: &Host, policy: &Policy) -> Self {
        Self {
            scenario: scenario.clone(),
            guard_mib: policy.balloon.guard.as_f64() / 1024.0,
            latency_target: policy.weight.latency_target * (1.0 + policy.weight.dead_band),
            sums: host.domains.iter().map(|_| Sums::default()).collect(),
            classes: host.domains.iter().map(|_| Class::Standard).collect(),
            names: host.domains.iter().map(|domain| domain.name.to_string()).collect(),
            events: Vec::new(),
            release_s: None,
            most_reclaimed_mib: 0.0,
            held: 0,
            verdicts: (0, 0),
            second: 0,
        }
    }

    /// A second is over.
    pub(super) fn second(&mut self, with: &Host, without: &Host, history: &History, events: Vec<Event>) {
        self.second = with.second;
        for event in events {
            self.note(event);
        }
        let counts = self.second > self.scenario.settle_s;
        let mut reclaimed = 0.0;
        for (at, (domain, other)) in with.domains.iter().zip(&without.domains).enumerate() {
            let sums = &mut self.sums[at];
            if self.second == self.scenario.settle_s.max(1) {
                let waits = |host: &Host| host.machine.groups[at].waits.clone();
                sums.settled = (waits(with), waits(without));
            }
            if !domain.was_there {
                continue;
            }
            self.classes[at] = match domain.spec.class {
                ClassSetting::Latency => Class::Latency,
                ClassSetting::Standard => Class::Standard,
                ClassSetting::Batch => Class::Batch,
                ClassSetting::Auto => {
                    history.domains.get(&domain.uuid).map_or(Class::Standard, |entry| entry.inferred_class())
                }
            };
            if self.classes[at] == Class::Latency
                && domain.last.wait > self.latency_target * (domain.last.wait + domain.last.run)
                && domain.last.run > USED * f64::from(domain.spec.vcpus)
            {
                sums.last_over_target = self.second;
            }
            sums.memory(domain, self.guard_mib, self.second);
            reclaimed += domain.memory.maximum - domain.memory.current;
            if counts {
                sums.add(domain, other.last, self.second, self.scenario.window_s);
            }
        }
        self.most_reclaimed_mib = self.most_reclaimed_mib.max(reclaimed);
    }

    /// What a decision says besides its proposals.
    pub(super) fn decided(&mut self, decision: &Decision) {
        if self.second <= self.scenario.settle_s {
            return;
        }
        self.held += u64::try_from(decision.held.len()).unwrap_or(u64::MAX);
        for verdict in &decision.verdicts {
            if verdict.trial.kept { self.verdicts.0 += 1 } else { self.verdicts.1 += 1 }
        }
    }

    fn note(&mut self, event: Event) {
        let at = self.names.iter().position(|name| *name == event.domain);
        if let Some(sums) = at.and_then(|at| self.sums.get_mut(at)).filter(|_| event.done) {
            if event.rule.starts_with("balloon.release") {
                if let Some(since) = sums.pressed_since.take() {
                    self.release_s = self.release_s.max(Some(event.at_s.saturating_sub(since)));
                }
                sums.turns += u64::from(std::mem::take(&mut sums.taking));
            } else if event.rule.starts_with("balloon") {
                sums.taking = true;
            }
        }
        self.events.push(event);
    }

    /// The run is over: what came of the waits.
    pub(super) fn close(&mut self, with: &Host, without: &Host) {
        let since = |host: &Host, at: usize, before: &[u32]| -> Vec<u64> {
            let before = before.iter().copied().chain(std::iter::repeat(0));
            host.machine.groups[at]
                .waits
                .iter()
                .zip(before)
                .map(|(now, then)| u64::from(now - then))
                .collect()
        };
        for (at, sums) in self.sums.iter_mut().enumerate() {
            sums.waits = (since(with, at, &sums.settled.0), since(without, at, &sums.settled.1));
        }
    }

    /// Changes that were made after the beginning that does not count.
    pub(super) fn counted(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(|event| event.done && event.at_s >= self.scenario.settle_s)
    }

    /// Times that a value left something and was back there within two minutes, by the target that did it most often.
    pub(super) fn oscillations(&self) -> u64 {
        /// When, from what, to what.
        type Change<'a> = (u64, &'a str, &'a str);
        let mut targets: BTreeMap<(&str, &str), Vec<Change<'_>>> = BTreeMap::new();
        for event in self.counted() {
            let change = event.change.strip_prefix(&event.target).unwrap_or("").trim_start_matches(": ");
            let (from, to) = change.split_once(" -> ").unwrap_or_default();
            targets.entry((&event.domain, &event.target)).or_default().push((event.at_s, from, to));
        }
        let back = |changes: &Vec<Change<'_>>| {
            let again = changes.iter().enumerate().filter(|(n, (at, _, to))| {
                let earlier = changes[..*n].iter().rev().take_while(|(then, ..)| at - then <= OSCILLATION_S);
                earlier.into_iter().any(|(_, from, _)| from == to)
            });
            u64::try_from(again.count()).unwrap_or(u64::MAX)
        };
        targets.values().map(back).max().unwrap_or(0)
    }

    /// For each second in which a load steps: how long weights and pins went on to change until it was answered.
    pub(super) fn answers(&self) -> Vec<(u64, u64)> {
        let mut steps: Vec<u64> = Vec::new();
        for spec in &self.scenario.domain {
            if let Load::Steps { steps: own } = &spec.cpu {
                steps.extend(own.iter().map(|(at, _)| *at).filter(|at| *at > 0));
            }
        }
        steps.sort_unstable();
        steps.dedup();
        let answer = |(n, step): (usize, &u64)| {
            let until = steps.get(n + 1).copied().unwrap_or(self.second);
            let mut last = *step;
            let protects = ["weight.protect", "weight.yield"];
            for event in self.events.iter().filter(|event| event.done && (*step..until).contains(&event.at_s))
            {
                if protects.contains(&event.rule.as_str()) && event.at_s <= last + QUIET_S {
                    last = event.at_s;
                }
            }
            (*step, last - step)
        };
        steps.iter().enumerate().map(answer).collect()
    }
}

impl Sums {
    fn add(&mut self, domain: &Domain, without: Second, second: u64, window_s: u64) {
        let with = domain.last;
        for (sum, add) in [
            (&mut self.with, with),
            (&mut self.without, without),
            (&mut self.window.0, with),
            (&mut self.window.1, without),
        ] {
            sum.work += add.work;
            sum.run += add.run;
            sum.wait += add.wait;
        }
        if second.is_multiple_of(window_s.max(1)) {
            let (with, without) = std::mem::take(&mut self.window);
            #[expect(clippy::cast_precision_loss, reason = "seconds of a window")]
            let enough = USED * window_s as f64;
            if without.work > enough {
                let ratio = with.work / without.work;
                self.windows += 1;
                self.unharmed += u64::from(ratio >= super::report::UNHARMED);
                self.worst_window = Some(self.worst_window.map_or(ratio, |worst| worst.min(ratio)));
            }
        }
    }

    fn memory(&mut self, domain: &Domain, guard_mib: f64, second: u64) {
        let memory = &domain.memory;
        self.memory_mib += memory.maximum;
        self.reclaimed_mib += memory.maximum - memory.current;
        self.short_s += u64::from(memory.short() > 0.0);
        // What the policy calls pressed: less than half of the guard is left, as the guest has told by now.
        let pressed = memory.target < memory.maximum
            && memory
                .told_usable_mib()
                .is_some_and(|usable| usable < guard_mib.max(memory.maximum / 10.0) / 2.0);
        self.pressed_since = if pressed { self.pressed_since.or(Some(second)) } else { None };
    }
}
