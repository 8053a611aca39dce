//! The guard: what may not happen now, whatever the deciders want. Releases pass.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Decision;
use super::drift::ENFORCE;
use super::history::{DomainHistory, History, Managed};
use crate::finding::Finding;
use crate::model::{DomainModel, Model};
use crate::order::{Action, Proposal};
use crate::policy::{Actuator, Policy};
use crate::units::doubled;

/// Window in which A, B, A is an oscillation.
const OSCILLATION_WINDOW: Duration = Duration::from_secs(120);
/// Window of the limit on re-pinned vcpus.
const PIN_WINDOW: Duration = Duration::from_secs(10);
/// Longest rest of a pin that can be configured.
const LONGEST_REST: Duration = Duration::from_secs(24 * 3600);
/// vcpus that may be pinned at once on the smallest of hosts: a move costs a millisecond.
const ALWAYS_PINS: usize = 8;
/// Longest pause after oscillations.
const LONGEST_HOLD: Duration = Duration::from_secs(6 * 3600);

/// What the guard remembers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct GuardHistory {
    #[serde(with = "crate::pairs")]
    targets: BTreeMap<(Uuid, String), TargetHistory>,
    pinned: VecDeque<(Duration, Uuid)>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct TargetHistory {
    /// When it was changed, from what to what; newest last.
    changes: VecDeque<(Duration, String, String)>,
    /// When it was changed last, however long that is ago.
    #[serde(default)]
    changed_at: Option<Duration>,
    /// When ours was put back last against somebody else.
    #[serde(default)]
    enforced_at: Option<Duration>,
    held_until: Duration,
    holds: u32,
}

impl TargetHistory {
    /// A pause, twice as long each time.
    fn hold(&mut self, now: Duration, policy: &Policy) {
        self.held_until = now + doubled(policy.guard.oscillation_hold, self.holds, LONGEST_HOLD);
        self.holds = self.holds.saturating_add(1);
    }
}

impl GuardHistory {
    pub(super) fn applied(&mut self, proposal: &Proposal, now: Duration) {
        if matches!(proposal.action, Action::PinVcpu { .. }) {
            self.pinned.push_back((now, proposal.domain));
        }
        if proposal.action.actuator() != Actuator::Ladder {
            let target = self.targets.entry((proposal.domain, proposal.action.target())).or_default();
            target.changes.push_back((now, proposal.action.from_text(), proposal.action.to_text()));
            target.changed_at = Some(now);
            if proposal.reason.rule == ENFORCE {
                target.enforced_at = Some(now);
            }
        }
    }

    /// The domain has begun a new life: what it was changed to in the one before has not to rest in this one.
    pub(super) fn born(&mut self, domain: Uuid) {
        let of_it = self.targets.iter_mut().filter(|((of, _), _)| *of == domain);
        of_it.for_each(|(_, target)| target.changed_at = None);
    }

    fn forget(&mut self, now: Duration) {
        let old = |then: Duration| now.saturating_sub(then) > OSCILLATION_WINDOW;
        self.pinned.retain(|(then, _)| now.saturating_sub(*then) <= PIN_WINDOW);
        for target in self.targets.values_mut() {
            while target.changes.front().is_some_and(|(then, ..)| old(*then)) {
                target.changes.pop_front();
            }
        }
        self.targets.retain(|_, target| {
            let rested = target.changed_at.is_none_or(|at| now.saturating_sub(at) > LONGEST_REST);
            !rested || !target.changes.is_empty() || target.held_until + LONGEST_HOLD > now
        });
    }
}

/// Sorts the proposals into what may happen and what is held back.
pub(super) fn hold_back(
    proposals: Vec<Proposal>,
    findings: Vec<Finding>,
    model: &Model,
    policy: &Policy,
    history: &mut History,
) -> Decision {
    let History { guard, domains, trials, rivals, .. } = history;
    guard.forget(model.at);
    let mut decision = Decision { findings, ..Decision::default() };
    // All pins of a domain are one change.
    let mut changed: BTreeSet<(Uuid, Actuator)> = BTreeSet::new();
    for proposal in proposals {
        let actuator = proposal.action.actuator();
        // What is undone in this round is not done again in it.
        let undone = decision.proposals.iter().any(|earlier| {
            earlier.release
                && earlier.domain == proposal.domain
                && earlier.action.target() == proposal.action.target()
        });
        let domain = model.domains.iter().find(|domain| domain.uuid == proposal.domain);
        let refusal = if let Some(why) = domain.and_then(|domain| domain.hold(proposal.release)) {
            Some(why)
        } else if proposal.release {
            None
        } else if let Some(rest) = trials.rests(&proposal, model.at) {
            Some(format!("its last trial failed; it rests for another {} s", rest.as_secs()))
        } else if let Some(why) =
            domains.get(&proposal.domain).and_then(|entry| super::rules::veto(&proposal, entry))
        {
            Some(why)
        } else if undone {
            Some("it is being put back".to_owned())
        } else if let Some(why) = rivals.weights_are_void().filter(|_| actuator == Actuator::Weight) {
            Some(why)
        } else if domains.get(&proposal.domain).is_some_and(|entry| entry.is_theirs(&proposal.action)) {
            Some("somebody else changed what kvmpilot had set there, so it is left to them".to_owned())
        } else {
            let known = changed.contains(&(proposal.domain, actuator));
            let changes = if known { 0 } else { changed.len() };
            refusal(&proposal, &decision, changes, model, policy, guard, domains)
        };
        match refusal {
            Some(why) => decision.held.push((proposal, why)),
            None => {
                if !matches!(actuator, Actuator::Ladder | Actuator::Resize) {
                    changed.insert((proposal.domain, actuator));
                }
                decision.proposals.push(proposal);
            }
        }
    }
    decision
}

