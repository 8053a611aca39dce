//! [`ReplayView`]: the plan that came out of a recording.

use kvmpilot_core::finding::Finding;
use kvmpilot_core::order::Proposal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was decided on a recording. Times are seconds since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplayView {
    /// Host that was recorded.
    pub host: String,
    /// Its kernel's release.
    pub kernel: String,
    /// Version of the daemon that recorded.
    pub version: String,
    /// Start of the recording, milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Time of the last turn.
    pub length_s: f64,
    /// Turns of the fast loop.
    pub turns: u64,
    /// Ticks that decided.
    pub ticks: u64,
    /// Priority cycles that decided.
    pub cycles: u64,
    /// Decided with another configuration than the recorded one.
    pub other_configuration: bool,
    /// The recording has its end.
    pub complete: bool,
    /// What is worth knowing about the recording, in words.
    pub notes: Vec<String>,
    /// What would have been proposed, in the order of time. While a change is not made it is proposed again each time.
    pub plan: Vec<PlannedView>,
    /// What the daemon did carry out meanwhile, and the replay took note of.
    pub applied: Vec<AppliedView>,
    /// Conditions that were found.
    pub findings: Vec<FoundView>,
}

/// One proposal of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedView {
    /// When.
    pub at_s: f64,
    /// Which loop decided.
    pub pace: Pace,
    /// The change and why.
    pub proposal: Proposal,
    /// Why the guard held it back; null if it did not.
    pub held: Option<String>,
}

/// A loop that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// Back-to-safe, every turn.
    Release,
    /// Domains that have just come, every turn while there are such.
    Arrival,
    /// Class, weights, balloons.
    Tick,
    /// States, ladder, placement.
    Cycle,
}

/// One change that was made while recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppliedView {
    /// When.
    pub at_s: f64,
    /// The change and why.
    pub proposal: Proposal,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FoundView {
    /// When it was found first.
    pub first_s: f64,
    /// When it was found last.
    pub last_s: f64,
    /// As it was first.
    pub finding: Finding,
}
