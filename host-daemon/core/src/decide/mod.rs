//! What to do: model + policy + history -> proposals and findings. Never fails, never waits; without data, no action.
//!
//! Four entry points: one for each pace of the daemon, [`release`] (every fast tick, only back-to-safe), [`tick`]
//! (every few seconds: class, weights, balloons) and [`cycle`] (the priority cycle: states, ladder, placement); and
//! [`arrival`], with the fast tick while domains are new. Each decides once for a model: the same model again gives nothing.

mod advice;
mod balloon;
pub mod baseline;
mod claim;
mod class;
mod confine;
mod drift;
mod floor;
mod guard;
pub mod history;
mod managed;
mod newcomer;
mod onset;
mod overhead;
mod own_word;
mod placement;
mod pressed;
mod priority;
mod rivals;
mod room;
mod rules;
pub mod service;
mod state;
mod trial;
mod weight;

use std::time::Duration;

pub use advice::came_true;
pub use balloon::{Accounting, least_memory, often};
pub use class::class_of;
pub use confine::placement_refusal;
pub use drift::ENFORCE;
pub use history::History;
pub use managed::{Drift, Managed, Moment};
pub use overhead::{Bill, Overhead, OverheadStep, Shed};
pub use priority::effect::{Effect, EffectVerdict, LadderHistory, MeansHistory};
pub use priority::{protection, scarcity};
pub use rules::{Asked, RuleCount};
pub(crate) use state::waits_too_long;
pub use state::{ResourceState, StateHistory, need, target_wait};
pub use trial::Verdict;

use crate::finding::{Finding, Severity};
use crate::model::{DomainModel, Model};
use crate::order::{Action, Proposal, Reason};
use crate::policy::Policy;
use crate::sample::DomainState;
use crate::service::Transition;

/// What came out of one decision.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// Conditions worth knowing.
    pub findings: Vec<Finding>,
    /// Changes wanted, the guard's limits kept.
    pub proposals: Vec<Proposal>,
    /// Changes that the guard held back, with the reason.
    pub held: Vec<(Proposal, String)>,
    /// Trials that are over. What failed is among the proposals, the other way round.
    pub verdicts: Vec<Verdict>,
    /// Services that went from one state to another.
    pub transitions: Vec<Transition>,
}

/// Back-to-safe actions only: gives memory back to guests that need it.
#[must_use]
pub fn release(model: &Model, policy: &Policy, history: &mut History) -> Decision {
    if !fresh(model.at, &mut history.released_at) {
        return Decision::default();
    }
    history.observe(model, policy);
    balloon::note(model, policy, history);
    onset::note(model, policy, history);
    let findings = rules::ask(model, policy, history, rules::Pace::Release);
    let mut proposals: Vec<Proposal> = running(model)
        .filter(|domain| domain.hold(true).is_none())
        .filter_map(|domain| balloon::deflate(domain, model, policy, history))
        .collect();
    rules::sign(&mut proposals, policy, history);
    Decision { findings, proposals, ..Decision::default() }
}

/// Where domains go that have just come, if there are such. After [`release`], on the same model.
#[must_use]
pub fn arrival(model: &Model, policy: &Policy, history: &mut History) -> Option<Decision> {
    if !newcomer::are_there(model, history) || !fresh(model.at, &mut history.arrived_at) {
        return None;
    }
    history.observe(model, policy);
    rules::ask_newcomers(model, policy, history);
    let mut proposals = newcomer::decide(model, policy, history);
    rules::sign(&mut proposals, policy, history);
    let decision = guard::hold_back(proposals, Vec::new(), model, policy, history);
    newcomer::note(&decision, history);
    Some(decision)
}

