//! Gateway to the probes in the kernel: loads them, tells them which threads to watch, reads what they
//! counted. The only room that names aya. What the figures mean is the model's business; what `/proc` says
//! about the same threads is `kernel`'s, and comes in as [`Ground`].

mod error;
pub mod flows;
pub mod offsets;
mod selftest;
mod slots;
mod table;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Instant;
use std::{fmt, fs, io};

use aya::maps::{Array, Map, MapData};
use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use aya_log::EbpfLogger;
use kvmpilot_ebpf_common::sched::{BUCKETS, EXITED, LIVE, Slot};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::level_filters::LevelFilter;

pub use error::{ProbeError, WatchError};
use offsets::Offsets;
use slots::Slots;
use table::Table;
pub use table::ThreadKey;

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kvmpilot-probes"));
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Exits are watched before anybody is: a thread that is watched is never forgotten.
const PROGRAMS: [&str; 2] = ["sched_process_exit", "sched_switch"];

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
    /// Longest wait that ended since the previous [`Probes::read`] of this thread, ns.
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
    /// The pcpu it ran on last.
    pub pcpu: u32,
}

/// Task that hands the probes' rare messages on to the `log` crate, and so to tracing. For a tokio runtime.
pub type LogTask = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// The loaded and attached probes. Dropping it detaches them.
pub struct Probes {
    /// Owns the programs and their links.
    _ebpf: Ebpf,
    index: Array<MapData, u32>,
    slots: Slots,
    table: Table,
    log: Option<LogTask>,
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Probes {
    /// Loads the probes for up to `max_threads` watched threads (512 bytes each), attaches them, and tests
    /// them against the kernel's figures of a thread of ours. Takes some 200 ms.
    ///
    /// # Errors
    /// The reason why the daemon has to work without them, see [`ProbeError`].
    pub fn load(ground: &Ground<'_>, max_threads: u32) -> Result<Self, ProbeError> {
        let btf = fs::read(BTF).map_err(ProbeError::NoBtf)?;
        Self::load_with(ground, max_threads, &btf, &offsets::resolve(&btf)?)
    }

    /// As [`Probes::load`], with given offsets instead of resolved ones. It exists to show that wrong ones
    /// are refused.
    ///
    /// # Errors
    /// As [`Probes::load`].
    pub fn load_with(
        ground: &Ground<'_>,
        max_threads: u32,
        btf: &[u8],
        offsets: &Offsets,
    ) -> Result<Self, ProbeError> {
        // Before 5.11 the kernel charged maps to this limit; failing here means failing there, with an error.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let btf = Btf::parse(btf, Endianness::default()).map_err(|err| ProbeError::Load(err.into()))?;
        let log_level = log_level();
        let has_state = u32::from(offsets.switch_has_state);
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("AYA_LOG_LEVEL", &log_level, true)
            .override_global("TASK_PID", &offsets.pid, true)
            .override_global("TASK_STATE", &offsets.state, true)
            .override_global("TASK_START", &offsets.start, true)
            .override_global("TASK_EXEC_RUNTIME", &offsets.exec_runtime, true)
            .override_global("TASK_MIGRATIONS", &offsets.migrations, true)
            .override_global("TASK_RUN_DELAY", &offsets.run_delay, true)
            .override_global("TASK_PCOUNT", &offsets.pcount, true)
            .override_global("SWITCH_HAS_STATE", &has_state, true)
            .map_max_entries("IDX", ground.pid_max)
            .map_max_entries("SLOTS", max_threads)
            .load(OBJECT)
            .map_err(|err| ProbeError::sort("object", ground.confidential, err))?;
        for name in PROGRAMS {
            attach(&mut ebpf, name, &btf).map_err(|err| ProbeError::sort(name, ground.confidential, err))?;
        }
        let index = map(&mut ebpf, "IDX")?;
        let index = Array::try_from(index).map_err(|err| ProbeError::Load(err.into()))?;
        let slots = match map(&mut ebpf, "SLOTS")? {
            Map::Array(data) => {
                let count = usize::try_from(max_threads).unwrap_or(usize::MAX);
                Slots::map(data.fd(), count).map_err(|err| ProbeError::Load(err.into()))?
            }
            _ => return Err(ProbeError::Load("the map SLOTS is not an array".into())),
        };
        let log = Some(log_task(&mut ebpf)?);
        let mut probes = Self { _ebpf: ebpf, index, slots, table: Table::new(max_threads), log };
        selftest::run(&mut probes, ground)?;
        Ok(probes)
    }

    /// The task that forwards the probes' messages; once. Without it they are dropped. Spawn it on its own:
    /// aya-log 0.3 panics on a malformed record.
    pub fn take_log(&mut self) -> Option<LogTask> {
        self.log.take()
    }

    /// Watches exactly `threads` from now on: begins with those that are new, ends with those that are gone.
    pub fn follow(&mut self, threads: &BTreeSet<ThreadKey>) -> Vec<WatchError> {
        let gone: Vec<ThreadKey> = self.table.keys().filter(|key| !threads.contains(key)).collect();
        gone.into_iter().for_each(|key| self.unwatch(key));
        threads.iter().filter_map(|&key| self.watch(key).err()).collect()
    }

    /// Begins to watch a thread; its first switch sets the baseline. No effect if it is watched already.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub fn watch(&mut self, key: ThreadKey) -> Result<(), WatchError> {
        let tid = key.tid;
        if self.table.slot(key).is_some() {
            return Ok(());
        }
        self.end(tid);
        if tid == 0 || tid >= self.index.len() {
            return Err(WatchError::TidBeyond { tid, limit: self.index.len() });
        }
        let slot = self.table.take(key, Instant::now()).ok_or(WatchError::Full { tid })?;
        self.slots.store(slot, Slot::armed(tid, key.start_ticks));
        self.index.set(tid, slot + 1, 0).map_err(|source| {
            self.table.give_back(tid, Instant::now());
            WatchError::Index { tid, source }
        })
    }

