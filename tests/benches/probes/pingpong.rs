//! Two threads on one pcpu that do nothing but yield to each other.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{Pid, gettid};

/// How long one measurement takes.
const LENGTH: Duration = Duration::from_millis(100);

/// The pair, waiting between measurements.
pub(crate) struct PingPong {
    tids: [u32; 2],
    order: Option<[Sender<()>; 2]>,
    results: Receiver<(u64, Duration)>,
    threads: Vec<JoinHandle<()>>,
}

impl PingPong {
    pub(crate) fn start() -> Result<Self> {
        let cpu = last_pcpu()?;
        let both = Arc::new(Barrier::new(2));
        let over = Arc::new(AtomicBool::new(false));
        let (report, results) = channel();
        let (introduce, tids) = channel();
        let mut orders = Vec::new();
        let mut threads = Vec::new();
        for number in 0..2 {
            let (order, wait) = channel::<()>();
            orders.push(order);
            let (both, over, report, introduce) =
                (Arc::clone(&both), Arc::clone(&over), report.clone(), introduce.clone());
            threads.push(thread::spawn(move || {
                let told = settle(cpu).map(|()| (number, gettid().as_raw().unsigned_abs()));
                let settled = told.is_ok();
                // Whoever asked may have given up.
                let _ = introduce.send(told);
                while settled && wait.recv().is_ok() {
                    both.wait();
                    over.store(false, Relaxed);
                    both.wait();
                    let (begin, before) = (Instant::now(), switches());
                    while !over.load(Relaxed) {
                        // The first of them keeps the time.
                        if number == 0 && begin.elapsed() >= LENGTH {
                            over.store(true, Relaxed);
                        }
                        thread::yield_now();
                    }
                    let _ = report.send((switches() - before, begin.elapsed()));
                }
            }));
        }
        let mut known = [0; 2];
        for _ in 0..2 {
            let (number, tid) = tids.recv().context("a thread of the ping-pong did not start")??;
            known[number] = tid;
        }
        let order: [Sender<()>; 2] = orders.try_into().map_err(|_| anyhow::anyhow!("two threads"))?;
        Ok(Self { tids: known, order: Some(order), results, threads })
    }

    pub(crate) const fn tids(&self) -> [u32; 2] {
        self.tids
    }

    /// One measurement: time by the number of switches that both threads had by the kernel's count.
    pub(crate) fn ns_per_switch(&self) -> f64 {
        self.order.iter().flatten().for_each(|order| {
            let _ = order.send(());
        });
        let mut switches = 0;
        let mut longest = Duration::ZERO;
        for (of_one, took) in self.results.iter().take(2) {
            switches += of_one;
            longest = longest.max(took);
        }
        // The kernel grants real-time threads 950 ms of a second, and would stop the pair in the middle of a measurement.
        thread::sleep(LENGTH / 4);
        longest.as_secs_f64() * 1e9 / switches as f64
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.order = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Pins this thread, and gives it real-time priority where it may have it, so that the rest of the machine keeps out.
pub(crate) fn settle(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    let priority = nix::libc::sched_param { sched_priority: 1 };
    // SAFETY: reads a structure of ours.
    let done = unsafe { nix::libc::sched_setscheduler(0, nix::libc::SCHED_FIFO, &raw const priority) };
    if done != 0 {
        println!("no real-time priority ({}): other threads will disturb", std::io::Error::last_os_error());
    }
    Ok(())
}

/// The one with the fewest interrupts as a rule.
pub(crate) fn last_pcpu() -> Result<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    (0..CpuSet::count()).rfind(|&cpu| allowed.is_set(cpu) == Ok(true)).context("no pcpu at all")
}

/// Context switches of this thread.
fn switches() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)
        .map(|usage| usage.voluntary_context_switches() + usage.involuntary_context_switches());
    usage.ok().and_then(|switches| u64::try_from(switches).ok()).unwrap_or_default()
}
