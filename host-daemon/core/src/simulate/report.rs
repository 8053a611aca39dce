//! [`Report`]: what came of a scenario, against the same host without kvmpilot, and what of the expected it missed.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::host::Host;
use super::queue::{FINE, fine_quantile};
use super::record::{Event, Recorder, Sums};
use super::scenario::Expect;
use crate::policy::Class;

/// Least part of the work without kvmpilot that is no harm.
pub(super) const UNHARMED: f64 = 0.95;

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
    /// Orders that found another value than the decision had seen.
    pub failed: u64,
    /// Proposals that the guard held back, each time that they were wanted.
    pub held: u64,
    /// Trials that went well.
    pub trials_kept: u64,
    /// Trials that did not, and were undone.
    pub trials_undone: u64,
    /// The last changes: second, number, domain, rule, change.
    pub last_actions: Vec<(u64, u64, String, String, String)>,
    /// By class as it was at the end.
    pub classes: BTreeMap<String, ClassFigures>,
    /// All domains, those that did least of what they do without kvmpilot first.
    pub domains: Vec<DomainFigures>,
    /// Work of all domains against without kvmpilot.
    pub work_ratio: f64,
    /// Part of all windows of all domains with at least 95 % of the work without kvmpilot.
    pub unharmed_ratio: f64,
    /// Part of all memory that the host had back, in the mean.
    pub reclaimed_ratio: f64,
    /// Memory that the host had back at most, in MiB.
    pub most_reclaimed_mib: f64,
    /// Seconds in which a guest had less than its working set, over all domains.
    pub short_s: u64,
    /// Longest time from the moment at which a guest that gave memory tells that it is short, to the order that gives it
    /// back. `None` if none was.
    pub release_s: Option<u64>,
    /// Times that a balloon turned from taking to giving back, each domain and hour.
    pub turns_per_hour: f64,
    /// Times that a value was back at where it had been within two minutes, for the target that did it most often.
    pub oscillations: u64,
    /// Seconds that weights went on to change after a step of a load, at most. `None` without a step.
    pub answered_s: Option<u64>,
    /// Seconds after the first step until latency domains stayed at their target. `None` without a step, or if they never did.
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
    /// Median of its vcpus' waits for a pcpu, in ms.
    pub p50_ms: f64,
    /// The same without kvmpilot.
    pub p50_ms_without: f64,
    /// 99th percentile of its vcpus' waits, in ms.
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
    /// Its figures.
    #[serde(flatten)]
    pub figures: ClassFigures,
    /// Part of its windows with at least 95 % of the work without kvmpilot.
    pub unharmed_ratio: f64,
    /// Work against without kvmpilot in its worst window. `None` if there was none in which it worked.
    pub worst_window_ratio: Option<f64>,
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

impl Recorder {
    pub(super) fn finish(mut self, with: &Host, without: &Host) -> Report {
        self.close(with, without);
        let Self { scenario, sums, classes, names, events, second, .. } = &self;
        let mut actions = BTreeMap::new();
        for event in self.counted() {
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
            .map(|((name, sums), class)| DomainFigures {
                name: name.clone(),
                class: class.to_string(),
                figures: figures(&[sums]),
                unharmed_ratio: parts(sums.unharmed, sums.windows),
                worst_window_ratio: sums.worst_window,
            })
            .collect();
        domains.sort_by(|a, b| {
            let work = a.figures.work_ratio.total_cmp(&b.figures.work_ratio);
            a.unharmed_ratio.total_cmp(&b.unharmed_ratio).then(work)
        });
        let sum = |value: fn(&Sums) -> f64| sums.iter().map(value).sum::<f64>();
        let hours = number(*second) / 3600.0;
        let answers = self.answers();
        let converged_s = answers.first().and_then(|(step, _)| {
            let last = sums.iter().map(|sums| sums.last_over_target).max()?;
            (last + 60 < *second).then(|| last.saturating_sub(*step))
        });
        let mut report = Report {
            about: scenario.about.clone(),
            seconds: *second,
            pcpus: with.topology.pcpus.len(),
            vcpus: scenario.domain.iter().map(|spec| spec.vcpus * spec.count).sum(),
            actions,
            failed: u64::try_from(events.iter().filter(|event| !event.done).count()).unwrap_or(u64::MAX),
            held: self.held,
            trials_kept: self.verdicts.0,
            trials_undone: self.verdicts.1,
            last_actions: events
                .iter()
                .filter(|event| event.done)
                .rev()
                .take(20)
                .map(|event| {
                    let Event { at_s, order, domain, rule, change, .. } = event.clone();
                    (at_s, order, domain, rule, change)
                })
                .collect(),
            classes: by_class.map(|class| (class.to_string(), of_class(class))).collect(),
            domains,
            work_ratio: ratio(sum(|sums| sums.with.work), sum(|sums| sums.without.work)),
            unharmed_ratio: parts(
                sums.iter().map(|sums| sums.unharmed).sum(),
                sums.iter().map(|sums| sums.windows).sum(),
            ),
            reclaimed_ratio: ratio(sum(|sums| sums.reclaimed_mib), sum(|sums| sums.memory_mib)),
            most_reclaimed_mib: self.most_reclaimed_mib,
            short_s: sums.iter().map(|sums| sums.short_s).sum(),
            release_s: self.release_s,
            turns_per_hour: number(sums.iter().map(|sums| sums.turns).max().unwrap_or(0)) / hours,
            oscillations: self.oscillations(),
            answered_s: answers.iter().map(|(_, answered)| *answered).max(),
            converged_s,
            missed: Vec::new(),
        };
        report.missed = report.check(&scenario.expect);
        report
    }
}

fn figures(members: &[&Sums]) -> ClassFigures {
    let sum = |value: fn(&Sums) -> f64| members.iter().map(|sums| value(sums)).sum::<f64>();
    let quantile = |waits: fn(&Sums) -> &Vec<u64>, q: f64| {
        let mut all = vec![0; FINE];
        for sums in members {
            all.iter_mut().zip(waits(sums)).for_each(|(all, own)| *all += own);
        }
        fine_quantile(&all, q).map_or(0.0, |ns| ns / 1e6)
    };
    ClassFigures {
        domains: u32::try_from(members.len()).unwrap_or(u32::MAX),
        wait_ratio: ratio(sum(|sums| sums.with.wait), sum(|sums| sums.with.wait + sums.with.run)),
        wait_ratio_without: ratio(
            sum(|sums| sums.without.wait),
            sum(|sums| sums.without.wait + sums.without.run),
        ),
        p50_ms: quantile(|sums| &sums.waits.0, 0.5),
        p50_ms_without: quantile(|sums| &sums.waits.1, 0.5),
        p99_ms: quantile(|sums| &sums.waits.0, 0.99),
        p99_ms_without: quantile(|sums| &sums.waits.1, 0.99),
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
            most(
                "answered_within_s",
                expect.answered_within_s.map(number),
                self.answered_s.map(number),
                false,
            ),
            most("oscillations", expect.oscillations.map(number), Some(number(self.oscillations)), false),
            most(
                "latency_wait_ratio",
                expect.latency_wait_ratio,
                latency.map(|class| class.wait_ratio),
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
