//! Answers about rules.

use kvmpilot_core::finding::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PlannedView;

/// The rules in force, in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RulesView {
    /// Rules.
    pub rules: Vec<RuleView>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleView {
    /// Name.
    pub name: String,
    /// File that it comes from; `shipped` for the built-in ones.
    pub source: String,
    /// What it is asked about: `domain` or `process`.
    pub on: String,
    /// Of rules that exclude each other, the one of highest priority counts.
    pub priority: i32,
    /// The condition.
    pub when: String,
    /// What it does, as written in a rule file.
    pub then: String,
    /// What came of asking it; null before it was asked, or without a daemon.
    pub result: Option<RuleResultView>,
}

/// What came of asking one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleResultView {
    /// Domains or applications that it was asked about last.
    pub asked: u64,
    /// For how many of them it held.
    pub held: u64,
    /// For how many of them something that it needs was not known.
    pub unknown: u64,
    /// For how many of them it could not be evaluated.
    pub failed: u64,
    /// How often it has held.
    pub held_total: u64,
    /// How often it could not be evaluated.
    pub failed_total: u64,
    /// Why, the last time; empty if that never was.
    pub last_error: String,
}

/// What rules would have changed in a recording.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RulesTestView {
    /// Host that was recorded.
    pub host: String,
    /// Length of the recording.
    pub length_s: f64,
    /// Ticks that decided.
    pub ticks: u64,
    /// Priority cycles that decided.
    pub cycles: u64,
    /// The rules that are not as recorded.
    pub rules: Vec<TestedRuleView>,
    /// What is proposed with the new rules only; each change once, at its first time.
    pub added: Vec<PlannedView>,
    /// What was proposed with the recorded rules only.
    pub removed: Vec<PlannedView>,
    /// Conditions that are found with the new rules only.
    pub findings_added: Vec<Finding>,
    /// Conditions that were found with the recorded rules only.
    pub findings_removed: Vec<Finding>,
}

/// One rule that is not as recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestedRuleView {
    /// Name.
    pub name: String,
    /// `added`, `changed` or `removed`.
    pub change: String,
    /// How often it held as recorded; null if it was not there.
    pub held_before: Option<u64>,
    /// How often it held as it is now; null if it is not there.
    pub held_after: Option<u64>,
    /// How often it could not be evaluated as it is now.
    pub failed: u64,
    /// Why, the last time.
    pub last_error: String,
}
