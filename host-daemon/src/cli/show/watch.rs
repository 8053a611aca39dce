//! `kvmpilot domain NAME --watch`.

use kvmpilot_core::model::WatchWhat;

use super::super::page::{NO_BREAK, Page, Screen, doubtful};
use super::super::words::{UNKNOWN, count, micros, number, plain, ratio, seconds};
use super::domain::role;
use crate::api::views::{ExitsView, LatencyBucketView, WakeLatencyView, WatchView};

/// Columns of the longest bar.
const BAR: u64 = 40;
/// Threads that are shown; JSON has the rest.
const THREADS: usize = 24;

pub(in super::super) fn watch(view: &WatchView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let what = match view.what {
        WatchWhat::WakeLatency => "waits for a pcpu",
        WatchWhat::Exits => "exits from the guest",
    };
    page.line(&format!(
        "{}: {what} in {} of {} in all, within {}",
        view.domain,
        count(usize::try_from(view.windows).unwrap_or(0), "window"),
        seconds(Some(view.sampled_s)),
        seconds(Some(view.watched_s))
    ));
    if let Some(ended) = &view.ended {
        page.line(&doubtful(&format!("ended early: {ended}")));
    }
    if view.incomplete {
        page.line(&doubtful("incomplete: there were more threads or reasons than are told apart"));
    }
    if let Some(message) = &view.message {
        page.line(message);
    }
    if let Some(latency) = &view.wake_latency {
        wake_latency(&mut page, latency, view.sampled_s);
    }
    if let Some(exits) = &view.exits {
        self::exits(&mut page, exits);
    }
    page.finish()
}

fn wake_latency(page: &mut Page, view: &WakeLatencyView, sampled_s: f64) {
    if view.woken.count + view.preempted.count == 0 {
        return;
    }
    page.heading("WAITS (by the clock; not runq_wait, which is what the guest sees as steal)");
    let kinds = [("after a wake-up", &view.woken), ("after a preemption", &view.preempted)];
    let rows = kinds.iter().map(|(name, latency)| {
        let per_s = (sampled_s > 0.0).then(|| float(latency.count) / sampled_s);
        let spans = [latency.mean_us, latency.p50_us, latency.p90_us, latency.p99_us, latency.max_us];
        let mut row = vec![(*name).to_owned(), latency.count.to_string(), number(per_s)];
        row.extend(spans.map(span));
        row
    });
    let titles = ["~WAITED", ">COUNT", ">A SECOND", ">MEAN", ">P50", ">P90", ">P99", ">LONGEST"];
    page.table(&titles, rows.collect());
    let histograms =
        [("AFTER A WAKE-UP", &view.woken_histogram), ("AFTER A PREEMPTION", &view.preempted_histogram)];
    for (title, histogram) in histograms.iter().filter(|(_, histogram)| !histogram.is_empty()) {
        page.heading(title);
        page.table(&[">FROM", ">BELOW", ">COUNT", "~SHARE"], bars(histogram));
    }
    page.heading("THREADS");
    let mut rows = Vec::new();
    for thread in view.threads.iter().take(THREADS) {
        for (after, latency) in [("wake-up", &thread.woken), ("preemption", &thread.preempted)] {
            if latency.count == 0 {
                continue;
            }
            rows.push(vec![
                thread.tid.to_string(),
                thread.role.map_or_else(|| UNKNOWN.to_owned(), role),
                thread.name.clone().unwrap_or_else(|| "(ended)".to_owned()),
                after.to_owned(),
                latency.count.to_string(),
                span(latency.p50_us),
                span(latency.p99_us),
                span(latency.max_us),
            ]);
        }
    }
    page.table(&[">TID", "ROLE", "~NAME", "AFTER", ">COUNT", ">P50", ">P99", ">LONGEST"], rows);
    if view.threads.len() > THREADS {
        page.line(&format!("and {} more (--json has all of them)", view.threads.len() - THREADS));
    }
}

