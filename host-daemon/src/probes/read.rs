//! What the probes tell about one thread.

use kvmpilot_core::sample::{Runner, StolenSample};
use kvmpilot_ebpf_common::sched::{BUCKETS, EXITED, LIVE};

use super::{Probes, ThreadKey};

/// The three figures of `/proc/PID/task/TID/schedstat`, from the thread's birth on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Time on a pcpu, ns.
    pub on_cpu_ns: u64,
    /// Time runnable but not running up to the last arrival on a pcpu, ns.
    pub runq_wait_ns: u64,
    /// Arrivals on a pcpu.
    pub arrivals: u64,
}

/// What the probes know about a thread, as of its last switch.
#[derive(Clone, Debug)]
pub struct ThreadCounters {
    /// The kernel's own accumulators when the thread last left a pcpu. They are those that schedstat shows, so
    /// that the two may take turns. Of a sleeping thread both are equal to the nanosecond. Of one that is on a
    /// pcpu schedstat is ahead by the present run (a vcpu that spins alone may not switch for hours): read
    /// schedstat instead if the thread is `running`, or if `/proc` shows it in state `R`.
    pub totals: Totals,
    /// On a pcpu right now, which means on `pcpu`. May be missing for one run: kernels have been seen that do
    /// not trace some switches (6.18, one in a thousand; their own `perf` misses the same ones). Nothing else is
    /// lost by that, because the totals are copied and not summed up.
    pub running: bool,
    /// The thread is gone; these are its last figures.
    pub exited: bool,
    /// Longest wait that ended since [`Probes::next_window`] of this thread, ns.
    pub max_wait_ns: u64,
    /// Waits that ended while the thread was watched: entry `n` counts those of `2^n` up to `2^(n+1)` ns,
    /// entry 0 also those of no length, the last all longer ones.
    pub waits: [u64; BUCKETS],
    /// Switches away while still runnable, since the thread is watched.
    pub preempted: u64,
    /// Switches away to sleep, since the thread is watched.
    pub blocked: u64,
    /// Moves from one pcpu to another, from the thread's birth on.
    pub migrations: u64,
    /// Those of them that left the last-level cache, since the thread is watched. `None` without a topology.
    pub migrations_llc: Option<u64>,
    /// Those of them that left the NUMA node, since the thread is watched. `None` without a topology.
    pub migrations_node: Option<u64>,
    /// Threads that it has started since it is watched.
    pub forks: u64,
    /// The pcpu it ran on last.
    pub pcpu: u32,
}

impl ThreadCounters {
    /// All but the waits.
    #[must_use]
    pub const fn glance(&self) -> Glance {
        Glance {
            totals: self.totals,
            running: self.running,
            exited: self.exited,
            preempted: self.preempted,
            blocked: self.blocked,
            migrations: self.migrations,
            migrations_llc: self.migrations_llc,
            migrations_node: self.migrations_node,
            forks: self.forks,
            pcpu: self.pcpu,
        }
    }
}

/// What changes from cycle to cycle: [`ThreadCounters`] without the waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is explained there")]
pub struct Glance {
    pub totals: Totals,
    pub running: bool,
    pub exited: bool,
    pub preempted: u64,
    pub blocked: u64,
    pub migrations: u64,
    pub migrations_llc: Option<u64>,
    pub migrations_node: Option<u64>,
    pub forks: u64,
    pub pcpu: u32,
}

impl Probes {
    /// What the probes know about a thread without its waits, for less than [`Self::read`] costs. `None` as there.
    #[must_use]
    pub fn glance(&self, key: ThreadKey) -> Option<Glance> {
        let slot = self.slots.load_head(self.table.slot(key)?);
        if slot.state != LIVE && slot.state != EXITED {
            return None;
        }
        Some(Glance {
            totals: Totals {
                on_cpu_ns: slot.on_cpu_ns,
                runq_wait_ns: slot.runq_wait_ns,
                arrivals: slot.arrivals,
            },
            running: slot.running != 0,
            exited: slot.state == EXITED,
            preempted: slot.preempted,
            blocked: slot.blocked,
            migrations: slot.migrations,
            migrations_llc: self.has_topology.then_some(slot.migrations_llc),
            migrations_node: self.has_topology.then_some(slot.migrations_node),
            forks: slot.forks,
            pcpu: slot.pcpu,
        })
    }

