//! Shows on a thread of our own that the probes count what the kernel counts, before anybody believes them:
//! offsets that the verifier lets pass may still be those of other fields of the same size.

use std::hint::black_box;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use kvmpilot_core::Uuid;

use super::{Ground, ProbeError, Probes, ThreadCounters, ThreadKey};

const ROUNDS: u64 = 16;
const ROUND: Duration = Duration::from_micros(200);
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) fn run(probes: &mut Probes, ground: &Ground<'_>) -> Result<(), ProbeError> {
    let (report, reports) = channel();
    let (order, orders) = channel();
    let subject = thread::Builder::new()
        .name("probe self-test".to_owned())
        .spawn(move || subject(&report, &orders))
        .map_err(|err| ProbeError::NoTest(Some(err)))?;
    let verdict = examine(probes, ground, &reports, &order);
    // It waits for an order; without a sender it ends.
    drop(order);
    let _ = subject.join();
    verdict
}

/// Says who it is; on order, runs and sleeps by turns; then waits.
fn subject(report: &Sender<u32>, orders: &Receiver<()>) {
    let tid = nix::unistd::gettid().as_raw().unsigned_abs();
    while report.send(tid).is_ok() && orders.recv().is_ok() {
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            while black_box(begin.elapsed()) < ROUND {}
            thread::sleep(ROUND);
        }
    }
}

fn examine(
    probes: &mut Probes,
    ground: &Ground<'_>,
    reports: &Receiver<u32>,
    order: &Sender<()>,
) -> Result<(), ProbeError> {
    let gone = |err: RecvTimeoutError| ProbeError::NoTest(Some(io::Error::other(err)));
    let tid = reports.recv_timeout(DEADLINE).map_err(gone)?;
    let begin = Instant::now();
    let (key, _) = (ground.own_thread)(tid).map_err(|err| ProbeError::NoTest(Some(err)))?;
    probes.watch(key, Uuid::nil()).map_err(|err| ProbeError::Load(err.into()))?;
    order.send(()).map_err(|_| ProbeError::NoTest(None))?;
    reports.recv_timeout(DEADLINE).map_err(gone)?;
    // It is about to sleep. Once it does, both must show the same nanoseconds.
    let deadline = Instant::now() + DEADLINE;
    let verdict = loop {
        let counters = probes.read(key);
        let (_, kernel) = (ground.own_thread)(tid).map_err(|err| ProbeError::NoTest(Some(err)))?;
        match counters {
            Some(counters) if counters.totals == kernel && plausible(&counters) => {
                break clock(probes, key, &counters, begin);
            }
            _ if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            Some(ThreadCounters { totals: probe, preempted, blocked, .. }) => {
                break Err(ProbeError::Wrong { probe, preempted, blocked, kernel });
            }
            None => break Err(ProbeError::Blind),
        }
    };
    probes.unwatch(key);
    verdict
}

/// Whether the times of arrival are times: each round took two `ROUND`s at least, and none is outside of the test. A
/// field of the same size that counts something else does neither.
fn clock(
    probes: &Probes,
    key: ThreadKey,
    counters: &ThreadCounters,
    begin: Instant,
) -> Result<(), ProbeError> {
    let arrivals = probes.arrivals(key);
    let (Some(first), Some(last)) = (arrivals.first(), arrivals.last()) else {
        return Err(ProbeError::WrongClock { runs: 0, span: Duration::ZERO, elapsed: begin.elapsed() });
    };
    let (span, elapsed) = (Duration::from_nanos(last - first), begin.elapsed());
    let runs = u64::try_from(arrivals.len()).unwrap_or(u64::MAX);
    // What cuts a round in two makes two runs of one, and both may be short: a preemption, or a wait that is none of the test's.
    // On a busy host the subject is met before it waits for its order: 18 runs where there are 17 rounds and waits.
    let cut = counters.preempted.max((runs - 1).saturating_sub(ROUNDS));
    let rounds = (runs - 1).saturating_sub(2 * cut);
    let least = ROUND.as_nanos() * 3 / 2;
    let long = arrivals.windows(2).filter(|pair| u128::from(pair[1] - pair[0]) >= least).count();
    if u64::try_from(long).is_ok_and(|long| long >= rounds) && span <= elapsed && last > first {
        return Ok(());
    }
    Err(ProbeError::WrongClock { runs, span, elapsed })
}

/// What schedstat does not show: every round ended in a sleep, and each switch away had its arrival.
fn plausible(counters: &ThreadCounters) -> bool {
    let waits: u64 = counters.waits.iter().sum();
    !counters.running
        && counters.blocked >= ROUNDS
        && (counters.blocked + counters.preempted).abs_diff(waits) <= 1
        && counters.totals.on_cpu_ns > 0
}
