//! One domain over one window: what its vcpus ran and waited, what its taps moved, what its balloon holds.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{
    BalloonModel, DetailModel, DiskModel, FlowsModel, GuestModel, part_of, per_second, quantile, rise,
    rise_of,
};
use crate::CpuSet;
use crate::policy::{Metadata, Subject};
use crate::sample::{
    DomainSample, DomainState, FilesSample, InterfaceSample, IothreadSample, Job, ThreadRole, ThreadSample,
    ThreadSource,
};
use crate::units::{KiB, Ratio};

/// One domain over one window.
#[derive(Clone, Debug)]
pub struct DomainModel {
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// State at the end.
    pub state: DomainState,
    /// Virtualisation: `kvm`, `qemu`.
    pub accel: String,
    /// Names this life of the domain: QEMU's pid and start time. `None` while its process is unknown.
    pub incarnation: Option<String>,
    /// vcpus.
    pub vcpus: Vec<VcpuModel>,
    /// All threads of QEMU, vcpus too.
    pub threads: Vec<ThreadModel>,
    /// Pin of the emulator threads.
    pub emulator_pin: Option<CpuSet>,
    /// iothreads with their live pins.
    pub iothreads: Vec<IothreadSample>,
    /// CPU weight.
    pub cpu_shares: Option<u64>,
    /// Why its threads must not be placed, as its XML tells.
    pub placement_refusal: Option<String>,
    /// Why its weight must not be changed, as its XML tells.
    pub weight_refusal: Option<String>,
    /// NUMA node that holds most of its memory, or the only one that its memory is bound to.
    pub memory_node: Option<u32>,
    /// Largest memory without a restart.
    pub memory_maximum: KiB,
    /// Balloon and the guest's memory.
    pub balloon: Option<BalloonModel>,
    /// What its own XML says about kvmpilot.
    pub metadata: Option<Arc<Metadata>>,
    /// Why the balloon must not be touched.
    pub balloon_refusal: Option<String>,
    /// What runs in the guest, as its metadata says: an identifier of libosinfo's.
    pub os: Option<String>,
    /// Whether libvirt sees an agent.
    pub agent_connected: Option<bool>,
    /// A migration, backup or snapshot runs.
    pub job_active: bool,
    /// Which one, where libvirt tells.
    pub job: Option<Job>,
    /// Why nothing is asked of it and nothing is changed on it, in words.
    pub quarantine: Option<String>,
    /// Taps.
    pub interfaces: Vec<InterfaceModel>,
    /// Disks.
    pub disks: Vec<DiskModel>,
    /// Where the vcpus' time went; `None` unless the window ended with a detailed reading.
    pub detail: Option<DetailModel>,
    /// What the guest's agent told last, if it is fresh enough to count.
    pub guest: Option<GuestModel>,
    /// What its network devices moved, flow by flow.
    pub flows: Option<FlowsModel>,
    /// Its guest's watched files, when they were looked at last.
    pub files: Option<Arc<FilesSample>>,
}

/// One vcpu over one window.
#[derive(Clone, Debug)]
pub struct VcpuModel {
    /// Number.
    pub number: u32,
    /// Live pin.
    pub pin: Option<CpuSet>,
    /// Its thread, if it was found.
    pub thread: Option<ThreadModel>,
}

/// One thread over one window.
#[derive(Clone, Debug)]
pub struct ThreadModel {
    /// Thread id.
    pub tid: u32,
    /// What it is for.
    pub role: ThreadRole,
    /// The kernel's name of it.
    pub comm: Arc<str>,
    /// Where its counters came from.
    pub source: ThreadSource,
    /// pcpu that it ran on last.
    pub pcpu: Option<u32>,
    /// Part of the window on a pcpu.
    pub run: Option<f64>,
    /// Part of the window runnable but not running.
    pub wait: Option<f64>,
    /// Median wait before running.
    pub runq_wait_p50: Option<Duration>,
    /// 99th percentile of the waits before running.
    pub runq_wait_p99: Option<Duration>,
    /// On a pcpu since it was born.
    pub run_total: Duration,
    /// Runnable but not running since it was born.
    pub wait_total: Duration,
    /// Waits before running by length since it is watched, in the log2 buckets of
    /// [`ThreadSample::runq_wait_histogram`].
    pub waits: Option<Arc<[u64]>>,
    /// Switches away while runnable, a second.
    pub preempted_per_s: Option<f64>,
    /// Switches away to sleep, a second.
    pub blocked_per_s: Option<f64>,
    /// Moves between pcpus, a second.
    pub migrations_per_s: Option<f64>,
}

