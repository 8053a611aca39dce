//! Where the time of a domain's vcpus went, over the window between two detailed readings.
//!
//! Of a vcpu's window, in parts of it, each at least 0 and together at most 1:
//!
//! ```text
//! on_cpu        = rise of schedstat's first figure
//! wait          = rise of its second (run_delay), at most 1 - on_cpu
//! throttled     = rise of throttled time of the vcpu's own cgroup, plus its part of its domain's, at most wait
//! contention    = wait - throttled                    another thread had the pcpu
//! halt_polling  = rise of halt_poll_success_ns + halt_poll_fail_ns, at most on_cpu
//! run           = rise of guest time, at most on_cpu - halt_polling; under TCG on_cpu
//! exit_handling = on_cpu - halt_polling - run         KVM or QEMU worked for the guest; under TCG not known
//! idle          = 1 - on_cpu - wait                   halted, or blocked in QEMU
//! ```
//!
//! The kernel counts a throttled thread as runnable, so `wait` includes it. A cgroup that holds several vcpus does not
//! tell which of them it throttled: its time goes to those that waited, in proportion. Guest time is tick-sampled on most
//! kernels: `run` and `exit_handling` may be off by some ticks of 1 to 10 ms each window, the other figures are not. A wait is booked when
//! it ends, so one that spans the edge of a window belongs to the later one.

use std::time::Duration;

use super::histogram::halt_quantile;
use super::{part_of, per_second, rise, rise_of};
use crate::sample::{
    BandwidthSample, DetailSample, GroupPressureSample, KvmVcpuSample, PressureSample, VcpuDetailSample,
};
use crate::units::Ratio;

/// A domain's details over one window.
#[derive(Clone, Debug, Default)]
pub struct DetailModel {
    /// Its vcpus, by number.
    pub vcpus: Vec<VcpuTimeModel>,
    /// pcpus' worth of time that all threads of the domain together may use; `None` without a limit.
    pub quota: Option<f64>,
    /// Stalls of the domain's threads.
    pub pressure: Option<GroupPressureModel>,
    /// What could not be read at the end of the window, and why.
    pub missing: Vec<String>,
}

/// Where one vcpu's window went; see the top of this file for the formulas.
#[derive(Clone, Debug, Default)]
pub struct VcpuTimeModel {
    /// Number.
    pub number: u32,
    /// Length of its window; `None` where there was no earlier reading of this thread.
    pub elapsed: Option<Duration>,
    /// The guest ran.
    pub run: Option<f64>,
    /// Ready to run, and another thread had the pcpu.
    pub contention: Option<f64>,
    /// Ready to run, and the quota was used up.
    pub throttled: Option<f64>,
    /// KVM polled for work instead of sleeping.
    pub halt_polling: Option<f64>,
    /// KVM or QEMU worked for the guest on the vcpu's thread.
    pub exit_handling: Option<f64>,
    /// Asleep.
    pub idle: Option<f64>,
    /// pcpus' worth of time that the vcpu may use; `None` without a limit.
    pub quota: Option<f64>,
    /// Exits from guest mode, a second.
    pub exits_per_s: Option<f64>,
    /// Of the halts that began with polling, the part that found work so.
    pub halt_poll_hits: Option<Ratio>,
    /// Median time asleep in a halt.
    pub halt_wait_p50: Option<Duration>,
}

/// Part of the window in which some thread of a group stalled, or all of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupPressureModel {
    /// Some waited for a pcpu.
    pub cpu: Option<Ratio>,
    /// Some waited for memory.
    pub memory: Option<Ratio>,
    /// Some waited for I/O.
    pub io: Option<Ratio>,
}

