//! A9: threads that are met while they run, exit, share a tid with a predecessor, or move. That a pcpu may go and come back
//! is shown in the machines of `cargo xtask matrix`: here it would take the pins of everybody else along.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use kvmpilot::probes::{Capacity, Census, Probes, ThreadKey, WatchError, census};
use kvmpilot_core::Uuid;
use kvmpilot_core::sample::Runner;

use crate::workers::*;

#[test]
fn a_thread_that_is_met_while_it_runs_has_no_past() {
    let mut probes = load();
    let go_on = Arc::new(AtomicBool::new(true));
    // Two, so that they switch; and both have run for a while when we come.
    let turn = || spin(Duration::from_millis(1));
    let workers = [Worker::start(pcpu(), &go_on, turn), Worker::start(pcpu(), &go_on, turn)];
    workers.iter().for_each(Worker::go);
    spin(Duration::from_millis(300));
    let key = workers[0].key;
    let began = Instant::now();
    probes.watch(key, DOMAIN).unwrap();
    wait_for("the first switch", || probes.read(key).is_some());
    let (mut last, mut last_at) = (reading(&probes, key), Instant::now());
    let mut longest = 0;
    while began.elapsed() < Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(20));
        let counters = probes.read(key).unwrap();
        longest = longest.max(counters.max_wait_ns);
        assert!(
            counters.waits.iter().sum::<u64>() < nanos(began.elapsed()) / 100_000,
            "{:?}",
            counters.waits
        );
        let (now, now_at) = (reading(&probes, key), Instant::now());
        // Of a running thread the kernel may book at a tick what was run before it: 10 ms of grace.
        let elapsed = nanos(now_at - last_at) + 10_000_000;
        assert!(now.on_cpu_ns - last.on_cpu_ns <= elapsed, "{last:?} {now:?} in {elapsed} ns");
        (last, last_at) = (now, now_at);
    }
    assert!(longest > 0, "two spinners on one pcpu wait for each other");
    assert!(longest <= nanos(began.elapsed()), "a wait of {longest} ns");
    go_on.store(false, Relaxed);
}

#[test]
fn exit_ends_the_watch_and_a_reused_tid_is_somebody_else() {
    let mut probes = load();
    let go_on = Arc::new(AtomicBool::new(false));
    let worker = Worker::start(pcpu(), &go_on, || spin(Duration::from_millis(1)));
    let real = worker.key;

    // This is how a tid looks that changed hands unseen: the thread is there, but it started at another time.
    let mistaken = ThreadKey { start_ticks: real.start_ticks - 1, ..real };
    probes.watch(mistaken, DOMAIN).unwrap();
    for _ in 0..5 {
        worker.go();
        worker.done.recv().unwrap();
        assert!(probes.read(mistaken).is_none(), "a thread was taken for its predecessor");
    }
    assert!(probes.read(real).is_none(), "not watched under its own name yet");

    probes.watch(real, DOMAIN).unwrap();
    worker.go();
    let alive = worker.rest(&probes);
    assert!(!alive.exited);
    assert!(probes.read(mistaken).is_none());
    drop(worker);
    wait_for("the exit", || probes.read(real).is_some_and(|counters| counters.exited));
    let last = probes.read(real).unwrap();
    assert!(!last.running, "it runs after its exit: {last:?}");
    assert!(last.totals.on_cpu_ns >= alive.totals.on_cpu_ns, "{last:?} after {alive:?}");

    // The next owner of the tid, where the kernel lets us choose one (CONFIG_CHECKPOINT_RESTORE).
    let next = (0..200).find_map(|_| {
        fs::write("/proc/sys/kernel/ns_last_pid", (real.tid - 1).to_string()).ok()?;
        Some(Worker::start(pcpu(), &go_on, || spin(Duration::from_millis(1))))
            .filter(|worker| worker.key.tid == real.tid)
    });
    match next {
        Some(next) => {
            next.go();
            next.done.recv().unwrap();
            assert_eq!(probes.read(real).unwrap().totals, last.totals, "another thread's time was booked");
        }
        None => println!("not shown with a really reused tid: the kernel gave none"),
    }
    assert!(probes.follow(&BTreeMap::new()).is_empty());
    assert!(probes.read(real).is_none());
}

#[test]
fn idle_tasks_and_impossible_tids_are_refused_and_the_table_has_an_end() {
    let mut probes = Probes::load(&ground(), Capacity { threads: 1, domains: 1 }).unwrap();
    for tid in [0, ground().pid_max] {
        let refused = probes.watch(ThreadKey { tid, start_ticks: 0 }, DOMAIN);
        assert!(matches!(refused, Err(WatchError::TidBeyond { .. })), "{tid}: {refused:?}");
    }
    let own = key(own_tid()).unwrap();
    // The self-test had the only slot, which has to rest first.
    wait_for("the slot", || probes.watch(own, DOMAIN).is_ok());
    let full = probes.watch(key(own_pid()).unwrap(), DOMAIN);
    assert!(matches!(full, Err(WatchError::Full { .. })), "{full:?}");
}

