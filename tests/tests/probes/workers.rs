//! Threads for the probes to watch, and what the kernel itself says about them.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io};

use kvmpilot::kernel::Kernel;
use kvmpilot::probes::{Capacity, Ground, Probes, ThreadCounters, ThreadKey, Totals};
use kvmpilot_core::Uuid;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, getpid, gettid};

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
pub(crate) const CAPACITY: Capacity = Capacity { threads: 64, domains: 8 };
pub(crate) const DOMAIN: Uuid = Uuid::from_u128(1);

pub(crate) type Turn = Box<dyn Fn() + Send>;

pub(crate) fn own_pid() -> u32 {
    getpid().as_raw().unsigned_abs()
}

pub(crate) fn own_tid() -> u32 {
    gettid().as_raw().unsigned_abs()
}

pub(crate) fn schedstat(tid: u32) -> io::Result<Totals> {
    let read = Kernel::default().schedstat(own_pid(), tid)?;
    Ok(Totals { on_cpu_ns: read.on_cpu_ns, runq_wait_ns: read.runq_wait_ns, arrivals: read.arrivals })
}

pub(crate) fn key(tid: u32) -> io::Result<ThreadKey> {
    Ok(ThreadKey { tid, start_ticks: Kernel::default().thread(own_pid(), tid)?.start_ticks })
}

pub(crate) fn ground() -> Ground<'static> {
    Ground {
        pid_max: Kernel::default().pid_max().unwrap(),
        confidential: Kernel::default().lockdown().as_deref() == Some("confidentiality"),
        own_thread: &|tid| Ok((key(tid)?, schedstat(tid)?)),
    }
}

pub(crate) fn load() -> Probes {
    Probes::load(&ground(), CAPACITY).unwrap_or_else(|err| panic!("{:#}", anyhow::Error::from(err)))
}

pub(crate) fn pcpus() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap()).collect()
}

/// The last pcpu: the one with the fewest interrupts as a rule.
pub(crate) fn pcpu() -> usize {
    *pcpus().last().unwrap()
}

pub(crate) fn pin(cpu: usize) {
    pin_thread(0, &[cpu]);
}

/// 0 is the calling thread.
pub(crate) fn pin_thread(tid: u32, cpus: &[usize]) {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu).unwrap());
    sched_setaffinity(Pid::from_raw(tid.try_into().unwrap()), &set).unwrap();
}

/// Of the calling thread.
pub(crate) fn renice(nice: i32) {
    // SAFETY: a plain system call about the calling thread.
    assert_eq!(unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, nice) }, 0);
}

pub(crate) fn spin(time: Duration) {
    let begin = Instant::now();
    while black_box(begin.elapsed()) < time {}
}

pub(crate) fn nanos(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap()
}

pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A thread that does one turn of work per order, and repeats it while `go_on`.
pub(crate) struct Worker {
    pub(crate) key: ThreadKey,
    go_on: Arc<AtomicBool>,
    order: Option<Sender<()>>,
    pub(crate) done: Receiver<u32>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start(cpu: usize, go_on: &Arc<AtomicBool>, turn: impl Fn() + Send + 'static) -> Self {
        Self::start_on(&[cpu], go_on, turn)
    }

    pub(crate) fn start_on(
        cpus: &[usize],
        go_on: &Arc<AtomicBool>,
        turn: impl Fn() + Send + 'static,
    ) -> Self {
        let cpus = cpus.to_vec();
        let (order, orders) = channel();
        let (report, done) = channel();
        let repeat = Arc::clone(go_on);
        let thread = thread::spawn(move || {
            pin_thread(0, &cpus);
            while report.send(own_tid()).is_ok() && orders.recv().is_ok() {
                turn();
                while repeat.load(Relaxed) {
                    turn();
                }
            }
        });
        let tid = done.recv().unwrap();
        let go_on = Arc::clone(go_on);
        Self { key: key(tid).unwrap(), go_on, order: Some(order), done, thread: Some(thread) }
    }

    pub(crate) fn go(&self) {
        self.order.as_ref().unwrap().send(()).unwrap();
    }

    /// Waits until the turn is over and the thread asleep, for the kernel and for the probe.
    pub(crate) fn rest(&self, probes: &Probes) -> ThreadCounters {
        self.done.recv().unwrap();
        let stat = format!("/proc/self/task/{}/stat", self.key.tid);
        let mut last = None;
        wait_for("a worker to sleep", || {
            let asleep = fs::read_to_string(&stat).unwrap().contains(") S ");
            last = probes.read(self.key);
            asleep && last.as_ref().is_some_and(|counters| !counters.running)
        });
        last.unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Also when the test has failed.
        self.go_on.store(false, Relaxed);
        self.order = None;
        self.thread.take().map(JoinHandle::join);
    }
}

/// As the daemon reads a thread: the probe's figures, or schedstat's while it may be on a pcpu.
pub(crate) fn reading(probes: &Probes, key: ThreadKey) -> Totals {
    let runnable = Kernel::default().thread(own_pid(), key.tid).unwrap().runnable;
    match probes.read(key) {
        Some(counters) if !counters.running && !runnable => counters.totals,
        _ => schedstat(key.tid).unwrap(),
    }
}

/// Whether a reading could have been made between two others.
pub(crate) fn between(before: &Totals, now: &Totals, after: &Totals) -> bool {
    let fits = |get: fn(&Totals) -> u64| (get(before)..=get(after)).contains(&get(now));
    fits(|totals| totals.on_cpu_ns) && fits(|totals| totals.runq_wait_ns) && fits(|totals| totals.arrivals)
}

/// The daemon's reading and the kernel's of the same moment: nothing was booked between two looks around it.
pub(crate) fn moment(probes: &Probes, key: ThreadKey) -> (Totals, Totals) {
    let mut found = None;
    wait_for("a moment in which nothing is booked", || {
        let before = schedstat(key.tid).unwrap();
        let now = reading(probes, key);
        found = (schedstat(key.tid).unwrap() == before).then_some((now, before));
        found.is_some()
    });
    found.unwrap()
}

/// Voluntary and other context switches as the kernel counts them.
pub(crate) fn context_switches(tid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    let value = |name| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap();
    (value("voluntary_ctxt_switches:"), value("nonvoluntary_ctxt_switches:"))
}

pub(crate) fn error(probe: u64, kernel: u64) -> f64 {
    if kernel == 0 { 0.0 } else { probe.abs_diff(kernel) as f64 / kernel as f64 }
}
