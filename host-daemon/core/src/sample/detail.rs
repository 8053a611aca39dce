//! What is read of a running domain at the slower, detailed pace: where each vcpu's time goes, and what its cgroups say.
//!
//! A detail carries its own clock reading and its own thread totals, so that two of them make a window whatever the pace
//! at which samples are taken.

use serde::{Deserialize, Serialize};

use super::PressureSample;

/// One detailed reading of a domain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DetailSample {
    /// Its vcpus.
    pub vcpus: Vec<VcpuDetailSample>,
    /// The cgroups that hold all of its threads, from the domain's own outwards; empty where libvirt made none.
    pub groups: Vec<CgroupSample>,
    /// Stalls of the domain's cgroup; `None` where the kernel keeps none (cgroup v1, `psi=0`).
    pub pressure: Option<GroupPressureSample>,
    /// What could not be read, and why.
    pub missing: Vec<String>,
}

/// One vcpu, its figures read right after one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuDetailSample {
    /// Number of the vcpu.
    pub number: u32,
    /// Its thread.
    pub tid: u32,
    /// Start time of the thread in clock ticks since boot.
    pub start_ticks: u64,
    /// Time of the reading on the host's monotonic clock.
    pub at_ns: u64,
    /// Time on a pcpu (`schedstat`), as of the last tick while it runs.
    pub on_cpu_ns: u64,
    /// Time runnable but not running (`schedstat`), throttled time included, up to the last arrival on a pcpu.
    pub runq_wait_ns: u64,
    /// Split of the time on a pcpu (`stat`).
    pub times: Option<TimesSample>,
    /// KVM's statistics; `None` under TCG.
    pub kvm: Option<KvmVcpuSample>,
    /// CPU bandwidth of the vcpu's own cgroup.
    pub bandwidth: Option<BandwidthSample>,
}

/// Split of a thread's time on a pcpu, since its birth. Tick-sampled unless the kernel has `VIRT_CPU_ACCOUNTING_GEN`:
/// good for totals, a few ticks off in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimesSample {
    /// User mode, guest time included.
    pub user_ns: u64,
    /// Kernel mode.
    pub system_ns: u64,
    /// Guest mode; always 0 under TCG.
    pub guest_ns: u64,
}

/// KVM's binary statistics of one vcpu, since it was made. A field that this kernel does not have is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmVcpuSample {
    /// Exits from guest mode.
    pub exits: Option<u64>,
    /// Exits for port I/O that went to user space.
    pub io_exits: Option<u64>,
    /// Exits for memory-mapped I/O.
    pub mmio_exits: Option<u64>,
    /// Exits for host interrupts.
    pub irq_exits: Option<u64>,
    /// Exits because the guest halted.
    pub halt_exits: Option<u64>,
    /// Halts that ended because something woke the vcpu.
    pub halt_wakeups: Option<u64>,
    /// Halts that began with polling.
    pub halt_attempted_polls: Option<u64>,
    /// Those of them in which work came while polling.
    pub halt_successful_polls: Option<u64>,
    /// Polls that ended for a wake-up that was none.
    pub halt_invalid_polls: Option<u64>,
    /// Time of successful polls.
    pub halt_poll_success_ns: Option<u64>,
    /// Time of polls that were in vain.
    pub halt_poll_fail_ns: Option<u64>,
    /// Time blocked in halts, after polling.
    pub halt_wait_ns: Option<u64>,
    /// Successful polls by length; entry 0 counts 0 ns, entry `n` counts `2^(n-1)` up to `2^n` ns, the last one more.
    pub halt_poll_success_histogram: Option<Vec<u64>>,
    /// Polls in vain by length.
    pub halt_poll_fail_histogram: Option<Vec<u64>>,
    /// Waits in halts by length.
    pub halt_wait_histogram: Option<Vec<u64>>,
}

/// One cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupSample {
    /// Path below the mount of its hierarchy.
    pub path: String,
    /// CPU bandwidth.
    pub bandwidth: BandwidthSample,
}

/// CPU bandwidth of a cgroup: its quota, and what that has cost since the cgroup was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BandwidthSample {
    /// Periods in which something wanted to run.
    pub periods: u64,
    /// Those of them in which the quota ran out.
    pub throttled_periods: u64,
    /// Time for which it was kept off the pcpus, added up over the pcpus; of a group of one thread, that thread's.
    pub throttled_ns: u64,
    /// CPU time for each period; `None` without a limit.
    pub quota_usec: Option<u64>,
    /// The period.
    pub period_usec: Option<u64>,
}

/// Stalls of a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupPressureSample {
    /// `cpu.pressure`.
    pub cpu: Option<PressureSample>,
    /// `memory.pressure`.
    pub memory: Option<PressureSample>,
    /// `io.pressure`.
    pub io: Option<PressureSample>,
}