    /// Ends the watch of a thread, if there is one.
    pub fn unwatch(&mut self, key: ThreadKey) {
        if self.table.slot(key).is_some() {
            self.end(key.tid);
        }
    }

    fn end(&mut self, tid: u32) {
        if self.table.give_back(tid, Instant::now()).is_some()
            && let Err(err) = self.index.set(tid, 0, 0)
        {
            tracing::error!(tid, %err, "cannot take a thread out of the probes' index");
        }
    }

    /// What the probes know about a thread. `None` if it is not watched, and until its first switch after the
    /// watch began; schedstat has the totals then.
    #[must_use]
    pub fn read(&self, key: ThreadKey) -> Option<ThreadCounters> {
        let number = self.table.slot(key)?;
        let slot = self.slots.load(number);
        if slot.state != LIVE && slot.state != EXITED {
            return None;
        }
        self.slots.set_window(number, slot.window.wrapping_add(1));
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
            pcpu: slot.pcpu,
        })
    }
}

fn map(ebpf: &mut Ebpf, name: &str) -> Result<Map, ProbeError> {
    ebpf.take_map(name).ok_or_else(|| ProbeError::Load(format!("the object has no map {name}").into()))
}

fn attach(ebpf: &mut Ebpf, name: &str, btf: &Btf) -> Result<(), aya::programs::ProgramError> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| aya::programs::ProgramError::InvalidName { name: name.to_owned() })?;
    let program: &mut BtfTracePoint = program.try_into()?;
    program.load(name, btf)?;
    program.attach()?;
    Ok(())
}

/// Messages that nobody would see are not even composed: the verifier drops their code.
fn log_level() -> u8 {
    match LevelFilter::current() {
        LevelFilter::OFF => 0,
        LevelFilter::ERROR => 1,
        LevelFilter::WARN => 2,
        LevelFilter::INFO => 3,
        LevelFilter::DEBUG => 4,
        _ => 5,
    }
}

fn log_task(ebpf: &mut Ebpf) -> Result<LogTask, ProbeError> {
    let log = EbpfLogger::init(ebpf).map_err(|err| ProbeError::Load(err.into()))?;
    Ok(Box::pin(async move {
        // SAFETY: the logger owns its file descriptor, always names the same one, and moves into the AsyncFd.
        let log = unsafe { AsyncFd::register_with_interest(log, Interest::READABLE) };
        let mut log = log.map_err(|err| err.into_parts().1)?;
        loop {
            let mut ready = log.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }))
}
