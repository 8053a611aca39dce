//! One thread of a QEMU, followed from cycle to cycle, and how its counters are read: from the probe if it sleeps, from
//! the kernel's file if it may be on a pcpu.

use std::io;
use std::sync::Arc;

use kvmpilot_core::sample::{StolenSample, ThreadRole, ThreadSample, ThreadSource};

use crate::kernel::{Kernel, Schedstat, SchedstatFile, ThreadInfo, VcpuThread};
use crate::probes::{Glance, Probes, ThreadKey, Totals};

/// A thread that is followed.
#[derive(Debug)]
pub(super) struct Followed {
    info: ThreadInfo,
    /// Kept open from the first look on, so that a look costs one system call.
    schedstat: Option<SchedstatFile>,
    /// The probe's totals when the kernel's file was found to be ahead of them although the probe says that the thread
    /// sleeps: the switch that put it on a pcpu was not traced. Until they move, the file is right.
    lost_at: Option<Totals>,
    /// The probe has not met the thread yet, and the kernel's file told the same twice: it sleeps. The switch that wakes it
    /// up is one that the probe meets it at.
    quiet: bool,
    /// The last figures are those of a thread that sleeps.
    asleep: bool,
    /// Threads that it has started, as the probe counts them, and whether there are more than at the reading before.
    births: u64,
    gave_birth: bool,
    waits: Option<Waits>,
    /// The last figures that were given out: two sources that take turns must never go back.
    last: Schedstat,
}

/// The waits of a thread that slept when they were read. They are booked when the thread leaves a pcpu, which moves what
/// a glance shows: as long as that is the same, so are they.
#[derive(Debug)]
struct Waits {
    at: Glance,
    columns_given_away: u64,
    histogram: Arc<[u64]>,
    stolen: Option<Arc<[StolenSample]>>,
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
        Self {
            info,
            schedstat: None,
            lost_at: None,
            quiet: false,
            asleep: false,
            births: 0,
            gave_birth: false,
            waits: None,
            last: Schedstat::default(),
        }
    }

    /// What names the thread for ever.
    pub(super) const fn key(&self) -> ThreadKey {
        ThreadKey { tid: self.info.tid, start_ticks: self.info.start_ticks }
    }

    /// What it is for, and its name.
    pub(super) fn purpose(&self) -> (ThreadRole, &str) {
        (self.info.role, &self.info.comm)
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

    /// Its totals, if it sleeps: they hold until it wakes up.
    pub(super) fn asleep(&self) -> Option<(u32, Schedstat)> {
        self.asleep.then_some((self.info.tid, self.last))
    }

    /// Whether it was seen at the last reading to have started a thread.
    pub(super) const fn gave_birth(&self) -> bool {
        self.gave_birth
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
        let Some(probes) = probes else {
            let totals = self.file(kernel).ok()?;
            return Some(self.sample(totals));
        };
        self.asleep = false;
        // Probe first: what runs while we look can then only be ahead, never behind.
        let glance = probes.glance(self.key());
        let births = glance.map_or_else(|| probes.forks(self.key()), |glance| Some(glance.forks));
        let births = births.unwrap_or(self.births);
        self.gave_birth = births != std::mem::replace(&mut self.births, births);
        let Some(glance) = glance else {
            if !self.quiet || depth.check {
                let totals = self.file(kernel).ok()?;
                self.quiet = totals == self.last;
                self.asleep = self.quiet;
                return Some(self.sample(totals));
            }
            self.asleep = true;
            return Some(self.sample(self.last));
        };
        if glance.exited {
            return None;
        }
        let totals = self.totals(kernel, &glance, depth.check).ok()?;
        let mut sample = self.sample(totals);
        sample.source = ThreadSource::Probe;
        sample.switches_preempted = Some(glance.preempted);
        sample.switches_blocked = Some(glance.blocked);
        sample.migrations = Some(glance.migrations);
        sample.migrations_llc = glance.migrations_llc;
        sample.migrations_node = glance.migrations_node;
        sample.pcpu = Some(glance.pcpu);
        if depth.detail {
            self.read_waits(probes, &glance, &mut sample);
        }
        Some(sample)
    }

    /// Adds histogram, longest wait and row of the steal matrix.
    fn read_waits(&mut self, probes: &Probes, glance: &Glance, sample: &mut ThreadSample) {
        let columns_given_away = probes.columns_given_away();
        let same = |waits: &&Waits| waits.at == *glance && waits.columns_given_away == columns_given_away;
        if let Some(waits) = self.waits.as_ref().filter(same) {
            // No wait has ended since the window began.
            sample.runq_wait_max_ns = Some(0);
            sample.runq_wait_histogram = Some(Arc::clone(&waits.histogram));
            sample.stolen.clone_from(&waits.stolen);
            return;
        }
        self.waits = None;
        // Counters before the row: a row can then only be newer than they say, and is read again.
        let Some(counters) = probes.read(self.key()) else { return };
        let stolen: Option<Arc<[StolenSample]>> = probes.stolen(self.key()).map(Into::into);
        let histogram: Arc<[u64]> = counters.waits.into();
        probes.next_window(self.key());
        if !counters.running {
            self.waits = Some(Waits {
                at: counters.glance(),
                columns_given_away,
                histogram: Arc::clone(&histogram),
                stolen: stolen.clone(),
            });
        }
        sample.runq_wait_max_ns = Some(counters.max_wait_ns);
        sample.runq_wait_histogram = Some(histogram);
        sample.stolen = stolen;
    }

    /// The probe's totals, or the kernel's where those may be behind.
    fn totals(&mut self, kernel: &Kernel, glance: &Glance, check: bool) -> io::Result<Schedstat> {
        let Totals { on_cpu_ns, runq_wait_ns, arrivals } = glance.totals;
        self.lost_at = self.lost_at.filter(|totals| *totals == glance.totals);
        if !glance.running && !check && self.lost_at.is_none() {
            self.asleep = true;
            return Ok(Schedstat { on_cpu_ns, runq_wait_ns, arrivals });
        }
        let file = self.file(kernel)?;
        if !glance.running && file.on_cpu_ns > on_cpu_ns {
            self.lost_at = Some(glance.totals);
        }
        Ok(file)
    }

    fn file(&mut self, kernel: &Kernel) -> io::Result<Schedstat> {
        if let Some(file) = &self.schedstat {
            return file.read();
        }
        let ThreadInfo { tid, tgid, .. } = self.info;
        if let Ok(file) = kernel.hold_schedstat(tgid, tid) {
            return self.schedstat.insert(file).read();
        }
        kernel.schedstat(tgid, tid)
    }

    /// These figures, or the last ones where those are ahead.
    fn sample(&mut self, totals: Schedstat) -> ThreadSample {
        self.last = Schedstat {
            on_cpu_ns: totals.on_cpu_ns.max(self.last.on_cpu_ns),
            runq_wait_ns: totals.runq_wait_ns.max(self.last.runq_wait_ns),
            arrivals: totals.arrivals.max(self.last.arrivals),
        };
        self.info.clone().into_sample(self.last)
    }
}
