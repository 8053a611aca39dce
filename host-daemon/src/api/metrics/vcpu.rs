//! Of each vcpu.

use super::{Counts, Family, Kind, Sink, Value, counter, domain, gauge, some};
use crate::api::views::{VcpuView, Views};

const LABELS: &[&str] = &["domain", "uuid", "vcpu"];

/// Upper bounds of the histogram's buckets as powers of two ns, as the probe counts: from 16 us, which no guest notices, to
/// 67 ms, which everybody does. Few, because each costs a series for each vcpu.
const POWERS: [u32; 6] = [14, 17, 20, 22, 24, 26];

/// The same in seconds.
pub const BOUNDS: [f64; POWERS.len()] = {
    let mut bounds = [0.0; POWERS.len()];
    let mut i = 0;
    while i < POWERS.len() {
        bounds[i] = (1_u32 << POWERS[i]) as f64 / 1e9;
        i += 1;
    }
    bounds
};

#[rustfmt::skip]
pub(super) const FAMILIES: &[Family] = &[
    gauge("vcpu_run_ratio", "Share of the last window on a pcpu.", LABELS, |views, sink| {
        all(views, sink, |vcpu| vcpu.run_ratio);
    }),
    gauge("vcpu_runq_wait_ratio", "Share of the last window runnable but not running: what the guest sees as steal.", LABELS,
        |views, sink| all(views, sink, |vcpu| vcpu.wait_ratio)),
    counter("vcpu_run_seconds_total", "Time on a pcpu since the vcpu's thread was born.", LABELS, |views, sink| {
        all(views, sink, |vcpu| vcpu.run_total_s);
    }),
    counter("vcpu_steal_seconds_total",
        "Time runnable but not running (runq_wait), which the guest sees as steal, since the vcpu's thread was born.", LABELS,
        |views, sink| all(views, sink, |vcpu| vcpu.runq_wait_total_s)),
    Family {
        name: "vcpu_runq_wait_seconds",
        help: "Waits for a pcpu by length since the daemon watches the vcpu's thread; the sum is of the time since the thread was \
               born. None without the scheduler probe.",
        kind: Kind::Histogram,
        labels: LABELS,
        read: |views, sink| each(views, |labels, vcpu| {
            if let Some(counts) = counts(vcpu) {
                sink(labels, Value::Counts(counts));
            }
        }),
    },
];

fn each(views: &Views, mut then: impl FnMut(&[&str], &VcpuView)) {
    domain::each(views, |[name, uuid], domain| {
        for vcpu in &domain.vcpus {
            then(&[name, uuid, &vcpu.number.to_string()], vcpu);
        }
    });
}

fn all(views: &Views, sink: &mut Sink<'_>, value: fn(&VcpuView) -> Option<f64>) {
    each(views, |labels, vcpu| some(sink, labels, value(vcpu)));
}

fn counts(vcpu: &VcpuView) -> Option<Counts> {
    let known = &vcpu.runq_wait_counts;
    let sum = vcpu.runq_wait_total_s.filter(|_| !known.is_empty())?;
    let mut buckets = [0_u64; POWERS.len() + 1];
    for (exponent, waits) in (0_u32..).zip(known) {
        // Entry n counts what is below 2^(n+1).
        let place = POWERS.iter().position(|power| exponent < *power).unwrap_or(POWERS.len());
        buckets[place] = buckets[place].saturating_add(*waits);
    }
    let count = buckets.iter().fold(0_u64, |sum, bucket| sum.saturating_add(*bucket));
    Some(Counts { sum, count, buckets })
}