#[test]
fn moves_between_pcpus_are_counted() {
    let cpus = pcpus();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    if first == last {
        println!("skipped: this machine has only one pcpu");
        return;
    }
    let mut probes = load();
    let worker = Worker::start(first, &Arc::new(AtomicBool::new(false)), move || {
        for cpu in [last, first, last, first, last] {
            pin(cpu);
            thread::sleep(Duration::from_millis(1));
        }
    });
    probes.watch(worker.key, DOMAIN).unwrap();
    worker.go();
    let begin = worker.rest(&probes);
    assert_eq!(begin.pcpu, u32::try_from(last).unwrap());
    worker.go();
    let end = worker.rest(&probes);
    assert_eq!(end.migrations - begin.migrations, 4, "the turn begins where the last one ended");
}

#[test]
fn threads_that_a_watched_thread_starts_are_counted() {
    let mut probes = load();
    let births = || {
        for _ in 0..3 {
            thread::spawn(|| {}).join().unwrap();
        }
    };
    let worker = Worker::start(pcpu(), &Arc::new(AtomicBool::new(false)), births);
    assert_eq!(probes.forks(worker.key), None);
    probes.watch(worker.key, DOMAIN).unwrap();
    for count in [3, 6] {
        worker.go();
        assert_eq!(worker.rest(&probes).forks, count);
        assert_eq!(probes.forks(worker.key), Some(count));
    }
    // Somebody else's are not.
    thread::spawn(births).join().unwrap();
    assert_eq!(probes.forks(worker.key), Some(6));
    probes.unwatch(worker.key);
    assert_eq!(probes.forks(worker.key), None);
}

/// Files and mappings of BPF objects that this process holds. Other tests must not run meanwhile.
fn held() -> (usize, usize) {
    let is_bpf =
        |link: &fs::DirEntry| fs::read_link(link.path()).is_ok_and(|to| to.to_string_lossy().contains("bpf"));
    let files = fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok).filter(is_bpf).count();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    (files, maps.lines().filter(|line| line.contains("bpf-map")).count())
}

#[test]
fn nothing_is_left_behind() {
    let ours = |census: Census| census.attached.get("sched_switch").copied().unwrap_or(0);
    let before = held();
    let attached = ours(census());
    let mut probes = load();
    let loaded = held();
    assert!(loaded.0 > before.0 && loaded.1 > before.1, "{before:?} {loaded:?}");
    assert!(ours(census()) > attached, "not attached");
    // More domains and threads than there is room for, one after the other: slots and columns are used again.
    let worker =
        Worker::start(pcpu(), &Arc::new(AtomicBool::new(false)), || spin(Duration::from_micros(100)));
    for n in 0..200 {
        wait_for("a slot", || probes.watch(worker.key, Uuid::from_u128(n)).is_ok());
        worker.go();
        worker.rest(&probes);
        assert!(probes.follow(&BTreeMap::new()).is_empty());
        assert!(probes.read(worker.key).is_none() && probes.stolen(worker.key).is_none());
    }
    assert_eq!(held(), loaded, "watching leaves something open");
    drop(probes);
    assert_eq!(held(), before);
    // Others may come and go on this machine.
    wait_for("the programs to be gone", || ours(census()) <= attached);
}

#[test]
fn a_domain_that_has_gone_makes_room_for_another_and_no_row_loses_its_sum() {
    let mut probes = Probes::load(&ground(), Capacity { threads: 8, domains: 1 }).unwrap();
    let go_on = Arc::new(AtomicBool::new(false));
    let turn = || spin(Duration::from_millis(20));
    let [waiter, other] = [0, 1].map(|_| Worker::start(pcpu(), &go_on, turn));
    let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
    probes.watch(waiter.key, first).unwrap();
    probes.watch(other.key, second).unwrap();
    for _ in 0..2 {
        [&waiter, &other].iter().for_each(|worker| worker.go());
        for worker in [&waiter, &other] {
            worker.rest(&probes);
        }
    }
    let row = probes.stolen(waiter.key).unwrap();
    // The self-test's column is the second one, and rests: a minute is more than a test should take.
    let named = row.iter().find(|part| part.by == Runner::Domain(second));
    assert!(named.is_none() && row.iter().any(|part| part.by == Runner::Unknown && part.ns > 0), "{row:?}");
}
