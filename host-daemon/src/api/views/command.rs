//! Answers about work orders, restore, the doctor's checks and failures.

use kvmpilot_core::ledger::{RestoreOutcome, RestoredValue};
use kvmpilot_core::order::WorkOrder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A page of work orders.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OrdersView {
    /// Newest first.
    pub orders: Vec<WorkOrder>,
    /// Pass it as `before` to get the next page; null on the last one.
    pub next_before: Option<u64>,
}

/// What came of a command.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CommandReply {
    /// One sentence.
    pub message: String,
    /// The work order afterwards, if the command was about one.
    pub order: Option<WorkOrder>,
    /// What went back, if the command was `restore`.
    pub restore: Option<RestoreView>,
}

/// What `restore` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreView {
    /// One entry for each value in the ledger.
    pub values: Vec<RestoredValue>,
}

impl RestoreView {
    /// Whether nothing is left that ought to go back.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.values.iter().all(|value| value.outcome != RestoreOutcome::Failed)
    }
}

/// What could be better about the installation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DoctorView {
    /// In the order in which to look at them.
    pub checks: Vec<CheckView>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckView {
    /// Stable name, like `libvirt` or `probes`.
    pub name: String,
    /// Verdict.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// Verdict of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but less well than it could.
    Warning,
    /// Does not work.
    Problem,
}

/// Version of program and API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionView {
    /// Version of the program.
    pub version: String,
    /// Version of the API: the `v1` in its paths.
    pub api_version: u32,
}

/// A failure, as `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Always `about:blank`: the HTTP status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong, and what to do.
    pub detail: String,
}
