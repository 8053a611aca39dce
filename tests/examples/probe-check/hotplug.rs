//! A pcpu goes offline and comes back under threads that are watched: nothing is lost, and no figure grows by more than
//! the time that went by. Only for machines that nobody else uses: pins and cpusets to that pcpu are gone afterwards.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot::probes::{Probes, Totals};

use crate::subjects::{Subject, schedstat};

const PAUSE: Duration = Duration::from_millis(200);
/// A tick books what was run before it.
const GRACE_NS: u64 = 10_000_000;

struct Reading {
    totals: Totals,
    row_ns: u64,
    at: Instant,
}

/// The threads are at rest before and afterwards.
pub(crate) fn check(probes: &Probes, subjects: &[Subject], cpu: usize) -> Result<()> {
    let online = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    let read = || subjects.iter().map(|subject| reading(probes, subject)).collect::<Result<Vec<_>>>();
    let mut last = read()?;
    for state in ["0", "1", "0", "1"] {
        subjects.iter().try_for_each(Subject::go)?;
        thread::sleep(PAUSE);
        fs::write(&online, state).with_context(|| format!("cannot write {state} to {online}"))?;
        thread::sleep(PAUSE);
        subjects.iter().for_each(Subject::stop);
        for subject in subjects {
            subject.rest()?;
            // Where it may run again, its next turn begins on that pcpu.
            if state == "1" {
                subject.pin(cpu)?;
            }
        }
        let now = read()?;
        for (before, now) in last.iter().zip(&now) {
            let elapsed_ns = u64::try_from((now.at - before.at).as_nanos())? + GRACE_NS;
            let ran_ns = now.totals.on_cpu_ns - before.totals.on_cpu_ns;
            let waited_ns = now.totals.runq_wait_ns - before.totals.runq_wait_ns;
            ensure!(
                ran_ns <= elapsed_ns && waited_ns <= elapsed_ns,
                "{ran_ns}, {waited_ns} ns in {elapsed_ns} ns"
            );
            ensure!(ran_ns > 0, "a thread stood still");
            let row_ns = now.row_ns - before.row_ns;
            ensure!(row_ns == waited_ns, "a row grew by {row_ns} ns in a wait of {waited_ns} ns");
        }
        last = now;
    }
    Ok(())
}

fn reading(probes: &Probes, subject: &Subject) -> Result<Reading> {
    let counters = probes.read(subject.key).context("a thread is not seen any more")?;
    let kernel = schedstat(subject.key.tid)?;
    ensure!(counters.totals == kernel, "{:?} instead of {kernel:?}", counters.totals);
    let row = probes.stolen(subject.key).context("a thread has no row any more")?;
    Ok(Reading { totals: kernel, row_ns: row.iter().map(|part| part.ns).sum(), at: Instant::now() })
}
