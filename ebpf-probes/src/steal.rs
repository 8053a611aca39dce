//! Who was on a pcpu while a watched thread waited for it: one row of the steal matrix for each thread.
//!
//! Each pcpu keeps a timeline: which group of threads got on it when. A thread that leaves a pcpu knows when it had
//! got on it (`last_arrival`, of the run queue's own clock) and how long it had waited before, so the timeline of
//! just that stretch says who ran meanwhile, however many took turns. What the timeline does not cover goes to
//! [`UNKNOWN`], so that a row sums up to the thread's `runq_wait` to the nanosecond.
//!
//! A row belongs to the thread that waited, and that is on one pcpu at a time: no two programs write the same row.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::{helpers::bpf_get_smp_processor_id, macros::map, maps::Array};
use kvmpilot_ebpf_common::pcpu::{Cpu, NO_GROUP, RUNS, Run, UNKNOWN};
use kvmpilot_ebpf_common::sched::{NOWHERE, Slot};

use crate::sched::BPF_F_MMAPABLE;

/// By number of the pcpu. The daemon gives both maps their real sizes at load.
#[map]
static CPUS: Array<Cpu> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// ns by row and group.
#[map]
static STOLEN: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The pcpu that this runs on. Programs on the scheduler's tracepoints are not moved and do not nest.
#[inline(always)]
pub(crate) fn this_cpu() -> Option<(u32, &'static mut Cpu)> {
    // SAFETY: reads the number of the pcpu.
    let number = unsafe { bpf_get_smp_processor_id() };
    // SAFETY: only programs on this pcpu write to it (the daemon writes `place` alone, and other pcpus read).
    CPUS.get_ptr_mut(number).map(|cpu| (number, unsafe { &mut *cpu }))
}

/// Last-level cache and NUMA node of a pcpu; `None` for no pcpu.
#[inline(always)]
pub(crate) fn place(number: u32) -> Option<[u32; 2]> {
    CPUS.get(number).map(|cpu| cpu.place)
}

/// A run of `group` that began at `arrival_ns` ends.
#[inline(always)]
pub(crate) fn ran(cpu: &mut Cpu, group: u32, arrival_ns: impl FnOnce() -> u64) {
    if cpu.newest != group {
        cpu.newest = group;
        cpu.head = cpu.head.wrapping_add(1);
        if let Some(run) = cpu.runs.get_mut(cpu.head as usize % RUNS) {
            *run = Run::new(group, arrival_ns());
        }
    }
}

/// The pcpu was idle: nobody waited for it then, and nobody who waits later can have waited for what ran before.
/// The kernel keeps no arrival times of idle tasks either.
#[inline(always)]
pub(crate) fn idled(cpu: &mut Cpu) {
    if cpu.newest != NO_GROUP {
        cpu.newest = NO_GROUP;
        cpu.base = cpu.head;
    }
}

/// Files the wait of `wait_ns` that ended when the thread got on this pcpu at `arrival_ns`.
#[inline(always)]
pub(crate) fn charge(cpu: &Cpu, slot: &mut Slot, arrival_ns: u64, wait_ns: u64) {
    // Most waits are for one run.
    if slot.elsewhere_ns == 0
        && cpu.newest != NO_GROUP
        && let Some(run) = cpu.runs.get(cpu.head as usize % RUNS)
        && run.age_ns(arrival_ns) >= wait_ns
    {
        return add(slot.row, cpu.newest, wait_ns);
    }
    charge_all(cpu, slot, arrival_ns, wait_ns);
}

/// As `charge`, for waits that several are to blame for.
#[inline(never)]
fn charge_all(cpu: &Cpu, slot: &mut Slot, arrival_ns: u64, wait_ns: u64) {
    let elsewhere_ns = slot.elsewhere_ns;
    slot.elsewhere_ns = 0;
    let here_ns = if elsewhere_ns < wait_ns { wait_ns - elsewhere_ns } else { 0 };
    if here_ns > 0 {
        walk(slot.row, cpu.head, cpu.base, |n| cpu.runs.get(n).copied(), arrival_ns, here_ns, 0);
    }
    if here_ns < wait_ns {
        charge_elsewhere(slot, arrival_ns.wrapping_sub(here_ns), wait_ns - here_ns);
    }
}

/// Files a wait on the pcpu that the thread was preempted on before it was moved here. Its timeline may grow while
/// this reads it; then the parts are off by what ran meanwhile, their sum is not.
#[cold]
#[inline(never)]
fn charge_elsewhere(slot: &Slot, end_ns: u64, wait_ns: u64) {
    let row = slot.row;
    let from = if slot.left == NOWHERE { None } else { CPUS.get_ptr(slot.left) };
    let Some(from) = from else { return add(row, UNKNOWN, wait_ns) };
    // SAFETY: fields of an element of our own array, at most a word each; volatile because another pcpu writes them.
    let (switches, current, newest, head, base) = unsafe {
        (
            read_volatile(addr_of!((*from).switches)),
            read_volatile(addr_of!((*from).current)),
            read_volatile(addr_of!((*from).newest)),
            read_volatile(addr_of!((*from).head)),
            read_volatile(addr_of!((*from).base)),
        )
    };
    // SAFETY: as above; the index is below RUNS.
    let run = |n: usize| Some(unsafe { read_volatile(addr_of!((*from).runs).cast::<Run>().add(n % RUNS)) });
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what the slot has")]
    if switches as u32 == slot.left_switches {
        // Who took the pcpu from the thread is still on it.
        return add(row, current, wait_ns);
    }
    // When the newest run ended is not known before the present one ends.
    let mut covered_ns = 0;
    if newest != current
        && let Some(run) = run(head as usize)
    {
        covered_ns = run.age_ns(end_ns).min(wait_ns);
        if covered_ns > 0 {
            add(row, UNKNOWN, covered_ns);
        }
    }
    walk(row, head, base, run, end_ns, wait_ns, covered_ns);
}

/// Goes back in a timeline from `end_ns` until the wait is covered, from `covered_ns` on.
#[inline(always)]
fn walk(
    row: u32,
    head: u32,
    base: u32,
    run: impl Fn(usize) -> Option<Run>,
    end_ns: u64,
    wait_ns: u64,
    mut covered_ns: u64,
) {
    let length = head.wrapping_sub(base);
    for back in 0..RUNS as u32 {
        if back >= length || covered_ns >= wait_ns {
            break;
        }
        let Some(run) = run(head.wrapping_sub(back) as usize % RUNS) else { break };
        let age_ns = run.age_ns(end_ns);
        let until_ns = if age_ns < wait_ns { age_ns } else { wait_ns };
        if until_ns > covered_ns {
            add(row, run.group(), until_ns - covered_ns);
            covered_ns = until_ns;
        }
    }
    if covered_ns < wait_ns {
        add(row, UNKNOWN, wait_ns - covered_ns);
    }
}

#[inline(always)]
fn add(row: u32, group: u32, ns: u64) {
    if let Some(cell) = STOLEN.get_ptr_mut(row.wrapping_add(group)) {
        // SAFETY: a cell of our own array, of a row that nobody else writes.
        unsafe { *cell += ns };
    }
}
