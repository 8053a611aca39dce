//! CPU weights by class: protect fast, relax slowly.
//!
//! Under proportional shares the odds of running, (1 - w) / w, rise with the ratio of the own weight to the others'.
//! A domain that measured w and should see w* therefore needs its weight times odds(1 - w*) / odds(1 - w).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::class::{class_of, will_be_batch};
use super::history::{History, Managed};
use super::rules::wants;
use super::state::{target_wait, wants_cpu};
use super::{finding, floor, input, propose, running};
use crate::finding::{Finding, Severity};
use crate::model::{DomainModel, Model};
use crate::order::{Action, Metric, Prediction, Proposal, Reason};
use crate::policy::{Class, Policy, WeightLimits};
use crate::rules::Means;
use crate::sample::Runner;
use crate::units::{Ratio, doubled};

/// Least use of CPU, in pcpus, that makes a neighbour worth looking at.
const TAKES_PCPUS: f64 = 0.05;
/// Part of a domain's waiting that a neighbour must have run to be called an aggressor.
pub(super) const TAKES_PART: f64 = 0.05;
/// Weights that both cgroup versions accept.
const VALID: std::ops::RangeInclusive<u64> = 2..=10_000;

/// Proposes weights for all domains.
pub(super) fn decide(
    model: &Model,
    policy: &Policy,
    history: &mut History,
    findings: &mut Vec<Finding>,
) -> Vec<Proposal> {
    let mut proposals: Vec<Proposal> = Vec::new();
    let mut pressed = false;
    // Who is protected first cannot be asked to yield for others afterwards.
    let mut victims: Vec<&DomainModel> = running(model).collect();
    victims.sort_by_cached_key(|domain| class_of(domain, policy, history) != Class::Latency);
    for domain in victims {
        let Some(wait) = domain.wait_ratio() else { continue };
        let Some(target) = target_wait(class_of(domain, policy, history), policy) else { continue };
        if !wants(domain, Means::Protect, history) || will_be_batch(domain, policy, history) {
            continue;
        }
        let stolen = stolen_from(domain, model);
        let aggressors: Vec<&DomainModel> = running(model)
            .filter(|other| takes_cpu_of(other, domain, policy, history))
            .filter(|other| {
                stolen.as_ref().is_none_or(|stolen| took(other, stolen) || is_lowered(other, history))
            })
            .collect();
        if aggressors.is_empty() {
            findings.push(finding(
                domain,
                "cpu_wait",
                Severity::Warning,
                format!(
                    "{} waits for CPU and no domain of a lower class takes it: the host is too small for its load",
                    domain.name
                ),
                vec![input("wait ratio", wait), input("target", Ratio(target))],
            ));
            continue;
        }
        pressed = true;
        let victim = Victim { domain, wait, target, aggressors, stolen, model };
        victim.protect(policy, history, &mut proposals);
    }
    let back_off = &mut history.relaxing;
    if pressed {
        back_off.pressed(model.at, policy);
    } else {
        let relaxed: Vec<Proposal> =
            running(model).filter_map(|domain| relax(domain, model, policy, history)).collect();
        if !relaxed.is_empty() {
            history.relaxing.last = Some(model.at);
        }
        proposals.extend(relaxed);
    }
    let lifted: Vec<Proposal> = running(model)
        .filter(|domain| !proposals.iter().any(|proposal| proposal.domain == domain.uuid))
        .filter_map(|domain| floor::lift(domain, model, policy, history))
        .collect();
    proposals.extend(lifted);
    proposals
}

/// Longest calm that is asked for before weights go back.
const LONGEST_CALM: Duration = Duration::from_secs(3600);

/// How long the calm must be before weights go back: twice as long each time that they were needed again soon after, and
/// half as long each time that they were not.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Relaxing {
    /// When weights went back last.
    last: Option<Duration>,
    too_early: u32,
}

impl Relaxing {
    /// Calm after which weights go back now.
    pub(crate) fn calm(&self, policy: &Policy) -> Duration {
        let first = policy.weight.relax_after;
        doubled(first, self.too_early, LONGEST_CALM.max(first))
    }

