//! What the benchmark compares kvmpilot's probes with, one object: nothing at all, attached in the same way, and
//! the usual way to measure waits, as runqlat and its like do it. The daemon never loads it.
#![expect(clippy::needless_pass_by_value, reason = "aya hands a context over by value")]
#![no_std]
#![no_main]

use aya_ebpf::{
    Global,
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, classifier, map, tracepoint},
    maps::{Array, HashMap},
    programs::{BtfTracePointContext, TcContext, TracePointContext},
};
use kvmpilot_ebpf_common::sched::bucket;

macro_rules! offsets {
    ($($name:ident),* $(,)?) => { $(#[unsafe(no_mangle)] static $name: Global<u32> = Global::new(u32::MAX);)* };
}

// As in the other objects.
offsets!(TASK_PID, TASK_STATE);
#[unsafe(no_mangle)]
static SWITCH_HAS_STATE: Global<u32> = Global::new(0);

/// tid -> when it became runnable.
#[map]
static STARTS: HashMap<u32, u64> = HashMap::with_max_entries(10_240, 0);

/// Waits by length, of all threads of the host.
#[map]
static WAITS: Array<u64> = Array::with_max_entries(64, 0);

/// The floor: what any program on this tracepoint costs.
#[btf_tracepoint(function = "sched_switch")]
fn bench_empty(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// The floor of a classic tracepoint.
#[tracepoint]
fn bench_event(_ctx: TracePointContext) -> u32 {
    0
}

/// The floor of a packet: `TC_ACT_UNSPEC`, as the flow programs.
#[classifier]
fn bench_packet(_ctx: TcContext) -> i32 {
    -1
}

/// The usual design: a stamp at the wake-up.
#[btf_tracepoint(function = "sched_wakeup")]
fn bench_wakeup(ctx: BtfTracePointContext) -> i32 {
    runnable(load(ctx.arg(0), &TASK_PID));
    0
}

/// As above.
#[btf_tracepoint(function = "sched_wakeup_new")]
fn bench_newborn(ctx: BtfTracePointContext) -> i32 {
    runnable(load(ctx.arg(0), &TASK_PID));
    0
}

/// A stamp for who is preempted, and the end of the wait of who comes in.
#[btf_tracepoint(function = "sched_switch")]
fn bench_switch(ctx: BtfTracePointContext) -> i32 {
    let (prev, next): (*const u8, *const u8) = (ctx.arg(1), ctx.arg(2));
    let state: u32 = if SWITCH_HAS_STATE.load() != 0 { ctx.arg(3) } else { load(prev, &TASK_STATE) };
    if state == 0 {
        runnable(load(prev, &TASK_PID));
    }
    let tid = load(next, &TASK_PID);
    // SAFETY: a copy is taken at once.
    let Some(start_ns) = (unsafe { STARTS.get(tid) }).copied() else { return 0 };
    // SAFETY: reads a clock.
    let wait_ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(start_ns);
    #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 64 buckets")]
    if let Some(count) = WAITS.get_ptr_mut(bucket(wait_ns) as u32) {
        // SAFETY: an entry of our own array. Pcpus may lose counts to each other; atomic adds would only cost more.
        unsafe { *count += 1 };
    }
    // One that is gone already is as good.
    let _ = STARTS.remove(tid);
    0
}

#[inline(always)]
fn runnable(tid: u32) {
    if tid != 0 {
        // SAFETY: reads a clock.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        // Where there is no room, this wait is not seen.
        let _ = STARTS.insert(tid, now_ns, 0);
    }
}

#[inline(always)]
fn load(task: *const u8, offset: &Global<u32>) -> u32 {
    // SAFETY: the verifier proves that this is a field of the task_struct, of this size, or refuses the program.
    unsafe { task.add(offset.load() as usize).cast::<u32>().read_volatile() }
}

// Helpers for tracing are reserved to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