/// One tap over one window.
#[derive(Clone, Debug)]
pub struct InterfaceModel {
    /// Host name of the tap.
    pub device: String,
    /// Bytes a second to the guest.
    pub received_bytes_per_s: Option<f64>,
    /// Bytes a second from the guest.
    pub sent_bytes_per_s: Option<f64>,
    /// Packets a second to the guest.
    pub received_packets_per_s: Option<f64>,
    /// Packets a second from the guest.
    pub sent_packets_per_s: Option<f64>,
}

impl<'a> From<&'a DomainModel> for Subject<'a> {
    fn from(domain: &'a DomainModel) -> Self {
        Self { name: &domain.name, metadata: domain.metadata.as_deref() }
    }
}

impl DomainModel {
    /// Derives the window; without `begin` (a domain that has just come) rates are `None`.
    #[must_use]
    pub fn new(
        begin: Option<&DomainSample>,
        end: &DomainSample,
        elapsed: Duration,
        wall_unix_s: u64,
    ) -> Self {
        let threads: Vec<ThreadModel> = end
            .threads
            .iter()
            .map(|thread| {
                let earlier = begin.and_then(|begin| {
                    // From either source: their totals go on from each other, and the probe meets a thread that slept, as those
                    // of a paused guest do, when it wakes up. What only the probe counts is missing at one of the ends then.
                    let same = |other: &&ThreadSample| {
                        (other.tid, other.start_ticks) == (thread.tid, thread.start_ticks)
                    };
                    begin.threads.iter().find(same)
                });
                ThreadModel::new(earlier, thread, elapsed)
            })
            .collect();
        let vcpus = end
            .vcpus
            .iter()
            .map(|vcpu| VcpuModel {
                number: vcpu.number,
                pin: vcpu.pin.clone(),
                thread: threads.iter().find(|thread| thread.role == ThreadRole::Vcpu(vcpu.number)).cloned(),
            })
            .collect();
        let interfaces = end
            .interfaces
            .iter()
            .map(|interface| {
                let earlier = begin
                    .and_then(|begin| begin.interfaces.iter().find(|other| other.device == interface.device))
                    .cloned()
                    .unwrap_or_default();
                InterfaceModel::new(&earlier, interface, elapsed)
            })
            .collect();
        Self {
            uuid: end.uuid,
            name: end.name.clone(),
            state: end.state,
            accel: end.accel.clone(),
            incarnation: incarnation_of(end),
            vcpus,
            emulator_pin: end.emulator_pin.clone(),
            iothreads: end.iothreads.clone(),
            cpu_shares: end.cpu_shares,
            placement_refusal: end.placement_refusal.clone(),
            weight_refusal: end.weight_refusal.clone(),
            memory_node: memory_node(end),
            memory_maximum: KiB(end.memory_maximum_kib),
            balloon: end.balloon.map(|balloon| {
                let maximum = KiB(end.memory_maximum_kib);
                BalloonModel::new(
                    begin.and_then(|begin| begin.balloon),
                    &balloon,
                    maximum,
                    elapsed,
                    wall_unix_s,
                )
            }),
            metadata: end.policy.as_ref().map(|policy| Arc::new(Metadata::read(policy))),
            balloon_refusal: end.balloon_refusal.clone(),
            os: end.os.clone(),
            agent_connected: end.agent_connected,
            job_active: end.job_active,
            job: end.job,
            quarantine: end.quarantine.clone(),
            threads,
            interfaces,
            disks: end.disks.iter().map(DiskModel::from).collect(),
            detail: end.detail.as_ref().map(|detail| {
                DetailModel::new(begin.and_then(|begin| begin.detail.as_ref()), detail, end.accel == "kvm")
            }),
            guest: None,
            flows: None,
            files: None,
        }
    }

