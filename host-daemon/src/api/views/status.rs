//! [`StatusView`]: the daemon and its host.

use kvmpilot_core::finding::Finding;
use kvmpilot_core::order::OrderState;
use kvmpilot_core::policy::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OtlpView;

/// How the daemon and its host are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusView {
    /// Version of the daemon.
    pub version: String,
    /// The host.
    pub host: HostView,
    /// Time since the daemon started.
    pub uptime_s: u64,
    /// Mode of all actuators that have none of their own.
    pub mode: Mode,
    /// Changes nothing because `kvmpilot restore` was run; a restart or reload of the daemon ends it.
    pub paused: bool,
    /// Sources of telemetry, lowest first.
    pub tiers: Vec<TierView>,
    /// The connection to libvirt.
    pub libvirt: LibvirtView,
    /// Whether all is well.
    pub health: HealthView,
    /// How many domains there are.
    pub domains: DomainCountsView,
    /// The priority cycle.
    pub cycle: CycleView,
    /// What the daemon itself uses.
    pub own_cost: OwnCostView,
    /// Values that are not at their original now.
    pub ledger_entries: u64,
    /// Work orders.
    pub orders: OrderCountsView,
    /// What is pushed to a collector; null if nothing is.
    #[serde(default)]
    pub otlp: Option<OtlpView>,
    /// Conditions of the host and of all domains.
    pub findings: Vec<Finding>,
}

/// The physical host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostView {
    /// Host name.
    pub name: String,
    /// Kernel release.
    pub kernel: String,
    /// Online pcpus.
    pub pcpus: u32,
    /// Memory.
    pub memory_total_kib: Option<u64>,
    /// Memory that new work could have without swapping.
    pub memory_available_kib: Option<u64>,
    /// Pressure stall information; null where the kernel has none.
    pub pressure: PressureView,
}

/// Share of the last ten seconds in which some task waited for a resource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PressureView {
    /// `some avg10` of `/proc/pressure/cpu`.
    pub cpu_some_avg10_percent: Option<f64>,
    /// `some avg10` of `/proc/pressure/memory`.
    pub memory_some_avg10_percent: Option<f64>,
    /// `some avg10` of `/proc/pressure/io`.
    pub io_some_avg10_percent: Option<f64>,
}

/// One source of telemetry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TierView {
    /// Number: 0 needs no probes, 1 is the scheduler probe, 3 are the flow probes.
    pub tier: u32,
    /// What it is.
    pub name: String,
    /// Whether it delivers.
    pub on: bool,
    /// Why it is off, or how it works.
    pub reason: String,
}

/// The connection to libvirt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LibvirtView {
    /// Whether there is one.
    pub connected: bool,
    /// To what.
    pub uri: String,
    /// Version of the library or daemon at the other end.
    pub version: Option<String>,
    /// Why there is none, and when it is tried again.
    pub message: Option<String>,
}

/// Whether all is well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthView {
    /// Nothing is wrong.
    pub ok: bool,
    /// What is wrong, one sentence each, with the way out.
    pub problems: Vec<String>,
}

/// How many domains there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DomainCountsView {
    /// Running domains.
    pub running: u32,
    /// Running domains for which at least one actuator may do more than observe.
    pub managed: u32,
}

/// The priority cycle.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CycleView {
    /// Cycles since the daemon started.
    pub number: u64,
    /// Time between two.
    pub period_s: f64,
    /// How long the last one took.
    pub last_duration_ms: Option<f64>,
    /// When the last one ended.
    pub seconds_since_last: Option<f64>,
}

/// What the daemon itself uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OwnCostView {
    /// CPU time since it started.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub rss_kib: Option<u64>,
    /// CPU time of its threads over the last tick, as a part of one CPU.
    pub daemon_percent: Option<f64>,
    /// CPU time of its eBPF programs over the last tick as a part of one CPU, estimated: runs times measured mean time.
    pub programs_percent: Option<f64>,
    /// What both together may cost: `[overhead] budget`, for the vcpus there are.
    pub budget_percent: Option<f64>,
    /// Its eBPF programs.
    #[serde(default)]
    pub programs: Vec<ProgramView>,
    /// What is given up to keep to the budget, in the order in which it was.
    #[serde(default)]
    pub shed: Vec<String>,
}

/// One kind of eBPF program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProgramView {
    /// Name, as `bpftool prog` shows it.
    pub name: String,
    /// Tier that it belongs to.
    pub tier: u32,
    /// Instances that are attached.
    pub attached: u32,
    /// Runs since the daemon started.
    #[serde(default)]
    pub runs: Option<u64>,
    /// Runs a second over the last tick.
    pub runs_per_s: Option<f64>,
    /// Mean time of one run when it was measured last.
    pub ns_per_run: Option<u64>,
    /// Both together, as a part of one CPU.
    pub cpu_percent: Option<f64>,
}

/// How many work orders there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrderCountsView {
    /// They wait for approval.
    pub proposed: u64,
    /// All that the store remembers.
    pub total: u64,
    /// How often orders came into each state since the daemon started.
    #[serde(default)]
    pub since_start: Vec<OrderMovesView>,
}

/// How often orders came into one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrderMovesView {
    /// The state.
    pub state: OrderState,
    /// How often.
    pub times: u64,
}
