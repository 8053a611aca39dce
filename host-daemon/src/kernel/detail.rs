//! The detailed reading of a QEMU: where each vcpu's time goes. Everything that can stay open does, so a reading of a
//! vcpu costs about 10 us.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kvmpilot_core::sample::{DetailSample, TimesSample, VcpuDetailSample};
use nix::time::{ClockId, clock_gettime};

use super::cgroup::{Bandwidth, Hierarchies, Pressure};
use super::kvm_stats::{KvmStats, Layout};
use super::thread::vanished;
use super::{Kernel, NS_PER_TICK, Process, Schedstat};

/// cgroups are looked for again at every reading at first, because libvirt moves the threads of a QEMU that has just
/// started, and after so many readings later.
const SETTLED: u32 = 12;
/// Readings of a new QEMU that look again each time.
const YOUNG: u32 = 4;

/// A QEMU and those of its threads that run vcpus.
#[derive(Clone, Copy, Debug)]
pub struct QemuProcess<'a> {
    /// Process id.
    pub pid: u32,
    /// Hold on it, where there is one: without, its KVM statistics cannot be had.
    pub held: Option<&'a Process>,
    /// Its vcpu threads; their order does not matter.
    pub vcpus: &'a [VcpuThread],
    /// Whether KVM runs the guest.
    pub kvm: bool,
    /// Totals of those vcpus by tid that are known to sleep: what `schedstat` would say of them, without asking it.
    pub asleep: &'a [(u32, Schedstat)],
}

/// A thread that runs a vcpu.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VcpuThread {
    /// Number of the vcpu.
    pub number: u32,
    /// Its thread.
    pub tid: u32,
    /// Start time of the thread in clock ticks since boot.
    pub start_ticks: u64,
}

/// What all QEMUs of a host have in common.
#[derive(Debug, Default)]
pub struct Shared {
    /// Of KVM's statistics.
    layout: Option<Arc<Layout>>,
    /// Mounts hardly ever change, and there may be thousands. Looked for again when a cgroup is not where it should be.
    hierarchies: Option<Hierarchies>,
}

/// The open files of one QEMU. An open statistics file keeps the VM in the kernel: drop this when QEMU has ended.
#[derive(Debug, Default)]
pub struct Detail {
    /// By number.
    vcpus: Vec<Vcpu>,
    groups: Vec<Bandwidth>,
    pressure: Option<Pressure>,
    readings: u32,
    missing_stats: Option<String>,
    missing_groups: Vec<String>,
    /// Something could not be read: look again at the next reading.
    broken: bool,
}

#[derive(Debug)]
struct Vcpu {
    thread: VcpuThread,
    stats: Option<KvmStats>,
    bandwidth: Option<Bandwidth>,
}

impl Detail {
    /// One reading.
    pub fn read(&mut self, kernel: &Kernel, qemu: QemuProcess<'_>, shared: &mut Shared) -> DetailSample {
        let mut threads = qemu.vcpus.to_vec();
        threads.sort_unstable();
        let changed = !self.vcpus.iter().map(|vcpu| &vcpu.thread).eq(&threads);
        let again = changed
            || self.broken
            || self.readings < YOUNG
            || self.readings.wrapping_add(qemu.pid).is_multiple_of(SETTLED);
        if changed {
            // QEMU opens a new vcpu's statistics a moment after it has made the thread.
            self.readings = 0;
            let vcpu = |thread| Vcpu { thread, stats: None, bandwidth: None };
            self.vcpus = threads.into_iter().map(vcpu).collect();
        }
        if !qemu.kvm || self.vcpus.is_empty() {
            self.missing_stats = None;
        } else if changed || self.broken || (again && self.missing_stats.is_some()) {
            let found = self.find_stats(kernel, qemu.held, &mut shared.layout);
            self.missing_stats =
                found.err().map(|err| format!("KVM statistics: {err}; halt polling is not known"));
        }
        if again {
            self.find_groups(kernel, qemu.pid, &mut shared.hierarchies);
        }
        self.readings = self.readings.saturating_add(1);
        self.read_open(kernel, qemu)
    }

    fn find_stats(
        &mut self,
        kernel: &Kernel,
        held: Option<&Process>,
        layout: &mut Option<Arc<Layout>>,
    ) -> io::Result<()> {
        for vcpu in &mut self.vcpus {
            vcpu.stats = None;
        }
        let process =
            held.ok_or_else(|| io::Error::other("the kernel gives no hold on QEMU (pidfd_open)"))?;
        let number = |link: &str| link.strip_prefix("anon_inode:kvm-vcpu-stats:")?.parse::<u32>().ok();
        let found = kernel.duplicates(process, |link| number(link).is_some())?;
        // KVM counts vcpus by their APIC id, QEMU by their index. Both rise together, so the order is the same.
        let found: BTreeMap<u32, _> =
            found.into_iter().filter_map(|(link, fd)| Some((number(&link)?, fd))).collect();
        if found.is_empty() {
            return Err(io::Error::other("QEMU holds none open; this needs Linux 5.14 and QEMU 7.1"));
        }
        if found.len() != self.vcpus.len() {
            let text = format!("QEMU holds those of {} vcpus and has {}", found.len(), self.vcpus.len());
            return Err(io::Error::other(text));
        }
        for (vcpu, fd) in self.vcpus.iter_mut().zip(found.into_values()) {
            let stats = KvmStats::new(fd, layout.as_ref())?;
            *layout = Some(Arc::clone(stats.layout()));
            vcpu.stats = Some(stats);
        }
        Ok(())
    }

