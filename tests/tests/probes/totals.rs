//! A1: totals, switches and histogram against schedstat, of threads that spin, sleep and do both. Of a thread that
//! sleeps, probe and schedstat must agree to the nanosecond; of one that moves, a reading must lie between two readings
//! of schedstat around it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use kvmpilot::probes::{ThreadKey, Totals};
use kvmpilot_core::Uuid;

use crate::workers::*;

const WINDOW: Duration = Duration::from_secs(3);
const TOLERANCE: f64 = 0.0005;

/// Lets threads run for a window and compares: asleep before and after it exactly, and all the time in
/// between.
fn compare(name: &str, turns: Vec<Turn>) {
    let mut probes = load();
    let go_on = Arc::new(AtomicBool::new(false));
    let cpu = pcpu();
    let workers: Vec<Worker> = turns.into_iter().map(|turn| Worker::start(cpu, &go_on, turn)).collect();
    let threads: BTreeMap<ThreadKey, Uuid> = workers.iter().map(|worker| (worker.key, DOMAIN)).collect();
    assert!(probes.follow(&threads).is_empty());
    workers.iter().for_each(Worker::go);
    let asleep = |worker: &Worker| {
        let counters = worker.rest(&probes);
        assert_eq!(counters.totals, schedstat(worker.key.tid).unwrap(), "{name}: asleep");
        (counters, context_switches(worker.key.tid))
    };
    let begin: Vec<_> = workers.iter().map(asleep).collect();

    go_on.store(true, Relaxed);
    workers.iter().for_each(Worker::go);
    let start = Instant::now();
    let (mut by_probe, mut behind) = (0_u32, 0_u32);
    while start.elapsed() < WINDOW {
        for worker in &workers {
            let before = schedstat(worker.key.tid).unwrap();
            let probe = probes.read(worker.key).unwrap();
            let now = reading(&probes, worker.key);
            let after = schedstat(worker.key.tid).unwrap();
            assert!(between(&before, &now, &after), "{name}: {before:?} <= {now:?} <= {after:?}");
            if !probe.running {
                by_probe += 1;
                behind += u32::from(!between(&before, &probe.totals, &after));
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    // The window that the daemon would see.
    let mut worst = 0_f64;
    for (worker, (begin, _)) in workers.iter().zip(&begin) {
        let (now, kernel) = moment(&probes, worker.key);
        for get in [|totals: &Totals| totals.on_cpu_ns, |totals: &Totals| totals.runq_wait_ns] {
            let since = |totals: &Totals| get(totals) - get(&begin.totals);
            worst = worst.max(error(since(&now), since(&kernel)));
        }
    }
    go_on.store(false, Relaxed);
    println!(
        "{name}: window error {:.6} %; {behind} of {by_probe} readings by the probe alone behind",
        worst * 100.0
    );
    assert!(worst <= TOLERANCE, "{name}: window error {worst}");
    // Switches that this kernel does not trace: see ThreadCounters::running.
    assert!(by_probe > 100 && behind <= by_probe / 50, "{name}: {behind} of {by_probe} readings behind");

    for (worker, (begin, (voluntary, other))) in workers.iter().zip(&begin) {
        let (end, (voluntary_now, other_now)) = asleep(worker);
        assert!(end.totals.on_cpu_ns > begin.totals.on_cpu_ns);
        let (blocked, preempted) = (end.blocked - begin.blocked, end.preempted - begin.preempted);
        assert!(blocked.abs_diff(voluntary_now - voluntary) <= 1, "{name}: blocked");
        assert!(preempted.abs_diff(other_now - other) <= 1, "{name}: preempted");
        assert_eq!(end.pcpu, u32::try_from(cpu).unwrap());
        let waits: Vec<u64> = end.waits.iter().zip(&begin.waits).map(|(end, begin)| end - begin).collect();
        let arrivals = end.totals.arrivals - begin.totals.arrivals;
        assert!(waits.iter().sum::<u64>().abs_diff(arrivals) <= 1, "{name}: histogram");
        // Each wait is at least its bucket's lower end and less than twice that.
        let floor: u64 = waits.iter().enumerate().skip(1).map(|(n, count)| count << n).sum();
        let waited = end.totals.runq_wait_ns - begin.totals.runq_wait_ns;
        assert!((floor..=2 * (floor + arrivals)).contains(&waited), "{name}: {waited} ns in {waits:?}");
    }
}

#[test]
fn three_spinners_on_one_pcpu() {
    let turn = || Box::new(|| spin(Duration::from_millis(5))) as Turn;
    compare("3 spinners", vec![turn(), turn(), turn()]);
}

#[test]
fn four_threads_that_run_and_sleep() {
    let turn = |run: u64, sleep: u64| {
        Box::new(move || {
            spin(Duration::from_micros(run));
            thread::sleep(Duration::from_micros(sleep));
        }) as Turn
    };
    compare("4 run and sleep", vec![turn(100, 50), turn(300, 700), turn(1500, 1000), turn(20, 200)]);
}

#[test]
fn one_thread_alone_that_runs_and_sleeps() {
    let turn = || {
        spin(Duration::from_micros(50));
        thread::sleep(Duration::from_micros(150));
    };
    compare("1 alone", vec![Box::new(turn)]);
}
