//! One domain as libvirt and the host see it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{DetailSample, DiskSample, PolicySample, ThreadSample};
use crate::CpuSet;

/// libvirt's domain states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DomainState {
    /// Running, or blocked on a resource.
    Running,
    /// Paused by a person, by I/O or by a job.
    Paused,
    /// Being shut down.
    ShuttingDown,
    /// Not active.
    ShutOff,
    /// Crashed.
    Crashed,
    /// Suspended by the guest's power management.
    Suspended,
    /// A state that this version does not know.
    Unknown,
}

/// What libvirt does with a domain as a whole, `virDomainJobOperation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// It leaves this host, or comes from another.
    Migration,
    /// Its memory is written to a file, or read from one.
    Save,
    /// A snapshot is made, taken back or deleted.
    Snapshot,
    /// Its memory is dumped for a debugger.
    Dump,
    /// Its disks are backed up. It may take hours, and the domain can be changed meanwhile.
    Backup,
    /// Another one.
    Other,
}

impl Job {
    /// Whether a call to QEMU may have to wait for its end.
    #[must_use]
    pub const fn keeps_qemu_busy(self) -> bool {
        !matches!(self, Self::Backup)
    }
}

impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Migration => "migration",
            Self::Save => "save to disk",
            Self::Snapshot => "snapshot",
            Self::Dump => "memory dump",
            Self::Backup => "backup",
            Self::Other => "job of libvirt's",
        })
    }
}
/// What [`DomainSample::os`] says of a Windows guest of which no version is known.
pub const WINDOWS: &str = "http://microsoft.com/win";

/// One reading of a domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DomainSample {
    /// Identity across renames and restarts.
    pub uuid: Uuid,
    /// libvirt's name.
    pub name: String,
    /// State.
    pub state: DomainState,
    /// Virtualisation: `kvm`, `qemu` (TCG) or another libvirt type.
    pub accel: String,
    /// QEMU's process.
    pub qemu_pid: Option<u32>,
    /// vcpus with their pins.
    pub vcpus: Vec<VcpuSample>,
    /// pcpus that the emulator threads may use.
    pub emulator_pin: Option<CpuSet>,
    /// iothreads with their pins.
    #[serde(default)]
    pub iothreads: Vec<IothreadSample>,
    /// Why its threads must not be placed, as its XML tells (real-time vcpus, cache allocation), if so.
    #[serde(default)]
    pub placement_refusal: Option<String>,
    /// Why its weight must not be changed, as its XML tells (real-time vcpus), if so.
    #[serde(default)]
    pub weight_refusal: Option<String>,
    /// NUMA nodes that its administrator bound its memory to.
    #[serde(default)]
    pub memory_nodes: Option<CpuSet>,
    /// Where its memory is; empty on hosts with a single node and until it was read.
    #[serde(default)]
    pub memory_by_node: Vec<NodeMemorySample>,
    /// CPU weight as libvirt's `cpu_shares`: 2 to 262144 on cgroup v1, 1 to 10000 on v2.
    pub cpu_shares: Option<u64>,
    /// Largest memory the domain can have without a restart.
    pub memory_maximum_kib: u64,
    /// Balloon statistics.
    pub balloon: Option<BalloonSample>,
    /// Why the balloon must not be touched (VFIO, locked memory, huge pages, SEV/TDX, free page reporting, no balloon), if so.
    pub balloon_refusal: Option<String>,
    /// What runs in the guest: libosinfo's identifier in the metadata, or [`WINDOWS`] where the domain has Hyper-V
    /// enlightenments and says nothing else.
    #[serde(default)]
    pub os: Option<String>,
    /// Whether libvirt sees a guest agent connected to its channel; `None` without a channel.
    pub agent_connected: Option<bool>,
    /// A job (migration, backup, snapshot) is running.
    pub job_active: bool,
    /// Which one, where libvirt tells.
    #[serde(default)]
    pub job: Option<Job>,
    /// Why nothing is asked of it and nothing is changed on it: a call for it hangs, or its reading is too old. In words.
    #[serde(default)]
    pub quarantine: Option<String>,
    /// Disks; read each five minutes.
    #[serde(default)]
    pub disks: Vec<DiskSample>,
    /// Tap devices with their counters.
    pub interfaces: Vec<InterfaceSample>,
    /// Whether it has an interface whose network is QEMU's own (`type='user'`): then QEMU's sockets stand for the guest.
    #[serde(default)]
    pub user_networking: bool,
    /// What its own XML says about kvmpilot; `None` where it says nothing.
    #[serde(default)]
    pub policy: Option<PolicySample>,
    /// QEMU's threads.
    pub threads: Vec<ThreadSample>,
    /// Where its vcpus' time goes; only in samples of the detailed pace.
    #[serde(default)]
    pub detail: Option<DetailSample>,
}

