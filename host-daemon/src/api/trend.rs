//! How figures went over the last half hour, kept in memory for charts; what is older comes from the store, once a cycle.

use std::collections::{BTreeMap, VecDeque};

use kvmpilot_core::Uuid;

use super::views::{DomainDetailView, StatusView, Views};
use crate::store::{Dated, DomainRow};

/// Points that are kept: half an hour at a tick of 5 s. One of a domain takes 60 bytes, so 500 domains 11 MB.
const POINTS: usize = 360;

/// Figures of a domain, in the order of its points.
pub(super) const OF_DOMAIN: [&str; 14] = [
    "cpu_use_ratio",
    "wait_ratio",
    "runq_wait_p50_us",
    "runq_wait_p99_us",
    "contention_ratio",
    "throttled_ratio",
    "halt_polling_ratio",
    "idle_ratio",
    "memory_current_kib",
    "memory_usable_kib",
    "received_bytes_per_s",
    "sent_bytes_per_s",
    "need",
    "cpu_shares",
];

/// Figures of the host.
pub(super) const OF_HOST: [&str; 5] = [
    "cpu_some_avg10_percent",
    "memory_some_avg10_percent",
    "io_some_avg10_percent",
    "memory_available_kib",
    "own_percent",
];

/// Points in the order in which they were measured. What is not known is NaN.
#[derive(Debug)]
struct Ring<const N: usize>(VecDeque<(u64, [f32; N])>);

impl<const N: usize> Ring<N> {
    fn push(&mut self, unix_ms: u64, values: [f32; N]) {
        if self.0.len() == POINTS {
            self.0.pop_front();
        }
        self.0.push_back((unix_ms, values));
    }
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

/// The trends of the host and of all domains that there are.
#[derive(Debug, Default)]
pub(super) struct Trends {
    host: Ring<{ OF_HOST.len() }>,
    domains: BTreeMap<Uuid, Ring<{ OF_DOMAIN.len() }>>,
}

/// Points: when, and the figures that were asked for.
pub(super) type Points = Vec<(u64, Vec<Option<f64>>)>;

impl Trends {
    /// Adds what was measured.
    pub(super) fn add(&mut self, views: &Views) {
        let unix_ms = views.measured_unix_ms;
        self.host.push(unix_ms, of_host(&views.status));
        self.domains.retain(|uuid, _| views.domains.iter().any(|domain| domain.row.uuid == *uuid));
        for domain in &views.domains {
            self.domains.entry(domain.row.uuid).or_default().push(unix_ms, of_domain(domain));
        }
    }

    /// The points of a domain, or of the host, with the figures of these places.
    pub(super) fn points(&self, domain: Option<Uuid>, places: &[usize]) -> Points {
        match domain {
            None => points(&self.host, places),
            Some(uuid) => self.domains.get(&uuid).map(|ring| points(ring, places)).unwrap_or_default(),
        }
    }
}

fn points<const N: usize>(ring: &Ring<N>, places: &[usize]) -> Points {
    let known = |value: f32| value.is_finite().then_some(f64::from(value));
    let row = |values: &[f32; N]| places.iter().map(|at| values.get(*at).copied().and_then(known)).collect();
    ring.0.iter().map(|(unix_ms, values)| (*unix_ms, row(values))).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "seven digits are enough for a chart")]
fn narrow(value: Option<f64>) -> f32 {
    value.map_or(f32::NAN, |value| value as f32)
}

