//! What is normal for a domain: a fading mean of each of its figures, and how far they usually are from it. Both are learned
//! at the cycle's pace, first as plain averages, later with less and less weight for the new. Once they are known, what is far
//! off moves them no more than what is just unusual would: a bad hour does not become normal. Findings follow, no change.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{History, finding, input, running};
use crate::finding::{Finding, Severity};
use crate::model::{DomainModel, Model};
use crate::policy::{BaselinePolicy, Policy};
use crate::units::{KiB, Ratio};

/// Mean absolute deviations in one standard deviation of noise.
const SIGMA: f64 = 1.25;
/// Domains that are gone are forgotten after so many times the time over which the past fades.
const FORGET: u32 = 7;

/// What is normal for one domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainBaseline {
    /// CPU time of its vcpus, as a share of what they could run.
    pub cpu_ratio: Baseline,
    /// Memory that its guest needs, as a share of the largest that it can have.
    pub memory_ratio: Baseline,
    /// Bytes a second in both directions.
    pub traffic_bytes_per_s: Baseline,
    /// What virtualisation costs, as a share of its vcpus' time.
    pub loss_ratio: Baseline,
    /// When it was seen last, in milliseconds since 1970.
    pub seen_unix_ms: u64,
}

/// What is normal for one figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Baseline {
    /// Its fading mean.
    pub normal: f64,
    /// Mean distance from it.
    pub deviation: f64,
    /// Time of readings that it was learned from.
    pub learned_s: f64,
    /// The last reading.
    pub now: Option<f64>,
    /// Cycles in a row in which it was unusual.
    pub unusual_cycles: u32,
    /// Since when, in milliseconds since 1970.
    pub unusual_since_unix_ms: Option<u64>,
}

impl Baseline {
    /// Judges a reading, and learns from it. `least`: differences of less are never unusual.
    fn take(&mut self, reading: f64, least: f64, window: Duration, unix_ms: u64, policy: &BaselinePolicy) {
        let known = self.is_known(policy);
        let bound = (policy.deviations * SIGMA * self.deviation).max(least);
        let off = reading - self.normal;
        self.now = Some(reading);
        if known && off.abs() > bound {
            self.unusual_cycles = self.unusual_cycles.saturating_add(1);
            self.unusual_since_unix_ms.get_or_insert(unix_ms);
        } else {
            (self.unusual_cycles, self.unusual_since_unix_ms) = (0, None);
        }
        let window = window.as_secs_f64();
        if self.learned_s <= 0.0 {
            (self.normal, self.deviation) = (reading, 0.0);
        } else {
            let settled = 1.0 - (-window / policy.memory.as_secs_f64().max(1.0)).exp();
            let weight = settled.max(window / (self.learned_s + window)).clamp(0.0, 1.0);
            let off = if known { off.clamp(-bound, bound) } else { off };
            self.normal += weight * off;
            self.deviation += weight * (off.abs() - self.deviation);
        }
        self.learned_s += window;
    }

    /// Whether it was learned for long enough to judge by.
    #[must_use]
    pub fn is_known(&self, policy: &BaselinePolicy) -> bool {
        self.learned_s >= policy.learn.as_secs_f64()
    }
}

/// Judges and learns one cycle of all domains.
pub(super) fn judge(model: &Model, policy: &Policy, history: &mut History) -> Vec<Finding> {
    if !policy.baseline.enabled {
        return Vec::new();
    }
    let unix_ms = model.wall_unix_s * 1000;
    let keep = u64::try_from((policy.baseline.memory * FORGET).as_millis()).unwrap_or(u64::MAX);
    history.baselines.retain(|_, known| unix_ms.saturating_sub(known.seen_unix_ms) <= keep);
    // A pause of the daemon is no reading.
    let window = model.elapsed.min(policy.periods.cycle * 2);
    let mut findings = Vec::new();
    for domain in running(model) {
        let readings = readings(domain, history);
        let known = history.baselines.entry(domain.uuid).or_default();
        known.seen_unix_ms = unix_ms;
        let fields = [
            &mut known.cpu_ratio,
            &mut known.memory_ratio,
            &mut known.traffic_bytes_per_s,
            &mut known.loss_ratio,
        ];
        for (baseline, (figure, reading)) in fields.into_iter().zip(FIGURES.iter().zip(readings)) {
            let Some(reading) = reading.filter(|reading| reading.is_finite()) else {
                baseline.now = None;
                continue;
            };
            baseline.take(reading, figure.least, window, unix_ms, &policy.baseline);
            if baseline.unusual_cycles >= policy.state.cycles {
                findings.push(unusual(domain, figure, baseline));
            }
        }
    }
    findings
}

/// What domains were normally like, by UUID.
pub type Baselines = BTreeMap<Uuid, DomainBaseline>;

struct Figure {
    name: &'static str,
    what: &'static str,
    least: f64,
    show: fn(f64) -> String,
}

const FIGURES: [Figure; 4] = [
    Figure { name: "unusual_cpu", what: "uses CPU", least: 0.1, show: |value| Ratio(value).to_string() },
    Figure {
        name: "unusual_memory",
        what: "needs memory",
        least: 0.1,
        show: |value| Ratio(value).to_string(),
    },
    Figure {
        name: "unusual_traffic",
        what: "moves data",
        least: 1e6,
        show: |value| format!("{:.2} MB/s", value / 1e6),
    },
    Figure {
        name: "unusual_loss",
        what: "loses CPU to virtualisation",
        least: 0.05,
        show: |value| Ratio(value).to_string(),
    },
];

