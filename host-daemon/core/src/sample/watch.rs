//! What the on-demand probes (tier 2) saw of one domain.

use serde::{Deserialize, Serialize};

/// Waits of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencySample {
    /// Waits that ended.
    pub count: u64,
    /// Their lengths added up.
    pub sum_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// Waits by length, shortest first, empty buckets left out.
    pub buckets: Vec<LatencyBucket>,
}

/// Waits of about the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyBucket {
    /// All are shorter than this; `None` for those that are longer than any bound.
    pub below_ns: Option<u64>,
    /// How many.
    pub count: u64,
}

/// One thread's waits for a pcpu.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadLatencySample {
    /// Kernel thread id.
    pub tid: u32,
    /// From a wake-up to the pcpu.
    pub woken: LatencySample,
    /// From being put off a pcpu, still wanting to run, to the next one.
    pub preempted: LatencySample,
}

/// The exits of one vcpu.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuExitSample {
    /// Thread of the vcpu.
    pub tid: u32,
    /// Time between an entry and the next exit.
    pub guest_ns: u64,
    /// KVM's number of the instruction set: 1 for VMX, 2 for SVM, 0 where it did not say.
    pub isa: u32,
    /// By reason.
    pub reasons: Vec<ExitReasonSample>,
}

/// Exits for one reason, those whose entry was seen, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReasonSample {
    /// `exit_reason` as the hardware gave it.
    pub reason: u32,
    /// How many.
    pub count: u64,
    /// Time from exit to entry, added up.
    pub total_ns: u64,
    /// The longest.
    pub max_ns: u64,
}