fn refusal(
    proposal: &Proposal,
    decision: &Decision,
    changes: usize,
    model: &Model,
    policy: &Policy,
    guard: &mut GuardHistory,
    domains: &BTreeMap<Uuid, DomainHistory>,
) -> Option<String> {
    let domain = model.domains.iter().find(|domain| domain.uuid == proposal.domain)?;
    let actuator = proposal.action.actuator();
    let refused = match actuator {
        Actuator::Weight => &domain.weight_refusal,
        Actuator::Placement => &domain.placement_refusal,
        Actuator::Balloon => &domain.balloon_refusal,
        Actuator::Ladder | Actuator::Resize => return None,
    };
    if refused.is_some() {
        return refused.clone();
    }
    if changes >= policy.guard.max_changes {
        return Some(format!("{} changes were made in this cycle already", policy.guard.max_changes));
    }
    if actuator == Actuator::Placement {
        let key = (proposal.domain, proposal.action.target());
        let last = guard.targets.get(&key).and_then(|target| target.changed_at);
        if last.is_some_and(|then| model.at.saturating_sub(then) < policy.placement.rest) {
            return Some(format!("it was pinned less than {} s ago", policy.placement.rest.as_secs()));
        }
        if over_pin_budget(proposal, decision, model, policy, guard) {
            return Some(format!(
                "{:.0} % of the vcpus were pinned in the last 10 s",
                policy.guard.max_pin_part * 100.0
            ));
        }
    }
    // A weight that protects somebody is never late for its ringing: it is the way back that waits.
    let enforces = proposal.reason.rule == ENFORCE;
    let protects = !enforces
        && matches!(proposal.action, Action::SetCpuShares { to, .. }
        if domains.get(&proposal.domain).is_some_and(|entry| leads_away(&entry.shares, to)));
    // A guest whose need comes and goes is not flapping: balloons have rests of their own, from a minute to half an hour, and
    // learn what was needed twice (`balloon/release.rs`). Held for 10 min and more, one that grew once gave nothing for hours.
    let rests = matches!(proposal.action, Action::SetBalloon { .. }) && !enforces;
    if protects || rests { None } else { oscillation(proposal, model.at, policy, guard) }
}

/// Whether `to` is farther from the original than what is in force.
fn leads_away(shares: &Managed<u64>, to: u64) -> bool {
    let Some(original) = shares.original else { return false };
    to.abs_diff(original) > shares.ours.unwrap_or(original).abs_diff(original)
}

/// Whether the limits allow that all of these domains are pinned in one cycle.
pub(super) fn may_pin_at_once(
    domains: &[&DomainModel],
    model: &Model,
    policy: &Policy,
    history: &History,
) -> bool {
    // Those that are pinned already move no more, or hardly.
    let fresh = domains
        .iter()
        .filter(|domain| history.domains.get(&domain.uuid).is_none_or(|entry| !entry.is_pinned()));
    let vcpus: usize = fresh.map(|domain| domain.vcpus.len()).sum();
    domains.len() <= policy.guard.max_changes && (domains.len() <= 1 || vcpus <= most_pins(model, policy))
}

/// vcpus that may be pinned in 10 s: a part of the host's, but always [`ALWAYS_PINS`].
fn most_pins(model: &Model, policy: &Policy) -> usize {
    let vcpus: f64 = model.domains.iter().map(DomainModel::vcpu_count).sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, and there are not less than no vcpus"
    )]
    let part = (vcpus * policy.guard.max_pin_part) as usize;
    if policy.guard.max_pin_part > 0.0 { part.max(ALWAYS_PINS) } else { 0 }
}

/// At most a part of all vcpus in 10 s, but always one domain.
fn over_pin_budget(
    proposal: &Proposal,
    decision: &Decision,
    model: &Model,
    policy: &Policy,
    guard: &GuardHistory,
) -> bool {
    let planned =
        decision.proposals.iter().filter(|planned| matches!(planned.action, Action::PinVcpu { .. }));
    let pinned = guard.pinned.iter().map(|(_, domain)| *domain).chain(planned.map(|planned| planned.domain));
    let domains: Vec<Uuid> = pinned.collect();
    let others = domains.iter().any(|domain| *domain != proposal.domain);
    // Emulator and iothreads do not count, but do not go ahead of their vcpus either.
    others && domains.len() >= most_pins(model, policy)
}

/// A target that would return to a value that it took and left in the last two minutes gets a pause, twice as long each time.
fn oscillation(
    proposal: &Proposal,
    now: Duration,
    policy: &Policy,
    guard: &mut GuardHistory,
) -> Option<String> {
    let target = guard.targets.get_mut(&(proposal.domain, proposal.action.target()))?;
    if target.held_until <= now && proposal.reason.rule == ENFORCE {
        // Once is a correction; twice in two minutes is a fight.
        target.enforced_at.filter(|at| now.saturating_sub(*at) <= OSCILLATION_WINDOW)?;
        target.hold(now, policy);
    } else if target.held_until <= now {
        let to = proposal.action.to_text();
        let taken = target.changes.iter().position(|(_, _, value)| *value == to)?;
        if !target.changes.iter().skip(taken + 1).any(|(_, from, _)| *from == to) {
            return None;
        }
        target.hold(now, policy);
    }
    Some(format!("it went back and forth; it rests for another {} s", (target.held_until - now).as_secs()))
}
