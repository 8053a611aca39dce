//! [`Finding`]: a named condition with its evidence.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look.
    Warning,
    /// Something does not work.
    Error,
}

/// A named condition with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The domain, if it is about one.
    pub domain: Option<Uuid>,
    /// The domain's name.
    pub domain_name: Option<String>,
    /// Stable name, like `cpu_over` or `balloon_statistics_stale`.
    pub name: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence: what is, and what can be done.
    pub summary: String,
    /// What was measured, name and value with unit.
    pub evidence: Vec<(String, String)>,
}
