//! Gateway to the probes in the kernel: loads them, tells them which threads to watch, reads what they
//! counted. The only room that names aya. What the figures mean is the model's business; what `/proc` says
//! about the same threads is `kernel`'s, and comes in as [`Ground`].

mod census;
mod cost;
mod cpus;
mod error;
pub mod flows;
mod groups;
mod load;
mod log;
pub mod offsets;
mod read;
mod rows;
mod selftest;
mod shared;
mod slots;
mod table;
mod watch;

use std::collections::BTreeMap;
use std::time::Instant;
use std::{fmt, io};

use aya::Ebpf;
use aya::maps::{Array, MapData};
use kvmpilot_core::Uuid;
use kvmpilot_core::topology::Topology;
use kvmpilot_ebpf_common::pcpu::UNKNOWN;
use kvmpilot_ebpf_common::sched::Slot;

pub use census::{Census, census};
pub use cost::{CostWindow, ProgramSize, run_times};
use cpus::Cpus;
pub use error::{ProbeError, WatchError};
use groups::Groups;
pub use log::LogTask;
pub use read::{Glance, ThreadCounters, Totals};
use rows::Rows;
use slots::Slots;
use table::Table;
pub use table::ThreadKey;
pub use watch::{EventPair, Recorder, Spent, TraceEventName, WaitRecord, Watch, WatchKind};

/// What this room must know of the host and does not read itself.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// `/proc/sys/kernel/pid_max`: the index has an entry of 4 bytes for each possible tid.
    pub pid_max: u32,
    /// The kernel is locked down to `confidentiality`.
    pub confidential: bool,
    /// What `/proc/self/task/TID` says about a thread of this process, for the self-test.
    pub own_thread: &'a dyn Fn(u32) -> io::Result<(ThreadKey, Totals)>,
}

impl fmt::Debug for Ground<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ground").field("pid_max", &self.pid_max).finish_non_exhaustive()
    }
}

/// What the probes are given room for. The steal matrix takes `threads * (domains + 3) * 8` bytes of kernel memory,
/// of which the daemon maps what threads that are watched need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Threads that can be watched at the same time, 512 bytes each.
    pub threads: u32,
    /// Domains that can be told apart as those who ran while a thread waited.
    pub domains: u32,
}

/// The loaded and attached probes. Dropping it detaches them.
pub struct Probes {
    /// Owns the programs and their links.
    ebpf: Ebpf,
    index: Array<MapData, u32>,
    slots: Slots,
    rows: Rows,
    cpus: Cpus,
    table: Table,
    groups: Groups,
    log: Option<LogTask>,
    ns_per_run: BTreeMap<&'static str, u64>,
    has_topology: bool,
    columns_given_away: u64,
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Probes {
    /// The task that forwards the probes' messages; once. Without it they are dropped. Spawn it on its own:
    /// aya-log 0.3 panics on a malformed record.
    pub fn take_log(&mut self) -> Option<LogTask> {
        self.log.take()
    }

    /// Tells the probes which pcpus share a cache or a NUMA node. Call it again when pcpus came or went.
    pub fn set_topology(&mut self, topology: &Topology) {
        self.cpus.set_topology(topology);
        self.has_topology = true;
    }

    /// Watches exactly `threads`, each with its domain, from now on: begins with those that are new, ends with those
    /// that are gone.
    pub fn follow(&mut self, threads: &BTreeMap<ThreadKey, Uuid>) -> Vec<WatchError> {
        let gone: Vec<ThreadKey> = self.table.keys().filter(|key| !threads.contains_key(key)).collect();
        gone.into_iter().for_each(|key| self.unwatch(key));
        threads.iter().filter_map(|(&key, &domain)| self.watch(key, domain).err()).collect()
    }

    /// Begins to watch a thread of a domain; its first switch sets the baseline. No effect if it is watched already.
    /// Where more domains than there is room for have threads, what those of the last ones do to others counts as
    /// done by [`Runner::Unknown`](kvmpilot_core::sample::Runner::Unknown).
    ///
    /// # Errors
    /// See [`WatchError`].
    pub fn watch(&mut self, key: ThreadKey, domain: Uuid) -> Result<(), WatchError> {
        let tid = key.tid;
        if self.table.slot(key).is_some() {
            return Ok(());
        }
        self.end(tid);
        if tid == 0 || tid >= self.index.len() {
            return Err(WatchError::TidBeyond { tid, limit: self.index.len() });
        }
        let now = Instant::now();
        let slot = self.table.take(key, now).ok_or(WatchError::Full { tid })?;
        let armed = self.arm(key, domain, slot, now);
        if armed.is_err() {
            self.end(tid);
        }
        armed
    }

    fn arm(&mut self, key: ThreadKey, domain: Uuid, slot: u32, now: Instant) -> Result<(), WatchError> {
        let ThreadKey { tid, start_ticks } = key;
        self.rows.clear(slot).map_err(|source| WatchError::Row { tid, source })?;
        let taken = self.groups.take(domain, now);
        if let Some(taken) = taken.filter(|taken| taken.used) {
            self.rows.retire(taken.group, self.table.in_use());
            self.columns_given_away += 1;
        }
        if taken.is_none() {
            tracing::warn!(%domain, "more domains than the probes have room for: see max_domains");
        }
        let group = taken.map_or(UNKNOWN, |taken| taken.group);
        self.slots.store(slot, Slot::armed(tid, start_ticks, self.rows.begin(slot), group));
        self.index.set(tid, slot + 1, 0).map_err(|source| WatchError::Index { tid, source })
    }

    /// Ends the watch of a thread, if there is one.
    pub fn unwatch(&mut self, key: ThreadKey) {
        if self.table.slot(key).is_some() {
            self.end(key.tid);
        }
    }

    fn end(&mut self, tid: u32) {
        let now = Instant::now();
        let Some(slot) = self.table.give_back(tid, now) else { return };
        if let Err(err) = self.index.set(tid, 0, 0) {
            tracing::error!(tid, %err, "cannot take a thread out of the probes' index");
        }
        self.groups.give_back(self.slots.load(slot).group, now);
    }
}
