//! [`Report`]: what came of a scenario, against the same host without kvmpilot, and what of the expected it missed.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::host::{Domain, Host, Second};
use super::scenario::{Event, Expect, Scenario};
use crate::decide::History;
use crate::policy::{Class, ClassSetting, Policy};

/// Length of the windows in which work is compared.
const WINDOW_S: u64 = 10;
/// Least part of the work without kvmpilot that is no harm.
const UNHARMED: f64 = 0.95;

/// What came of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// What it is about.
    pub about: String,
    /// Simulated seconds, those at the beginning that do not count included.
    pub seconds: u64,
    /// pcpus.
    pub pcpus: usize,
    /// vcpus of all domains.
    pub vcpus: u32,
    /// Changes by rule, after the beginning that does not count.
    pub actions: BTreeMap<String, u64>,
    /// The last changes: second, number, domain, rule, change.
    pub last_actions: Vec<(u64, u64, String, String, String)>,
    /// By class as it was at the end.
    pub classes: BTreeMap<String, ClassFigures>,
    /// The domains that did least of what they do without kvmpilot.
    pub worst_domains: Vec<DomainFigures>,
    /// Work of all domains against without kvmpilot.
    pub work_ratio: f64,
    /// Part of all windows of 10 s of all domains with at least 95 % of the work without kvmpilot.
    pub unharmed_ratio: f64,
    /// Part of all memory that the host had back, in the mean.
    pub reclaimed_ratio: f64,
    /// Seconds in which a guest had less than its working set, over all domains.
    pub short_s: u64,
    /// Longest time between pressure in a guest that gave memory, and the order that gives it back. `None` if there was none.
    pub release_s: Option<u64>,
    /// Times that a balloon turned from taking to giving back, each domain and hour.
    pub turns_per_hour: f64,
    /// Seconds after the step until latency domains stayed at their target. `None` without a step, or if they never did.
    pub converged_s: Option<u64>,
    /// Bounds of the scenario that were missed.
    pub missed: Vec<Missed>,
}

/// One class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClassFigures {
    /// Domains.
    pub domains: u32,
    /// wait / (wait + run).
    pub wait_ratio: f64,
    /// The same without kvmpilot.
    pub wait_ratio_without: f64,
    /// 99th percentile, over all domains and seconds, of the mean wait per wake-up, in ms.
    pub p99_ms: f64,
    /// The same without kvmpilot.
    pub p99_ms_without: f64,
    /// Work against without kvmpilot.
    pub work_ratio: f64,
}

/// One domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainFigures {
    /// Name.
    pub name: String,
    /// Class at the end.
    pub class: String,
    /// Work against without kvmpilot.
    pub work_ratio: f64,
    /// Part of its windows of 10 s with at least 95 % of the work without kvmpilot.
    pub unharmed_ratio: f64,
}

/// A bound that was missed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Missed {
    /// Its name in `[expect]`.
    pub bound: String,
    /// What was allowed.
    pub allowed: f64,
    /// What came. `None` for never.
    pub found: Option<f64>,
}

/// Sums of one domain, with and without kvmpilot.
#[derive(Default)]
struct Sums {
    with: Second,
    without: Second,
    window: (f64, f64),
    windows: u64,
    unharmed: u64,
    /// Wait per wake-up in ms, second by second.
    waits: (Vec<f32>, Vec<f32>),
    reclaimed_mib: f64,
    memory_mib: f64,
    short_s: u64,
    pressed_since: Option<u64>,
    taking: bool,
    turns: u64,
    last_over_target: u64,
}

/// Takes notes while a scenario runs.
pub(super) struct Recorder {
    scenario: Scenario,
    guard_mib: f64,
    latency_target: f64,
    pcpus: usize,
    sums: Vec<Sums>,
    classes: Vec<Class>,
    names: Vec<(Uuid, String)>,
    events: Vec<Event>,
    release_s: Option<u64>,
    second: u64,
}

impl Recorder {
    pub(super) fn new(scenario: &Scenario, host: &Host, policy: &Policy) -> Self {
        Self {
            scenario: scenario.clone(),
            guard_mib: policy.balloon.guard.as_f64() / 1024.0,
            latency_target: policy.weight.latency_target * (1.0 + policy.weight.dead_band),
            pcpus: host.sample().topology.pcpus.len(),
            sums: host.domains.iter().map(|_| Sums::default()).collect(),
            classes: host.domains.iter().map(|_| Class::Standard).collect(),
            names: host.domains.iter().map(|domain| (domain.uuid, domain.name.to_string())).collect(),
            events: Vec::new(),
            release_s: None,
            second: 0,
        }
    }

