//! What the `sched_switch` probe keeps about one watched thread.

/// Buckets of [`Slot::waits`]. Together with the 128-byte head they make a slot exactly 1 KiB, so that the probe finds
/// one with a shift.
pub const BUCKETS: usize = 112;

/// Waits shorter than this (ns, 2^8) share bucket 0; it is also the width of the first eight buckets.
pub const FINEST_NS: u64 = 1 << FINEST_BITS;
const FINEST_BITS: u32 = 8;

/// [`Slot::state`]: nobody's. All bytes zero.
pub const FREE: u32 = 0;
/// [`Slot::state`]: the daemon has named a thread; the probe has not met it yet.
pub const ARMED: u32 = 1;
/// [`Slot::state`]: the probe has met the thread and checked its start time; the counters count.
pub const LIVE: u32 = 2;
/// [`Slot::state`]: the thread exited; the counters are its last.
pub const EXITED: u32 = 3;
/// [`Slot::state`]: the tid turned out to belong to another thread than the one named; the counters mean nothing.
pub const MISTAKEN: u32 = 4;

/// One watched thread.
///
/// Every field has exactly one writer at a time, so that neither side needs an atomic read-modify-write: the daemon
/// writes the whole slot while no index entry leads to it, and afterwards only `window`; the probe writes the rest, on
/// the pcpu that switches the thread in or out, under that pcpu's run queue lock.
///
/// The totals are the kernel's own accumulators, copied: they count from the thread's birth, exactly as
/// `/proc/PID/task/TID/schedstat` does. Histogram and switches count from the moment the slot went [`LIVE`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// [`FREE`], [`ARMED`], [`LIVE`], [`EXITED`] or [`MISTAKEN`].
    pub state: u32,
    /// The thread; of the kernel's first pid name space.
    pub tid: u32,
    /// Start time that the daemon expects, as in `/proc/PID/task/TID/stat`: 1/100 s since boot.
    pub start_ticks: u64,
    /// Start time as the probe found it, ns since boot; 0 until then. Checked at every switch: a tid that was given to
    /// another thread never writes into its predecessor's slot.
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
    pub window: u32,
    /// Window of `max_wait_ns`; another than `window` means that no wait has ended in this one.
    pub max_window: u32,
    /// Switches out of a thread that wanted to run on (`nivcsw`, `sched_yield` included).
    pub preempted: u64,
    /// Switches out of a thread that went to sleep (`nvcsw`).
    pub blocked: u64,
    /// pcpu of the last switch, in or out.
    pub pcpu: u32,
    /// 1 from switch in to switch out.
    pub running: u32,
    _reserved: [u64; 4],
    /// Waits by length, see [`bucket`]. Their sum is the number of arrivals since the slot went live.
    pub waits: [u64; BUCKETS],
}

const _: () = assert!(size_of::<Slot>() == 1024);

#[cfg(feature = "user")]
// SAFETY: repr(C), integers only, and the size assertion above leaves no room for padding.
unsafe impl aya::Pod for Slot {}

/// Bucket of a wait: linear below 1 us, then four buckets per octave (at most 25 % wide), the last one open from 128 s.
#[inline(always)]
#[must_use]
pub const fn bucket(wait_ns: u64) -> usize {
    let units = wait_ns >> FINEST_BITS;
    if units < 4 {
        return units as usize;
    }
    if units >= 1 << 29 {
        return BUCKETS - 1;
    }
    // BPF has no count-leading-zeros and LLVM's substitute is ~40 instructions: halve by hand. At most 29 bits here.
    let mut rest = units;
    let mut top = 0;
    if rest >= 1 << 16 {
        rest >>= 16;
        top = 16;
    }
    if rest >= 1 << 8 {
        rest >>= 8;
        top += 8;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        top += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        top += 2;
    }
    if rest >= 2 {
        top += 1;
    }
    ((top - 1) * 4 + ((units >> (top - 2)) & 3)) as usize
}

/// Shortest wait (ns) that falls into bucket `index`; the next bucket's floor is its end.
#[must_use]
pub const fn bucket_floor_ns(index: usize) -> u64 {
    let index = index as u64;
    if index < 4 { index << FINEST_BITS } else { (4 + index % 4) << (index / 4 - 1) << FINEST_BITS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_floor_opens_its_bucket() {
        for index in 0..BUCKETS {
            let floor = bucket_floor_ns(index);
            assert_eq!(bucket(floor), index);
            if index > 0 {
                assert_eq!(bucket(floor - 1), index - 1);
            }
        }
    }

    #[test]
    fn buckets_are_at_most_a_quarter_wide_and_the_last_is_open() {
        for index in 4..BUCKETS - 1 {
            let (floor, end) = (bucket_floor_ns(index), bucket_floor_ns(index + 1));
            assert!((end - floor) * 4 <= floor, "bucket {index}: {floor}..{end}");
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(FINEST_NS - 1), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
