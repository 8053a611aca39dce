//! [`OtlpView`]: what is pushed to a collector.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the push to a collector goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OtlpView {
    /// Where to.
    pub endpoint: String,
    /// Memory of what waits to be sent.
    pub queued_bytes: u64,
    /// Attempts that failed since the daemon started.
    pub failed_attempts: u64,
    /// What became of the requests.
    pub signals: Vec<OtlpSignalView>,
    /// Why the last attempt failed; null if it did not.
    pub message: Option<String>,
}

/// What became of one kind of requests since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OtlpSignalView {
    /// `metrics` or `logs`.
    pub signal: String,
    /// Requests that the collector took.
    pub sent: u64,
    /// Requests that were dropped: there was no room for them, or the collector refused them.
    pub dropped: u64,
}
