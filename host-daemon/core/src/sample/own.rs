//! What kvmpilotd itself costs the host.

use serde::{Deserialize, Serialize};

/// One reading of the daemon's own cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnSample {
    /// CPU time of all its threads since it started.
    pub cpu_ns: Option<u64>,
    /// Resident memory.
    pub rss_kib: Option<u64>,
    /// Its eBPF programs.
    pub programs: Vec<ProgramSample>,
}

/// One kind of eBPF program. Instances of it (one a tap) are added up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramSample {
    /// Name, as `bpftool prog` shows it.
    pub name: String,
    /// Tier that it belongs to, 1 to 3.
    pub tier: u8,
    /// Instances that are attached.
    pub attached: u32,
    /// Times that they ran since the daemon started.
    pub runs: Option<u64>,
    /// Mean time of one run, as measured last with `BPF_ENABLE_STATS`; the kernel's own clock reads are in it.
    pub ns_per_run: Option<u64>,
}
