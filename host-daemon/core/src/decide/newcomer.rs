//! Domains that have just come: they are kept off the pcpus that are kept free for others, before they take anybody's CPU.
//!
//! What a newcomer will need is not known, so nothing else is decided about it: the cycle does that when it has measured.
//! Three cycles of proof are not waited for here. The proof is that of those for whom the pcpus are kept free, they are told
//! apart by the steal matrix as before, and a domain that starts has no warm caches to lose. All other limits of the guard
//! hold. `placement.release` gives the original pins back when nobody has needed that it keeps off.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::class::class_of;
use super::confine::{beside, given, pin, placement_refusal};
use super::history::{DomainHistory, History};
use super::rules::wants;
use super::{Decision, input, running};
use crate::CpuSet;
use crate::model::{DomainModel, Model};
use crate::order::{Proposal, Reason};
use crate::policy::Policy;
use crate::rules::Means;

/// Time that a domain is new, from the first look at which it ran: afterwards it is placed by what was measured.
const NEW: Duration = Duration::from_secs(30);

/// Looks at which the same may be proposed: the first order may be dropped while values of the domain's last life are put away.
const TRIES: u32 = 3;

/// How far the placement of a domain at its start has come. The default is over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Newcomer {
    pending: bool,
    /// First look at which it ran.
    ran_at: Option<Duration>,
    /// Looks at which the guard let all of it pass.
    tries: u32,
    word: Option<String>,
}

impl Newcomer {
    /// Of a domain that has just come.
    pub(super) fn fresh() -> Self {
        Self { pending: true, ..Self::default() }
    }

    /// Whether it still has to be decided.
    pub(super) const fn is_pending(&self) -> bool {
        self.pending
    }

    /// Whether nothing was decided about it so far, not even to wait.
    pub(super) const fn is_unseen(&self) -> bool {
        self.pending && self.ran_at.is_none()
    }

    /// What was decided.
    pub(super) fn word(&self) -> Option<&str> {
        self.word.as_deref()
    }

    fn settle(&mut self, word: String) {
        *self = Self { pending: false, word: Some(word), ..std::mem::take(self) };
    }
}

/// Whether any domain still has to be decided on.
pub(super) fn are_there(model: &Model, history: &History) -> bool {
    running(model)
        .any(|domain| history.domains.get(&domain.uuid).is_some_and(|entry| entry.newcomer.is_pending()))
}

/// What one newcomer is to do.
enum Arrival<'a> {
    /// It stays as it is, for this reason.
    Stays(String),
    /// It may stay on these pcpus.
    Leaves(&'a DomainModel, CpuSet),
    /// Not enough is known yet.
    Unknown,
}

/// Proposes pins for newcomers. Those that stay where they are, are settled.
pub(super) fn decide(model: &Model, policy: &Policy, history: &mut History) -> Vec<Proposal> {
    // What nobody is kept off is not in force.
    let in_force =
        running(model).any(|domain| history.domains.get(&domain.uuid).is_some_and(DomainHistory::is_pinned));
    let kept_free = if in_force { history.placement.kept_free() } else { CpuSet::default() };
    let mut proposals = Vec::new();
    for domain in running(model) {
        let Some(entry) = history.domains.get_mut(&domain.uuid) else { continue };
        if !entry.newcomer.is_pending() {
            continue;
        }
        let ran_at = *entry.newcomer.ran_at.get_or_insert(model.at);
        let is_late = model.at.saturating_sub(ran_at) > NEW || entry.newcomer.tries >= TRIES;
        match arrival(domain, &kept_free, model, policy, history) {
            Arrival::Leaves(domain, to) => {
                let left = leave(domain, &to, &kept_free, model, history);
                if left.is_empty() || is_late {
                    let goes = if left.is_empty() { "it keeps off" } else { "it was to keep off" };
                    settle(
                        domain,
                        format!("{goes} the pcpus {kept_free}, which are kept free for others"),
                        history,
                    );
                } else {
                    proposals.extend(left);
                }
            }
            Arrival::Unknown if !is_late => {}
            Arrival::Stays(word) => settle(domain, word, history),
            Arrival::Unknown => {
                let word = format!("its pins were not known in its first {} s", NEW.as_secs());
                settle(domain, word, history);
            }
        }
    }
    proposals
}

