//! What follows from a watch of one domain (tier 2): distributions of waits, exits by reason.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::exit_reason::{Isa, exit_reason};
use crate::sample::{LatencyBucket, LatencySample, VcpuExitSample};

/// What can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WatchWhat {
    /// How long threads wait for a pcpu, by the clock: from a wake-up or a preemption to the switch in. Not `runq_wait`,
    /// which is the kernel's own account of waiting and what the guest sees as steal.
    WakeLatency,
    /// What vcpus leave their guest for, and how long until they enter it again.
    Exits,
}

/// Waits of one kind, of one thread or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyModel {
    /// Waits.
    pub count: u64,
    /// Their lengths added up.
    pub sum: Duration,
    /// The longest.
    pub max: Duration,
    /// By length, shortest first.
    pub buckets: Vec<LatencyBucket>,
}

impl LatencyModel {
    /// All of these together.
    #[must_use]
    pub fn new<'a>(samples: impl IntoIterator<Item = &'a LatencySample>) -> Self {
        let mut model = Self::default();
        let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
        for sample in samples {
            model.count = model.count.saturating_add(sample.count);
            model.sum = model.sum.saturating_add(Duration::from_nanos(sample.sum_ns));
            model.max = model.max.max(Duration::from_nanos(sample.max_ns));
            for bucket in &sample.buckets {
                let count = buckets.entry(bucket.below_ns.unwrap_or(u64::MAX)).or_default();
                *count = count.saturating_add(bucket.count);
            }
        }
        let bucket = |(end, count)| LatencyBucket { below_ns: (end != u64::MAX).then_some(end), count };
        model.buckets = buckets.into_iter().map(bucket).collect();
        model
    }

    /// Mean; `None` without waits.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let nanos = self.sum.as_nanos().checked_div(self.count.into())?;
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// The `q` quantile, 0 to 1, as the upper bound of the bucket that holds it, which is at most a quarter too long;
    /// never longer than the longest wait. `None` without waits.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let total: u64 = self.buckets.iter().fold(0, |sum, bucket| sum.saturating_add(bucket.count));
        #[expect(clippy::cast_precision_loss, reason = "ranks above 2^53 do not occur")]
        let rank = total as f64 * q.clamp(0.0, 1.0);
        let mut seen = 0_u64;
        for bucket in self.buckets.iter().filter(|bucket| bucket.count > 0) {
            seen = seen.saturating_add(bucket.count);
            #[expect(clippy::cast_precision_loss, reason = "ranks above 2^53 do not occur")]
            if seen as f64 >= rank {
                return Some(bucket.below_ns.map_or(self.max, Duration::from_nanos).min(self.max));
            }
        }
        None
    }
}

/// The exits of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitModel {
    /// Which numbers the reasons are.
    pub isa: Isa,
    /// The reason that took most time first.
    pub reasons: Vec<ExitReasonModel>,
    /// By rising thread id.
    pub vcpus: Vec<VcpuExitModel>,
}

/// Exits for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitReasonModel {
    /// The hardware's number.
    pub reason: u32,
    /// Its name.
    pub name: String,
    /// Exits.
    pub count: u64,
    /// Time outside the guest, all of them together.
    pub total: Duration,
    /// The longest.
    pub max: Duration,
}

/// Exits of one vcpu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuExitModel {
    /// Its thread.
    pub tid: u32,
    /// Exits.
    pub count: u64,
    /// Time between exit and entry. Of a guest that halts, most of it is sleep.
    pub outside: Duration,
    /// Time between entry and exit.
    pub inside: Duration,
}

