//! Resource states of a domain, its need, and for how many cycles it has been off its optimum.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::class::class_of;
use super::history::History;
use super::{balloon, finding, input};
use crate::finding::{Finding, Severity};
use crate::model::DomainModel;
use crate::policy::{Class, Policy};
use crate::units::Ratio;

/// State of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResourceState {
    /// Between the thresholds.
    Ok,
    /// Above the high threshold, and not yet below the low one again.
    Over,
    /// Below the low threshold.
    Under,
    /// Not measured.
    #[default]
    Unknown,
}

impl ResourceState {
    /// The state's name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Over => "over",
            Self::Under => "under",
            Self::Unknown => "unknown",
        }
    }
}

/// What is remembered about a domain's resources.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StateHistory {
    /// CPU.
    pub cpu: ResourceState,
    /// Memory.
    pub memory: ResourceState,
    /// Normal virtualisation loss, as a part of the vcpus' time: learned as a moving average.
    pub loss: Option<f64>,
    /// Cycles in a row that it waited for CPU more than its class allows, or was held up only by a raised weight.
    pub waiting: u32,
    /// Cycles in a row that memory lay idle.
    pub idle_memory: u32,
    /// Cycles in a row off the optimum, for whatever reason.
    pub off_optimum: u32,
    /// Cycles in a row that its vcpus were used up without waiting for pcpus.
    #[serde(default)]
    pub cpu_over: u32,
    /// Cycles in a row that its memory was used up.
    #[serde(default)]
    pub memory_over: u32,
    /// Cycles in a row that it waited for CPU more than its class allows.
    #[serde(default)]
    pub starved: u32,
}

impl StateHistory {
    /// Moving average over about ten polls.
    pub(super) fn learn_loss(&mut self, measured: Option<Ratio>) {
        const NEW: f64 = 0.1;
        if let Some(Ratio(measured)) = measured.filter(|measured| measured.0.is_finite()) {
            self.loss = Some(self.loss.map_or(measured, |loss| loss + NEW * (measured - loss)));
        }
    }
}

/// Wait ratio that a class should stay under; `None` for best effort.
#[must_use]
pub const fn target_wait(class: Class, policy: &Policy) -> Option<f64> {
    match class {
        Class::Latency => Some(policy.weight.latency_target),
        Class::Standard => Some(policy.weight.standard_target),
        Class::Batch => None,
    }
}

/// How badly a domain needs help: its wait ratio in units of its class' target (best effort: of one half).
#[must_use]
pub fn need(domain: &DomainModel, policy: &Policy, history: &History) -> Option<f64> {
    let target = target_wait(class_of(domain, policy, history), policy).unwrap_or(0.5);
    Some(Ratio::of(domain.wait_ratio()?.0, target)?.0)
}

/// Whether the domain wants enough CPU for its waiting to mean something: an idle guest wakes up now and then and may wait
/// as long as it runs, both of them microseconds.
pub(super) fn wants_cpu(domain: &DomainModel, policy: &Policy, history: &History) -> bool {
    let least = if class_of(domain, policy, history) == Class::Latency { 0.01 } else { 0.05 };
    domain.cpu_demand().is_some_and(|demand| demand >= least)
}

/// Whether the domain waits for CPU beyond its class' target and the dead band.
pub(crate) fn waits_too_long(domain: &DomainModel, policy: &Policy, history: &History) -> bool {
    let target = target_wait(class_of(domain, policy, history), policy);
    let too_long = |(target, wait): (f64, Ratio)| wait.0 > target * (1.0 + policy.weight.dead_band);
    wants_cpu(domain, policy, history) && target.zip(domain.wait_ratio()).is_some_and(too_long)
}

/// Judges one cycle of a domain.
pub(super) fn judge(domain: &DomainModel, policy: &Policy, history: &mut History) -> Vec<Finding> {
    let waits = waits_too_long(domain, policy, history);
    let reclaimable = balloon::reclaimable(domain, policy, history);
    let memory_use = balloon::memory_use(domain, history);
    let Some(entry) = history.domains.get_mut(&domain.uuid) else { return Vec::new() };
    let raised = entry.shares.ours.zip(entry.shares.original).is_some_and(|(ours, original)| ours > original);
    let states = &mut entry.states;

    // What virtualisation always costs is no sign of trouble.
    let cpu_use =
        domain.cpu_demand().map(|demand| demand / domain.vcpu_count() - states.loss.unwrap_or(0.0).min(0.5));
    states.cpu = next(states.cpu, cpu_use, policy);
    states.memory = next(states.memory, memory_use, policy);
    let count = |before: u32, now: bool| if now { before.saturating_add(1) } else { 0 };
    states.waiting = count(states.waiting, waits || raised);
    states.idle_memory = count(states.idle_memory, reclaimable.is_some());
    let off = waits
        || raised
        || reclaimable.is_some()
        || ResourceState::Over == states.cpu
        || ResourceState::Over == states.memory;
    states.off_optimum = count(states.off_optimum, off);

    let mut findings = Vec::new();
    let cycles = input("cycles off the optimum", states.off_optimum);
    for (resource, state, used) in [("cpu", states.cpu, cpu_use), ("memory", states.memory, memory_use)] {
        if let (ResourceState::Over, Some(used)) = (state, used) {
            findings.push(finding(
                domain,
                &format!("{resource}_over"),
                Severity::Warning,
                format!(
                    "{} wants {} of its {resource}; it stays marked until it falls below {}",
                    domain.name,
                    Ratio(used),
                    Ratio(policy.state.low)
                ),
                vec![
                    input("use", Ratio(used)),
                    input("high threshold", Ratio(policy.state.high)),
                    cycles.clone(),
                ],
            ));
        }
    }
    findings
}

/// Two thresholds, so that a value near one of them does not flap.
fn next(before: ResourceState, used: Option<f64>, policy: &Policy) -> ResourceState {
    match used {
        None => ResourceState::Unknown,
        Some(used) if used >= policy.state.high => ResourceState::Over,
        Some(used) if used < policy.state.low => ResourceState::Under,
        Some(_) if before == ResourceState::Over => ResourceState::Over,
        Some(_) => ResourceState::Ok,
    }
}
