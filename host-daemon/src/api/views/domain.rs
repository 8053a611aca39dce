//! [`DomainView`] and [`DomainDetailView`]: a domain as the host sees it.

use std::sync::Arc;

use kvmpilot_core::decide::ResourceState;
use kvmpilot_core::decide::baseline::DomainBaseline;
use kvmpilot_core::finding::Finding;
use kvmpilot_core::model::DiskModel;
use kvmpilot_core::policy::{Class, Mode};
use kvmpilot_core::sample::{DomainState, GuestSystem, Job, ThreadRole, ThreadSource};
use kvmpilot_core::{CpuSet, Uuid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GroupPressureView, RoleView, VcpuTimeView};

/// All domains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainsView {
    /// By name.
    pub domains: Vec<DomainView>,
    /// The `after` of the next page; null on the last one.
    #[serde(default)]
    pub next_after: Option<String>,
}

/// One domain in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainView {
    /// libvirt's name.
    pub name: String,
    /// libvirt's UUID.
    pub uuid: Uuid,
    /// State.
    pub state: DomainState,
    /// Why nothing is asked of it and nothing is changed on it, in words; null if all is well.
    #[serde(default)]
    pub quarantine: Option<String>,
    /// The migration, backup or snapshot that is under way: nothing is changed until it is over.
    #[serde(default)]
    pub job: Option<Job>,
    /// `kvm`, `qemu` (TCG) or another libvirt type.
    pub accel: String,
    /// What the domain is for.
    pub class: Class,
    /// Who says so.
    pub class_source: ClassSource,
    /// What the class follows from, in words.
    pub class_evidence: String,
    /// How far kvmpilot may go with it.
    pub modes: ModesView,
    /// Number of vcpus.
    pub vcpu_count: u32,
    /// Memory that it has now (the balloon's `actual`).
    pub memory_current_kib: Option<u64>,
    /// Most memory that it can have without a restart.
    pub memory_maximum_kib: u64,
    /// CPU weight.
    pub cpu_shares: SharesView,
    /// Time on a pcpu, as a share of the time of all its vcpus.
    pub cpu_use_ratio: Option<f64>,
    /// Of the time that its vcpus wanted to run, the share in which they had to wait for a pcpu.
    pub wait_ratio: Option<f64>,
    /// How urgently it needs something; the larger the earlier it is served.
    pub need: Option<f64>,
    /// State of its resources.
    pub states: StatesView,
    /// The guest agent.
    pub agent: AgentView,
    /// Traffic of all its interfaces, from the guest's point of view.
    pub network: NetworkView,
    /// Cycles in a row in which it was off its optimum.
    pub cycles_off_optimum: u32,
    /// Whether it talks to other nodes; null before the first measurement.
    pub communicating: Option<bool>,
}

/// Who gave a domain its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassSource {
    /// The administrator.
    Configured,
    /// A rule.
    Rule,
    /// kvmpilot, from what the domain does.
    Inferred,
}

/// Mode of each actuator for one domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModesView {
    /// Priority of processes inside the guest.
    pub ladder: Mode,
    /// CPU weight.
    pub weight: Mode,
    /// cpusets and pins.
    pub placement: Mode,
    /// Memory balloon.
    pub balloon: Mode,
    /// What only a person can do: more vcpus, a larger maximum of memory, another host. Never more than recommended.
    #[serde(default)]
    pub resize: Mode,
}

/// CPU weight of a domain, as libvirt's `cpu_shares`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharesView {
    /// Now.
    pub current: Option<u64>,
    /// Before kvmpilot first changed it; equal to `current` if it never did.
    pub original: Option<u64>,
}

/// State of a domain's resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatesView {
    /// CPU.
    pub cpu: ResourceState,
    /// Memory.
    pub memory: ResourceState,
}

/// The agent of one guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentView {
    /// Whether libvirt sees it on its channel; null without a channel.
    pub connected: Option<bool>,
    /// Whether it does what kvmpilot needs.
    pub usable: bool,
    /// Why not, or when it is tried again.
    pub message: Option<String>,
    /// Time since its last good answer.
    pub last_poll_age_s: Option<f64>,
}

/// Traffic, from the guest's point of view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkView {
    /// Bytes that the guest received.
    pub received_bytes_per_s: Option<f64>,
    /// Bytes that the guest sent.
    pub sent_bytes_per_s: Option<f64>,
}

