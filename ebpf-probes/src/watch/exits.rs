//! Counts exits from the guest by reason, with the time until the thread enters it again. The vcpu's thread runs
//! both programs itself, so each entry of these maps has one writer.

use aya_ebpf::{
    Global,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::map,
    maps::HashMap,
    programs::TracePointContext,
};
use kvmpilot_ebpf_common::watch::{ExitCounts, ExitKey, VcpuThread, lost};

use crate::{TGID, lose, window};

/// Offsets in the event that the daemon parsed from its format: classic tracepoints, because kvm is a module on
/// distributions, whose types BTF programs cannot reach, and its raw arguments have changed (5.16).
#[unsafe(no_mangle)]
static EXIT_REASON_AT: Global<u32> = Global::new(u32::MAX);
/// As above; `u32::MAX` where the event does not say.
#[unsafe(no_mangle)]
static EXIT_ISA_AT: Global<u32> = Global::new(u32::MAX);

/// tid -> where that vcpu is.
#[map]
static VCPUS: HashMap<u32, VcpuThread> = HashMap::with_max_entries(1024, 0);

#[map]
static EXITS: HashMap<ExitKey, ExitCounts> = HashMap::with_max_entries(16384, 0);

/// The current thread, if it belongs to the domain.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is the thread's id")]
fn current() -> Option<u32> {
    let id = bpf_get_current_pid_tgid();
    ((id >> 32) as u32 == TGID.load()).then_some(id as u32)
}

#[inline(always)]
fn vcpu(tid: u32) -> Option<&'static mut VcpuThread> {
    let mut found = VCPUS.get_ptr_mut(tid);
    if found.is_none() {
        let newcomer =
            VcpuThread { left_ns: 0, entered_ns: 0, guest_ns: 0, window: 0, reason: 0, isa: 0, reserved: 0 };
        if VCPUS.insert(tid, newcomer, 0).is_err() {
            lose(lost::FULL);
        }
        found = VCPUS.get_ptr_mut(tid);
    }
    // SAFETY: entries are never removed, and only the thread itself writes its own.
    found.map(|vcpu| unsafe { &mut *vcpu })
}

/// A field of the event.
#[inline(always)]
fn field(ctx: &TracePointContext, offset: &Global<u32>) -> u32 {
    // SAFETY: the helper checks the address; what the verifier cannot check is that the offset is the right one,
    // which the daemon took from this kernel's own description of the event.
    unsafe { ctx.read_at::<u32>(offset.load() as usize) }.unwrap_or(u32::MAX)
}

#[inline(always)]
pub(crate) fn left(ctx: &TracePointContext) {
    let Some(tid) = current() else { return };
    let Some(window) = window() else { return };
    let Some(vcpu) = vcpu(tid) else { return };
    // SAFETY: reads a clock.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if vcpu.entered_ns != 0 && vcpu.window == window {
        vcpu.guest_ns += now_ns.wrapping_sub(vcpu.entered_ns);
    }
    vcpu.entered_ns = 0;
    vcpu.left_ns = now_ns;
    vcpu.window = window;
    vcpu.reason = field(ctx, &EXIT_REASON_AT);
    if EXIT_ISA_AT.load() != u32::MAX {
        vcpu.isa = field(ctx, &EXIT_ISA_AT);
    }
}

#[inline(always)]
pub(crate) fn entered() {
    let Some(tid) = current() else { return };
    let Some(window) = window() else { return };
    let Some(vcpu) = vcpu(tid) else { return };
    // SAFETY: reads a clock.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let left_ns = vcpu.left_ns;
    let ended = left_ns != 0 && vcpu.window == window;
    vcpu.left_ns = 0;
    vcpu.entered_ns = now_ns;
    vcpu.window = window;
    if ended {
        count(ExitKey { tid, reason: vcpu.reason }, now_ns.wrapping_sub(left_ns));
    }
}

#[inline(always)]
fn count(key: ExitKey, ns: u64) {
    if let Some(counts) = EXITS.get_ptr_mut(key) {
        // SAFETY: entries are never removed, and only the thread in the key writes this one.
        let counts = unsafe { &mut *counts };
        counts.count += 1;
        counts.total_ns += ns;
        if ns > counts.max_ns {
            counts.max_ns = ns;
        }
    } else if EXITS.insert(key, ExitCounts { count: 1, total_ns: ns, max_ns: ns }, 0).is_err() {
        lose(lost::FULL);
    }
}
