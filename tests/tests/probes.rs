//! The probes against the kernel's own books, on threads that this test makes. Needs root and a kernel with
//! BTF.
//!
//! The truth is `/proc/PID/task/TID/schedstat`. Of a thread that sleeps, probe and schedstat must agree to
//! the nanosecond; of one that moves, a reading must lie between two readings of schedstat around it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io};

use kvmpilot::kernel::Kernel;
use kvmpilot::probes::{Ground, ProbeError, Probes, ThreadCounters, ThreadKey, Totals, WatchError, offsets};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, getpid, gettid};

const WINDOW: Duration = Duration::from_secs(3);
const TOLERANCE: f64 = 0.0005;
const DEADLINE: Duration = Duration::from_secs(10);

type Turn = Box<dyn Fn() + Send>;

fn own_pid() -> u32 {
    getpid().as_raw().unsigned_abs()
}

fn own_tid() -> u32 {
    gettid().as_raw().unsigned_abs()
}

fn schedstat(tid: u32) -> io::Result<Totals> {
    let read = Kernel::default().schedstat(own_pid(), tid)?;
    Ok(Totals { on_cpu_ns: read.on_cpu_ns, runq_wait_ns: read.runq_wait_ns, arrivals: read.arrivals })
}

fn key(tid: u32) -> io::Result<ThreadKey> {
    Ok(ThreadKey { tid, start_ticks: Kernel::default().thread(own_pid(), tid)?.start_ticks })
}

fn ground() -> Ground<'static> {
    Ground {
        pid_max: Kernel::default().pid_max().unwrap(),
        confidential: Kernel::default().lockdown().as_deref() == Some("confidentiality"),
        own_thread: &|tid| Ok((key(tid)?, schedstat(tid)?)),
    }
}

fn load() -> Probes {
    Probes::load(&ground(), 64).unwrap_or_else(|err| panic!("{:#}", anyhow::Error::from(err)))
}

fn pcpus() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap()).collect()
}

