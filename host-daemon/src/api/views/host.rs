//! The host in detail, all vcpus on it, findings, and how figures went.

use std::collections::BTreeMap;

use kvmpilot_core::finding::Finding;
use kvmpilot_core::{CpuSet, Uuid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PressureView;

/// The physical host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostDetailView {
    /// Host name.
    pub name: String,
    /// Kernel release.
    pub kernel: String,
    /// Addresses of its interfaces but loopback, without those of link scope.
    pub addresses: Vec<String>,
    /// Online pcpus, by number.
    pub pcpus: Vec<PcpuView>,
    /// Memory.
    pub memory_total_kib: Option<u64>,
    /// Memory that new work could have without swapping.
    pub memory_available_kib: Option<u64>,
    /// Pressure stall information; null where the kernel has none.
    pub pressure: PressureView,
}

/// One pcpu. What the kernel does not tell is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PcpuView {
    /// Number.
    pub number: u32,
    /// Core inside its package; SMT siblings share it.
    pub core: Option<u32>,
    /// Physical package.
    pub package: Option<u32>,
    /// Lowest pcpu of those that share the last-level cache.
    pub llc: Option<u32>,
    /// NUMA node.
    pub node: Option<u32>,
    /// Share of the last window in which it was busy.
    pub busy_ratio: Option<f64>,
    /// Set aside by the administrator (`isolcpus=`, `nohz_full=`).
    pub set_aside: bool,
}

/// The vcpus of all domains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VcpusView {
    /// By domain and number.
    pub vcpus: Vec<PlacedVcpuView>,
}

/// Where one vcpu runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlacedVcpuView {
    /// Its domain.
    pub domain: String,
    /// Its domain's UUID.
    pub uuid: Uuid,
    /// Number.
    pub number: u32,
    /// The pcpu it ran on last.
    pub pcpu: Option<u32>,
    /// pcpus that it may use.
    pub pin: Option<CpuSet>,
    /// Share of the time on a pcpu.
    pub run_ratio: Option<f64>,
    /// Share of the time runnable but not running.
    pub wait_ratio: Option<f64>,
}

/// Conditions of the host and of all domains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FindingsView {
    /// As of the last tick.
    pub findings: Vec<Finding>,
}

/// How figures went. Times and figures are columns of the same length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryView {
    /// The domain; null for the host.
    pub domain: Option<String>,
    /// Time between two points.
    pub step_s: f64,
    /// When, milliseconds since 1970, rising.
    pub unix_ms: Vec<u64>,
    /// The figures by name; null where they are not known. A point of a step is the mean of what was measured in it.
    pub series: BTreeMap<String, Vec<Option<f64>>>,
}

/// What those are sent who follow events, at once and then once a tick (`event: tick`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TickEvent {
    /// When it was measured, milliseconds since 1970; 0 before the first tick.
    pub unix_ms: u64,
    /// Number of the last priority cycle.
    pub cycle: u64,
    /// Whether all is well.
    pub health_ok: bool,
    /// Pressure of the host.
    pub pressure: PressureView,
    /// Orders that wait for approval.
    pub proposed: u64,
    /// Conditions of the host and of all domains.
    pub findings: u64,
    /// The domains, by name.
    pub domains: Vec<TickDomain>,
}

/// What is new of one domain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TickDomain {
    /// Its name.
    pub name: String,
    /// Time on a pcpu, as a share of the time of all its vcpus.
    pub cpu_use_ratio: Option<f64>,
    /// Of the time that its vcpus wanted to run, the share in which they had to wait for a pcpu.
    pub wait_ratio: Option<f64>,
    /// How urgently it needs something.
    pub need: Option<f64>,
    /// Memory that it has now.
    pub memory_current_kib: Option<u64>,
    /// CPU weight.
    pub cpu_shares: Option<u64>,
    /// Bytes that the guest received.
    pub received_bytes_per_s: Option<f64>,
    /// Bytes that the guest sent.
    pub sent_bytes_per_s: Option<f64>,
}

/// An order that came into another state (`event: order`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrderMovedEvent {
    /// Its number.
    pub id: u64,
    /// The domain's name.
    pub domain_name: String,
    /// Its state now.
    pub state: kvmpilot_core::order::OrderState,
    /// What came of it so far.
    pub outcome: String,
}
