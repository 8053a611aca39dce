//! The host as a whole: pressure, memory, pcpu time.

use serde::{Deserialize, Serialize};

/// One reading of the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostSample {
    /// `/proc/pressure/cpu`.
    pub cpu_pressure: Option<PressureSample>,
    /// `/proc/pressure/memory`.
    pub memory_pressure: Option<PressureSample>,
    /// `/proc/pressure/io`.
    pub io_pressure: Option<PressureSample>,
    /// `/proc/meminfo`.
    pub memory: Option<MemorySample>,
    /// `/proc/stat`, one entry an online pcpu.
    pub pcpus: Vec<PcpuSample>,
    /// One-minute load average.
    pub load1: Option<f64>,
    /// Processes of the names in [`crate::competitor::COMPETITORS`] that run; looked for now and then.
    #[serde(default)]
    pub competitors: Vec<String>,
    /// The sched_ext scheduler that is in force instead of the kernel's own, or its kind where it has no name.
    #[serde(default)]
    pub sched_ext: Option<String>,
}

/// A PSI file: time in which some or all tasks stalled since boot, and the kernel's own ten-second average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PressureSample {
    /// `some total`.
    pub some_total_usec: u64,
    /// `full total`; absent for cpu before Linux 5.13.
    pub full_total_usec: Option<u64>,
    /// `some avg10`, 0 to 100.
    pub some_avg10_percent: f64,
}

/// Host memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySample {
    /// `MemTotal`.
    pub total_kib: u64,
    /// `MemAvailable`.
    pub available_kib: u64,
}

/// Time of one pcpu since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PcpuSample {
    /// Number of the pcpu.
    pub id: u32,
    /// Everything but idle and iowait.
    pub busy_ns: u64,
    /// Idle and iowait.
    pub idle_ns: u64,
}
