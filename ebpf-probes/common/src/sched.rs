//! What the `sched_switch` probe keeps about one watched thread.

/// Buckets of [`Slot::waits`]: the last one is open from 2^43 ns, 2.4 hours. With the head of 160 bytes they
/// make a slot 512 bytes, so that the probe finds one with a shift.
pub const BUCKETS: usize = 44;

/// [`Slot::state`]: nobody's. All bytes zero.
pub const FREE: u32 = 0;
/// [`Slot::state`]: the daemon has named a thread; the probe has not met it yet.
pub const ARMED: u32 = 1;
/// [`Slot::state`]: the probe has met the thread and checked its start time; the counters count.
pub const LIVE: u32 = 2;
/// [`Slot::state`]: the thread exited; the counters are its last.
pub const EXITED: u32 = 3;
/// [`Slot::state`]: the tid turned out to belong to another thread than the one named; the counters mean
/// nothing.
pub const MISTAKEN: u32 = 4;

/// [`Slot::left`]: no pcpu. [`Slot::pcpu`] of a thread that was not seen on one yet.
pub const NOWHERE: u32 = u32::MAX;

/// One watched thread.
///
/// Every field has exactly one writer at a time, so that neither side needs an atomic read-modify-write: the
/// daemon writes the whole slot while no index entry leads to it, and afterwards only `window`; the probe
/// writes the rest, on the pcpu that switches the thread in or out, under that pcpu's run queue lock.
///
/// The totals are the kernel's own accumulators, copied: they count from the thread's birth, exactly as
/// `/proc/PID/task/TID/schedstat` does. Everything else counts from the moment the slot went [`LIVE`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Start time as the probe found it, ns since boot; 0 until then. Checked at every switch: a tid that was
    /// given to another thread never writes into its predecessor's slot.
    pub start_ns: u64,
    /// `sum_exec_runtime` at the last switch out, ns.
    pub on_cpu_ns: u64,
    /// `sched_info.run_delay` at the last switch out, ns.
    pub runq_wait_ns: u64,
    /// `sched_info.pcount` at the last switch out: times the thread was put on a pcpu.
    pub arrivals: u64,
    /// `se.nr_migrations` at the last switch out: moves from pcpu to pcpu.
    pub migrations: u64,
    /// Longest wait that ended in window `max_window`, ns.
    pub max_wait_ns: u64,
    /// Written by the daemon alone: number of the current window.
    pub window: u64,
    /// Window of `max_wait_ns`; another than `window` means that no wait has ended in this one.
    pub max_window: u64,
    /// Switches out of a thread that wanted to run on (`nivcsw`, `sched_yield` included).
    pub preempted: u64,
    /// Switches out of a thread that went to sleep (`nvcsw`).
    pub blocked: u64,
    /// pcpu of the last switch in.
    pub pcpu: u32,
    /// 1 from switch in to switch out.
    pub running: u32,
    /// First entry of the thread's row in the steal matrix. Written by the daemon.
    pub row: u32,
    /// Group that the thread belongs to. Written by the daemon.
    pub group: u32,
    /// Part of the wait before the present run that it waited on other pcpus than the one it runs on, ns.
    pub elsewhere_ns: u64,
    /// pcpu on which the thread was preempted; [`NOWHERE`] if it went to sleep. Of the last switch out.
    pub left: u32,
    /// Low half of that pcpu's [`Cpu::switches`](crate::pcpu::Cpu::switches) at the last switch out.
    pub left_switches: u32,
    /// [`FREE`], [`ARMED`], [`LIVE`], [`EXITED`] or [`MISTAKEN`].
    pub state: u32,
    /// The thread; of the kernel's first pid name space.
    pub tid: u32,
    /// Start time that the daemon expects, as in `/proc/PID/task/TID/stat`: 1/100 s since boot.
    pub start_ticks: u64,
    /// Moves to a pcpu with another last-level cache.
    pub migrations_llc: u64,
    /// Moves to a pcpu of another NUMA node.
    pub migrations_node: u64,
    /// Threads that this one has started.
    pub forks: u64,
    _reserved: u64,
    /// Waits by length, see [`bucket`]. Their sum is the number of arrivals since the slot went live.
    pub waits: [u64; BUCKETS],
}

const _: () = assert!(size_of::<Slot>() == 512);

impl Slot {
    /// What the daemon writes before it leads the probe to the slot.
    #[must_use]
    pub const fn armed(tid: u32, start_ticks: u64, row: u32, group: u32) -> Self {
        Self {
            state: ARMED,
            tid,
            start_ticks,
            start_ns: 0,
            on_cpu_ns: 0,
            runq_wait_ns: 0,
            arrivals: 0,
            migrations: 0,
            max_wait_ns: 0,
            window: 0,
            max_window: 0,
            preempted: 0,
            blocked: 0,
            pcpu: NOWHERE,
            running: 0,
            row,
            group,
            elsewhere_ns: 0,
            left: NOWHERE,
            left_switches: 0,
            migrations_llc: 0,
            migrations_node: 0,
            forks: 0,
            _reserved: 0,
            waits: [0; BUCKETS],
        }
    }
}

#[cfg(feature = "user")]
// SAFETY: repr(C), integers only, and the size assertion above leaves no room for padding.
unsafe impl aya::Pod for Slot {}

/// Bucket of a wait: `n` for 2^n up to 2^(n+1) ns, 0 also for no wait at all.
#[inline(always)]
#[must_use]
pub const fn bucket(wait_ns: u64) -> usize {
    // BPF has no instruction for it and LLVM's substitute takes ~40: halve by hand. (A table for the last steps is
    // quicker, but what it yields has bounds that Linux 5.10's verifier loses track of.)
    let mut rest = wait_ns;
    let mut log2 = 0;
    if rest >> 32 != 0 {
        rest >>= 32;
        log2 = 32;
    }
    if rest >> 16 != 0 {
        rest >>= 16;
        log2 += 16;
    }
    if rest >> 8 != 0 {
        rest >>= 8;
        log2 += 8;
    }
    if rest >> 4 != 0 {
        rest >>= 4;
        log2 += 4;
    }
    if rest >> 2 != 0 {
        rest >>= 2;
        log2 += 2;
    }
    if rest >> 1 != 0 {
        log2 += 1;
    }
    if log2 < BUCKETS { log2 } else { BUCKETS - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_one_power_of_two_and_the_last_is_open() {
        assert_eq!(bucket(0), 0);
        for n in 0..64 {
            assert_eq!(bucket(1 << n), n.min(BUCKETS - 1), "2^{n}");
            assert_eq!(bucket((1_u64 << n) + ((1 << n) - 1)), n.min(BUCKETS - 1), "2^({n}+1) - 1");
        }
    }
}