/// One domain with all that is known about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainDetailView {
    /// What the list shows, too.
    #[serde(flatten)]
    pub row: DomainView,
    /// Its vcpus.
    pub vcpus: Vec<VcpuView>,
    /// Where their time goes; empty before the second detailed reading.
    pub vcpu_times: Vec<VcpuTimeView>,
    /// CPU quota of all its threads together, in pcpus; null without.
    pub quota_pcpus: Option<f64>,
    /// Pressure of its cgroup; null where the kernel keeps none.
    pub pressure: Option<GroupPressureView>,
    /// What of `vcpu_times`, `quota_pcpus` and `pressure` could not be read, and why.
    pub detail_missing: Vec<String>,
    /// pcpus that its emulator threads may use.
    pub emulator_pin: Option<CpuSet>,
    /// All threads of its QEMU, the vcpus' included, and vhost workers that are kernel threads.
    pub threads: Vec<ThreadView>,
    /// The same, added up by purpose.
    pub roles: Vec<RoleView>,
    /// Its tap devices.
    pub interfaces: Vec<InterfaceView>,
    /// Its disks, read each five minutes; empty before the first reading.
    #[serde(default)]
    pub disks: Vec<DiskModel>,
    /// Its balloon; null where it has none.
    pub balloon: Option<BalloonView>,
    /// Conditions of this domain.
    pub findings: Vec<Finding>,
    /// What is normal for it; null before the first cycle.
    #[serde(default)]
    pub baseline: Option<DomainBaseline>,
    /// The guest as its agent told; null before the first answer.
    pub guest: Option<GuestView>,
}

/// One vcpu.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VcpuView {
    /// Number.
    pub number: u32,
    /// Its thread.
    pub tid: Option<u32>,
    /// The pcpu it ran on last.
    pub pcpu: Option<u32>,
    /// pcpus that it may use.
    pub pin: Option<CpuSet>,
    /// Share of the time on a pcpu.
    pub run_ratio: Option<f64>,
    /// Share of the time runnable but not running: what the guest sees as steal.
    pub wait_ratio: Option<f64>,
    /// Median of its waits for a pcpu.
    pub runq_wait_p50_us: Option<f64>,
    /// 99th percentile of its waits for a pcpu.
    pub runq_wait_p99_us: Option<f64>,
    /// Time on a pcpu since its thread was born.
    #[serde(default)]
    pub run_total_s: Option<f64>,
    /// Time runnable but not running since its thread was born.
    #[serde(default)]
    pub runq_wait_total_s: Option<f64>,
    /// Its waits for a pcpu by length since the daemon watches it: entry `n` counts those of `2^n` up to `2^(n+1)` ns, entry 0
    /// also shorter ones. Zeros at the end are left out. Empty without the scheduler probe.
    #[serde(default)]
    pub runq_wait_counts: Vec<u64>,
    /// Switches away while it wanted to run.
    pub preempted_per_s: Option<f64>,
    /// Switches away to sleep.
    pub blocked_per_s: Option<f64>,
    /// Moves to another pcpu.
    pub migrations_per_s: Option<f64>,
}

/// One thread of QEMU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ThreadView {
    /// Kernel thread id.
    pub tid: u32,
    /// What it is for.
    pub role: ThreadRole,
    /// The kernel's name of it.
    pub comm: String,
    /// Where its figures come from.
    pub source: ThreadSource,
    /// The pcpu it ran on last.
    pub pcpu: Option<u32>,
    /// Share of the time on a pcpu.
    pub run_ratio: Option<f64>,
    /// Share of the time runnable but not running.
    pub wait_ratio: Option<f64>,
}

/// One tap device, from the guest's point of view.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceView {
    /// Host name of the tap.
    pub device: String,
    /// Bytes that the guest received.
    pub received_bytes_per_s: Option<f64>,
    /// Bytes that the guest sent.
    pub sent_bytes_per_s: Option<f64>,
    /// Packets that the guest received.
    pub received_packets_per_s: Option<f64>,
    /// Packets that the guest sent.
    pub sent_packets_per_s: Option<f64>,
}

/// The memory balloon of a domain and what its guest reports through it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BalloonView {
    /// Memory that the domain has now (`actual`).
    pub current_kib: u64,
    /// What the guest can still use without swapping (its MemAvailable).
    pub usable_kib: Option<u64>,
    /// What the guest sees as its memory (its MemTotal).
    pub available_kib: Option<u64>,
    /// Free inside the guest.
    pub unused_kib: Option<u64>,
    /// The guest reports nothing, or nothing new: its figures are too old to decide on.
    pub stale: bool,
    /// Least memory that kvmpilot leaves it; null before it is known.
    pub floor_kib: Option<u64>,
    /// Why the balloon must not be touched, if so.
    pub refusal: Option<String>,
}

/// The inside of a guest as its agent told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuestView {
    /// One-minute load average.
    pub load1: Option<f64>,
    /// Runnable threads.
    pub runnable: Option<u32>,
    /// vcpus that the guest has online.
    pub vcpus_online: Option<u32>,
    /// Why its processes are not known; null where they are.
    #[serde(default)]
    pub unread: Option<String>,
    /// Its system, services, file systems and interfaces, asked for rarely; null before the first answer.
    #[serde(default)]
    pub system: Option<Arc<GuestSystem>>,
}