impl DetailModel {
    /// Derives the window from its two ends. `kvm` tells whether KVM runs the guest.
    #[must_use]
    pub fn new(begin: Option<&DetailSample>, end: &DetailSample, kvm: bool) -> Self {
        let mut windows: Vec<Window<'_>> = end.vcpus.iter().map(|vcpu| Window::new(begin, vcpu)).collect();
        let outer = outer_throttled(begin, end);
        share_out(&mut windows, outer);
        Self {
            vcpus: windows.iter().map(|window| window.model(kvm)).collect(),
            quota: end.groups.iter().filter_map(|group| quota(group.bandwidth)).reduce(f64::min),
            pressure: end.pressure.map(|pressure| {
                GroupPressureModel::new(begin.and_then(|begin| begin.pressure), pressure, longest(&windows))
            }),
            missing: end.missing.clone(),
        }
    }
}

/// One vcpu's rises. `waited` and `throttled` are ns.
struct Window<'a> {
    begin: Option<&'a VcpuDetailSample>,
    end: &'a VcpuDetailSample,
    elapsed: Option<Duration>,
    on_cpu: Option<u64>,
    waited: Option<u64>,
    throttled: Option<u64>,
}

impl<'a> Window<'a> {
    fn new(begin: Option<&'a DetailSample>, end: &'a VcpuDetailSample) -> Self {
        let same = |other: &&VcpuDetailSample| {
            (other.number, other.tid, other.start_ticks) == (end.number, end.tid, end.start_ticks)
        };
        let begin = begin.and_then(|begin| begin.vcpus.iter().find(same));
        let wall = begin.and_then(|begin| rise(begin.at_ns, end.at_ns)).filter(|wall| *wall > 0);
        let risen = |counter: fn(&VcpuDetailSample) -> u64| rise(counter(begin?), counter(end));
        let on_cpu = risen(|vcpu| vcpu.on_cpu_ns).zip(wall).map(|(ns, wall)| ns.min(wall));
        let waited = risen(|vcpu| vcpu.runq_wait_ns)
            .zip(wall.zip(on_cpu))
            .map(|(ns, (wall, on_cpu))| ns.min(wall - on_cpu));
        let own = begin.and_then(|begin| rise(begin.bandwidth?.throttled_ns, end.bandwidth?.throttled_ns));
        let throttled = own.zip(waited).map(|(own, waited)| own.min(waited));
        Self { begin, end, elapsed: wall.map(Duration::from_nanos), on_cpu, waited, throttled }
    }

    fn model(&self, kvm: bool) -> VcpuTimeModel {
        let part = |ns: Option<u64>| part_of(ns?, self.elapsed?);
        let polled = self.kvm(|kvm| kvm.halt_poll_success_ns).zip(self.kvm(|kvm| kvm.halt_poll_fail_ns));
        let polled =
            polled.zip(self.on_cpu).map(|((hit, miss), on_cpu)| hit.saturating_add(miss).min(on_cpu));
        let guest = self.begin.and_then(|begin| rise(begin.times?.guest_ns, self.end.times?.guest_ns));
        let run = if kvm {
            self.on_cpu.zip(guest).map(|(on_cpu, guest)| guest.min(on_cpu - polled.unwrap_or(0)))
        } else {
            self.on_cpu
        };
        let handled = self
            .on_cpu
            .zip(polled)
            .zip(run)
            .filter(|_| kvm)
            .map(|((on_cpu, polled), run)| on_cpu - polled - run);
        let waited = self.waited.zip(self.throttled);
        let wall = self.elapsed.and_then(|elapsed| u64::try_from(elapsed.as_nanos()).ok());
        let asleep = wall.zip(self.on_cpu.zip(self.waited));
        let attempted = self.kvm(|kvm| kvm.halt_attempted_polls);
        let hits = self.kvm(|kvm| kvm.halt_successful_polls);
        VcpuTimeModel {
            number: self.end.number,
            elapsed: self.elapsed,
            run: part(run),
            contention: part(waited.map(|(waited, throttled)| waited - throttled)),
            throttled: part(self.throttled),
            halt_polling: part(polled),
            exit_handling: part(handled),
            idle: part(asleep.map(|(wall, (on_cpu, waited))| wall - on_cpu - waited)),
            quota: self.end.bandwidth.and_then(quota),
            exits_per_s: self.elapsed.and_then(|elapsed| per_second(self.kvm(|kvm| kvm.exits), elapsed)),
            halt_poll_hits: hits.zip(attempted).and_then(|(hits, attempted)| ratio(hits, attempted)),
            halt_wait_p50: self.halt_waits().and_then(|waits| halt_quantile(&waits, 0.5)),
        }
    }