    /// What the probes know about a thread. `None` if it is not watched, and until its first switch after the
    /// watch began; schedstat has the totals then.
    #[must_use]
    pub fn read(&self, key: ThreadKey) -> Option<ThreadCounters> {
        let slot = self.slots.load(self.table.slot(key)?);
        if slot.state != LIVE && slot.state != EXITED {
            return None;
        }
        Some(ThreadCounters {
            totals: Totals {
                on_cpu_ns: slot.on_cpu_ns,
                runq_wait_ns: slot.runq_wait_ns,
                arrivals: slot.arrivals,
            },
            running: slot.running != 0,
            exited: slot.state == EXITED,
            max_wait_ns: if slot.max_window == slot.window { slot.max_wait_ns } else { 0 },
            waits: slot.waits,
            preempted: slot.preempted,
            blocked: slot.blocked,
            migrations: slot.migrations,
            migrations_llc: self.has_topology.then_some(slot.migrations_llc),
            migrations_node: self.has_topology.then_some(slot.migrations_node),
            forks: slot.forks,
            pcpu: slot.pcpu,
        })
    }

    /// Looks for the longest wait of a thread anew from now on.
    pub fn next_window(&self, key: ThreadKey) {
        if let Some(slot) = self.table.slot(key) {
            self.slots.next_window(slot);
        }
    }

    /// A thread's row of the steal matrix: its `runq_wait` since it is watched, up to its last switch, by who ran
    /// meanwhile. The parts that are zero are left out. Waits on a pcpu that the thread was moved away from, and of
    /// which too little is known, count as [`Runner::Unknown`], and so do those for domains that have long gone. `None`
    /// if the thread is not watched.
    ///
    /// The sum is exact, so the row costs a look at each domain's column: read it less often than the counters.
    #[must_use]
    pub fn stolen(&self, key: ThreadKey) -> Option<Vec<StolenSample>> {
        let slot = self.table.slot(key)?;
        let cells = self.rows.read(slot, self.groups.used());
        let retired_ns = self.rows.retired_ns(slot);
        // Counting is cheap against growing, of hundreds of cells.
        let mut row = Vec::with_capacity(cells.clone().count() + usize::from(retired_ns > 0));
        row.extend(cells.map(|(group, ns)| StolenSample { by: self.groups.runner(group), ns }));
        if retired_ns > 0 {
            match row.iter_mut().find(|part| part.by == Runner::Unknown) {
                Some(unknown) => unknown.ns += retired_ns,
                None => row.push(StolenSample { by: Runner::Unknown, ns: retired_ns }),
            }
        }
        Some(row)
    }

    /// Rises whenever a column of the steal matrix goes to another domain: rows read before are void.
    #[must_use]
    pub const fn columns_given_away(&self) -> u64 {
        self.columns_given_away
    }

    /// How many threads a watched thread has started since then: whether its process has new ones, without a look
    /// into `/proc`. `None` if it is not watched. Cheap.
    #[must_use]
    pub fn forks(&self, key: ThreadKey) -> Option<u64> {
        self.table.slot(key).map(|slot| self.slots.forks(slot))
    }

    /// When the thread's group got on pcpus, as far as the timelines remember; for the self-test, whose thread has a
    /// group of its own.
    pub(super) fn arrivals(&self, key: ThreadKey) -> Vec<u64> {
        let group = self.table.slot(key).map(|slot| self.slots.load(slot).group);
        group.map(|group| self.cpus.arrivals(group)).unwrap_or_default()
    }
}