    /// Why nothing may be changed on it now, in words. `release`: it is about going back to safe, which a backup does not
    /// keep anybody from; other jobs hold libvirt's lock on the domain, so that a call would only wait for their end.
    #[must_use]
    pub fn hold(&self, release: bool) -> Option<String> {
        if let Some(why) = &self.quarantine {
            return Some(format!("the domain is in quarantine: {why}"));
        }
        let job = self.job.unwrap_or(Job::Other);
        let lets_go_back = release && job == Job::Backup;
        (self.job_active && !lets_go_back).then(|| format!("a {job} of the domain runs"))
    }

    /// CPU time of all vcpus as a part of what they could have run: 0 to 1. `None` if one of them is unknown.
    #[must_use]
    pub fn cpu_use(&self) -> Option<Ratio> {
        Ratio::of(self.vcpu_sum(|thread| thread.run)?, self.vcpu_count())
    }

    /// w = wait / (wait + run) over all vcpus; zero for a domain that wanted nothing.
    #[must_use]
    pub fn wait_ratio(&self) -> Option<Ratio> {
        let wait = self.vcpu_sum(|thread| thread.wait)?;
        let run = self.vcpu_sum(|thread| thread.run)?;
        Some(Ratio::of(wait, wait + run).unwrap_or_default())
    }

    /// pcpus that the vcpus wanted: run + wait, in pcpus.
    #[must_use]
    pub fn cpu_demand(&self) -> Option<f64> {
        Some(self.vcpu_sum(|thread| thread.run)? + self.vcpu_sum(|thread| thread.wait)?)
    }

    /// pcpus that the vcpus may use: what all pins have in common as a union; `None` if no pin is known.
    #[must_use]
    pub fn pins(&self) -> Option<CpuSet> {
        self.vcpus.iter().filter_map(|vcpu| vcpu.pin.clone()).reduce(|all, pin| all.union(&pin))
    }

    /// Packets a second in the weaker direction: traffic that is answered.
    #[must_use]
    pub fn conversation_packets_per_s(&self) -> Option<f64> {
        let sum = |rate: fn(&InterfaceModel) -> Option<f64>| {
            self.interfaces.iter().map(rate).try_fold(0.0, |sum, rate| Some(sum + rate?))
        };
        Some(sum(|tap| tap.received_packets_per_s)?.min(sum(|tap| tap.sent_packets_per_s)?))
    }

    /// Whether Windows runs in the guest: by its metadata, or because it was given Windows' own enlightenments.
    #[must_use]
    pub fn is_windows(&self) -> bool {
        self.os.as_deref().is_some_and(|os| os.contains("microsoft.com"))
    }

    /// Number of vcpus as a float.
    #[must_use]
    pub fn vcpu_count(&self) -> f64 {
        u32::try_from(self.vcpus.len()).map_or(f64::INFINITY, f64::from)
    }

    fn vcpu_sum(&self, value: fn(&ThreadModel) -> Option<f64>) -> Option<f64> {
        if self.vcpus.is_empty() {
            return None;
        }
        self.vcpus.iter().try_fold(0.0, |sum, vcpu| Some(sum + value(vcpu.thread.as_ref()?)?))
    }
}

/// The node that its memory is bound to, if that is a single one, else the one with the greater part of it.
fn memory_node(domain: &DomainSample) -> Option<u32> {
    let bound = domain.memory_nodes.as_ref().filter(|nodes| nodes.len() == 1);
    let all: u64 = domain.memory_by_node.iter().map(|part| part.kib).sum();
    let most = domain.memory_by_node.iter().find(|part| part.kib > all / 2);
    bound.and_then(|nodes| nodes.iter().next()).or_else(|| most.map(|part| part.node))
}

/// Names one life of a domain by QEMU's process id and start time.
#[must_use]
pub fn incarnation(pid: u32, start_ticks: u64) -> String {
    format!("{pid}:{start_ticks}")
}

