//! Tier 1: the scheduler program against schedstat, over one window on one pcpu.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use kvmpilot::kernel::Kernel;
use kvmpilot::probes::{Ground, Probes, ThreadCounters, Totals};

use crate::WINDOW;
use crate::subjects::{Subject, Turn, key, last_pcpu, schedstat};

const MAX_THREADS: u32 = 64;
/// Goal of the issue: 0.05 %.
const TOLERANCE: f64 = 0.0005;
const MS: Duration = Duration::from_millis(1);
/// Two that want all of the pcpu, and two that come and go.
const TURNS: [Turn; 4] = [
    Turn { run: Duration::from_millis(5), sleep: Duration::ZERO },
    Turn { run: Duration::from_millis(5), sleep: Duration::ZERO },
    Turn { run: Duration::from_millis(1), sleep: Duration::from_millis(3) },
    Turn { run: Duration::from_micros(100), sleep: MS },
];

/// Loads the probes as the daemon does, or says why they are off.
pub(crate) fn load(kernel: &Kernel) -> Result<Probes, String> {
    let ground = Ground {
        pid_max: kernel.pid_max().unwrap_or(4 << 20),
        confidential: kernel.lockdown().as_deref() == Some("confidentiality"),
        own_thread: &|tid| Ok((key(tid)?, schedstat(tid)?)),
    };
    Probes::load(&ground, MAX_THREADS).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

/// What was compared, and the largest errors: on-CPU time, runq_wait, arrivals.
pub(crate) fn check(mut probes: Probes) -> Result<(String, [f64; 3])> {
    let cpu = last_pcpu()?;
    let subjects = TURNS.iter().map(|turn| Subject::start(cpu, *turn)).collect::<Result<Vec<_>>>()?;
    let refused = probes.follow(&subjects.iter().map(|subject| subject.key).collect::<BTreeSet<_>>());
    ensure!(refused.is_empty(), "threads cannot be watched: {refused:?}");
    // The first switch of a thread is its baseline.
    let begin = at_rest(&probes, &subjects, Duration::ZERO)?;
    let end = at_rest(&probes, &subjects, WINDOW)?;

    let mut errors = [0.0_f64; 3];
    let mut sums = [0_u64; 3];
    for ((probe_begin, kernel_begin), (probe_end, kernel_end)) in begin.iter().zip(&end) {
        let figures: [fn(&Totals) -> u64; 3] =
            [|totals| totals.on_cpu_ns, |totals| totals.runq_wait_ns, |totals| totals.arrivals];
        for ((figure, worst), sum) in figures.iter().zip(&mut errors).zip(&mut sums) {
            let probe = figure(&probe_end.totals).saturating_sub(figure(&probe_begin.totals));
            let kernel = figure(kernel_end).saturating_sub(figure(kernel_begin));
            *sum += kernel;
            *worst = worst.max(relative(probe, kernel));
        }
        waits(probe_begin, probe_end)?;
    }
    // Four threads on one pcpu for a window: who did not run waited or slept.
    let window_ns = u64::try_from(WINDOW.as_nanos())?;
    ensure!(sums[0] > window_ns / 2, "the threads ran for {} ns only: nothing was shown", sums[0]);
    ensure!(sums[1] > window_ns / 2, "the threads waited for {} ns only: nothing was shown", sums[1]);
    if errors.iter().any(|error| *error > TOLERANCE) {
        bail!("not what schedstat shows: on-CPU, runq_wait, arrivals are off by {errors:?}");
    }
    let [on_cpu, wait, arrivals] = sums;
    let (on_cpu, wait) = (Duration::from_nanos(on_cpu), Duration::from_nanos(wait));
    Ok((format!("{on_cpu:.2?} on-CPU, {wait:.2?} runq_wait, {arrivals} arrivals"), errors))
}

/// Runs the subjects for a time, then reads probe and kernel while they sleep.
fn at_rest(probes: &Probes, subjects: &[Subject], time: Duration) -> Result<Vec<(ThreadCounters, Totals)>> {
    subjects.iter().try_for_each(Subject::go)?;
    thread::sleep(time);
    // All at once, so that none of them has the pcpu to itself for long.
    subjects.iter().for_each(Subject::stop);
    let read = |subject: &Subject| {
        subject.rest()?;
        let mut last = probes.read(subject.key);
        // Some kernels do not trace every switch (ThreadCounters::running): another turn brings another one.
        for _ in 0..5 {
            let settled = |counters: &ThreadCounters| !counters.running && counters.totals.arrivals > 0;
            if last.as_ref().is_some_and(settled) {
                break;
            }
            subject.go()?;
            subject.rest()?;
            last = probes.read(subject.key);
        }
        let Some(counters) = last else { bail!("thread {} is not seen", subject.key.tid) };
        Ok((counters, schedstat(subject.key.tid)?))
    };
    subjects.iter().map(read).collect()
}

/// The histogram holds each arrival once.
fn waits(begin: &ThreadCounters, end: &ThreadCounters) -> Result<()> {
    let counted: u64 = end.waits.iter().zip(&begin.waits).map(|(end, begin)| end - begin).sum();
    let arrivals = end.totals.arrivals - begin.totals.arrivals;
    ensure!(counted.abs_diff(arrivals) <= 1, "{counted} waits in the histogram, {arrivals} arrivals");
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "an error needs no more than 53 bits")]
fn relative(probe: u64, kernel: u64) -> f64 {
    if kernel == 0 { probe.min(1) as f64 } else { probe.abs_diff(kernel) as f64 / kernel as f64 }
}
