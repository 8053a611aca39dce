//! kvmpilot's probes, one object: tier 1, the always-on view of the scheduler. What a probe measures per
//! thread lives in `sched.rs`, how it reads a `task_struct` of whatever kernel runs in `task.rs`, the shared
//! memory in the `common` crate.
//!
//! `cargo xtask build-ebpf` builds it and the daemon embeds it.
#![expect(clippy::needless_pass_by_value, reason = "aya hands a context over by value")]
#![no_std]
#![no_main]

mod sched;
mod task;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use task::Task;

/// Every switch on every pcpu, `(preempt, prev, next, prev_state)`: no clock, no hash, no ring buffer,
/// nothing that grows with load.
#[btf_tracepoint(function = "sched_switch")]
fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    sched::switch_out(&ctx, Task::arg(&ctx, 1));
    sched::switch_in(&ctx, Task::arg(&ctx, 2));
    0
}

/// Ends the watch of a thread before its tid can be given to another.
#[btf_tracepoint(function = "sched_process_exit")]
fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    sched::exit(&ctx, Task::arg(&ctx, 0));
    0
}

// Helpers for tracing are reserved to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
