//! The steal matrix. A thread that spins is either on its pcpu or waits for it: whatever another one runs on that pcpu
//! meanwhile, it takes from it. So the truth about each cell is the kernel's own count of what the other ran.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use kvmpilot::probes::{Probes, ThreadKey};
use kvmpilot_core::Uuid;
use kvmpilot_core::sample::Runner;

use crate::workers::*;

const WINDOW: Duration = Duration::from_millis(2500);
/// Points of a share. All do not begin and end at the same moment.
const TOLERANCE: f64 = 0.03;

/// What stands in a thread's row, and the wait that it must sum up to.
#[derive(Clone, Debug, Default)]
struct Row {
    by: BTreeMap<Runner, u64>,
    runq_wait_ns: u64,
}

impl Row {
    /// Of a thread that sleeps.
    fn read(probes: &Probes, worker: &Worker) -> Self {
        let runq_wait_ns = worker.rest(probes).totals.runq_wait_ns;
        let row = probes.stolen(worker.key).unwrap();
        Self { by: row.into_iter().map(|part| (part.by, part.ns)).collect(), runq_wait_ns }
    }

    fn get(&self, by: Runner) -> u64 {
        self.by.get(&by).copied().unwrap_or(0)
    }

    fn since(&self, begin: &Self) -> Self {
        let by = self.by.iter().map(|(&by, ns)| (by, ns - begin.get(by))).collect();
        Self { by, runq_wait_ns: self.runq_wait_ns - begin.runq_wait_ns }
    }

    fn part(&self, by: Runner) -> f64 {
        part(self.get(by), self.runq_wait_ns)
    }
}

fn part(ns: u64, of: u64) -> f64 {
    ns as f64 / of.max(1) as f64
}

fn domain(n: usize) -> Uuid {
    Uuid::from_u128(100 + u128::try_from(n).unwrap())
}

struct Spinner {
    nice: i32,
    watched: bool,
}

fn equal(count: usize) -> Vec<Spinner> {
    (0..count).map(|_| Spinner { nice: 0, watched: true }).collect()
}

fn follow(probes: &mut Probes, workers: &[(Worker, bool)]) {
    let watched = workers.iter().enumerate().filter(|(_, (_, watched))| *watched);
    let threads: BTreeMap<ThreadKey, Uuid> =
        watched.map(|(n, (worker, _))| (worker.key, domain(n))).collect();
    assert!(probes.follow(&threads).is_empty());
}

/// Lets all spin on one pcpu and compares each row with what the others ran.
fn contend(name: &str, spinners: Vec<Spinner>) {
    let mut probes = load();
    let go_on = Arc::new(AtomicBool::new(false));
    let start = |Spinner { nice, watched }| {
        let turn = move || {
            renice(nice);
            spin(Duration::from_micros(100));
        };
        (Worker::start(pcpu(), &go_on, turn), watched)
    };
    let workers: Vec<(Worker, bool)> = spinners.into_iter().map(start).collect();
    follow(&mut probes, &workers);
    let read = |workers: &[(Worker, bool)]| -> Vec<(Row, u64)> {
        let each = workers.iter().map(|(worker, watched)| {
            let row = if *watched {
                Row::read(&probes, worker)
            } else {
                worker.done.recv().map(|_| Row::default()).unwrap()
            };
            (row, schedstat(worker.key.tid).unwrap().on_cpu_ns)
        });
        each.collect()
    };
    workers.iter().for_each(|(worker, _)| worker.go());
    let begin = read(&workers);
    go_on.store(true, Relaxed);
    workers.iter().for_each(|(worker, _)| worker.go());
    thread::sleep(WINDOW);
    go_on.store(false, Relaxed);
    let end = read(&workers);
    let ran: Vec<u64> = begin.iter().zip(&end).map(|((_, begin), (_, end))| end - begin).collect();
    let unwatched: u64 =
        workers.iter().zip(&ran).filter(|((_, watched), _)| !watched).map(|(_, ran)| ran).sum();
    let mut faults = Vec::new();
    for (waiter, (begin, end)) in begin.iter().zip(&end).enumerate().filter(|(n, _)| workers[*n].1) {
        let row = end.0.since(&begin.0);
        // A5, to the nanosecond.
        assert_eq!(row.by.values().sum::<u64>(), row.runq_wait_ns, "{name}: {row:?}");
        let mut line = format!("{name}: waiter {waiter} waited {} ms;", row.runq_wait_ns / 1_000_000);
        let mut others = 0;
        for (n, ran) in ran.iter().enumerate().filter(|(n, _)| workers[*n].1) {
            let (seen, truth) = (row.part(Runner::Domain(domain(n))), part(*ran, row.runq_wait_ns));
            let truth = if n == waiter { 0.0 } else { truth };
            others += if n == waiter { 0 } else { *ran };
            line += &format!(" {n}: {:.2} ({:.2}) %,", seen * 100.0, truth * 100.0);
            if (seen - truth).abs() > TOLERANCE {
                faults.push(format!("{waiter} by {n}: {seen} instead of {truth}"));
            }
        }
        // Beside the unwatched ones among the spinners, whatever else the machine did on this pcpu.
        let host = row.part(Runner::Host);
        let truth = part(row.runq_wait_ns.saturating_sub(others), row.runq_wait_ns);
        line += &format!(" host: {:.2} ({:.2}) %", host * 100.0, truth * 100.0);
        println!("{line}, unknown: {:.3} %", row.part(Runner::Unknown) * 100.0);
        if (host - truth).abs() > TOLERANCE || host + TOLERANCE < part(unwatched, row.runq_wait_ns) {
            faults.push(format!("{waiter} by the host: {host} instead of {truth}"));
        }
        if row.part(Runner::Unknown) > 0.01 {
            faults.push(format!("{waiter} by nobody: {}", row.part(Runner::Unknown)));
        }
    }
    assert!(faults.is_empty(), "{name}: {faults:#?}");
}

