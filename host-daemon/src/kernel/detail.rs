//! The detailed reading of a QEMU: where each vcpu's time goes. Everything that can stay open does, and what a vcpu cannot
//! have changed because it slept is not read again.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvmpilot_core::sample::{CgroupSample, DetailSample, TimesSample, VcpuDetailSample};
use nix::time::{ClockId, clock_gettime};

use super::cgroup::{Bandwidth, Hierarchies, Pressure};
use super::hold::{SchedstatFile, StatFile};
use super::kvm_stats::{KvmStats, Layout};
use super::thread::{TaskStat, vanished};
use super::{Kernel, NS_PER_TICK, Process, Schedstat};

/// cgroups are looked for again at every reading at first, because libvirt moves the threads of a QEMU that has just
/// started, and after so many readings later.
const SETTLED: u32 = 12;
/// Time after which mounts are looked for again.
const MOUNTS_AGE: Duration = Duration::from_mins(1);
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
    /// Mounts hardly ever change, and there may be thousands. Looked for again when a cgroup is not where it should be, and
    /// when this has been known for [`MOUNTS_AGE`].
    hierarchies: Option<(Hierarchies, Instant)>,
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
    stat: Option<StatFile>,
    schedstat: Option<SchedstatFile>,
    /// Its totals and the split of its time at the last reading, if it slept then: while it still sleeps at these totals, the
    /// split is the same.
    slept: Option<(Schedstat, Option<TimesSample>)>,
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
            self.vcpus = threads.into_iter().map(Vcpu::new).collect();
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
        let found = kernel.vcpu_stats(process)?;
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

    fn find_groups(&mut self, kernel: &Kernel, pid: u32, known: &mut Option<(Hierarchies, Instant)>) {
        self.missing_groups.clear();
        if self.broken {
            // A group may have come back under the same name.
            (self.groups, self.pressure) = (Vec::new(), None);
            self.vcpus.iter_mut().for_each(|vcpu| vcpu.bandwidth = None);
        }
        let (groups, pressure) = (std::mem::take(&mut self.groups), self.pressure.take());
        let mut misplaced = false;
        let mut note = |what: &str, err: io::Error| {
            misplaced |= err.raw_os_error().is_some();
            let text = format!("{what}: {err}");
            if !self.missing_groups.contains(&text) {
                self.missing_groups.push(text);
            }
        };
        let now = Instant::now();
        let found = known.take().filter(|(_, at)| now - *at < MOUNTS_AGE);
        let found = found.map_or_else(|| Ok((kernel.hierarchies()?, now)), Ok);
        let ((hierarchies, at), main) = match found.and_then(|all| Ok((all, kernel.membership(pid, pid)?))) {
            Ok(both) => both,
            Err(err) => return note("cgroups", err),
        };
        match hierarchies.domain(&main, groups) {
            Ok(groups) => self.groups = groups,
            Err(err) => note("CPU quota of the domain", err),
        }
        match hierarchies.pressure(&main, pressure) {
            Ok(pressure) => self.pressure = Some(pressure),
            Err(err) => note("pressure of the domain", err),
        }
        for vcpu in &mut self.vcpus {
            let known = vcpu.bandwidth.take();
            let membership = kernel.membership(pid, vcpu.thread.tid);
            vcpu.bandwidth = match membership.and_then(|of| hierarchies.vcpu(&of, known)) {
                Ok(group) => Some(group),
                Err(err) => {
                    note("CPU quota of the vcpus", err);
                    None
                }
            };
        }
        if !misplaced {
            *known = Some((hierarchies, at));
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
        for vcpu in &mut self.vcpus {
            match vcpu.read(kernel, qemu, &mut note) {
                Ok(sample) => vcpus.push(sample),
                Err(err) if vanished(&err) => {}
                Err(err) => note("a vcpu's thread", err),
            }
        }
        let mut groups = Vec::with_capacity(self.groups.len());
        for group in &mut self.groups {
            match group.read(false) {
                Ok(bandwidth) => groups.push(CgroupSample { path: group.path().to_owned(), bandwidth }),
                Err(err) => note("a cgroup of the domain", err),
            }
        }
        let pressure = self.pressure.as_ref().map(Pressure::read);
        self.broken = broken;
        DetailSample { vcpus, groups, pressure, missing }
    }
}

impl Vcpu {
    const fn new(thread: VcpuThread) -> Self {
        Self { thread, stats: None, bandwidth: None, stat: None, schedstat: None, slept: None }
    }

    fn read(
        &mut self,
        kernel: &Kernel,
        qemu: QemuProcess<'_>,
        note: &mut impl FnMut(&str, io::Error),
    ) -> io::Result<VcpuDetailSample> {
        let VcpuThread { number, tid, start_ticks } = self.thread;
        // As of before the readings below: what it runs meanwhile moves its totals, and all is read again next time.
        let asleep = qemu.asleep.iter().find(|(asleep, _)| *asleep == tid).map(|(_, totals)| *totals);
        let slept = self.slept.take().filter(|(totals, _)| asleep == Some(*totals));
        let rests = slept.is_some();
        let times = match slept {
            Some((_, times)) => times,
            None => self.times(kernel, qemu.pid)?,
        };
        let mut keep = |what: &str, err| note(&format!("{what} of vcpu {number}"), err);
        let bandwidth = match self.bandwidth.as_mut().map(|group| group.read(rests)).transpose() {
            Ok(sample) => sample,
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
        let schedstat = match asleep {
            Some(totals) => totals,
            None => self.schedstat(kernel, qemu.pid)?,
        };
        self.slept = asleep.map(|totals| (totals, times));
        let at: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC)?.into();
        Ok(VcpuDetailSample {
            number,
            tid,
            start_ticks,
            at_ns: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
            on_cpu_ns: schedstat.on_cpu_ns,
            runq_wait_ns: schedstat.runq_wait_ns,
            times,
            kvm,
            bandwidth,
        })
    }

    fn times(&mut self, kernel: &Kernel, pid: u32) -> io::Result<Option<TimesSample>> {
        let VcpuThread { tid, start_ticks, .. } = self.thread;
        if self.stat.is_none() {
            self.stat = kernel.hold_stat(pid, tid).ok();
        }
        let stat = self.stat.as_ref().map_or_else(|| kernel.task_stat(pid, tid), StatFile::read)?;
        if stat.start_ticks != start_ticks {
            self.stat = None;
            return Err(io::ErrorKind::NotFound.into());
        }
        let TaskStat { user_ticks, system_ticks, guest_ticks, .. } = stat;
        let ns = |ticks: u64| ticks.saturating_mul(NS_PER_TICK);
        Ok(guest_ticks.map(|guest| TimesSample {
            user_ns: ns(user_ticks),
            system_ns: ns(system_ticks),
            guest_ns: ns(guest),
        }))
    }

    fn schedstat(&mut self, kernel: &Kernel, pid: u32) -> io::Result<Schedstat> {
        let tid = self.thread.tid;
        if self.schedstat.is_none() {
            self.schedstat = kernel.hold_schedstat(pid, tid).ok();
        }
        self.schedstat.as_ref().map_or_else(|| kernel.schedstat(pid, tid), SchedstatFile::read)
    }
}