/// One vcpu.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuSample {
    /// Number of the vcpu.
    pub number: u32,
    /// The live pin; `None` where libvirt does not tell.
    pub pin: Option<CpuSet>,
}

/// Memory of a domain's QEMU on one NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMemorySample {
    /// Number of the node.
    pub node: u32,
    /// Anonymous and shared memory and page cache that are charged to its cgroup there.
    pub kib: u64,
}

/// One iothread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IothreadSample {
    /// Number of the iothread.
    pub number: u32,
    /// The live pin; `None` where libvirt does not tell.
    pub pin: Option<CpuSet>,
}

/// Balloon statistics as the guest reports them: hostile and possibly old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonSample {
    /// `actual`: memory that the domain has now.
    pub current_kib: u64,
    /// `unused`: free inside the guest.
    pub unused_kib: Option<u64>,
    /// `usable`: the guest's MemAvailable.
    pub usable_kib: Option<u64>,
    /// `available`: the guest's MemTotal.
    pub available_kib: Option<u64>,
    /// `disk_caches`.
    pub disk_caches_kib: Option<u64>,
    /// `swap_in`, since the guest's boot.
    pub swap_in_kib: Option<u64>,
    /// `swap_out`, since the guest's boot.
    pub swap_out_kib: Option<u64>,
    /// `major_fault`, since the guest's boot.
    pub major_faults: Option<u64>,
    /// `oom-kills`: processes that the guest killed for want of memory, since its boot. Linux 6.12 and QEMU 9.2 tell.
    #[serde(default)]
    pub oom_kills: Option<u64>,
    /// `alloc-stalls`: allocations that had to reclaim memory themselves, since the guest's boot; as all that follow.
    #[serde(default)]
    pub alloc_stalls: Option<u64>,
    /// `async-scans`: memory that kswapd looked at.
    #[serde(default)]
    pub async_scan_bytes: Option<u64>,
    /// `direct-scans`: memory that waiting allocations looked at.
    #[serde(default)]
    pub direct_scan_bytes: Option<u64>,
    /// `async-reclaims`: memory that kswapd reclaimed.
    #[serde(default)]
    pub async_reclaim_bytes: Option<u64>,
    /// `direct-reclaims`: memory that waiting allocations reclaimed.
    #[serde(default)]
    pub direct_reclaim_bytes: Option<u64>,
    /// `rss` of QEMU.
    pub rss_kib: Option<u64>,
    /// `last-update`: wall clock of the guest's report in seconds since 1970.
    pub last_update_unix_s: Option<u64>,
    /// Wall clock of our reading, likewise. A report that was old by then is the guest's silence; one that has become old
    /// since is ours, because balloons that nobody needs to know are read each four minutes only.
    #[serde(default)]
    pub read_unix_s: Option<u64>,
}

/// Counters of one tap device, from the guest's point of view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceSample {
    /// Host name of the tap.
    pub device: String,
    /// Bytes that the guest received.
    pub received_bytes: Option<u64>,
    /// Bytes that the guest sent.
    pub sent_bytes: Option<u64>,
    /// Packets that the guest received.
    pub received_packets: Option<u64>,
    /// Packets that the guest sent.
    pub sent_packets: Option<u64>,
}