/// Class, weights and balloons.
#[must_use]
pub fn tick(model: &Model, policy: &Policy, history: &mut History) -> Decision {
    if !fresh(model.at, &mut history.ticked_at) {
        return Decision::default();
    }
    history.observe(model, policy);
    balloon::note(model, policy, history);
    let mut findings = drift::findings(model, history);
    findings.extend(model.domains.iter().filter_map(quarantined));
    findings.extend(history.rivals.findings(policy));
    let (of_services, transitions) = service::judge(model, policy, history);
    findings.extend(of_services);
    findings.extend(rules::ask(model, policy, history, rules::Pace::Class));
    for domain in running(model) {
        class::infer(domain, policy, history);
        findings.extend(own_word::check(domain, policy));
    }
    weight::note_calm(model, policy, history);
    findings.extend(rules::ask(model, policy, history, rules::Pace::Tick));
    pressed::note(model, policy, history);
    room::note(model, history);
    let judged = trial::judge(model, trial::Pace::Tick, policy, history);
    let mut proposals = judged.proposals;
    proposals.extend(drift::enforce(model, policy, history));
    proposals.extend(weight::decide(model, policy, history, &mut findings));
    proposals.extend(balloon::inflate(model, policy, history, &mut findings));
    onset::ticked(model, history);
    rules::sign(&mut proposals, policy, history);
    let decision = guard::hold_back(proposals, findings, model, policy, history);
    Decision { verdicts: judged.verdicts, transitions, ..decision }
}

/// The priority cycle: resource states, the ladder, placement.
#[must_use]
pub fn cycle(model: &Model, policy: &Policy, history: &mut History) -> Decision {
    if !fresh(model.at, &mut history.cycled_at) {
        return Decision::default();
    }
    history.observe(model, policy);
    balloon::note(model, policy, history);
    // What others changed and who they are, the tick reports.
    let mut findings = Vec::new();
    for domain in running(model) {
        findings.extend(state::judge(domain, policy, history));
        advice::count(domain, policy, history);
    }
    advice::count_host(model, history);
    findings.extend(baseline::judge(model, policy, history));
    findings.extend(rules::ask(model, policy, history, rules::Pace::Cycle));
    // In the order of need, so that a budget goes to who needs it most.
    let mut by_need: Vec<(f64, &DomainModel)> =
        running(model).map(|domain| (need(domain, policy, history).unwrap_or(0.0), domain)).collect();
    by_need.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let judged = trial::judge(model, trial::Pace::Cycle, policy, history);
    let mut proposals = judged.proposals;
    for (_, domain) in &by_need {
        proposals.extend(priority::decide(domain, policy, history, &mut findings));
    }
    proposals.extend(placement::decide(model, policy, history));
    proposals.extend(advice::decide(model, policy, history));
    rules::sign(&mut proposals, policy, history);
    let decision = guard::hold_back(proposals, findings, model, policy, history);
    Decision { verdicts: judged.verdicts, ..decision }
}

/// Whether `at` was not decided on yet; remembers it.
fn fresh(at: Duration, last: &mut Option<Duration>) -> bool {
    let fresh = last.is_none_or(|last| at > last);
    if fresh {
        *last = Some(at);
    }
    fresh
}

/// Domains to decide on. One in quarantine is none: what libvirt told of it is old, and no change would get there.
fn running(model: &Model) -> impl Iterator<Item = &DomainModel> {
    model.domains.iter().filter(|domain| domain.state == DomainState::Running && domain.quarantine.is_none())
}

fn quarantined(domain: &DomainModel) -> Option<Finding> {
    let why = domain.quarantine.as_deref()?;
    let summary = format!("nothing is asked of it and nothing is changed on it: {why}");
    Some(finding(domain, "quarantined", Severity::Warning, summary, vec![input("why", why)]))
}

fn propose(domain: &DomainModel, action: Action, reason: Reason, release: bool) -> Proposal {
    Proposal {
        domain: domain.uuid,
        domain_name: domain.name.clone(),
        action,
        reason,
        release,
        undoes: Vec::new(),
    }
}

fn finding(
    domain: &DomainModel,
    name: &str,
    severity: Severity,
    summary: String,
    evidence: Vec<(String, String)>,
) -> Finding {
    Finding {
        domain: Some(domain.uuid),
        domain_name: Some(domain.name.clone()),
        name: name.to_owned(),
        severity,
        summary,
        evidence,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "callers hand over temporaries")]
fn input(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

#[cfg(test)]
mod advice_tests;
#[cfg(test)]
mod drift_tests;
#[cfg(test)]
mod newcomer_tests;
#[cfg(test)]
mod placement_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trial_tests;