    pub(super) fn second(&mut self, with: &Host, without: &Host, history: &History, events: Vec<Event>) {
        self.second = with.second;
        let counts = self.second > self.scenario.settle_s;
        for (at, (domain, other)) in with.domains.iter().zip(&without.domains).enumerate() {
            if !with.is_there(domain) {
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
            let sums = &mut self.sums[at];
            if self.classes[at] == Class::Latency
                && domain.last.wait > self.latency_target * (domain.last.wait + domain.last.run)
                && domain.last.run > 0.01 * f64::from(domain.spec.vcpus)
            {
                sums.last_over_target = self.second;
            }
            sums.memory(domain, self.guard_mib, self.second);
            if counts {
                sums.add(domain.last, other.last, self.second);
            }
        }
        for event in events {
            self.note(event, with);
        }
    }

    fn note(&mut self, event: Event, host: &Host) {
        let at = host.domains.iter().position(|domain| *domain.name == *event.domain);
        if let Some(sums) = at.and_then(|at| self.sums.get_mut(at)) {
            if event.rule.starts_with("balloon.release") {
                if let Some(since) = sums.pressed_since.take() {
                    self.release_s = self.release_s.max(Some(event.at_s - since));
                }
                sums.turns += u64::from(std::mem::take(&mut sums.taking));
            } else if event.rule.starts_with("balloon") {
                sums.taking = true;
            }
        }
        self.events.push(event);
    }

    pub(super) fn finish(self) -> Report {
        let Self { scenario, sums, classes, names, events, second, .. } = &self;
        let counted = events.iter().filter(|event| event.at_s > scenario.settle_s);
        let mut actions = BTreeMap::new();
        for event in counted {
            *actions.entry(event.rule.clone()).or_default() += 1;
        }
        let of_class = |class: Class| {
            let members =
                sums.iter().zip(classes).filter(move |(_, own)| **own == class).map(|(sums, _)| sums);
            figures(&members.collect::<Vec<_>>())
        };
        let present: BTreeSet<&str> = classes.iter().map(|class| class.as_str()).collect();
        let classes_of = [Class::Latency, Class::Standard, Class::Batch];
        let by_class = classes_of.into_iter().filter(|class| present.contains(class.as_str()));
        let mut domains: Vec<DomainFigures> = names
            .iter()
            .zip(sums)
            .zip(classes)
            .map(|(((_, name), sums), class)| DomainFigures {
                name: name.clone(),
                class: class.to_string(),
                work_ratio: ratio(sums.with.work, sums.without.work),
                unharmed_ratio: parts(sums.unharmed, sums.windows),
            })
            .collect();
        domains.sort_by(|a, b| {
            a.unharmed_ratio.total_cmp(&b.unharmed_ratio).then(a.work_ratio.total_cmp(&b.work_ratio))
        });
        let sum = |value: fn(&Sums) -> f64| sums.iter().map(value).sum::<f64>();
        let hours = number(*second) / 3600.0;
        let converged_s = scenario.expect.step_at_s.and_then(|step| {
            let last = sums.iter().map(|sums| sums.last_over_target).max()?;
            (last + 60 < *second).then(|| last.saturating_sub(step))
        });
        let mut report = Report {
            about: scenario.about.clone(),
            seconds: *second,
            pcpus: self.pcpus,
            vcpus: scenario.domain.iter().map(|spec| spec.vcpus * spec.count).sum(),
            actions,
            last_actions: events
                .iter()
                .rev()
                .take(20)
                .map(|event| {
                    let Event { at_s, order, domain, rule, change } = event.clone();
                    (at_s, order, domain, rule, change)
                })
                .collect(),
            classes: by_class.map(|class| (class.to_string(), of_class(class))).collect(),
            worst_domains: domains.into_iter().take(5).collect(),
            work_ratio: ratio(sum(|sums| sums.with.work), sum(|sums| sums.without.work)),
            unharmed_ratio: parts(
                sums.iter().map(|sums| sums.unharmed).sum(),
                sums.iter().map(|sums| sums.windows).sum(),
            ),
            reclaimed_ratio: ratio(sum(|sums| sums.reclaimed_mib), sum(|sums| sums.memory_mib)),
            short_s: sums.iter().map(|sums| sums.short_s).sum(),
            release_s: self.release_s,
            turns_per_hour: number(sums.iter().map(|sums| sums.turns).max().unwrap_or(0)) / hours,
            converged_s,
            missed: Vec::new(),
        };
        report.missed = report.check(&scenario.expect);
        report
    }
}

impl Sums {
    fn add(&mut self, with: Second, without: Second, second: u64) {
        add(&mut self.with, with);
        add(&mut self.without, without);
        for (waits, of) in [(&mut self.waits.0, with), (&mut self.waits.1, without)] {
            if of.waits > 0.0 {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "a percentile needs no more than 24 bits"
                )]
                waits.push((of.wait / of.waits * 1000.0) as f32);
            }
        }
        self.window.0 += with.work;
        self.window.1 += without.work;
        if second.is_multiple_of(WINDOW_S) {
            let (with, without) = std::mem::take(&mut self.window);
            self.windows += 1;
            self.unharmed += u64::from(with >= without * UNHARMED);
        }
    }

    fn memory(&mut self, domain: &Domain, guard_mib: f64, second: u64) {
        let memory = &domain.memory;
        self.memory_mib += memory.maximum;
        self.reclaimed_mib += memory.maximum - memory.current;
        self.short_s += u64::from(memory.short() > 0.0);
        // What the policy calls pressed: less than half of the guard is left. It has been for a second by now.
        let pressed =
            memory.target < memory.maximum && memory.usable() < guard_mib.max(memory.maximum / 10.0) / 2.0;
        self.pressed_since =
            if pressed { self.pressed_since.or(Some(second.saturating_sub(1))) } else { None };
    }
}

