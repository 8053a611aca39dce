//! What the `sched_switch` probe keeps about one pcpu: who was on it lately, in groups of threads.

/// Runs that a pcpu's timeline remembers. Neighbours of one group count as one run.
pub const RUNS: usize = 256;

/// Group of every thread that is not watched.
pub const HOST: u32 = 0;
/// Group of nobody: waits that no run is known for.
pub const UNKNOWN: u32 = 1;
/// First group that can be a domain's.
pub const FIRST_DOMAIN: u32 = 2;
/// Groups must be below: [`Run`] has 16 bits for one.
pub const MAX_GROUPS: u32 = 1 << 16;
/// [`Cpu::newest`]: the timeline is empty.
pub const NO_GROUP: u32 = u32::MAX;
/// [`Cpu::place`] where the kernel does not tell: all such pcpus share one cache, or one node.
pub const NO_PLACE: u32 = u32::MAX;

/// One possible pcpu. Only programs that run on it write here, and the daemon only `place`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// Runs of the `sched_switch` program.
    pub switches: u64,
    /// Runs of the `sched_process_exit` program.
    pub exits: u64,
    /// Runs of the `sched_process_fork` program.
    pub forks: u64,
    /// Last-level cache and NUMA node. Written by the daemon; any numbers that differ where they differ.
    pub place: [u32; 2],
    /// Number of the newest run, modulo 2^32; it is at `runs[head % RUNS]`.
    pub head: u32,
    /// Number of the run before the oldest that counts.
    pub base: u32,
    /// Group of the newest run, or [`NO_GROUP`].
    pub newest: u32,
    /// Group of the thread that is on the pcpu now; [`UNKNOWN`] for its idle task.
    pub current: u32,
    _reserved: [u64; 2],
    /// Ring of runs that have ended. A run lasts until the one after it begins.
    pub runs: [Run; RUNS],
}

const _: () = assert!(size_of::<Cpu>() == 2112);

#[cfg(feature = "user")]
// SAFETY: repr(C), integers only, and the size assertion above leaves no room for padding.
unsafe impl aya::Pod for Cpu {}

/// When a group got on a pcpu, and which: 48 bits of ns, 16 of group. In one word, so that another pcpu never
/// reads one half of it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run(u64);

impl Run {
    /// `group` must be below [`MAX_GROUPS`]; of the time, what is above 2^48 ns (3 days) is cut off.
    #[inline(always)]
    #[must_use]
    pub const fn new(group: u32, arrival_ns: u64) -> Self {
        Self(arrival_ns << 16 | (group & (MAX_GROUPS - 1)) as u64)
    }

    /// As read from shared memory.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Who.
    #[inline(always)]
    #[must_use]
    pub const fn group(self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "16 bits are left")]
        {
            (self.0 & (MAX_GROUPS - 1) as u64) as u32
        }
    }

    /// Time from the arrival to `now_ns` (of the same clock, less than 39 hours apart), 0 if `now_ns` comes first.
    #[inline(always)]
    #[must_use]
    pub const fn age_ns(self, now_ns: u64) -> u64 {
        let age = (now_ns << 16).wrapping_sub(self.0 & !((MAX_GROUPS - 1) as u64)) >> 16;
        if age >> 47 == 0 { age } else { 0 }
    }

    /// The arrival, modulo 2^48 ns.
    #[must_use]
    pub const fn arrival_ns(self) -> u64 {
        self.0 >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_keeps_group_and_age_across_the_wrap() {
        let wrap = 1 << 48;
        for (arrival, now, age) in [(5, 12, 7), (wrap - 3, wrap + 4, 7), (wrap * 9 + 1, wrap * 9 + 1, 0)] {
            let run = Run::new(513, arrival);
            assert_eq!((run.group(), run.age_ns(now)), (513, age));
        }
        assert_eq!(Run::new(1, 12).age_ns(5), 0, "not yet arrived");
        assert_eq!(Run::new(MAX_GROUPS - 1, 77).arrival_ns(), 77);
        assert_eq!(Run::new(MAX_GROUPS - 1, 77).group(), MAX_GROUPS - 1);
    }
}