    fn find_groups(&mut self, kernel: &Kernel, pid: u32, known: &mut Option<Hierarchies>) {
        self.missing_groups.clear();
        (self.groups, self.pressure) = (Vec::new(), None);
        let mut note = |what: &str, err: io::Error| {
            let text = format!("{what}: {err}");
            if !self.missing_groups.contains(&text) {
                self.missing_groups.push(text);
            }
        };
        let found = known.take().map_or_else(|| kernel.hierarchies(), Ok);
        let (hierarchies, main) = match found.and_then(|all| Ok((all, kernel.membership(pid, pid)?))) {
            Ok(both) => both,
            Err(err) => return note("cgroups", err),
        };
        match hierarchies.domain(&main) {
            Ok(groups) => self.groups = groups,
            Err(err) => note("CPU quota of the domain", err),
        }
        match hierarchies.pressure(&main) {
            Ok(pressure) => self.pressure = Some(pressure),
            Err(err) => note("pressure of the domain", err),
        }
        for vcpu in &mut self.vcpus {
            vcpu.bandwidth = match vcpu_group(kernel, &hierarchies, pid, vcpu.thread.tid) {
                Ok(group) => Some(group),
                Err(err) => {
                    note("CPU quota of the vcpus", err);
                    None
                }
            };
        }
        if self.missing_groups.is_empty() {
            *known = Some(hierarchies);
        }
    }

    fn read_open(&mut self, kernel: &Kernel, qemu: QemuProcess<'_>) -> DetailSample {
        let mut missing: Vec<String> =
            self.missing_stats.iter().chain(&self.missing_groups).cloned().collect();
        let mut broken = false;
        let mut note = |what: &str, err: io::Error| {
            broken = true;
            missing.push(format!("{what}: {err}"));
        };
        let mut vcpus = Vec::with_capacity(self.vcpus.len());
        for vcpu in &self.vcpus {
            match vcpu.read(kernel, qemu, &mut note) {
                Ok(sample) => vcpus.push(sample),
                Err(err) if vanished(&err) => {}
                Err(err) => note("a vcpu's thread", err),
            }
        }
        let mut groups = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            match group.read() {
                Ok(sample) => groups.push(sample),
                Err(err) => note("a cgroup of the domain", err),
            }
        }
        let pressure = self.pressure.as_ref().map(Pressure::read);
        self.broken = broken;
        DetailSample { vcpus, groups, pressure, missing }
    }
}

impl Vcpu {
    fn read(
        &self,
        kernel: &Kernel,
        qemu: QemuProcess<'_>,
        note: &mut impl FnMut(&str, io::Error),
    ) -> io::Result<VcpuDetailSample> {
        let VcpuThread { number, tid, start_ticks } = self.thread;
        let stat = kernel.task_stat(qemu.pid, tid)?;
        if stat.start_ticks != start_ticks {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut keep = |what: &str, err| note(&format!("{what} of vcpu {number}"), err);
        let bandwidth = match self.bandwidth.as_ref().map(Bandwidth::read).transpose() {
            Ok(sample) => sample.map(|sample| sample.bandwidth),
            Err(err) => {
                keep("the cgroup", err);
                None
            }
        };
        let kvm = match self.stats.as_ref().map(KvmStats::vcpu).transpose() {
            Ok(sample) => sample,
            Err(err) => {
                keep("KVM statistics", err);
                None
            }
        };
        let schedstat = match qemu.asleep.iter().find(|(asleep, _)| *asleep == tid) {
            Some((_, totals)) => *totals,
            None => kernel.schedstat(qemu.pid, tid)?,
        };
        let at: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC)?.into();
        let ns = |ticks: u64| ticks.saturating_mul(NS_PER_TICK);
        Ok(VcpuDetailSample {
            number,
            tid,
            start_ticks,
            at_ns: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
            on_cpu_ns: schedstat.on_cpu_ns,
            runq_wait_ns: schedstat.runq_wait_ns,
            times: stat.guest_ticks.map(|guest| TimesSample {
                user_ns: ns(stat.user_ticks),
                system_ns: ns(stat.system_ticks),
                guest_ns: ns(guest),
            }),
            kvm,
            bandwidth,
        })
    }
}

fn vcpu_group(kernel: &Kernel, hierarchies: &Hierarchies, pid: u32, tid: u32) -> io::Result<Bandwidth> {
    hierarchies.vcpu(&kernel.membership(pid, tid)?)
}
