//! [`VcpuTimeView`] and its like: where a domain's time goes.

use kvmpilot_core::model::RoleKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the time of one vcpu went, in shares of the window. Those that are known are together at most 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VcpuTimeView {
    /// Number.
    pub number: u32,
    /// Length of the window; null before the second reading.
    pub window_s: Option<f64>,
    /// The guest ran. Tick-sampled under KVM on most kernels.
    pub run_ratio: Option<f64>,
    /// Ready to run, and another thread had the pcpu.
    pub contention_ratio: Option<f64>,
    /// Ready to run, and the CPU quota was used up.
    pub throttled_ratio: Option<f64>,
    /// KVM polled for work instead of sleeping; null under TCG.
    pub halt_polling_ratio: Option<f64>,
    /// KVM or QEMU worked for the guest; null under TCG. Tick-sampled on most kernels.
    pub exit_handling_ratio: Option<f64>,
    /// Asleep.
    pub idle_ratio: Option<f64>,
    /// CPU quota of this vcpu, in pcpus; null without.
    pub quota_pcpus: Option<f64>,
    /// Exits from guest mode; null under TCG.
    pub exits_per_s: Option<f64>,
    /// Of the halts that began with polling, the share in which work came meanwhile.
    pub halt_poll_hit_ratio: Option<f64>,
    /// Median time asleep in a halt, at most twice the truth.
    pub halt_wait_p50_us: Option<f64>,
}

/// All threads that serve one purpose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoleView {
    /// What they are for.
    pub role: RoleKind,
    /// How many there are.
    pub threads: u32,
    /// Their time on a pcpu, in pcpus: 1.5 is one and a half.
    pub run_pcpus: Option<f64>,
    /// Their time runnable but not running, likewise.
    pub wait_pcpus: Option<f64>,
}

/// Pressure (PSI) of a domain's cgroup: the share of the window in which some of its threads stalled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GroupPressureView {
    /// For a pcpu.
    pub cpu_ratio: Option<f64>,
    /// For memory.
    pub memory_ratio: Option<f64>,
    /// For I/O.
    pub io_ratio: Option<f64>,
}