/// Takes note of whom the guard let pass.
pub(super) fn note(decision: &Decision, history: &mut History) {
    let held: BTreeSet<Uuid> = decision.held.iter().map(|(proposal, _)| proposal.domain).collect();
    let passed: BTreeSet<Uuid> = decision.proposals.iter().map(|proposal| proposal.domain).collect();
    for domain in passed.difference(&held) {
        if let Some(entry) = history.domains.get_mut(domain) {
            entry.newcomer.tries = entry.newcomer.tries.saturating_add(1);
        }
    }
}

fn settle(domain: &DomainModel, word: String, history: &mut History) {
    if let Some(entry) = history.domains.get_mut(&domain.uuid) {
        entry.newcomer.settle(word);
    }
}

fn arrival<'a>(
    domain: &'a DomainModel,
    kept_free: &CpuSet,
    model: &Model,
    policy: &Policy,
    history: &History,
) -> Arrival<'a> {
    if kept_free.is_empty() {
        return Arrival::Stays("no pcpus were kept free for others, so it was left where it was".to_owned());
    }
    if history.placement.kept_for().contains(&domain.uuid) {
        return Arrival::Stays(format!("pcpus {kept_free} were kept free for it, too"));
    }
    let entry = history.domains.get(&domain.uuid);
    let pins_are_known = domain.vcpus.iter().all(|vcpu| vcpu.pin.is_some());
    let Some(of_vcpus) = entry.and_then(given).filter(|_| pins_are_known) else { return Arrival::Unknown };
    if let Some(why) = placement_refusal(domain, model, history) {
        return Arrival::Stays(format!("it was left where it was: {why}"));
    }
    if !of_vcpus.overlaps(kept_free) {
        return Arrival::Stays(format!("its pins ({of_vcpus}) kept it off the pcpus {kept_free} already"));
    }
    if !wants(domain, Means::Arrive, history) {
        let class = class_of(domain, policy, history);
        return Arrival::Stays(format!(
            "no rule wanted a domain of class {class} off the pcpus {kept_free} that are kept free for others"
        ));
    }
    let rest = beside(domain, &of_vcpus, kept_free, model, policy);
    if rest.is_empty() {
        return Arrival::Stays(format!("its pins ({of_vcpus}) leave it nothing beside {kept_free}"));
    }
    Arrival::Leaves(domain, near_memory(domain, &rest, model).unwrap_or(rest))
}

/// Those of `rest` near its memory, where that is known and they are enough for all of its vcpus.
fn near_memory(domain: &DomainModel, rest: &CpuSet, model: &Model) -> Option<CpuSet> {
    let near = model.topology.of_node(domain.memory_node?).intersection(rest);
    (near.len() >= domain.vcpus.len()).then_some(near)
}

fn leave(
    domain: &DomainModel,
    to: &CpuSet,
    kept_free: &CpuSet,
    model: &Model,
    history: &History,
) -> Vec<Proposal> {
    let named = model.domains.iter().filter(|other| history.placement.kept_for().contains(&other.uuid));
    let names = named.map(|other| other.name.as_str()).collect::<Vec<_>>().join(", ");
    let node = domain.memory_node.map(|node| input("node of its memory", node));
    let reason = |what: &str| Reason {
        rule: "placement.newcomer".to_owned(),
        summary: format!(
            "{} has just come, so {what} leaves the pcpus {kept_free} to {names}, for whom they are kept free",
            domain.name
        ),
        inputs: [input("pcpus kept free", kept_free), input("kept free for", &names), input("goes to", to)]
            .into_iter()
            .chain(node.clone())
            .collect(),
        threshold: "a domain that has just come and is not of class latency, while pcpus are kept free"
            .to_owned(),
        expected: format!("{names} finds a free pcpu when it wakes up, as before it came"),
        // Nothing has been measured that it could get better or worse than.
        prediction: None,
        alternatives: vec![
            "waiting until it has taken their CPU for some cycles, as with domains that were there before"
                .to_owned(),
        ],
    };
    pin(domain, history, &model.topology.online(), |original| original.intersection(to), reason)
}
