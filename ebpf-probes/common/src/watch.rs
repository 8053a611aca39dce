//! What the on-demand probes (tier 2) keep while a domain is watched: latencies of its threads, exits of its
//! vcpus.
//!
//! The probes run in short windows. What was stamped in one window means nothing in the next, so every stamp
//! carries the number of its window.

/// Buckets of [`Latencies::buckets`]: four for each power of two up to 2^37 ns, more than two minutes.
pub const LATENCY_BUCKETS: usize = 144;

/// [`WatchedThread::kind`]: a wake-up began the wait.
pub const WOKEN: u32 = 0;
/// [`WatchedThread::kind`]: the thread was put off its pcpu while it wanted to run on.
pub const PREEMPTED: u32 = 1;

/// Waits of one kind: from the moment on which the thread wanted a pcpu to the one on which it got it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Latencies {
    /// Waits that ended.
    pub count: u64,
    /// Their lengths added up, ns.
    pub sum_ns: u64,
    /// The longest, ns.
    pub max_ns: u64,
    /// Waits by length, see [`latency_bucket`].
    pub buckets: [u32; LATENCY_BUCKETS],
}

/// One thread of the watched domain. The run queue lock orders its writers: a thread is woken, put on a pcpu and
/// taken off it under that lock.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WatchedThread {
    /// When it began to wait, ns on the monotonic clock; 0 while it does not wait.
    pub since_ns: u64,
    /// Window of `since_ns`.
    pub window: u32,
    /// [`WOKEN`] or [`PREEMPTED`].
    pub kind: u32,
    /// Waits after a wake-up.
    pub woken: Latencies,
    /// Waits after a preemption.
    pub preempted: Latencies,
}

/// One wait, as the test mode of the program records it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WaitEvent {
    /// When the thread got its pcpu, ns on the monotonic clock.
    pub at_ns: u64,
    /// How long it had waited, ns.
    pub wait_ns: u64,
    /// [`WOKEN`] or [`PREEMPTED`].
    pub kind: u64,
}

/// Where one vcpu thread is: in its guest, or out of it for a reason. The thread itself is the only writer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VcpuThread {
    /// When it left its guest; 0 while it is inside or unknown. ns on the monotonic clock.
    pub left_ns: u64,
    /// When it entered its guest; 0 while it is outside or unknown.
    pub entered_ns: u64,
    /// Time inside, ns.
    pub guest_ns: u64,
    /// Window of `left_ns` and `entered_ns`.
    pub window: u32,
    /// Why it left.
    pub reason: u32,
    /// Instruction set of the exit: KVM's 1 for VMX, 2 for SVM, 0 unknown.
    pub isa: u32,
    /// Zero.
    pub reserved: u32,
}

/// Key of [`ExitCounts`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitKey {
    /// The vcpu's thread.
    pub tid: u32,
    /// `exit_reason` of `kvm:kvm_exit`.
    pub reason: u32,
}

/// Exits of one vcpu thread for one reason.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExitCounts {
    /// Exits that ended in an entry.
    pub count: u64,
    /// Time from exit to entry, added up, ns.
    pub total_ns: u64,
    /// The longest, ns.
    pub max_ns: u64,
}

/// The programs, as indices of their run counters.
pub mod program {
    /// `watch_switch`
    pub const SWITCH: u32 = 0;
    /// `watch_wakeup`
    pub const WAKEUP: u32 = 1;
    /// `watch_newborn`
    pub const NEWBORN: u32 = 2;
    /// `watch_exit`
    pub const EXIT: u32 = 3;
    /// `watch_entry`
    pub const ENTRY: u32 = 4;
    /// How many there are.
    pub const COUNT: u32 = 5;
}

/// Why something was not counted; index into the map `LOST`.
pub mod lost {
    /// No room for one more thread or reason.
    pub const FULL: u32 = 0;
    /// Number of causes.
    pub const CAUSES: u32 = 1;
}

#[cfg(feature = "user")]
macro_rules! pod {
    ($($name:ty),*) => { $(
        // SAFETY: repr(C), integers only, and the assertions below leave no room for padding.
        unsafe impl aya::Pod for $name {}
    )* };
}
#[cfg(feature = "user")]
pod!(WatchedThread, WaitEvent, VcpuThread, ExitKey, ExitCounts);

const _: () = assert!(size_of::<Latencies>() == 24 + 4 * LATENCY_BUCKETS);
const _: () = assert!(size_of::<WatchedThread>() == 16 + 2 * size_of::<Latencies>());
const _: () = assert!(size_of::<VcpuThread>() == 40 && size_of::<ExitKey>() == 8);

/// Bucket of a wait: one for each of 0 to 3 ns, then four of equal width for each power of two, so that a bucket
/// is at most a quarter of its lower bound wide. The last one is open.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "what is cast is below 8")]
pub const fn latency_bucket(wait_ns: u64) -> usize {
    if wait_ns < 4 {
        return wait_ns as usize;
    }
    // BPF has no instruction for it: halve by hand until three bits are left.
    let (mut rest, mut shift) = (wait_ns, 0_usize);
    if rest >> 34 != 0 {
        rest >>= 32;
        shift = 32;
    }
    if rest >> 18 != 0 {
        rest >>= 16;
        shift += 16;
    }
    if rest >> 10 != 0 {
        rest >>= 8;
        shift += 8;
    }
    if rest >> 6 != 0 {
        rest >>= 4;
        shift += 4;
    }
    if rest >> 4 != 0 {
        rest >>= 2;
        shift += 2;
    }
    if rest >> 3 != 0 {
        rest >>= 1;
        shift += 1;
    }
    // `rest` is 4 to 7 now.
    let bucket = shift * 4 + rest as usize;
    if bucket < LATENCY_BUCKETS { bucket } else { LATENCY_BUCKETS - 1 }
}

/// First length, in ns, that is too long for a bucket; `None` for the last one, which is open.
#[must_use]
pub const fn latency_bucket_end(bucket: usize) -> Option<u64> {
    if bucket + 1 >= LATENCY_BUCKETS {
        return None;
    }
    let next = bucket as u64 + 1;
    if next < 8 { Some(next) } else { Some((4 + next % 4) << (next / 4 - 1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_hold_what_they_say() {
        assert_eq!((latency_bucket(0), latency_bucket(3), latency_bucket(4)), (0, 3, 4));
        let mut begin = 0;
        for bucket in 0..LATENCY_BUCKETS - 1 {
            let end = latency_bucket_end(bucket).unwrap();
            assert!(end > begin && (end - begin) * 4 <= begin.max(4), "{bucket}: {begin}..{end}");
            assert_eq!(latency_bucket(begin), bucket, "{begin}");
            assert_eq!(latency_bucket(end - 1), bucket, "{end} - 1");
            begin = end;
        }
        assert_eq!(begin, 7 << 34);
        assert_eq!(latency_bucket(begin), LATENCY_BUCKETS - 1);
        assert_eq!(latency_bucket(u64::MAX), LATENCY_BUCKETS - 1);
        assert_eq!(latency_bucket_end(LATENCY_BUCKETS - 1), None);
    }
}