    /// Somebody waits: if weights went back not long ago, that was too early.
    fn pressed(&mut self, now: Duration, policy: &Policy) {
        let Some(last) = self.last.take() else { return };
        if now.saturating_sub(last) < self.calm(policy) * 20 {
            self.too_early = (self.too_early + 1).min(16);
        } else {
            self.too_early = self.too_early.saturating_sub(1);
        }
    }
}

/// Whether `other` has a lower class than `victim`, shares pcpus with it, and takes CPU. Of a batch domain counts what it
/// wants: one that our weights starve uses next to nothing, and would take all as soon as they were gone.
pub(super) fn takes_cpu_of(
    other: &DomainModel,
    victim: &DomainModel,
    policy: &Policy,
    history: &History,
) -> bool {
    let pcpus = match class_of(other, policy, history) {
        Class::Batch => other.cpu_demand(),
        Class::Standard | Class::Latency => other.cpu_use().map(|used| used.0 * other.vcpu_count()),
    };
    yields_to(other, victim, policy, history) && pcpus.is_some_and(|pcpus| pcpus > TAKES_PCPUS)
}

/// Whether `other` has a lower class than `victim` and shares pcpus with it.
pub(super) fn yields_to(
    other: &DomainModel,
    victim: &DomainModel,
    policy: &Policy,
    history: &History,
) -> bool {
    let class = |domain| class_of(domain, policy, history);
    other.uuid != victim.uuid && class(other).yields_to(class(victim)) && may_meet(other, victim, history)
}

/// Whether a domain may run where another one does, as far as its administrator is concerned. Pins that are not known keep
/// nobody apart.
fn may_meet(other: &DomainModel, victim: &DomainModel, history: &History) -> bool {
    let entry = history.domains.get(&other.uuid);
    let mut own =
        entry.into_iter().flat_map(|entry| entry.pins.values()).filter_map(|pin| pin.original.as_ref());
    let theirs = || victim.vcpus.iter().filter_map(|vcpu| vcpu.pin.as_ref());
    let Some(first) = own.next() else { return true };
    theirs().next().is_none()
        || std::iter::once(first).chain(own).any(|own| theirs().any(|theirs| own.overlaps(theirs)))
}

/// Notes since when each domain has waited well below its target.
pub(super) fn note_calm(model: &Model, policy: &Policy, history: &mut History) {
    for domain in running(model) {
        let Some(wait) = domain.wait_ratio() else { continue };
        let Some(target) = target_wait(class_of(domain, policy, history), policy) else { continue };
        let calm = !wants_cpu(domain, policy, history) || wait.0 < target * (1.0 - policy.weight.dead_band);
        if let Some(entry) = history.domains.get_mut(&domain.uuid) {
            entry.calm_since = if calm { entry.calm_since.or(Some(model.at)) } else { None };
        }
    }
}

/// Parts of a domain's waiting by who ran meanwhile, the one that took most first; `None` where no probe saw it.
pub(super) fn stolen_from(victim: &DomainModel, model: &Model) -> Option<Vec<(Runner, f64)>> {
    let row = &model.steal.domains.iter().find(|row| row.uuid == victim.uuid)?.by;
    let all: f64 = row.iter().map(|(_, time)| time.as_secs_f64()).sum();
    (all > 0.0).then(|| row.iter().map(|(by, time)| (*by, time.as_secs_f64() / all)).collect())
}

/// Whether a domain took enough of another one's CPU to be worth a change.
pub(super) fn took(other: &DomainModel, stolen: &[(Runner, f64)]) -> bool {
    stolen.iter().any(|(by, part)| *by == Runner::Domain(other.uuid) && *part >= TAKES_PART)
}

/// Whether we hold its weight down: what it takes now says nothing about what it would take.
pub(super) fn is_lowered(domain: &DomainModel, history: &History) -> bool {
    let shares = history.domains.get(&domain.uuid).map(|entry| &entry.shares);
    shares.is_some_and(|shares| {
        shares.ours.zip(shares.original).is_some_and(|(ours, original)| ours < original)
    })
}

