//! The books of the watched threads: which slot is whose, and what each switch adds to it. Who is watched,
//! and what the figures mean, is the daemon's business.
//!
//! At the tracepoint the kernel has just charged `prev` for the run that ends, and `prev.run_delay` already
//! holds the wait that came before it: the difference to what the slot holds is exactly that wait. So no
//! clock is read and nothing happens at wake-up. `next` has not been charged yet for the wait that ends: that
//! follows when it switches out.

use aya_ebpf::{macros::map, maps::Array, programs::BtfTracePointContext};
use aya_log_ebpf::{debug, warn};
use kvmpilot_ebpf_common::pcpu::{Cpu, HOST, UNKNOWN};
use kvmpilot_ebpf_common::sched::{EXITED, LIVE, MISTAKEN, NOWHERE, Slot, bucket};

use crate::steal;
use crate::task::Task;

pub(crate) const BPF_F_MMAPABLE: u32 = 1 << 10;
/// `/proc` counts start times in USER_HZ, which is 100 wherever KVM runs.
const NS_PER_TICK: u64 = 10_000_000;

/// tid -> 1 + index of its slot, 0 for everybody else. The daemon gives both maps their real sizes at load.
#[map]
static IDX: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[inline(always)]
fn slot_of(pid: u32) -> Option<&'static mut Slot> {
    let index = *IDX.get(pid)?;
    if index == 0 {
        return None;
    }
    // SAFETY: a slot has one writer at a time (see Slot), and only entries of IDX lead to it.
    SLOTS.get_ptr_mut(index - 1).map(|slot| unsafe { &mut *slot })
}

#[inline(always)]
pub(crate) fn switch_out(ctx: &BtfTracePointContext, number: u32, cpu: &mut Cpu, prev: Task) {
    let pid = prev.pid();
    // Every pcpu has an idle task and all of them are pid 0: they would share one slot (Rezolus #1045).
    if pid == 0 {
        return steal::idled(cpu);
    }
    let Some(slot) = slot_of(pid) else { return steal::ran(cpu, HOST, || prev.last_arrival_ns()) };
    let last_arrival_ns = prev.last_arrival_ns();
    if slot.start_ns == prev.start_ns() {
        book(slot, cpu, prev, last_arrival_ns);
        // A task may be preempted on its way to sleep, before it gave up the pcpu by itself.
        if ctx.arg::<u8>(0) != 0 || prev.state(ctx) == 0 {
            slot.preempted += 1;
            slot.left = number;
        } else {
            slot.blocked += 1;
            slot.left = NOWHERE;
        }
        slot.running = 0;
    } else if !meet(ctx, slot, prev) {
        // What a thread waited for its first run under this slot it waited before we watched: nothing to book.
        return steal::ran(cpu, HOST, || last_arrival_ns);
    }
    if slot.pcpu != number {
        // Its switch in was before we watched.
        moved(slot, cpu, number);
    }
    #[expect(clippy::cast_possible_truncation, reason = "compared with the low half")]
    {
        slot.left_switches = cpu.switches as u32;
    }
    steal::ran(cpu, slot.group, || last_arrival_ns);
}

#[inline(always)]
pub(crate) fn switch_in(ctx: &BtfTracePointContext, number: u32, cpu: &mut Cpu, next: Task) {
    let pid = next.pid();
    if pid == 0 {
        cpu.current = UNKNOWN;
        return;
    }
    cpu.current = HOST;
    let Some(slot) = slot_of(pid) else { return };
    if slot.start_ns != next.start_ns() && !meet(ctx, slot, next) {
        return;
    }
    cpu.current = slot.group;
    if slot.pcpu != number {
        // What the kernel has booked before the arrival it waited before it was moved to this pcpu.
        slot.elsewhere_ns = next.run_delay_ns().wrapping_sub(slot.runq_wait_ns);
        moved(slot, cpu, number);
    }
    slot.running = 1;
}

