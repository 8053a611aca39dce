//! One thread of a QEMU process.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a QEMU thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThreadRole {
    /// Runs the vcpu of this number.
    Vcpu(u32),
    /// QEMU's main loop.
    Emulator,
    /// An iothread, by its number.
    Iothread(u32),
    /// Moves packets for virtio-net outside QEMU's loop.
    Vhost,
    /// Anything else: block workers, migration, VNC.
    Worker,
}

/// Where a thread's counters come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThreadSource {
    /// The sched_switch program (tier 1).
    Probe,
    /// `/proc/PID/task/TID/schedstat` (tier 0): no histogram, no switches.
    Schedstat,
}

/// Who was on a pcpu while somebody else waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Runner {
    /// A thread that belongs to no domain.
    Host,
    /// A thread of this domain, the waiting one's own domain included.
    Domain(Uuid),
    /// Nobody was seen: the thread waited on another pcpu, or longer than the probe remembers.
    Unknown,
}

/// Part of a thread's `runq_wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StolenSample {
    /// Who ran meanwhile.
    pub by: Runner,
    /// For how long, since the thread is watched.
    pub ns: u64,
}

/// Counters of one thread. They only rise while the thread lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadSample {
    /// Kernel thread id.
    pub tid: u32,
    /// Thread group: QEMU's process id.
    pub tgid: u32,
    /// Start time in clock ticks since boot; together with `tid` it names the thread for ever.
    pub start_ticks: u64,
    /// What the thread is for.
    pub role: ThreadRole,
    /// The kernel's name of the thread.
    pub comm: Arc<str>,
    /// Origin of the counters.
    pub source: ThreadSource,
    /// Time on a pcpu.
    pub on_cpu_ns: u64,
    /// Time runnable but not running (`sched_info.run_delay`), which the guest sees as steal.
    pub runq_wait_ns: u64,
    /// Longest single wait that ended since the thread's previous sample.
    pub runq_wait_max_ns: Option<u64>,
    /// Waits by length, log2 buckets: entry `n` counts waits of `2^n` up to `2^(n+1)` ns, entry 0 also zero.
    pub runq_wait_histogram: Option<Arc<[u64]>>,
    /// Switches away while still runnable.
    pub switches_preempted: Option<u64>,
    /// Switches away to sleep.
    pub switches_blocked: Option<u64>,
    /// Moves from one pcpu to another.
    pub migrations: Option<u64>,
    /// Those of them that left the last-level cache, since the thread is watched.
    #[serde(default)]
    pub migrations_llc: Option<u64>,
    /// Those of them that left the NUMA node, since the thread is watched.
    #[serde(default)]
    pub migrations_node: Option<u64>,
    /// `runq_wait` since the thread is watched, by who ran meanwhile: a row of the steal matrix. Zeros are left out.
    #[serde(default)]
    pub stolen: Option<Arc<[StolenSample]>>,
    /// The pcpu it ran on last.
    pub pcpu: Option<u32>,
}