/// Who took the CPU of a domain, in words.
pub(super) fn takers(stolen: Option<&[(Runner, f64)]>, aggressors: &[&DomainModel], model: &Model) -> String {
    let Some(stolen) = stolen else {
        return aggressors.iter().map(|other| other.name.as_str()).collect::<Vec<_>>().join(", ");
    };
    let name = |by: &Runner| match by {
        Runner::Host => "the host".to_owned(),
        Runner::Unknown => "nobody that was seen".to_owned(),
        Runner::Domain(uuid) => {
            let domain = model.domains.iter().find(|domain| domain.uuid == *uuid);
            domain.map_or_else(|| uuid.to_string(), |domain| domain.name.clone())
        }
    };
    let parts = stolen.iter().filter(|(_, part)| *part >= 0.01).take(4);
    parts.map(|(by, part)| format!("{} {}", name(by), Ratio(*part))).collect::<Vec<_>>().join(", ")
}

/// Odds of running.
fn odds(wait: f64) -> f64 {
    (1.0 - wait) / wait.clamp(0.001, 0.999)
}

/// A domain that waits, and for whom.
struct Victim<'a> {
    domain: &'a DomainModel,
    wait: Ratio,
    target: f64,
    aggressors: Vec<&'a DomainModel>,
    stolen: Option<Vec<(Runner, f64)>>,
    model: &'a Model,
}

impl Victim<'_> {
    /// One step to the weight that the measurement calls for; what is missing beyond the limit, the aggressors give.
    fn protect(&self, policy: &Policy, history: &History, proposals: &mut Vec<Proposal>) {
        let Self { domain, wait, target, model, .. } = self;
        let Some((current, shares)) = weight_of(domain, history) else { return };
        let factor = odds(*target) / odds(wait.0).max(0.001);
        let to = limited(as_float(current) * factor, shares, policy.of(*domain).weight_limits());
        let raised = as_float(to.max(1)) / as_float(current.max(1));
        if to > current {
            let summary = format!(
                "{} waits {wait} of the time it could run, its class allows {}",
                domain.name,
                Ratio(*target)
            );
            let reason = self.reason("weight.protect", summary, factor, raised, policy, history);
            proposals.push(propose(domain, Action::SetCpuShares { from: current, to }, reason, false));
        }
        let missing = factor / raised;
        if missing <= 1.0 + policy.weight.dead_band {
            return;
        }
        // All of them by the same part of their original: what one alone gave up, the others would take.
        let class = class_of(domain, policy, history);
        let batch = |other: &&DomainModel| class_of(other, policy, history) == Class::Batch;
        let all: Vec<&DomainModel> = running(model)
            .filter(batch)
            .filter(|other| takes_cpu_of(other, domain, policy, history))
            .collect();
        let part = |other: &&DomainModel| {
            let (current, shares) = weight_of(other, history)?;
            Some(as_float(current) / as_float(shares.original.unwrap_or(current).max(1)))
        };
        let lowest = all.iter().filter_map(part).fold(1.0, f64::min);
        for aggressor in all {
            let Some((current, shares)) = weight_of(aggressor, history) else { continue };
            let original = as_float(shares.original.unwrap_or(current));
            let to = limited(original * lowest / missing, shares, policy.of(aggressor).weight_limits());
            let known = proposals.iter().any(|proposal| proposal.domain == aggressor.uuid);
            if to >= current || known || !wants(aggressor, Means::Yield, history) {
                continue;
            }
            let crowd = floor::crowd(aggressor, model, history);
            let to = to.max(floor::least(aggressor, shares, crowd, policy));
            // A crowd comes and goes: its least weight is not followed down in small steps.
            let is_small = crowd > 1.0 && is_lowered(aggressor, history) && to * 2 > current;
            if to < current && !is_small {
                let summary = format!(
                    "{} takes CPU that {} ({class}) waits for, whose own weight is at its limit",
                    aggressor.name, domain.name
                );
                let factors = raised * as_float(current) / as_float(to.max(1));
                let mut reason = self.reason("weight.yield", summary, factor, factors, policy, history);
                reason.expected = format!("{}; {} gets what is left", reason.expected, aggressor.name);
                proposals.push(propose(aggressor, Action::SetCpuShares { from: current, to }, reason, false));
            }
        }
    }

    /// Why, when the weights move apart by `factor` of what the measurement `calls_for`.
    fn reason(
        &self,
        rule: &str,
        summary: String,
        calls_for: f64,
        factor: f64,
        policy: &Policy,
        history: &History,
    ) -> Reason {
        let Self { domain, wait, target, aggressors, stolen, model } = self;
        let expected = (1.0 / (1.0 + odds(wait.0) * factor)).max(*target);
        let band = target * (1.0 + policy.weight.dead_band);
        Reason {
            rule: rule.to_owned(),
            summary,
            inputs: vec![
                input("wait ratio", wait),
                input("target of its class", format!("{} ({})", Ratio(*target), class_of(domain, policy, history))),
                input("weight factor that the measurement calls for", format!("{calls_for:.1}")),
                input("who ran while it waited", takers(stolen.as_deref(), aggressors, model)),
            ],
            threshold: format!("a wait ratio above {} (the target and its dead band)", Ratio(band)),
            expected: format!("{} waits about {} of the time it could run", domain.name, Ratio(expected)),
            prediction: Some(Prediction {
                metric: Metric::WaitRatio,
                of: domain.uuid,
                of_name: domain.name.clone(),
                before: wait.0,
                expected,
            }),
            alternatives: vec![
                "a cpuset keeps others off for good and takes pcpus from them also when nobody needs these: only \
                 after three cycles in which weights did not help"
                    .to_owned(),
            ],
        }
    }
}