/// The last pcpu: the one with the fewest interrupts as a rule.
fn pcpu() -> usize {
    *pcpus().last().unwrap()
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

fn spin(time: Duration) {
    let begin = Instant::now();
    while black_box(begin.elapsed()) < time {}
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A thread that does one turn of work per order, and repeats it while `go_on`.
struct Worker {
    key: ThreadKey,
    go_on: Arc<AtomicBool>,
    order: Option<Sender<()>>,
    done: Receiver<u32>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(cpu: usize, go_on: &Arc<AtomicBool>, turn: impl Fn() + Send + 'static) -> Self {
        let (order, orders) = channel();
        let (report, done) = channel();
        let repeat = Arc::clone(go_on);
        let thread = thread::spawn(move || {
            pin(cpu);
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

    fn go(&self) {
        self.order.as_ref().unwrap().send(()).unwrap();
    }

    /// Waits until the turn is over and the thread asleep, for the kernel and for the probe.
    fn rest(&self, probes: &Probes) -> ThreadCounters {
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
fn reading(probes: &Probes, key: ThreadKey) -> Totals {
    let runnable = Kernel::default().thread(own_pid(), key.tid).unwrap().runnable;
    match probes.read(key) {
        Some(counters) if !counters.running && !runnable => counters.totals,
        _ => schedstat(key.tid).unwrap(),
    }
}

/// Whether a reading could have been made between two others.
fn between(before: &Totals, now: &Totals, after: &Totals) -> bool {
    let fits = |get: fn(&Totals) -> u64| (get(before)..=get(after)).contains(&get(now));
    fits(|totals| totals.on_cpu_ns) && fits(|totals| totals.runq_wait_ns) && fits(|totals| totals.arrivals)
}

/// The daemon's reading and the kernel's of the same moment: nothing was booked between two looks around it.
fn moment(probes: &Probes, key: ThreadKey) -> (Totals, Totals) {
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
fn context_switches(tid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    let value = |name| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap();
    (value("voluntary_ctxt_switches:"), value("nonvoluntary_ctxt_switches:"))
}

fn error(probe: u64, kernel: u64) -> f64 {
    if kernel == 0 { 0.0 } else { probe.abs_diff(kernel) as f64 / kernel as f64 }
}

/// Lets threads run for a window and compares: asleep before and after it exactly, and all the time in
/// between.
fn compare(name: &str, turns: Vec<Turn>) {
    let mut probes = load();
    let go_on = Arc::new(AtomicBool::new(false));
    let cpu = pcpu();
    let workers: Vec<Worker> = turns.into_iter().map(|turn| Worker::start(cpu, &go_on, turn)).collect();
    let threads: BTreeSet<ThreadKey> = workers.iter().map(|worker| worker.key).collect();
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
    probes.watch(key).unwrap();
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
    probes.watch(mistaken).unwrap();
    for _ in 0..5 {
        worker.go();
        worker.done.recv().unwrap();
        assert!(probes.read(mistaken).is_none(), "a thread was taken for its predecessor");
    }
    assert!(probes.read(real).is_none(), "not watched under its own name yet");

    probes.watch(real).unwrap();
    worker.go();
    let alive = worker.rest(&probes);
    assert!(!alive.exited);
    assert!(probes.read(mistaken).is_none());
    drop(worker);
    wait_for("the exit", || probes.read(real).is_some_and(|counters| counters.exited));
    let last = probes.read(real).unwrap();
    assert!(!last.running && last.totals.on_cpu_ns >= alive.totals.on_cpu_ns);

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
    assert!(probes.follow(&BTreeSet::new()).is_empty());
    assert!(probes.read(real).is_none());
}

#[test]
fn idle_tasks_and_impossible_tids_are_refused_and_the_table_has_an_end() {
    let mut probes = Probes::load(&ground(), 1).unwrap();
    for tid in [0, ground().pid_max] {
        let refused = probes.watch(ThreadKey { tid, start_ticks: 0 });
        assert!(matches!(refused, Err(WatchError::TidBeyond { .. })), "{tid}: {refused:?}");
    }
    let own = key(own_tid()).unwrap();
    // The self-test had the only slot, which has to rest first.
    wait_for("the slot", || probes.watch(own).is_ok());
    let full = probes.watch(key(own_pid()).unwrap());
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
    probes.watch(worker.key).unwrap();
    worker.go();
    let begin = worker.rest(&probes);
    assert_eq!(begin.pcpu, u32::try_from(last).unwrap());
    worker.go();
    let end = worker.rest(&probes);
    assert_eq!(end.migrations - begin.migrations, 4, "the turn begins where the last one ended");
}

#[test]
fn wrong_offsets_are_refused_by_the_verifier_or_by_the_self_test() {
    let btf = fs::read("/sys/kernel/btf/vmlinux").unwrap();
    let right = offsets::resolve(&btf).unwrap();
    let load = |offsets| Probes::load_with(&ground(), 64, &btf, &offsets);
    let refused = load(offsets::Offsets { run_delay: right.run_delay + 4, ..right });
    assert!(matches!(refused, Err(ProbeError::Refused { .. })), "{refused:?}");
    println!("{}", refused.unwrap_err());
    // Of the same size, so that the verifier cannot know.
    let wrong = load(offsets::Offsets { run_delay: right.pcount, pcount: right.run_delay, ..right });
    assert!(matches!(wrong, Err(ProbeError::Wrong { .. })), "{wrong:?}");
    println!("{}", wrong.unwrap_err());
}

#[test]
fn without_privileges_the_reason_is_named() {
    // Once with privileges: aya looks only once what the kernel can do.
    drop(load());
    let nobody = thread::spawn(|| {
        // SAFETY: a plain system call; unlike glibc's wrapper it changes this thread only, which ends soon.
        let changed = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(changed, 0);
        Probes::load(&ground(), 64).map(drop)
    });
    let err = nobody.join().unwrap().unwrap_err();
    assert!(matches!(err, ProbeError::NotPermitted { .. }), "{err:?}");
    assert!(err.to_string().contains("CAP_BPF"), "{err}");
}

#[test]
fn the_probes_rare_messages_reach_the_log() {
    #[derive(Clone, Default)]
    struct Capture(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Capture {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let capture = Capture::default();
    let writer = capture.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_writer(move || writer.clone())
        .init();
    let mut probes = load();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build().unwrap();
    runtime.spawn(probes.take_log().unwrap());
    assert!(probes.take_log().is_none());
    let worker = Worker::start(pcpu(), &Arc::new(AtomicBool::new(false)), || spin(Duration::from_micros(10)));
    let message = format!("watched thread {} exited", worker.key.tid);
    probes.watch(worker.key).unwrap();
    drop(worker);
    wait_for(&message, || String::from_utf8_lossy(&capture.0.lock().unwrap()).contains(&message));
}