/// In the order of [`FIGURES`].
fn readings(domain: &DomainModel, history: &History) -> [Option<f64>; 4] {
    let past = history.domains.get(&domain.uuid);
    let needed = domain.balloon.and_then(|balloon| past?.memory_demand(&balloon));
    #[expect(clippy::cast_precision_loss, reason = "memory in KiB is below 2^53")]
    let part = |KiB(needed): KiB| Some(Ratio::of(needed as f64, domain.memory_maximum.0 as f64)?.0);
    let taps = domain.interfaces.iter();
    let mut traffic = taps.map(|tap| Some(tap.received_bytes_per_s? + tap.sent_bytes_per_s?));
    let traffic = traffic.try_fold(0.0, |sum, rate| Some(sum + rate?));
    [
        domain.cpu_use().map(|part| part.0),
        needed.and_then(part),
        traffic.filter(|_| !domain.interfaces.is_empty()),
        domain.guest.as_ref().and_then(|guest| guest.virtualisation_loss).map(|part| part.0),
    ]
}

fn unusual(domain: &DomainModel, figure: &Figure, baseline: &Baseline) -> Finding {
    let Figure { name, what, show, .. } = *figure;
    let now = baseline.now.unwrap_or(baseline.normal);
    let summary = format!(
        "{} {what} as it usually does not: {} now, {} normally (give or take {}), for {} cycles",
        domain.name,
        show(now),
        show(baseline.normal),
        show(baseline.deviation * SIGMA),
        baseline.unusual_cycles
    );
    let mut evidence = vec![
        input("now", show(now)),
        input("normal", show(baseline.normal)),
        input("deviation", show(baseline.deviation)),
    ];
    evidence.extend(baseline.unusual_since_unix_ms.map(|since| input("since_unix_ms", since)));
    finding(domain, name, Severity::Info, summary, evidence)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CYCLE: Duration = Duration::from_secs(300);

    fn feed(baseline: &mut Baseline, readings: impl IntoIterator<Item = f64>) {
        for reading in readings {
            baseline.take(reading, 0.1, CYCLE, 1000, &BaselinePolicy::default());
        }
    }

    #[test]
    fn nothing_is_unusual_before_an_hour_and_a_jump_is_after_it() {
        let mut baseline = Baseline::default();
        feed(&mut baseline, [0.1, 0.9, 0.1, 0.9]);
        assert_eq!(baseline.unusual_cycles, 0);
        let mut baseline = Baseline::default();
        feed(&mut baseline, (0..12).map(|n| 0.3 + 0.01 * f64::from(n % 2)));
        assert!((baseline.normal - 0.305).abs() < 0.001 && baseline.is_known(&BaselinePolicy::default()));
        feed(&mut baseline, [0.38]);
        assert_eq!(baseline.unusual_cycles, 0, "less than the least difference");
        feed(&mut baseline, [0.9, 0.9, 0.9]);
        assert_eq!((baseline.unusual_cycles, baseline.unusual_since_unix_ms), (3, Some(1000)));
        feed(&mut baseline, [0.31]);
        assert_eq!((baseline.unusual_cycles, baseline.unusual_since_unix_ms), (0, None));
    }

    #[test]
    fn a_figure_that_always_goes_up_and_down_is_usual_at_both_ends() {
        let mut baseline = Baseline::default();
        feed(&mut baseline, (0..200).map(|n| if n % 2 == 0 { 0.2 } else { 0.8 }));
        assert_eq!(baseline.unusual_cycles, 0);
        assert!((baseline.normal - 0.5).abs() < 0.05, "{baseline:?}");
    }

    #[test]
    fn a_bad_hour_does_not_become_normal_and_a_new_life_does() {
        let mut baseline = Baseline::default();
        feed(&mut baseline, [0.2; 288]);
        feed(&mut baseline, [0.95; 12]);
        assert!(baseline.unusual_cycles == 12 && baseline.normal < 0.25, "{baseline:?}");
        feed(&mut baseline, [0.95; 3000]);
        assert!(baseline.unusual_cycles == 0 && baseline.normal > 0.8, "{baseline:?}");
    }

    proptest! {
        /// Whatever the readings: normal stays within what was seen, the deviation is positive and no larger than its span.
        #[test]
        fn normal_is_never_beyond_what_was_seen(readings in proptest::collection::vec(0.0..1e9_f64, 1..300)) {
            let mut baseline = Baseline::default();
            let (mut low, mut high) = (f64::MAX, f64::MIN);
            for reading in readings {
                (low, high) = (low.min(reading), high.max(reading));
                feed(&mut baseline, [reading]);
                prop_assert!(baseline.normal >= low - 1e-3 && baseline.normal <= high + 1e-3, "{baseline:?}");
                prop_assert!((0.0..=high - low + 1e-3).contains(&baseline.deviation), "{baseline:?}");
                prop_assert_eq!(baseline.unusual_cycles > 0, baseline.unusual_since_unix_ms.is_some());
            }
        }
    }
}
