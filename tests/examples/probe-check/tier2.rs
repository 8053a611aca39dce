//! Tier 2: waits by the clock against the kernel's own sum of them, and whether KVM's exits can be watched.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmpilot::kernel::Kernel;
use kvmpilot::probes::{EventPair, ProbeError, TraceEventName, Watch, WatchKind};
use kvmpilot_tests::probe_report::{TierOutcome, TierReport};

use crate::subjects::{Subject, Turn, last_pcpu, schedstat};

const WINDOW: Duration = Duration::from_secs(1);
/// The clock also counts what a wake-up takes before the kernel starts to count, and these threads do not sleep; but some
/// kernels do not trace every switch.
const TOLERANCE: f64 = 0.03;

pub(crate) fn check(kernel: &Kernel) -> TierReport {
    let report = |outcome, note| TierReport { tier: 2, outcome, note };
    match Watch::load(std::process::id(), WatchKind::WakeLatency(None), kernel.is_confidential()) {
        Err(error) => report(TierOutcome::Off, words(error)),
        Ok(watch) => match waits(watch).and_then(|waits| Ok(format!("{waits}; {}", exits(kernel)?))) {
            Ok(note) => report(TierOutcome::Ok, note),
            Err(error) => report(TierOutcome::Wrong, format!("{error:#}")),
        },
    }
}

/// Three threads that contend for one pcpu.
fn waits(mut watch: Watch) -> Result<String> {
    let turn = Turn { run: Duration::from_millis(1), sleep: Duration::ZERO };
    let cpu = last_pcpu()?;
    let subjects = (0..3).map(|_| Subject::start(cpu, turn)).collect::<Result<Vec<_>>>()?;
    let kernel = || -> Result<u64> {
        let waits = subjects.iter().map(|subject| Ok(schedstat(subject.key.tid)?.runq_wait_ns));
        waits.sum()
    };
    for subject in &subjects {
        subject.go()?;
        subject.rest()?;
    }
    let before = kernel()?;
    watch.open()?;
    subjects.iter().try_for_each(Subject::go)?;
    thread::sleep(WINDOW);
    subjects.iter().for_each(Subject::stop);
    subjects.iter().try_for_each(|subject| subject.rest().map(drop))?;
    let counted = kernel()? - before;
    watch.close()?;
    let samples = watch.latencies()?;
    let ours = |tid: u32| samples.iter().find(|sample| sample.tid == tid);
    let measured: u64 = subjects
        .iter()
        .filter_map(|subject| ours(subject.key.tid))
        .map(|sample| sample.woken.sum_ns + sample.preempted.sum_ns)
        .sum();
    let error = relative(measured, counted);
    ensure!(counted > 500_000_000, "the threads waited for {counted} ns only: nothing was shown");
    ensure!(error <= TOLERANCE, "waits of {measured} ns by the clock, {counted} ns in schedstat");
    Ok(format!("waits by the clock within {:.3} % of schedstat", error * 100.0))
}

#[expect(clippy::cast_precision_loss, reason = "an error needs no more than 53 bits")]
fn relative(ours: u64, truth: u64) -> f64 {
    ours.abs_diff(truth) as f64 / truth.max(1) as f64
}

/// Whether programs can be attached to KVM's events here.
fn exits(kernel: &Kernel) -> Result<String> {
    const EXIT: TraceEventName = TraceEventName { category: "kvm", name: "kvm_exit" };
    const ENTRY: TraceEventName = TraceEventName { category: "kvm", name: "kvm_entry" };
    let exit = match kernel.trace_event(EXIT.category, EXIT.name) {
        Ok(exit) => exit,
        Err(error) => return Ok(format!("no exits: {:#}", anyhow::Error::from(error))),
    };
    let reason_at = exit.offset("exit_reason").context("kvm_exit has no exit_reason")?;
    let pair = EventPair { exit: EXIT, entry: ENTRY, reason_at, isa_at: exit.offset("isa") };
    let mut watch = Watch::load(std::process::id(), WatchKind::Exits(pair), kernel.is_confidential())?;
    watch.open().context("KVM's events are there, but nothing can be attached to them")?;
    watch.close()?;
    Ok("KVM's exits can be watched".to_owned())
}

fn words(error: ProbeError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
