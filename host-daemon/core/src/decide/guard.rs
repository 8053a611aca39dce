//! The guard: what may not happen now, whatever the deciders want. Releases pass.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Decision;
use super::history::{DomainHistory, History, Managed};
use crate::finding::Finding;
use crate::model::{DomainModel, Model};
use crate::order::{Action, Proposal};
use crate::policy::{Actuator, Policy};

/// Window in which A, B, A is an oscillation.
const OSCILLATION_WINDOW: Duration = Duration::from_secs(120);
/// Window of the limit on re-pinned vcpus.
const PIN_WINDOW: Duration = Duration::from_secs(10);
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
    held_until: Duration,
    holds: u32,
}

impl GuardHistory {
    pub(super) fn applied(&mut self, proposal: &Proposal, now: Duration) {
        if matches!(proposal.action, Action::PinVcpu { .. }) {
            self.pinned.push_back((now, proposal.domain));
        }
        if proposal.action.actuator() != Actuator::Ladder {
            let target = self.targets.entry((proposal.domain, proposal.action.target())).or_default();
            target.changes.push_back((now, proposal.action.from_text(), proposal.action.to_text()));
        }
    }

    fn forget(&mut self, now: Duration) {
        let old = |then: Duration| now.saturating_sub(then) > OSCILLATION_WINDOW;
        self.pinned.retain(|(then, _)| now.saturating_sub(*then) <= PIN_WINDOW);
        for target in self.targets.values_mut() {
            while target.changes.front().is_some_and(|(then, ..)| old(*then)) {
                target.changes.pop_front();
            }
        }
        self.targets.retain(|_, target| !target.changes.is_empty() || target.held_until + LONGEST_HOLD > now);
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
    let History { guard, domains, trials, .. } = history;
    guard.forget(model.at);
    let mut decision = Decision { findings, ..Decision::default() };
    let mut changes = 0;
    for proposal in proposals {
        let allocation = proposal.action.actuator() != Actuator::Ladder;
        // What is undone in this round is not done again in it.
        let undone = decision.proposals.iter().any(|earlier| {
            earlier.release
                && earlier.domain == proposal.domain
                && earlier.action.target() == proposal.action.target()
        });
        let refusal = if proposal.release {
            None
        } else if let Some(rest) = trials.rests(&proposal, model.at) {
            Some(format!("its last trial failed; it rests for another {} s", rest.as_secs()))
        } else if let Some(why) =
            domains.get(&proposal.domain).and_then(|entry| super::rules::veto(&proposal, entry))
        {
            Some(why)
        } else if undone {
            Some("it is being put back".to_owned())
        } else {
            refusal(&proposal, &decision, changes, model, policy, guard, domains)
        };
        match refusal {
            Some(why) => decision.held.push((proposal, why)),
            None => {
                changes += usize::from(allocation);
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
    if domain.job_active {
        return Some("a migration, backup or snapshot of the domain runs".to_owned());
    }
    let actuator = proposal.action.actuator();
    if matches!(actuator, Actuator::Ladder | Actuator::Resize) {
        return None;
    }
    if changes >= policy.guard.max_changes {
        return Some(format!("{} changes were made in this cycle already", policy.guard.max_changes));
    }
    if actuator == Actuator::Placement {
        let key = (proposal.domain, proposal.action.target());
        let last = guard.targets.get(&key).and_then(|target| target.changes.back()).map(|(then, ..)| *then);
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
    let protects = matches!(proposal.action, Action::SetCpuShares { to, .. }
        if domains.get(&proposal.domain).is_some_and(|entry| leads_away(&entry.shares, to)));
    if protects { None } else { oscillation(proposal, model.at, policy, guard) }
}

/// Whether `to` is farther from the original than what is in force.
fn leads_away(shares: &Managed<u64>, to: u64) -> bool {
    let Some(original) = shares.original else { return false };
    to.abs_diff(original) > shares.ours.unwrap_or(original).abs_diff(original)
}

/// Whether the limits allow that all of these domains are pinned in one cycle.
pub(super) fn may_pin_at_once(domains: &[&DomainModel], model: &Model, policy: &Policy) -> bool {
    let vcpus = |domains: &mut dyn Iterator<Item = &DomainModel>| {
        domains.map(|domain| domain.vcpu_count()).sum::<f64>()
    };
    let changes: usize = domains.iter().map(|domain| domain.vcpus.len() + domain.iothreads.len() + 1).sum();
    let part =
        vcpus(&mut domains.iter().copied()) <= vcpus(&mut model.domains.iter()) * policy.guard.max_pin_part;
    changes <= policy.guard.max_changes && (domains.len() <= 1 || part)
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
    let domains: Vec<Uuid> =
        guard.pinned.iter().map(|(_, domain)| *domain).chain(planned.map(|planned| planned.domain)).collect();
    let others: BTreeSet<&Uuid> = domains.iter().filter(|domain| **domain != proposal.domain).collect();
    let vcpus: usize = model.domains.iter().map(|domain| domain.vcpus.len()).sum();
    let count = |count: usize| u32::try_from(count).map_or(f64::INFINITY, f64::from);
    !others.is_empty() && count(domains.len() + 1) > count(vcpus) * policy.guard.max_pin_part
}

/// A target that would return to a value that it took and left in the last two minutes gets a pause, twice as long each time.
fn oscillation(
    proposal: &Proposal,
    now: Duration,
    policy: &Policy,
    guard: &mut GuardHistory,
) -> Option<String> {
    let target = guard.targets.get_mut(&(proposal.domain, proposal.action.target()))?;
    if target.held_until <= now {
        let to = proposal.action.to_text();
        let taken = target.changes.iter().position(|(_, _, value)| *value == to)?;
        if !target.changes.iter().skip(taken + 1).any(|(_, from, _)| *from == to) {
            return None;
        }
        let hold =
            policy.guard.oscillation_hold.saturating_mul(1_u32.checked_shl(target.holds).unwrap_or(u32::MAX));
        target.held_until = now + hold.min(LONGEST_HOLD);
        target.holds = target.holds.saturating_add(1);
    }
    Some(format!("it went back and forth; it rests for another {} s", (target.held_until - now).as_secs()))
}
