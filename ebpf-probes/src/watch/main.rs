//! kvmpilot's tier 2, one object: what is measured of one domain on demand, in short windows, never always on.
//! `wake.rs` times waits for a pcpu, `exits.rs` exits from the guest. The daemon attaches and detaches; which
//! threads belong to the domain is told by the process id of its QEMU, which is fixed at load.
#![expect(clippy::needless_pass_by_value, reason = "aya hands a context over by value")]
#![no_std]
#![no_main]

mod exits;
mod wake;

use aya_ebpf::{
    Global,
    macros::{btf_tracepoint, map, tracepoint},
    maps::{Array, PerCpuArray},
    programs::{BtfTracePointContext, TracePointContext},
};
use kvmpilot_ebpf_common::watch::{lost, program};

/// Process id of the domain's QEMU.
#[unsafe(no_mangle)]
static TGID: Global<u32> = Global::new(u32::MAX);

/// Number of the present window, from 1; 0 while none is open. The daemon opens a window when all programs are attached,
/// and closes it before it detaches them, which can take 100 ms.
#[map]
static WINDOW: Array<u32> = Array::with_max_entries(1, 0);

/// What was not counted, by cause.
#[map]
static LOST: Array<u64> = Array::with_max_entries(lost::CAUSES, 0);

/// Runs of each program.
#[map]
static RUNS: PerCpuArray<u64> = PerCpuArray::with_max_entries(program::COUNT, 0);

/// `(task)`
#[btf_tracepoint(function = "sched_wakeup")]
fn watch_wakeup(ctx: BtfTracePointContext) -> i32 {
    ran(program::WAKEUP);
    wake::woken(wake::Task::arg(&ctx, 0));
    0
}

/// `(task)`
#[btf_tracepoint(function = "sched_wakeup_new")]
fn watch_newborn(ctx: BtfTracePointContext) -> i32 {
    ran(program::NEWBORN);
    wake::woken(wake::Task::arg(&ctx, 0));
    0
}

/// `(preempt, prev, next, prev_state)`
#[btf_tracepoint(function = "sched_switch")]
fn watch_switch(ctx: BtfTracePointContext) -> i32 {
    ran(program::SWITCH);
    wake::switched(&ctx, wake::Task::arg(&ctx, 1), wake::Task::arg(&ctx, 2));
    0
}

/// `kvm:kvm_exit`, or whatever event the daemon attaches it to.
#[tracepoint]
fn watch_exit(ctx: TracePointContext) -> u32 {
    ran(program::EXIT);
    exits::left(&ctx);
    0
}

/// `kvm:kvm_entry`, or whatever event ends what the other one begins.
#[tracepoint]
fn watch_entry(_ctx: TracePointContext) -> u32 {
    ran(program::ENTRY);
    exits::entered();
    0
}

/// Tracepoints of one pcpu may nest (an interrupt between two events of a thread): then one run may be missing.
#[inline(always)]
fn ran(program: u32) {
    if let Some(runs) = RUNS.get_ptr_mut(program) {
        // SAFETY: this pcpu's own entry of our own array.
        unsafe { *runs += 1 };
    }
}

/// The present window, if one is open.
#[inline(always)]
fn window() -> Option<u32> {
    // SAFETY: an entry of our own array; volatile because the daemon writes it meanwhile.
    let window = WINDOW.get_ptr(0).map_or(0, |window| unsafe { window.read_volatile() });
    (window != 0).then_some(window)
}

#[cold]
#[inline(never)]
fn lose(cause: u32) {
    if let Some(count) = LOST.get_ptr_mut(cause) {
        // SAFETY: an entry of our own array. Two pcpus may lose one count to each other; it says "some" all the same.
        unsafe { *count += 1 };
    }
}

// Helpers for tracing are reserved to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
