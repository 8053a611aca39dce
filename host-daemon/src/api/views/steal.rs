//! [`StealView`]: who ran while whose vcpus waited.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The steal matrix of the last tick's window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StealView {
    /// Length of the window. Null before the first window has ended.
    pub window_s: Option<f64>,
    /// One row for each domain whose vcpus are followed, the one that waited most first.
    pub domains: Vec<DomainStealView>,
    /// Why there is no matrix, or why it is incomplete.
    pub message: Option<String>,
}

/// A row: one domain that waited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainStealView {
    /// Its name.
    pub domain: String,
    /// Its identity.
    pub uuid: Uuid,
    /// For how long its vcpus waited for a pcpu in the window, all together.
    pub wait_ms: f64,
    /// Who ran meanwhile, the one that took most first. The parts add up to `wait_ms`.
    pub by: Vec<StealPartView>,
    /// The same for each vcpu.
    pub vcpus: Vec<VcpuStealView>,
}

/// One vcpu that waited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VcpuStealView {
    /// Its number.
    pub number: u32,
    /// For how long it waited for a pcpu in the window.
    pub wait_ms: f64,
    /// Who ran meanwhile.
    pub by: Vec<StealPartView>,
}

/// A cell: who ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StealPartView {
    /// What kind of runner.
    pub runner: RunnerKind,
    /// Name of the domain that ran, which may be the waiting one itself. Null for others, and for a domain that is gone.
    pub domain: Option<String>,
    /// Identity of the domain that ran.
    pub uuid: Option<Uuid>,
    /// For how long.
    pub ms: f64,
    /// As a share of the wait.
    pub wait_ratio: f64,
    /// As a share of the window, for each waiting vcpu.
    pub window_ratio: f64,
}

/// What kind of runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunnerKind {
    /// Threads that belong to no domain: the kernel's, the host's services.
    Host,
    /// Threads of a domain.
    Domain,
    /// Not known: the vcpu was moved to another pcpu while it waited, or it waited longer than the probe remembers.
    Unknown,
}
