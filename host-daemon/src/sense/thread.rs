//! One thread of a QEMU, followed from cycle to cycle, and how its counters are read: from the probe if it sleeps, from
//! the kernel's file if it may be on a pcpu.

use std::io;

use kvmpilot_core::sample::{ThreadRole, ThreadSample, ThreadSource};

use crate::kernel::{Kernel, Schedstat, SchedstatFile, ThreadInfo, VcpuThread};
use crate::probes::{Probes, ThreadCounters, ThreadKey, Totals};

/// A thread that is followed.
#[derive(Debug)]
pub(super) struct Followed {
    info: ThreadInfo,
    /// Kept open where there is no probe, so that a look costs one system call.
    schedstat: Option<SchedstatFile>,
    /// The probe's totals when the kernel's file was found to be ahead of them although the probe says that the thread
    /// sleeps: the switch that put it on a pcpu was not traced. Until they move, the file is right.
    lost_at: Option<Totals>,
    /// The last figures that were given out: two sources that take turns must never go back.
    last: Schedstat,
}

/// How much of a thread is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Depth {
    /// Histogram, longest wait and row of the steal matrix too.
    pub(super) detail: bool,
    /// Also compare the probe with the kernel's file.
    pub(super) check: bool,
}

impl Followed {
    pub(super) fn new(info: ThreadInfo) -> Self {
        Self { info, schedstat: None, lost_at: None, last: Schedstat::default() }
    }

    /// What names the thread for ever.
    pub(super) const fn key(&self) -> ThreadKey {
        ThreadKey { tid: self.info.tid, start_ticks: self.info.start_ticks }
    }

    /// Which vcpu it runs, if it does.
    pub(super) fn vcpu(&self) -> Option<VcpuThread> {
        let ThreadInfo { tid, start_ticks, role, .. } = self.info;
        match role {
            ThreadRole::Vcpu(number) => Some(VcpuThread { number, tid, start_ticks }),
            _ => None,
        }
    }

    /// Whether it is a thread of this process, and not a kernel thread that works for it.
    pub(super) const fn is_of(&self, pid: u32) -> bool {
        self.info.tgid == pid
    }

    /// The same thread with the name that it has now.
    pub(super) fn renamed(self, now: Self) -> Self {
        Self { info: now.info, ..self }
    }

    /// The thread's counters; `None` if it is gone.
    pub(super) fn read(
        &mut self,
        kernel: &Kernel,
        probes: Option<&Probes>,
        depth: Depth,
    ) -> Option<ThreadSample> {
        // Probe first: what runs while we look can then only be ahead, never behind.
        let Some(counters) = probes.and_then(|probes| probes.read(self.key())) else {
            let totals = self.file(kernel, probes.is_none()).ok()?;
            return Some(self.sample(totals, None, depth));
        };
        if counters.exited {
            return None;
        }
        self.lost_at = self.lost_at.filter(|totals| *totals == counters.totals);
        let told = Schedstat {
            on_cpu_ns: counters.totals.on_cpu_ns,
            runq_wait_ns: counters.totals.runq_wait_ns,
            arrivals: counters.totals.arrivals,
        };
        let totals = if counters.running || depth.check || self.lost_at.is_some() {
            let file = self.file(kernel, false).ok()?;
            if !counters.running && file.on_cpu_ns > told.on_cpu_ns {
                self.lost_at = Some(counters.totals);
            }
            file
        } else {
            told
        };
        let mut sample = self.sample(totals, Some(&counters), depth);
        if depth.detail
            && let Some(probes) = probes
        {
            sample.stolen = probes.stolen(self.key());
            probes.next_window(self.key());
        }
        Some(sample)
    }

    fn file(&mut self, kernel: &Kernel, keep: bool) -> io::Result<Schedstat> {
        if let Some(file) = &self.schedstat {
            return file.read();
        }
        let ThreadInfo { tid, tgid, .. } = self.info;
        if keep && let Ok(file) = kernel.hold_schedstat(tgid, tid) {
            return self.schedstat.insert(file).read();
        }
        kernel.schedstat(tgid, tid)
    }

    fn sample(&mut self, totals: Schedstat, counters: Option<&ThreadCounters>, depth: Depth) -> ThreadSample {
        self.last = Schedstat {
            on_cpu_ns: totals.on_cpu_ns.max(self.last.on_cpu_ns),
            runq_wait_ns: totals.runq_wait_ns.max(self.last.runq_wait_ns),
            arrivals: totals.arrivals.max(self.last.arrivals),
        };
        let mut sample = self.info.clone().into_sample(self.last);
        if let Some(counters) = counters {
            sample.source = ThreadSource::Probe;
            if depth.detail {
                sample.runq_wait_max_ns = Some(counters.max_wait_ns);
                sample.runq_wait_histogram = Some(counters.waits.to_vec());
            }
            sample.switches_preempted = Some(counters.preempted);
            sample.switches_blocked = Some(counters.blocked);
            sample.migrations = Some(counters.migrations);
            sample.migrations_llc = counters.migrations_llc;
            sample.migrations_node = counters.migrations_node;
            sample.pcpu = Some(counters.pcpu);
        }
        sample
    }
}