    /// Rise of one of KVM's counters.
    fn kvm(&self, counter: fn(&KvmVcpuSample) -> Option<u64>) -> Option<u64> {
        rise_of(counter(self.begin?.kvm.as_ref()?), counter(self.end.kvm.as_ref()?))
    }

    fn halt_waits(&self) -> Option<Vec<u64>> {
        let histogram = |vcpu: &'a VcpuDetailSample| vcpu.kvm.as_ref()?.halt_wait_histogram.as_ref();
        let (before, after) = (histogram(self.begin?)?, histogram(self.end)?);
        before.iter().zip(after).map(|(before, after)| rise(*before, *after)).collect()
    }
}

/// Rise of the throttled time of all groups that hold the whole domain; `None` where none is known at both ends.
fn outer_throttled(begin: Option<&DetailSample>, end: &DetailSample) -> Option<u64> {
    let begin = begin?;
    let rises = end.groups.iter().map(|group| {
        let earlier = begin.groups.iter().find(|other| other.path == group.path)?;
        rise(earlier.bandwidth.throttled_ns, group.bandwidth.throttled_ns)
    });
    rises.reduce(|sum, rise| Some(sum?.saturating_add(rise?))).flatten()
}

/// Shares the domain's throttled time out to the vcpus that waited for another reason than their own quota.
fn share_out(windows: &mut [Window<'_>], outer: Option<u64>) {
    let Some(outer) = outer else { return };
    let left = |window: &Window<'_>| window.waited.unwrap_or(0) - window.throttled.unwrap_or(0);
    let total: u128 = windows.iter().map(|window| u128::from(left(window))).sum();
    for window in windows {
        let Some(waited) = window.waited else { continue };
        let own = window.throttled.unwrap_or(0);
        let share = u128::from(left(window)) * u128::from(outer) / total.max(1);
        window.throttled = Some(own.saturating_add(u64::try_from(share).unwrap_or(u64::MAX)).min(waited));
    }
}

/// pcpus' worth of a quota.
fn quota(bandwidth: BandwidthSample) -> Option<f64> {
    Some(ratio(bandwidth.quota_usec?, bandwidth.period_usec?)?.0)
}

#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 53 bits")]
fn ratio(part: u64, whole: u64) -> Option<Ratio> {
    Ratio::of(part as f64, whole as f64)
}

/// The vcpus are read right before the pressure files: their window is the pressure's too.
fn longest(windows: &[Window<'_>]) -> Option<Duration> {
    windows.iter().filter_map(|window| window.elapsed).max()
}

impl GroupPressureModel {
    fn new(begin: Option<GroupPressureSample>, end: GroupPressureSample, elapsed: Option<Duration>) -> Self {
        let stalled = |get: fn(&GroupPressureSample) -> Option<PressureSample>| {
            let usec = rise(get(&begin?)?.some_total_usec, get(&end)?.some_total_usec)?;
            part_of(usec.saturating_mul(1000), elapsed?).map(|part| Ratio(part.min(1.0)))
        };
        Self {
            cpu: stalled(|pressure| pressure.cpu),
            memory: stalled(|pressure| pressure.memory),
            io: stalled(|pressure| pressure.io),
        }
    }
}

#[cfg(test)]
#[path = "detail_tests.rs"]
mod tests;
