//! kvmpilot's tier 1, the always-on view of the scheduler. What it measures per thread lives in `sched.rs`, who
//! ran while somebody waited in `steal.rs`, how it reads a `task_struct` of whatever kernel runs in `task.rs`, the
//! shared memory in the `common` crate.
//!
//! `cargo xtask build-ebpf` builds it and the daemon embeds it.
#![expect(clippy::needless_pass_by_value, reason = "aya hands a context over by value")]
#![expect(clippy::cast_possible_truncation, reason = "what is cast are constants below 2^32")]
#![expect(clippy::implicit_saturating_sub, reason = "a branch that the verifier can follow")]
#![no_std]
#![no_main]

mod sched;
mod steal;
mod task;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use task::Task;

/// Every switch on every pcpu, `(preempt, prev, next, prev_state)`: no clock, no hash, no ring buffer,
/// nothing that grows with load.
#[btf_tracepoint(function = "sched_switch")]
fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let Some((number, cpu)) = steal::this_cpu() else { return 0 };
    cpu.switches += 1;
    sched::switch_out(&ctx, number, cpu, Task::arg(&ctx, 1));
    sched::switch_in(&ctx, number, cpu, Task::arg(&ctx, 2));
    0
}

/// Ends the watch of a thread before its tid can be given to another.
#[btf_tracepoint(function = "sched_process_exit")]
fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let Some((_, cpu)) = steal::this_cpu() else { return 0 };
    cpu.exits += 1;
    sched::exit(&ctx, cpu, Task::arg(&ctx, 0));
    0
}

/// Notes that a watched thread has started another, `(parent, child)`: who lists the threads of a process needs to
/// look again only then.
#[btf_tracepoint(function = "sched_process_fork")]
fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let Some((_, cpu)) = steal::this_cpu() else { return 0 };
    cpu.forks += 1;
    sched::fork(Task::arg(&ctx, 0));
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
