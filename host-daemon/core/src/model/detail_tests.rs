//! Tests of the split of a vcpu's time.

use super::*;
use crate::sample::{CgroupSample, TimesSample};

const S: u64 = 1_000_000_000;

fn vcpu(number: u32) -> VcpuDetailSample {
    VcpuDetailSample {
        number,
        tid: 100 + number,
        start_ticks: 7,
        at_ns: 0,
        on_cpu_ns: 0,
        runq_wait_ns: 0,
        times: Some(TimesSample::default()),
        kvm: Some(KvmVcpuSample {
            exits: Some(0),
            halt_poll_success_ns: Some(0),
            halt_poll_fail_ns: Some(0),
            ..KvmVcpuSample::default()
        }),
        bandwidth: Some(BandwidthSample::default()),
    }
}

fn detail(vcpus: Vec<VcpuDetailSample>, throttled_ns: u64) -> DetailSample {
    let bandwidth = BandwidthSample { throttled_ns, ..BandwidthSample::default() };
    DetailSample {
        vcpus,
        groups: vec![CgroupSample { path: "/machine/d1".into(), bandwidth }],
        ..DetailSample::default()
    }
}

fn close(value: Option<f64>, expected: f64) -> bool {
    value.is_some_and(|value| (value - expected).abs() < 1e-9)
}

fn sum(time: &VcpuTimeModel) -> f64 {
    [time.run, time.contention, time.throttled, time.halt_polling, time.exit_handling, time.idle]
        .iter()
        .map(|part| part.unwrap_or(0.0))
        .sum()
}

#[test]
fn a_window_is_split_without_rest() {
    let begin = detail(vec![vcpu(0)], 0);
    let mut end = begin.clone();
    end.vcpus[0].at_ns = 10 * S;
    end.vcpus[0].on_cpu_ns = 5 * S;
    end.vcpus[0].runq_wait_ns = 3 * S;
    end.vcpus[0].times = Some(TimesSample { user_ns: 4 * S, system_ns: S, guest_ns: 3 * S });
    end.vcpus[0].bandwidth = Some(BandwidthSample {
        throttled_ns: S,
        quota_usec: Some(50_000),
        period_usec: Some(100_000),
        ..BandwidthSample::default()
    });
    let kvm = end.vcpus[0].kvm.as_mut().unwrap();
    (kvm.exits, kvm.halt_poll_success_ns, kvm.halt_poll_fail_ns) = (Some(1000), Some(S / 2), Some(S / 2));
    let model = DetailModel::new(Some(&begin), &end, true);
    let time = &model.vcpus[0];
    assert!(close(time.run, 0.3) && close(time.contention, 0.2) && close(time.throttled, 0.1), "{time:?}");
    assert!(
        close(time.halt_polling, 0.1) && close(time.exit_handling, 0.1) && close(time.idle, 0.2),
        "{time:?}"
    );
    assert!(
        close(Some(sum(time)), 1.0) && close(time.exits_per_s, 100.0) && close(time.quota, 0.5),
        "{time:?}"
    );

    // Under TCG the guest is on the pcpu, and nobody knows what for.
    let time = &DetailModel::new(Some(&begin), &end, false).vcpus[0];
    assert!(close(time.run, 0.5) && time.exit_handling.is_none(), "{time:?}");
}

#[test]
fn what_is_missing_is_not_invented() {
    let begin = detail(vec![vcpu(0)], 0);
    let mut end = begin.clone();
    end.vcpus[0].at_ns = S;
    end.vcpus[0].on_cpu_ns = S / 2;
    (end.vcpus[0].kvm, end.vcpus[0].times) = (None, None);
    let time = &DetailModel::new(Some(&begin), &end, true).vcpus[0];
    assert!(time.run.is_none() && time.halt_polling.is_none() && time.exit_handling.is_none(), "{time:?}");
    assert!(close(time.idle, 0.5));

    // Without a cgroup nobody can tell contention from throttling.
    let bare = |detail: &DetailSample| DetailSample {
        groups: Vec::new(),
        vcpus: detail.vcpus.iter().map(|vcpu| VcpuDetailSample { bandwidth: None, ..vcpu.clone() }).collect(),
        ..detail.clone()
    };
    let time = &DetailModel::new(Some(&bare(&begin)), &bare(&end), true).vcpus[0];
    assert!(time.contention.is_none() && time.throttled.is_none(), "{time:?}");

    // Another thread, another window; and a counter that went backwards.
    end.vcpus[0].start_ticks = 8;
    assert!(DetailModel::new(Some(&begin), &end, true).vcpus[0].elapsed.is_none());
    assert!(DetailModel::new(None, &end, true).vcpus[0].idle.is_none());
    let mut backwards = begin.clone();
    backwards.vcpus[0].at_ns = S;
    let mut begin = begin;
    begin.vcpus[0].on_cpu_ns = 5;
    assert!(DetailModel::new(Some(&begin), &backwards, true).vcpus[0].run.is_none());
}

#[test]
fn a_domains_throttling_goes_to_those_who_waited() {
    let begin = detail(vec![vcpu(0), vcpu(1), vcpu(2)], 0);
    let mut end = detail(vec![vcpu(0), vcpu(1), vcpu(2)], 2 * S);
    for (vcpu, waited) in end.vcpus.iter_mut().zip([3 * S, S, 0]) {
        (vcpu.at_ns, vcpu.runq_wait_ns) = (10 * S, waited);
    }
    let model = DetailModel::new(Some(&begin), &end, true);
    let throttled: Vec<_> = model.vcpus.iter().map(|time| time.throttled.unwrap()).collect();
    assert_eq!(throttled, [0.15, 0.05, 0.0]);
    assert!(close(model.vcpus[0].contention, 0.15));
}

proptest::proptest! {
    #[test]
    fn no_part_is_negative_and_the_sum_is_at_most_one(
        on_cpu in 0_u64..20 * S, waited in 0_u64..20 * S, guest in 0_u64..20 * S, own in proptest::num::u64::ANY,
        outer in proptest::num::u64::ANY, hit in proptest::num::u64::ANY, miss in proptest::num::u64::ANY, wall in 1_u64..10 * S, kvm in proptest::bool::ANY,
    ) {
        let begin = detail(vec![vcpu(0), vcpu(1)], 0);
        let mut end = detail(vec![vcpu(0), vcpu(1)], outer);
        for vcpu in &mut end.vcpus {
            (vcpu.at_ns, vcpu.on_cpu_ns, vcpu.runq_wait_ns) = (wall, on_cpu, waited);
            vcpu.times = Some(TimesSample { guest_ns: guest, ..TimesSample::default() });
            vcpu.bandwidth = Some(BandwidthSample { throttled_ns: own, ..BandwidthSample::default() });
            let stats = vcpu.kvm.as_mut().unwrap();
            (stats.halt_poll_success_ns, stats.halt_poll_fail_ns) = (Some(hit), Some(miss));
        }
        for time in DetailModel::new(Some(&begin), &end, kvm).vcpus {
            let parts = [time.run, time.contention, time.throttled, time.idle];
            proptest::prop_assert!(parts.iter().all(|part| part.is_some_and(|part| part >= 0.0)), "{time:?}");
            // Under TCG there is no halt polling; the fixture's is left out.
            let sum = sum(&time) - if kvm { 0.0 } else { time.halt_polling.unwrap_or(0.0) };
            proptest::prop_assert!((sum - 1.0).abs() < 1e-6, "{time:?}");
        }
    }
}