/// Names the life of the domain that was read.
#[must_use]
pub fn incarnation_of(domain: &DomainSample) -> Option<String> {
    let pid = domain.qemu_pid?;
    let main = domain.threads.iter().find(|thread| thread.tid == pid)?;
    Some(incarnation(pid, main.start_ticks))
}

impl ThreadModel {
    fn new(begin: Option<&ThreadSample>, end: &ThreadSample, elapsed: Duration) -> Self {
        // A part above 1 means that the two ends were not read when we think; a little is jitter of the reading.
        let part = |counter: fn(&ThreadSample) -> u64| {
            let ns = rise(counter(begin?), counter(end))?;
            part_of(ns, elapsed).map(|part| part.min(1.0))
        };
        let rate = |counter: fn(&ThreadSample) -> Option<u64>| {
            per_second(rise_of(counter(begin?), counter(end)), elapsed)
        };
        let waits: Option<Vec<u64>> = begin.and_then(|begin| {
            let (before, after) = (begin.runq_wait_histogram.as_ref()?, end.runq_wait_histogram.as_ref()?);
            // Shared: no wait has ended, and there is no quantile of none.
            if Arc::ptr_eq(before, after) {
                return None;
            }
            before.iter().zip(after.iter()).map(|(before, after)| rise(*before, *after)).collect()
        });
        let wait_quantile = |q| waits.as_ref().and_then(|waits| quantile(waits, q));
        Self {
            tid: end.tid,
            role: end.role,
            comm: end.comm.clone(),
            source: end.source,
            pcpu: end.pcpu,
            run: part(|thread| thread.on_cpu_ns),
            wait: part(|thread| thread.runq_wait_ns),
            runq_wait_p50: wait_quantile(0.50),
            runq_wait_p99: wait_quantile(0.99),
            run_total: Duration::from_nanos(end.on_cpu_ns),
            wait_total: Duration::from_nanos(end.runq_wait_ns),
            waits: end.runq_wait_histogram.clone(),
            preempted_per_s: rate(|thread| thread.switches_preempted),
            blocked_per_s: rate(|thread| thread.switches_blocked),
            migrations_per_s: rate(|thread| thread.migrations),
        }
    }
}

impl InterfaceModel {
    fn new(begin: &InterfaceSample, end: &InterfaceSample, elapsed: Duration) -> Self {
        let rate = |counter: fn(&InterfaceSample) -> Option<u64>| {
            per_second(rise_of(counter(begin), counter(end)), elapsed)
        };
        Self {
            device: end.device.clone(),
            received_bytes_per_s: rate(|tap| tap.received_bytes),
            sent_bytes_per_s: rate(|tap| tap.sent_bytes),
            received_packets_per_s: rate(|tap| tap.received_packets),
            sent_packets_per_s: rate(|tap| tap.sent_packets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One vcpu, read by `source`, that ran for `ran_ms` and waited as long.
    fn sample(source: &str, ran_ms: u64, switches: Option<u64>) -> DomainSample {
        serde_json::from_value(serde_json::json!({
            "uuid": Uuid::from_u128(1), "name": "batch", "state": "running", "accel": "tcg", "qemu_pid": 10,
            "vcpus": [{ "number": 0, "pin": "0" }], "memory_maximum_kib": 1024, "job_active": false, "interfaces": [],
            "threads": [{
                "tid": 11, "tgid": 10, "start_ticks": 5, "role": { "vcpu": 0 }, "comm": "CPU 0/TCG", "source": source,
                "on_cpu_ns": ran_ms * 1_000_000, "runq_wait_ns": ran_ms * 1_000_000, "switches_preempted": switches,
            }],
        }))
        .unwrap()
    }

    #[test]
    fn a_guest_that_goes_on_is_measured_from_its_first_window_on() {
        let (paused, runs) = (sample("schedstat", 700, None), sample("probe", 1100, Some(90)));
        let domain = DomainModel::new(Some(&paused), &runs, Duration::from_secs(1), 0);
        assert_eq!((domain.cpu_demand(), domain.wait_ratio()), (Some(0.8), Some(Ratio(0.5))));
        assert_eq!(domain.vcpus[0].thread.as_ref().unwrap().preempted_per_s, None);
    }
}