/// One step back towards the original, after everybody has been calm for long enough.
fn relax(domain: &DomainModel, model: &Model, policy: &Policy, history: &History) -> Option<Proposal> {
    let entry = history.domains.get(&domain.uuid)?;
    let (ours, original) = (entry.shares.ours?, entry.shares.original?);
    let calm_wanted = history.relaxing.calm(policy);
    let calm = |domain: &DomainModel| {
        target_wait(class_of(domain, policy, history), policy).is_none()
            || history
                .domains
                .get(&domain.uuid)
                .and_then(|entry| entry.calm_since)
                .is_some_and(|since| model.at.saturating_sub(since) >= calm_wanted)
    };
    // A lowered neighbour may come up again only when those that it was lowered for are calm.
    let held_for = |other: &&DomainModel| yields_to(domain, other, policy, history);
    if !wants(domain, Means::Relax, history) || !running(model).filter(held_for).all(calm) {
        return None;
    }
    let step = if ours > original { 1.0 - policy.weight.relax_step } else { 1.0 + policy.weight.relax_step };
    let stepped = round(as_float(ours) * step);
    let to =
        if ours > original { stepped.clamp(original, ours - 1) } else { stepped.clamp(ours + 1, original) };
    let summary = format!("nobody has waited for {} s", calm_wanted.as_secs());
    let reason = Reason {
        rule: "weight.relax".to_owned(),
        summary,
        inputs: vec![input("configured weight", original)],
        threshold: format!("{} s without anybody over a target", calm_wanted.as_secs()),
        expected: "the configured weights in force again".to_owned(),
        ..Reason::default()
    };
    Some(propose(domain, Action::SetCpuShares { from: ours, to }, reason, false))
}

pub(super) fn weight_of<'a>(domain: &DomainModel, history: &'a History) -> Option<(u64, &'a Managed<u64>)> {
    Some((domain.cpu_shares?, &history.domains.get(&domain.uuid)?.shares))
}

/// `wanted` inside the domain's limits, and inside what cgroups accept. The original is always inside, so that it can go back.
pub(super) fn limited(wanted: f64, shares: &Managed<u64>, limits: WeightLimits) -> u64 {
    let WeightLimits { max_factor, min, max } = limits;
    let original = shares.original.unwrap_or(1024);
    let most = round(as_float(original) * max_factor).min(*VALID.end()).min(max.unwrap_or(u64::MAX));
    let least = round(as_float(original) / max_factor).max(*VALID.start()).max(min.unwrap_or(0));
    round(wanted).clamp(least.min(original), most.max(original))
}

#[expect(clippy::cast_precision_loss, reason = "weights are below 2^18")]
pub(super) fn as_float(weight: u64) -> f64 {
    weight as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and weights are neither negative nor above 2^18"
)]
fn round(weight: f64) -> u64 {
    weight.round() as u64
}