/// Rows of one power of two each, from the first that holds something to the last.
fn bars(histogram: &[LatencyBucketView]) -> Vec<Vec<String>> {
    let mut rows: Vec<(f64, u64)> = Vec::new();
    for bucket in histogram {
        let last = rows.last().map(|row| row.0);
        // What has no bound goes with the longest that have one.
        let below = bucket.below_us.or(last).unwrap_or_default();
        let mut end = last.unwrap_or(0.001);
        // Both are powers of two of a nanosecond or halves of their sums; a rounding error is not a row.
        while end < below * (1.0 - 1e-9) {
            end *= 2.0;
            // A histogram begins where there is something.
            if last.is_some() {
                rows.push((end, 0));
            }
        }
        if last.is_none() {
            rows.push((end, 0));
        }
        if let Some(row) = rows.last_mut() {
            row.1 += bucket.count;
        }
    }
    let most = rows.iter().map(|row| row.1).max().unwrap_or(0).max(1);
    let row = |&(end, count): &(f64, u64)| {
        let bar = (0..count.saturating_mul(BAR).div_ceil(most)).map(|_| '#').collect();
        vec![span(Some(end / 2.0)), span(Some(end)), count.to_string(), bar]
    };
    rows.iter().map(row).collect()
}

fn exits(page: &mut Page, view: &ExitsView) {
    if view.reasons.is_empty() {
        return;
    }
    page.heading(&format!("EXITS ({})", view.isa.as_deref().unwrap_or("unknown instruction set")));
    let rows = view.reasons.iter().map(|reason| {
        vec![
            reason.name.clone(),
            reason.count.to_string(),
            number(reason.per_s),
            span(Some(reason.total_us)),
            ratio(reason.time_ratio),
            span(reason.mean_us),
            span(Some(reason.max_us)),
        ]
    });
    let titles = ["~REASON", ">COUNT", ">A SECOND", ">OUTSIDE", ">OF VCPU TIME", ">MEAN", ">LONGEST"];
    page.table(&titles, rows.collect());
    if let Some(kvm) = view.kvm_count {
        page.line(&format!("in all {}; KVM's own counters say {kvm} for the same windows", view.count));
    }
    page.heading("VCPUS");
    let rows = view.vcpus.iter().map(|vcpu| {
        vec![
            plain(vcpu.number),
            vcpu.tid.to_string(),
            vcpu.count.to_string(),
            span(Some(vcpu.inside_us)),
            span(Some(vcpu.outside_us)),
        ]
    });
    page.table(&[">VCPU", ">TID", ">EXITS", ">INSIDE", ">OUTSIDE"], rows.collect());
}

/// As [`micros`], with nanoseconds where they matter.
fn span(us: Option<f64>) -> String {
    match us {
        Some(us) if us < 0.9995 => format!("{:.0}{NO_BREAK}ns", us * 1e3),
        Some(us) if us < 9.95 => format!("{us:.1}{NO_BREAK}us"),
        us => micros(us),
    }
}

#[expect(clippy::cast_precision_loss, reason = "no watch counts 2^53 waits")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_powers_of_two_without_gaps() {
        let bucket = |below_us, count| LatencyBucketView { below_us, count };
        let rows = bars(&[
            bucket(Some(1.28), 2),
            bucket(Some(1.536), 8),
            bucket(Some(2.048), 10),
            bucket(Some(10.0), 1),
            bucket(None, 1),
        ]);
        let shown: Vec<_> = rows.iter().map(|row| row.join(" ").replace(NO_BREAK, " ")).collect();
        let bar = |length| "#".repeat(length);
        assert_eq!(
            shown,
            [
                format!("1.0 us 2.0 us 20 {}", bar(40)),
                "2.0 us 4.1 us 0 ".to_owned(),
                "4.1 us 8.2 us 0 ".to_owned(),
                format!("8.2 us 16 us 2 {}", bar(4)),
            ]
        );
    }
}
