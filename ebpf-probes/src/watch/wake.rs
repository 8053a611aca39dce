//! Times how long a thread waits for a pcpu, with a clock: from the wake-up, or from being preempted, to the
//! switch in. Not the kernel's `run_delay`, which leaves out most of the way from a wake-up to an idle pcpu.

use aya_ebpf::{
    Global,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap},
    programs::BtfTracePointContext,
};
use kvmpilot_ebpf_common::watch::{PREEMPTED, WOKEN, WaitEvent, WatchedThread, latency_bucket, lost};

use crate::{TGID, lose, window};

macro_rules! offsets {
    ($($name:ident),* $(,)?) => { $(#[unsafe(no_mangle)] static $name: Global<u32> = Global::new(u32::MAX);)* };
}

// Offsets in task_struct, from the running kernel's BTF. The names are the contract with host-daemon/src/probes/watch.
offsets!(TASK_PID, TASK_TGID, TASK_STATE);

/// 1 where the tracepoint hands over the state of `prev`.
#[unsafe(no_mangle)]
static SWITCH_HAS_STATE: Global<u32> = Global::new(0);

/// For tests: each wait of this thread is recorded in `EVENTS`. 0, the usual value, removes the code.
#[unsafe(no_mangle)]
static EVENTS_OF: Global<u32> = Global::new(0);

/// tid -> what is known of the thread; an entry is made when one is first seen.
#[map]
static THREADS: HashMap<u32, WatchedThread> = HashMap::with_max_entries(1024, 0);

/// A thread of which nothing is known: too large for a program's stack.
#[map]
static NEWCOMER: Array<WatchedThread> = Array::with_max_entries(1, 0);

/// The test mode's record: entry 0 of `NEXT_EVENT` is the number of events so far.
#[map]
static EVENTS: Array<WaitEvent> = Array::with_max_entries(1, 0);
#[map]
static NEXT_EVENT: Array<u32> = Array::with_max_entries(1, 0);

/// A `task_struct` that a BTF tracepoint handed over: valid for as long as the program runs.
#[derive(Clone, Copy)]
pub(crate) struct Task(*const u8);

impl Task {
    /// Argument `n` of the tracepoint, which must be a `task_struct *`: the verifier checks every use of it.
    #[inline(always)]
    pub(crate) fn arg(ctx: &BtfTracePointContext, n: usize) -> Self {
        Self(ctx.arg(n))
    }

    #[inline(always)]
    fn load(self, offset: &Global<u32>) -> u32 {
        // SAFETY: the verifier proves that this is a field of the task_struct, of this size, or refuses the program.
        unsafe { self.0.add(offset.load() as usize).cast::<u32>().read_volatile() }
    }

    #[inline(always)]
    fn is_watched(self) -> bool {
        self.load(&TASK_TGID) == TGID.load()
    }

    #[inline(always)]
    fn thread(self) -> Option<&'static mut WatchedThread> {
        let tid = self.load(&TASK_PID);
        let mut found = THREADS.get_ptr_mut(tid);
        if found.is_none() {
            if let Some(newcomer) = NEWCOMER.get(0)
                && THREADS.insert(tid, newcomer, 0).is_err()
            {
                lose(lost::FULL);
            }
            found = THREADS.get_ptr_mut(tid);
        }
        // SAFETY: entries are never removed, and a thread's writers follow each other (see WatchedThread).
        found.map(|thread| unsafe { &mut *thread })
    }
}

/// The task is runnable from now on.
#[inline(always)]
pub(crate) fn woken(task: Task) {
    if !task.is_watched() {
        return;
    }
    let Some(window) = window() else { return };
    let Some(thread) = task.thread() else { return };
    // Woken again while it waits: it wanted to run from the first time on.
    if thread.since_ns == 0 || thread.window != window {
        wait_begins(thread, window, WOKEN);
    }
}

#[inline(always)]
fn wait_begins(thread: &mut WatchedThread, window: u32, kind: u32) {
    // SAFETY: reads a clock.
    thread.since_ns = unsafe { bpf_ktime_get_ns() };
    thread.window = window;
    thread.kind = kind;
}

#[inline(always)]
pub(crate) fn switched(ctx: &BtfTracePointContext, prev: Task, next: Task) {
    if prev.is_watched()
        && let Some(window) = window()
        && let Some(thread) = prev.thread()
    {
        // A task may be preempted on its way to sleep, before it gave up the pcpu by itself.
        if ctx.arg::<u8>(0) != 0 || state(ctx, prev) == 0 {
            wait_begins(thread, window, PREEMPTED);
        } else {
            // Also ends a wait that began while it ran: its own wake-up came before it slept.
            thread.since_ns = 0;
        }
    }
    if next.is_watched()
        && let Some(window) = window()
        && let Some(thread) = next.thread()
    {
        wait_ends(thread, window, next);
    }
}

#[inline(always)]
fn state(ctx: &BtfTracePointContext, prev: Task) -> u32 {
    // The low half of a long before 5.14.
    if SWITCH_HAS_STATE.load() != 0 { ctx.arg(3) } else { prev.load(&TASK_STATE) }
}

#[inline(always)]
fn wait_ends(thread: &mut WatchedThread, window: u32, task: Task) {
    let since_ns = thread.since_ns;
    thread.since_ns = 0;
    if since_ns == 0 || thread.window != window {
        return;
    }
    // SAFETY: reads a clock.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let wait_ns = now_ns.wrapping_sub(since_ns);
    let kind = thread.kind;
    let latencies = if kind == PREEMPTED { &mut thread.preempted } else { &mut thread.woken };
    latencies.count += 1;
    latencies.sum_ns += wait_ns;
    if wait_ns > latencies.max_ns {
        latencies.max_ns = wait_ns;
    }
    // Not an index: a probe can carry no panic.
    if let Some(count) = latencies.buckets.get_mut(latency_bucket(wait_ns)) {
        *count += 1;
    }
    let of = EVENTS_OF.load();
    if of != 0 && of == task.load(&TASK_PID) {
        record(WaitEvent { at_ns: now_ns, wait_ns, kind: u64::from(kind) });
    }
}

#[inline(always)]
fn record(event: WaitEvent) {
    let Some(next) = NEXT_EVENT.get_ptr_mut(0) else { return };
    // SAFETY: entries of our own arrays; one thread's waits follow each other.
    unsafe {
        let number = *next;
        if let Some(entry) = EVENTS.get_ptr_mut(number) {
            *entry = event;
            *next = number + 1;
        }
    }
}
