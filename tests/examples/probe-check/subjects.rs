//! The threads that are watched: they share one pcpu, so that they wait for each other, and rest at both ends of the
//! window, when probe and kernel must show the same.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kvmpilot::kernel::Kernel;
use kvmpilot::probes::{ThreadKey, Totals};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, gettid};

/// Longer than any thread here needs to go to sleep, also in a slow virtual machine.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a thread does over and over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) run: Duration,
    pub(crate) sleep: Duration,
}

/// One thread.
pub(crate) struct Subject {
    pub(crate) key: ThreadKey,
    go_on: Arc<AtomicBool>,
    order: Option<Sender<()>>,
    /// The thread's id at the start, then its CPU time as its own clock shows it, each time it comes to rest.
    rests: Receiver<u64>,
    thread: Option<JoinHandle<()>>,
}

impl Subject {
    pub(crate) fn start(cpu: usize, turn: Turn) -> Result<Self> {
        let (order, orders) = channel::<()>();
        let (report, rests) = channel();
        let go_on = Arc::new(AtomicBool::new(false));
        let repeat = Arc::clone(&go_on);
        let thread = thread::spawn(move || {
            let tid = u64::from(gettid().as_raw().unsigned_abs());
            let mut told = pin(Pid::from_raw(0), cpu).is_ok() && report.send(tid).is_ok();
            while told && orders.recv().is_ok() {
                take(turn);
                while repeat.load(Relaxed) {
                    take(turn);
                }
                told = report.send(own_cpu_ns()).is_ok();
            }
        });
        let tid = rests.recv_timeout(DEADLINE).context("a thread cannot be pinned")?;
        let tid = u32::try_from(tid)?;
        Ok(Self { key: key(tid)?, go_on, order: Some(order), rests, thread: Some(thread) })
    }

    /// Has it take turns until it is told to rest.
    pub(crate) fn go(&self) -> Result<()> {
        self.go_on.store(true, Relaxed);
        self.order.as_ref().context("it has ended")?.send(()).context("a thread has died")
    }

    /// Where it runs from now on.
    pub(crate) fn pin(&self, cpu: usize) -> Result<()> {
        pin(Pid::from_raw(self.key.tid.try_into()?), cpu).context("a thread cannot be pinned")
    }

    /// Tells it to rest after this turn.
    pub(crate) fn stop(&self) {
        self.go_on.store(false, Relaxed);
    }

    /// Waits until it rests; returns its CPU time by its own clock.
    pub(crate) fn rest(&self) -> Result<u64> {
        self.stop();
        let own = self.rests.recv_timeout(DEADLINE).context("a thread does not come to rest")?;
        let asleep = || {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.key.tid));
            stat.is_ok_and(|stat| stat.contains(") S "))
        };
        wait_for("a thread to sleep", asleep)?;
        Ok(own)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.stop();
        self.order = None;
        self.thread.take().map(JoinHandle::join);
    }
}

fn take(turn: Turn) {
    let begin = Instant::now();
    while black_box(begin.elapsed()) < turn.run {}
    if !turn.sleep.is_zero() {
        thread::sleep(turn.sleep);
    }
}

fn own_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(0, |time| u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        if Instant::now() > deadline {
            bail!("gave up waiting for {what}");
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The last pcpu that this process may use: the one with the fewest interrupts as a rule.
pub(crate) fn last_pcpu() -> Result<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let last = (0..CpuSet::count()).rfind(|&cpu| allowed.is_set(cpu) == Ok(true));
    last.context("no pcpu is allowed")
}

fn pin(thread: Pid, cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(thread, &set)
}

pub(crate) fn key(tid: u32) -> std::io::Result<ThreadKey> {
    Ok(ThreadKey { tid, start_ticks: Kernel::default().thread(std::process::id(), tid)?.start_ticks })
}

pub(crate) fn schedstat(tid: u32) -> std::io::Result<Totals> {
    let read = Kernel::default().schedstat(std::process::id(), tid)?;
    Ok(Totals { on_cpu_ns: read.on_cpu_ns, runq_wait_ns: read.runq_wait_ns, arrivals: read.arrivals })
}
