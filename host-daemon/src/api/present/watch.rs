//! [`WatchView`].

use std::time::Duration;

use kvmpilot_core::model::{ExitModel, LatencyModel};
use kvmpilot_core::sample::{LatencySample, ThreadLatencySample, ThreadRole, VcpuExitSample};

use super::seconds;
use crate::api::views::{
    ExitReasonView, ExitsView, LatencyBucketView, LatencyView, ThreadLatencyView, VcpuExitsView,
    WakeLatencyView, WatchView,
};
use crate::watch::{Outcome, Seen};

/// What a watch found.
#[must_use]
pub fn watch(outcome: &Outcome) -> WatchView {
    let (wake_latency, exits) = match &outcome.seen {
        Seen::Latencies(threads) => (Some(latencies(threads, outcome)), None),
        Seen::Exits(vcpus) => (None, Some(exits(vcpus, outcome))),
    };
    WatchView {
        domain: outcome.ask.name.clone(),
        uuid: outcome.ask.domain,
        what: outcome.ask.what,
        asked_s: seconds(outcome.ask.length),
        watched_s: seconds(outcome.watched),
        sampled_s: seconds(outcome.sampled),
        windows: outcome.windows,
        ended: outcome.ended.clone(),
        message: match (&wake_latency, &exits) {
            (Some(view), _) if view.woken.count + view.preempted.count == 0 => Some(
                "none of the domain's threads waited for a pcpu in the sampled time: all of them slept, or ran on \
                 without a switch"
                    .to_owned(),
            ),
            (_, Some(view)) => exit_message(view, outcome),
            _ => None,
        },
        incomplete: outcome.overflowed,
        wake_latency,
        exits,
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn latencies(threads: &[ThreadLatencySample], outcome: &Outcome) -> WakeLatencyView {
    let sum = |kind: fn(&ThreadLatencySample) -> &LatencySample| LatencyModel::new(threads.iter().map(kind));
    let (woken, preempted) = (sum(|thread| &thread.woken), sum(|thread| &thread.preempted));
    let waited = threads.iter().filter(|thread| thread.woken.count + thread.preempted.count > 0);
    let mut threads: Vec<_> = waited
        .map(|thread| {
            let known = outcome.threads.iter().find(|known| known.tid == thread.tid);
            ThreadLatencyView {
                tid: thread.tid,
                role: known.map(|known| known.role),
                name: known.map(|known| known.comm.clone()),
                woken: latency(&LatencyModel::new([&thread.woken])),
                preempted: latency(&LatencyModel::new([&thread.preempted])),
            }
        })
        .collect();
    let waited = |thread: &ThreadLatencyView| thread.woken.total_us + thread.preempted.total_us;
    threads.sort_by(|a, b| waited(b).total_cmp(&waited(a)));
    threads.sort_by_key(|thread| match thread.role {
        Some(ThreadRole::Vcpu(number)) => (false, number),
        _ => (true, 0),
    });
    WakeLatencyView {
        woken: latency(&woken),
        preempted: latency(&preempted),
        woken_histogram: histogram(&woken),
        preempted_histogram: histogram(&preempted),
        threads,
    }
}

fn latency(model: &LatencyModel) -> LatencyView {
    let quantile = |q| model.quantile(q).map(micros);
    LatencyView {
        count: model.count,
        total_us: micros(model.sum),
        mean_us: model.mean().map(micros),
        p50_us: quantile(0.5),
        p90_us: quantile(0.9),
        p99_us: quantile(0.99),
        max_us: (model.count > 0).then(|| micros(model.max)),
    }
}

fn histogram(model: &LatencyModel) -> Vec<LatencyBucketView> {
    let below_us = |below_ns| micros(Duration::from_nanos(below_ns));
    model
        .buckets
        .iter()
        .map(|bucket| LatencyBucketView { below_us: bucket.below_ns.map(below_us), count: bucket.count })
        .collect()
}

fn exits(samples: &[VcpuExitSample], outcome: &Outcome) -> ExitsView {
    let model = ExitModel::new(samples);
    let all: Duration = model.vcpus.iter().map(|vcpu| vcpu.outside + vcpu.inside).sum();
    let sampled = seconds(outcome.sampled);
    #[expect(clippy::cast_precision_loss, reason = "no watch counts 2^53 exits")]
    let float = |count: u64| count as f64;
    let reasons = model.reasons.iter().map(|reason| ExitReasonView {
        reason: reason.reason,
        name: reason.name.clone(),
        count: reason.count,
        per_s: (sampled > 0.0).then(|| float(reason.count) / sampled),
        total_us: micros(reason.total),
        time_ratio: (!all.is_zero()).then(|| reason.total.as_secs_f64() / all.as_secs_f64()),
        mean_us: (reason.count > 0).then(|| micros(reason.total) / float(reason.count)),
        max_us: micros(reason.max),
    });
    let number = |tid| {
        let thread = outcome.threads.iter().find(|thread| thread.tid == tid)?;
        if let ThreadRole::Vcpu(number) = thread.role { Some(number) } else { None }
    };
    ExitsView {
        isa: model.isa.as_str().map(str::to_owned),
        count: model.count(),
        kvm_count: outcome.kvm_exits,
        vcpus_ran_s: outcome.vcpus_ran.map(seconds),
        reasons: reasons.collect(),
        vcpus: model
            .vcpus
            .iter()
            .map(|vcpu| VcpuExitsView {
                number: number(vcpu.tid),
                tid: vcpu.tid,
                count: vcpu.count,
                outside_us: micros(vcpu.outside),
                inside_us: micros(vcpu.inside),
            })
            .collect(),
    }
}

/// Why there are no exits, as far as we know, and what to think of those that there are.
fn exit_message(view: &ExitsView, outcome: &Outcome) -> Option<String> {
    let pvm = outcome.back_end == Some("kvm_pvm");
    if view.count > 0 {
        return pvm.then(|| {
            "this host's KVM runs on the kvm_pvm back end, which traces only a few of its exits: these are not all".to_owned()
        });
    }
    let ran = match outcome.vcpus_ran {
        Some(ran) if ran < Duration::from_millis(1) => {
            return Some(
                "kvm_exit never fired, and the domain's vcpus did not run: its guest sleeps".to_owned(),
            );
        }
        Some(ran) => format!("kvm_exit never fired while the domain's vcpus ran for {:.2} s", seconds(ran)),
        None => "kvm_exit never fired".to_owned(),
    };
    let accel = &outcome.ask.accel;
    Some(match outcome.back_end {
        _ if accel != "kvm" => format!(
            "{ran}: the domain is of type {accel}, so that QEMU's emulator (TCG) runs its vcpus and there is no guest \
             mode to exit from"
        ),
        Some("kvm_pvm") => {
            format!("{ran}: this host's KVM runs on the kvm_pvm back end, which does not trace its exits")
        }
        Some(module) => format!(
            "{ran}: its vcpus never left their guests in the sampled time, or {module} does not trace it"
        ),
        None => format!("{ran}: this host's KVM does not seem to trace its exits"),
    })
}

#[cfg(test)]
mod tests {
    use kvmpilot_core::Uuid;
    use kvmpilot_core::model::WatchWhat;
    use kvmpilot_core::sample::{ExitReasonSample, LatencyBucket};

    use super::*;
    use crate::watch::{Ask, Thread};

    fn outcome(accel: &str, back_end: Option<&'static str>, seen: Seen) -> Outcome {
        let what = if matches!(seen, Seen::Exits(_)) { WatchWhat::Exits } else { WatchWhat::WakeLatency };
        Outcome {
            ask: Ask {
                domain: Uuid::from_u128(1),
                name: "web".into(),
                accel: accel.into(),
                what,
                length: Duration::from_secs(30),
            },
            watched: Duration::from_secs(28),
            sampled: Duration::from_secs(2),
            windows: 14,
            ended: None,
            overflowed: false,
            vcpus_ran: Some(Duration::from_millis(1500)),
            kvm_exits: None,
            back_end,
            threads: vec![
                Thread { tid: 5, role: ThreadRole::Emulator, comm: "qemu-system-x86".into() },
                Thread { tid: 7, role: ThreadRole::Vcpu(1), comm: "CPU 1/KVM".into() },
            ],
            seen,
        }
    }

    #[test]
    fn silence_is_explained_by_what_is_known() {
        let message = |outcome: &Outcome| watch(outcome).message.unwrap();
        let tcg = message(&outcome("qemu", Some("kvm_pvm"), Seen::Exits(vec![])));
        assert!(tcg.contains("ran for 1.50 s") && tcg.contains("emulator (TCG)"), "{tcg}");
        let pvm = message(&outcome("kvm", Some("kvm_pvm"), Seen::Exits(vec![])));
        assert!(pvm.contains("kvm_pvm back end, which does not trace"), "{pvm}");
        let mut asleep = outcome("kvm", Some("kvm_amd"), Seen::Exits(vec![]));
        asleep.vcpus_ran = Some(Duration::ZERO);
        assert!(message(&asleep).contains("its guest sleeps"));
        let idle = message(&outcome("kvm", None, Seen::Latencies(vec![])));
        assert!(idle.contains("slept"), "{idle}");
    }

    #[test]
    fn exits_are_named_and_shared_out() {
        let reason = |reason, count, total_ns| ExitReasonSample { reason, count, total_ns, max_ns: 3000 };
        let vcpus =
            vec![VcpuExitSample { tid: 7, guest_ns: 4000, isa: 1, reasons: vec![reason(12, 4, 4000)] }];
        let view = watch(&outcome("kvm", Some("kvm_intel"), Seen::Exits(vcpus)));
        assert_eq!(view.message, None);
        let exits = view.exits.unwrap();
        let first = &exits.reasons[0];
        assert_eq!((first.name.as_str(), first.per_s), ("HLT", Some(2.0)));
        assert!(first.mean_us.is_some_and(|mean_us| (mean_us - 1.0).abs() < 1e-9), "{first:?}");
        assert_eq!((first.time_ratio, exits.isa.as_deref()), (Some(0.5), Some("vmx")));
        assert_eq!(exits.vcpus[0].number, Some(1));
        assert!((exits.vcpus[0].inside_us - 4.0).abs() < 1e-9);
    }

    #[test]
    fn vcpus_come_first_and_ended_threads_are_kept() {
        let thread = |tid, sum_ns| ThreadLatencySample {
            tid,
            woken: LatencySample {
                count: 1,
                sum_ns,
                max_ns: sum_ns,
                buckets: vec![LatencyBucket { below_ns: Some(sum_ns + 1), count: 1 }],
            },
            preempted: LatencySample::default(),
        };
        let threads = vec![thread(4, 100_000), thread(5, 900_000), thread(6, 0), thread(7, 50)];
        let view = watch(&outcome("kvm", None, Seen::Latencies(threads))).wake_latency.unwrap();
        let order: Vec<_> = view.threads.iter().map(|thread| (thread.tid, thread.role)).collect();
        assert_eq!(
            order,
            [(7, Some(ThreadRole::Vcpu(1))), (5, Some(ThreadRole::Emulator)), (4, None), (6, None)]
        );
        assert_eq!((view.woken.count, view.woken.max_us, view.preempted.max_us), (4, Some(900.0), None));
        assert_eq!(view.woken_histogram.len(), 4);
    }
}