impl ExitModel {
    /// Adds the vcpus up.
    #[must_use]
    pub fn new(samples: &[VcpuExitSample]) -> Self {
        let isa = samples.iter().map(|vcpu| Isa::from_number(vcpu.isa)).find(|isa| *isa != Isa::Unknown);
        let isa = isa.unwrap_or(Isa::Unknown);
        let mut reasons: BTreeMap<u32, ExitReasonModel> = BTreeMap::new();
        let mut vcpus = Vec::new();
        for vcpu in samples {
            let mut sum = VcpuExitModel {
                tid: vcpu.tid,
                count: 0,
                outside: Duration::ZERO,
                inside: Duration::from_nanos(vcpu.guest_ns),
            };
            for sample in &vcpu.reasons {
                let total = Duration::from_nanos(sample.total_ns);
                sum.count = sum.count.saturating_add(sample.count);
                sum.outside = sum.outside.saturating_add(total);
                let reason = reasons.entry(sample.reason).or_insert_with(|| ExitReasonModel {
                    reason: sample.reason,
                    name: exit_reason(isa, sample.reason),
                    count: 0,
                    total: Duration::ZERO,
                    max: Duration::ZERO,
                });
                reason.count = reason.count.saturating_add(sample.count);
                reason.total = reason.total.saturating_add(total);
                reason.max = reason.max.max(Duration::from_nanos(sample.max_ns));
            }
            vcpus.push(sum);
        }
        let mut reasons: Vec<_> = reasons.into_values().collect();
        reasons.sort_by_key(|reason| Reverse(reason.total));
        Self { isa, reasons, vcpus }
    }

    /// All exits.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.vcpus.iter().fold(0, |sum, vcpu| sum.saturating_add(vcpu.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::ExitReasonSample;

    fn bucket(below_ns: Option<u64>, count: u64) -> LatencyBucket {
        LatencyBucket { below_ns, count }
    }

    #[test]
    fn threads_are_merged_and_quantiles_stay_below_the_longest() {
        let a = LatencySample {
            count: 99,
            sum_ns: 99_000,
            max_ns: 1100,
            buckets: vec![bucket(Some(1024), 90), bucket(Some(1280), 9)],
        };
        let b =
            LatencySample { count: 1, sum_ns: 5_000_000, max_ns: 5_000_000, buckets: vec![bucket(None, 1)] };
        let model = LatencyModel::new([&b, &a, &a]);
        assert_eq!((model.count, model.max), (199, Duration::from_millis(5)));
        assert_eq!(model.buckets, [bucket(Some(1024), 180), bucket(Some(1280), 18), bucket(None, 1)]);
        assert_eq!(model.mean(), Some(Duration::from_nanos((2 * 99_000 + 5_000_000) / 199)));
        assert_eq!(model.quantile(0.5), Some(Duration::from_nanos(1024)));
        assert_eq!(model.quantile(0.99), Some(Duration::from_nanos(1280)));
        assert_eq!(model.quantile(1.0), Some(Duration::from_millis(5)));
        assert_eq!(LatencyModel::new([&a]).quantile(1.0), Some(Duration::from_nanos(1100)));
        assert_eq!((LatencyModel::default().mean(), LatencyModel::default().quantile(0.5)), (None, None));
    }

    #[test]
    fn exits_are_added_up_over_vcpus_and_named() {
        let reason = |reason, count, total_ns, max_ns| ExitReasonSample { reason, count, total_ns, max_ns };
        let samples = [
            VcpuExitSample {
                tid: 5,
                guest_ns: 700,
                isa: 2,
                reasons: vec![reason(0x78, 2, 900, 800), reason(0x7b, 5, 50, 11)],
            },
            VcpuExitSample { tid: 6, guest_ns: 10, isa: 2, reasons: vec![reason(0x7b, 1, 40, 40)] },
        ];
        let model = ExitModel::new(&samples);
        let names: Vec<_> = model.reasons.iter().map(|reason| (reason.name.as_str(), reason.count)).collect();
        assert_eq!((model.isa, names), (Isa::Svm, vec![("hlt", 2), ("io", 6)]));
        assert_eq!(
            (model.reasons[1].total, model.reasons[1].max),
            (Duration::from_nanos(90), Duration::from_nanos(40))
        );
        assert_eq!((model.count(), model.vcpus[0].outside), (8, Duration::from_nanos(950)));
    }
}