#[expect(clippy::cast_precision_loss, reason = "sizes and weights are far below 2^52")]
fn whole(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

fn of_host(status: &StatusView) -> [f32; OF_HOST.len()] {
    let pressure = &status.host.pressure;
    let own = status.own_cost.daemon_percent.map(|own| own + status.own_cost.programs_percent.unwrap_or(0.0));
    [
        pressure.cpu_some_avg10_percent,
        pressure.memory_some_avg10_percent,
        pressure.io_some_avg10_percent,
        whole(status.host.memory_available_kib),
        own,
    ]
    .map(narrow)
}

/// The worst vcpu counts for waits, the mean of all for shares of the time.
fn of_domain(domain: &DomainDetailView) -> [f32; OF_DOMAIN.len()] {
    let row = &domain.row;
    let worst = |of: fn(&super::views::VcpuView) -> Option<f64>| {
        domain.vcpus.iter().filter_map(of).max_by(f64::total_cmp)
    };
    let mean = |of: fn(&super::views::VcpuTimeView) -> Option<f64>| {
        let known: Vec<f64> = domain.vcpu_times.iter().filter_map(of).collect();
        whole(u64::try_from(known.len()).ok().filter(|count| *count > 0))
            .map(|count| known.iter().sum::<f64>() / count)
    };
    [
        row.cpu_use_ratio,
        row.wait_ratio,
        worst(|vcpu| vcpu.runq_wait_p50_us),
        worst(|vcpu| vcpu.runq_wait_p99_us),
        mean(|time| time.contention_ratio),
        mean(|time| time.throttled_ratio),
        mean(|time| time.halt_polling_ratio),
        mean(|time| time.idle_ratio),
        whole(row.memory_current_kib),
        whole(domain.balloon.as_ref().and_then(|balloon| balloon.usable_kib)),
        row.network.received_bytes_per_s,
        row.network.sent_bytes_per_s,
        row.need,
        whole(row.cpu_shares.current),
    ]
    .map(narrow)
}

/// The points of rows of the store, with the figures of these places; those that the store does not hold are unknown.
pub(super) fn stored(rows: &[Dated<DomainRow>], places: &[usize]) -> Points {
    let value = |row: &DomainRow, at: usize| match OF_DOMAIN.get(at).copied() {
        Some("cpu_use_ratio") => row.cpu_use_ratio,
        Some("wait_ratio") => row.wait_ratio,
        Some("memory_current_kib") => whole(row.memory_current_kib),
        Some("memory_usable_kib") => whole(row.memory_usable_kib),
        Some("received_bytes_per_s") => row.received_bytes_per_s,
        Some("sent_bytes_per_s") => row.sent_bytes_per_s,
        Some("need") => row.need,
        Some("cpu_shares") => whole(row.cpu_shares),
        _ => None,
    };
    rows.iter().map(|row| (row.unix_ms, places.iter().map(|at| value(&row.row, *at)).collect())).collect()
}

/// One point for each step that has any: the mean of what is known in it.
pub(super) fn in_steps(points: &Points, from: u64, to: u64, step_ms: u64) -> Points {
    let mut steps = BTreeMap::<u64, Vec<&Vec<Option<f64>>>>::new();
    for (unix_ms, values) in points.iter().filter(|(unix_ms, _)| (from..=to).contains(unix_ms)) {
        steps.entry(unix_ms / step_ms * step_ms).or_default().push(values);
    }
    let mean = |rows: &[&Vec<Option<f64>>], column: usize| {
        let known = rows.iter().filter_map(|row| row.get(column).copied().flatten());
        let (sum, count) = known.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
        (count > 0).then(|| sum / f64::from(count))
    };
    let columns = points.first().map_or(0, |(_, values)| values.len());
    steps
        .into_iter()
        .map(|(at, rows)| (at, (0..columns).map(|column| mean(&rows, column)).collect()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_forgets_the_oldest_and_steps_are_means_of_what_is_known() {
        let mut ring = Ring::<2>::default();
        for at in 0..POINTS as u64 + 10 {
            ring.push(at * 5000, [at as f32, f32::NAN]);
        }
        let all = points(&ring, &[0, 1]);
        assert_eq!((all.len(), all[0].0), (POINTS, 50_000));
        let steps = in_steps(&all, 60_000, 79_999, 10_000);
        let expected = [(60_000, vec![Some(12.5), None]), (70_000, vec![Some(14.5), None])];
        assert_eq!(steps, expected);
    }
}