fn add(sum: &mut Second, second: Second) {
    sum.work += second.work;
    sum.run += second.run;
    sum.wait += second.wait;
    sum.waits += second.waits;
}

fn figures(members: &[&Sums]) -> ClassFigures {
    let sum = |value: fn(&Sums) -> f64| members.iter().map(|sums| value(sums)).sum::<f64>();
    let p99 = |waits: fn(&Sums) -> &Vec<f32>| {
        let mut all: Vec<f32> = members.iter().flat_map(|sums| waits(sums)).copied().collect();
        all.sort_by(f32::total_cmp);
        all.get(all.len() * 99 / 100).map_or(0.0, |wait| f64::from(*wait))
    };
    ClassFigures {
        domains: u32::try_from(members.len()).unwrap_or(u32::MAX),
        wait_ratio: ratio(sum(|sums| sums.with.wait), sum(|sums| sums.with.wait + sums.with.run)),
        wait_ratio_without: ratio(
            sum(|sums| sums.without.wait),
            sum(|sums| sums.without.wait + sums.without.run),
        ),
        p99_ms: p99(|sums| &sums.waits.0),
        p99_ms_without: p99(|sums| &sums.waits.1),
        work_ratio: ratio(sum(|sums| sums.with.work), sum(|sums| sums.without.work)),
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { if part == 0.0 { 1.0 } else { f64::INFINITY } } else { part / whole }
}

fn parts(part: u64, whole: u64) -> f64 {
    ratio(number(part), number(whole))
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}

impl Report {
    /// All changes that count.
    #[must_use]
    pub fn all_actions(&self) -> u64 {
        self.actions.values().sum()
    }

    fn check(&self, expect: &Expect) -> Vec<Missed> {
        let latency = self.classes.get(Class::Latency.as_str());
        let p99 = latency.map(|class| ratio(class.p99_ms, class.p99_ms_without));
        let most = |bound: &str, allowed: Option<f64>, found: Option<f64>, never_is_good: bool| {
            let allowed = allowed?;
            let good = found.map_or(never_is_good, |found| found <= allowed);
            (!good).then(|| Missed { bound: bound.to_owned(), allowed, found })
        };
        let least = |bound: &str, allowed: Option<f64>, found: f64| {
            let allowed = allowed?;
            (found < allowed).then(|| Missed { bound: bound.to_owned(), allowed, found: Some(found) })
        };
        let actions = number(self.all_actions());
        [
            most("most_actions", expect.most_actions.map(number), Some(actions), false),
            least("least_actions", expect.least_actions.map(number), actions),
            most(
                "converges_within_s",
                expect.converges_within_s.map(number),
                self.converged_s.map(number),
                false,
            ),
            most("latency_p99_ratio", expect.latency_p99_ratio, p99, false),
            least("work_ratio", expect.work_ratio, self.work_ratio),
            least("unharmed_ratio", expect.unharmed_ratio, self.unharmed_ratio),
            least("reclaimed_ratio", expect.reclaimed_ratio, self.reclaimed_ratio),
            most("short_s", expect.short_s.map(number), Some(number(self.short_s)), false),
            most("release_s", expect.release_s.map(number), self.release_s.map(number), true),
            most("turns_per_hour", expect.turns_per_hour, Some(self.turns_per_hour), false),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