#[test]
fn spinners_of_equal_weight_take_equal_parts() {
    for count in [2, 3, 4, 5] {
        contend(&format!("{count} equal"), equal(count));
    }
}

#[test]
fn spinners_of_unequal_weight_take_what_they_run() {
    let nice = |nice| Spinner { nice, watched: true };
    contend("unequal", vec![nice(0), nice(3), nice(6), nice(1)]);
}

#[test]
fn who_is_not_watched_is_the_host() {
    let mut spinners = equal(3);
    spinners.push(Spinner { nice: 0, watched: false });
    spinners.push(Spinner { nice: 2, watched: false });
    contend("with two unwatched", spinners);
}

/// Threads of one domain, as vcpus that compete with each other.
#[test]
fn a_domain_waits_for_itself() {
    let mut probes = load();
    let go_on = Arc::new(AtomicBool::new(false));
    let turn = || spin(Duration::from_micros(100));
    let workers: Vec<Worker> = (0..3).map(|_| Worker::start(pcpu(), &go_on, turn)).collect();
    let threads = workers.iter().map(|worker| (worker.key, DOMAIN)).collect();
    assert!(probes.follow(&threads).is_empty());
    workers.iter().for_each(Worker::go);
    let begin: Vec<Row> = workers.iter().map(|worker| Row::read(&probes, worker)).collect();
    go_on.store(true, Relaxed);
    workers.iter().for_each(Worker::go);
    thread::sleep(Duration::from_secs(1));
    go_on.store(false, Relaxed);
    for (worker, begin) in workers.iter().zip(&begin) {
        let row = Row::read(&probes, worker).since(begin);
        assert_eq!(row.by.values().sum::<u64>(), row.runq_wait_ns, "{row:?}");
        let known = row.get(Runner::Domain(DOMAIN)) + row.get(Runner::Host);
        assert!(part(known, row.runq_wait_ns) > 0.99 && row.get(Runner::Domain(DOMAIN)) > 0, "{row:?}");
    }
}

/// Spinners that the kernel moves as it likes, and that somebody else moves while they wait.
#[test]
fn waits_of_moved_threads_are_never_lost() {
    let cpus = pcpus();
    if cpus.len() < 2 {
        println!("skipped: this machine has only one pcpu");
        return;
    }
    for pushed in [false, true] {
        let mut probes = load();
        let go_on = Arc::new(AtomicBool::new(false));
        let workers: Vec<(Worker, bool)> = (0..5)
            .map(|_| (Worker::start_on(&cpus, &go_on, || spin(Duration::from_micros(100))), true))
            .collect();
        follow(&mut probes, &workers);
        workers.iter().for_each(|(worker, _)| worker.go());
        let begin: Vec<Row> = workers.iter().map(|(worker, _)| Row::read(&probes, worker)).collect();
        go_on.store(true, Relaxed);
        workers.iter().for_each(|(worker, _)| worker.go());
        for n in 0..400 {
            thread::sleep(Duration::from_millis(5));
            if pushed {
                pin_thread(workers[n % 3].0.key.tid, &[cpus[n / 3 % 2]]);
            }
        }
        go_on.store(false, Relaxed);
        let mut total = Row::default();
        for ((worker, _), begin) in workers.iter().zip(&begin) {
            let row = Row::read(&probes, worker).since(begin);
            assert_eq!(row.by.values().sum::<u64>(), row.runq_wait_ns, "{row:?}");
            total.runq_wait_ns += row.runq_wait_ns;
            row.by.iter().for_each(|(by, ns)| *total.by.entry(*by).or_default() += ns);
        }
        let unknown = total.part(Runner::Unknown);
        println!(
            "moved {}: {} ms waited, unknown {:.3} %",
            if pushed { "by hand" } else { "by the kernel" },
            total.runq_wait_ns / 1_000_000,
            unknown * 100.0
        );
        assert!(total.runq_wait_ns > nanos(Duration::from_secs(1)), "{total:?}");
        assert!(unknown < 0.2, "{total:?}");
    }
}
