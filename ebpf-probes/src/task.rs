//! Reads fields of the running kernel's `task_struct`.
//!
//! rustc emits no CO-RE relocations (rust-lang/rust#158412), so the daemon resolves each offset from the
//! kernel's BTF and writes it into the statics below before the load. They end in frozen read-only data: the
//! verifier knows their values and checks each load against the kernel's own types, so an offset that hits no
//! field of this size is refused. A plain load costs 0.4 ns where `bpf_probe_read_kernel` costs 7.

use aya_ebpf::{Global, programs::BtfTracePointContext};

macro_rules! offsets {
    ($($name:ident),* $(,)?) => { $(#[unsafe(no_mangle)] static $name: Global<u32> = Global::new(u32::MAX);)* };
}

// The names are the contract with host-daemon/src/probes/offsets.rs.
offsets!(
    TASK_PID,
    TASK_STATE,
    TASK_START,
    TASK_EXEC_RUNTIME,
    TASK_MIGRATIONS,
    TASK_RUN_DELAY,
    TASK_PCOUNT,
    TASK_LAST_ARRIVAL
);

/// 1 where the tracepoint hands over the state of `prev`: from 5.18 (9c2136be0878) and in vendor kernels that
/// took it.
#[unsafe(no_mangle)]
static SWITCH_HAS_STATE: Global<u32> = Global::new(0);

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
    fn load<T: Copy>(self, offset: &Global<u32>) -> T {
        // SAFETY: the verifier proves that this is a field of the task_struct, of T's size, or refuses the
        // program.
        unsafe { self.0.add(offset.load() as usize).cast::<T>().read_volatile() }
    }

    /// Thread id in the first pid name space; 0 is a pcpu's idle task.
    #[inline(always)]
    pub(crate) fn pid(self) -> u32 {
        self.load(&TASK_PID)
    }

    /// State with which this task, the `prev` of `sched_switch`, leaves its pcpu; `TASK_RUNNING` is 0.
    #[inline(always)]
    pub(crate) fn state(self, ctx: &BtfTracePointContext) -> u32 {
        if SWITCH_HAS_STATE.load() != 0 {
            ctx.arg(3)
        } else {
            // `__state`, 32 bits, from 5.14; before, the low half of a long called `state`.
            self.load(&TASK_STATE)
        }
    }

    /// ns from boot to the thread's start.
    #[inline(always)]
    pub(crate) fn start_ns(self) -> u64 {
        self.load(&TASK_START)
    }

    /// ns on a pcpu since birth.
    #[inline(always)]
    pub(crate) fn exec_runtime_ns(self) -> u64 {
        self.load(&TASK_EXEC_RUNTIME)
    }

    /// ns of waiting for a pcpu since birth, up to the last arrival on one.
    #[inline(always)]
    pub(crate) fn run_delay_ns(self) -> u64 {
        self.load(&TASK_RUN_DELAY)
    }

    /// Arrivals on a pcpu since birth.
    #[inline(always)]
    pub(crate) fn arrivals(self) -> u64 {
        self.load(&TASK_PCOUNT)
    }

    /// When it got on the pcpu last, in ns of its run queue's clock (on every pcpu ns since boot, give or take).
    #[inline(always)]
    pub(crate) fn last_arrival_ns(self) -> u64 {
        self.load(&TASK_LAST_ARRIVAL)
    }

    /// Moves between pcpus since birth.
    #[inline(always)]
    pub(crate) fn migrations(self) -> u64 {
        self.load(&TASK_MIGRATIONS)
    }
}