/// The thread runs on another pcpu than before.
#[inline(always)]
fn moved(slot: &mut Slot, cpu: &Cpu, number: u32) {
    if let Some([llc, node]) = steal::place(slot.pcpu) {
        slot.migrations_llc += u64::from(llc != cpu.place[0]);
        slot.migrations_node += u64::from(node != cpu.place[1]);
    }
    slot.pcpu = number;
}

#[inline(always)]
pub(crate) fn exit(ctx: &BtfTracePointContext, cpu: &Cpu, task: Task) {
    let pid = task.pid();
    let Some(slot) = slot_of(pid) else { return };
    if slot.start_ns != task.start_ns() {
        if !meet(ctx, slot, task) {
            return;
        }
    } else {
        book(slot, cpu, task, task.last_arrival_ns());
    }
    // In this order: who sees that it has exited must not see it run.
    slot.running = 0;
    slot.state = EXITED;
    forget(pid);
    debug!(ctx, "watched thread {} exited", pid);
}

/// The parent is the running thread, so that its slot has no other writer.
#[inline(always)]
pub(crate) fn fork(parent: Task) {
    if let Some(slot) = slot_of(parent.pid()) {
        slot.forks += 1;
    }
}

/// Copies the kernel's totals and files the one wait that ended since the last time.
#[inline(always)]
fn book(slot: &mut Slot, cpu: &Cpu, task: Task, last_arrival_ns: u64) {
    let run_delay_ns = task.run_delay_ns();
    let wait_ns = run_delay_ns.wrapping_sub(slot.runq_wait_ns);
    let arrivals = task.arrivals();
    if arrivals != slot.arrivals {
        // Not an index: a probe can carry no panic.
        if let Some(count) = slot.waits.get_mut(bucket(wait_ns)) {
            *count += 1;
        }
        // SAFETY: a plain field; volatile because the daemon writes it meanwhile.
        let window = unsafe { (&raw const slot.window).read_volatile() };
        if slot.max_window != window {
            slot.max_window = window;
            slot.max_wait_ns = wait_ns;
        } else if wait_ns > slot.max_wait_ns {
            slot.max_wait_ns = wait_ns;
        }
    }
    if wait_ns > 0 {
        steal::charge(cpu, slot, last_arrival_ns, wait_ns);
    }
    copy_totals(slot, task, run_delay_ns, arrivals);
}

#[inline(always)]
fn copy_totals(slot: &mut Slot, task: Task, run_delay_ns: u64, arrivals: u64) {
    slot.on_cpu_ns = task.exec_runtime_ns();
    slot.runq_wait_ns = run_delay_ns;
    slot.arrivals = arrivals;
    slot.migrations = task.migrations();
}

/// First switch of a thread under this slot: is it the one that the daemon means? If so its history becomes
/// the baseline. If not, the tid has changed hands unseen: between the daemon's look into /proc and its entry
/// in IDX, or when an exec by another thread took over the tid.
#[cold]
#[inline(never)]
fn meet(ctx: &BtfTracePointContext, slot: &mut Slot, task: Task) -> bool {
    let start_ns = task.start_ns();
    if slot.start_ns == 0 && start_ns / NS_PER_TICK == slot.start_ticks {
        slot.start_ns = start_ns;
        copy_totals(slot, task, task.run_delay_ns(), task.arrivals());
        slot.state = LIVE;
        return true;
    }
    let pid = task.pid();
    slot.state = if slot.start_ns == 0 { MISTAKEN } else { EXITED };
    slot.running = 0;
    forget(pid);
    warn!(ctx, "tid {} belongs to another thread than the one watched: watch ended", pid);
    false
}

#[inline(always)]
fn forget(pid: u32) {
    if let Some(entry) = IDX.get_ptr_mut(pid) {
        // SAFETY: an entry of our own array; the daemon writes it only for a thread that is not watched yet.
        unsafe { entry.write(0) };
    }
}
