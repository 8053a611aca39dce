//! cpusets: keeps pcpus free for latency domains from the domains that take their CPU.
//!
//! The means after weights: only for a domain that has needed help for the policy's number of cycles. The aggressors that
//! the steal matrix names are confined, each to a part of the pcpus that its administrator gave it; the victim keeps all of
//! its own, except beside SMT siblings of aggressors, where it goes to the cores that are kept free.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::claim::{Claim, Group, claim};
use super::class::class_of;
use super::confine::{beside, given, pin, placement_refusal, unpin};
use super::guard::may_pin_at_once;
use super::history::{DomainHistory, History};
use super::pressed::{Aggressor, STANDARD_TAKES, aggressors, pressed};
use super::room::Room;
use super::rules::wants;
use super::state::{target_wait, wants_cpu};
use super::weight::{TAKES_PART, takes_cpu_of};
use super::{input, running};
use crate::CpuSet;
use crate::model::{DomainModel, Model};
use crate::order::{Metric, Prediction, Proposal, Reason};
use crate::policy::{Class, Policy};
use crate::rules::Means;
use crate::topology::Topology;
use crate::units::Ratio;

/// Time over which a move must pay.
const PAYS_WITHIN: Duration = Duration::from_secs(30);
/// CPU time that the move of one vcpu costs: its caches are cold on the other side (perf.md 4.3: 0.5-1 ms).
const MOVE_COSTS: Duration = Duration::from_millis(1);
/// Part of its CPU time that a domain loses away from its memory.
const REMOTE_COSTS: f64 = 0.15;

/// What placement remembers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct PlacementHistory {
    claims: Vec<Claim>,
}

impl PlacementHistory {
    /// pcpus that are kept free.
    pub(super) fn kept_free(&self) -> CpuSet {
        self.claims.iter().fold(CpuSet::default(), |all, claim| all.union(&claim.pcpus))
    }

    /// For whom.
    pub(super) fn kept_for(&self) -> BTreeSet<Uuid> {
        self.claims.iter().flat_map(|claim| claim.victims.iter().copied()).collect()
    }
}

/// Proposes pins for one cycle.
pub(super) fn decide(model: &Model, policy: &Policy, history: &mut History) -> Vec<Proposal> {
    let needs_help = |domain: &&DomainModel| wants(domain, Means::Separate, history);
    let in_need: Vec<&DomainModel> = running(model).filter(needs_help).collect();
    let served = history.placement.kept_for();
    let is_victim = |domain: &&DomainModel| {
        needs_help(domain)
            || (class_of(domain, policy, history) == Class::Latency && served.contains(&domain.uuid))
    };
    let victims: Vec<&DomainModel> = running(model).filter(is_victim).collect();

    let mut proposals = Vec::new();
    if !in_need.is_empty() {
        let before = std::mem::take(&mut history.placement.claims);
        let separation = Separation::plan(model, policy, history, &in_need, &victims, &before);
        proposals.extend(separation.proposals());
        let keeps = separation.is_worth_it() || separation.claims.is_empty();
        history.placement.claims = if keeps { separation.claims } else { before };
    }
    proposals.extend(release(model, policy, history, &victims));
    proposals
}

/// Gives the original pins back where a confinement helps nobody any more, and forgets claims that nobody is kept off.
fn release(model: &Model, policy: &Policy, history: &mut History, victims: &[&DomainModel]) -> Vec<Proposal> {
    let is_pinned = |domain: &DomainModel, history: &History| {
        history.domains.get(&domain.uuid).is_some_and(DomainHistory::is_pinned)
    };
    // Latency domains that nothing was ever claimed for count, too: who is confined would take their CPU as well.
    let awake: Vec<&DomainModel> = running(model)
        .filter(|domain| {
            class_of(domain, policy, history) == Class::Latency
                || victims.iter().any(|victim| victim.uuid == domain.uuid)
        })
        .filter(|domain| wants_cpu(domain, policy, history))
        .collect();
    // Nothing is claimed any more: what is kept free would be lost to the others.
    let claimed = !history.placement.claims.is_empty();
    let needed = |domain: &DomainModel| {
        let keeps_off = awake.iter().any(|victim| takes_cpu_of(domain, victim, policy, history));
        let is_served = awake.iter().any(|victim| victim.uuid == domain.uuid);
        claimed && (keeps_off || is_served)
    };
    let unneeded: Vec<&DomainModel> =
        running(model).filter(|domain| is_pinned(domain, history) && !needed(domain)).collect();
    let names: BTreeSet<Uuid> = unneeded.iter().map(|domain| domain.uuid).collect();
    for (uuid, entry) in &mut history.domains {
        entry.pin_unneeded = if names.contains(uuid) { entry.pin_unneeded.saturating_add(1) } else { 0 };
    }
    let mut proposals = Vec::new();
    for domain in unneeded {
        if !wants(domain, Means::ReleasePins, history) {
            continue;
        }
        let Some(entry) = history.domains.get(&domain.uuid) else { continue };
        let (summary, threshold) = if claimed {
            (
                format!("nobody has needed the pcpus that {} was kept off", domain.name),
                "in which it took nobody's CPU",
            )
        } else {
            (
                format!(
                    "the pcpus that {} was kept off were no longer filled by those they were for",
                    domain.name
                ),
                "in which more of them idled than a separation may cost",
            )
        };
        let reason = Reason {
            rule: "placement.release".to_owned(),
            summary: format!("{summary}, for {} cycles", entry.pin_unneeded),
            inputs: vec![input("cycles", entry.pin_unneeded)],
            threshold: format!("{} cycles {threshold}", policy.state.cycles),
            expected: "the original pins in force again".to_owned(),
            ..Reason::default()
        };
        proposals.extend(unpin(domain, entry, &reason));
    }
    if proposals.is_empty() && !running(model).any(|domain| is_pinned(domain, history)) && victims.is_empty()
    {
        history.placement.claims.clear();
    }
    proposals
}

/// Who is to be kept off which pcpus, for whom.
struct Separation<'a> {
    model: &'a Model,
    policy: &'a Policy,
    history: &'a History,
    victims: Vec<&'a DomainModel>,
    claims: Vec<Claim>,
    aggressors: Vec<Pressing<'a>>,
}

/// One aggressor, over all that it presses.
struct Pressing<'a> {
    domain: &'a DomainModel,
    class: Class,
    /// Victims' names with its part of their waiting.
    of: Vec<(&'a str, f64)>,
    /// pcpus that they waited for because of it.
    takes: f64,
}

impl<'a> Separation<'a> {
    fn plan(
        model: &'a Model,
        policy: &'a Policy,
        history: &'a History,
        in_need: &[&'a DomainModel],
        victims: &[&'a DomainModel],
        before: &[Claim],
    ) -> Self {
        let usable = usable(model, policy);
        let room = Room::new(model, victims, &usable, history);
        let groups = groups(victims, model, history, &room, before);
        let claims = claim(&groups, before, &model.topology, &usable);
        let has_room = room.holds(claims.iter().map(|claim| claim.pcpus.len()).sum());
        let mut all: BTreeMap<Uuid, Pressing<'a>> = BTreeMap::new();
        for victim in in_need {
            let waits = pressed(victim, model, policy, history)
                .map_or_else(|| waiting(victim), |pressed| pressed.wait_pcpus.max(waiting(victim)));
            for Aggressor { domain, class, part } in aggressors(victim, model, policy, history) {
                let entry =
                    all.entry(domain.uuid).or_insert(Pressing { domain, class, of: Vec::new(), takes: 0.0 });
                entry.of.push((&victim.name, part));
                entry.takes += part * waits;
            }
        }
        let mut this =
            Self { model, policy, history, victims: victims.to_vec(), claims, aggressors: Vec::new() };
        // A standard domain has a target of its own: it gives way only where there is room for it elsewhere.
        let gives_way = |pressing: &Pressing<'a>| pressing.class == Class::Batch || has_room;
        let mut kept: Vec<Pressing<'a>> =
            all.into_values().filter(gives_way).filter(|one| this.pays(one)).collect();
        kept.sort_by(|a, b| b.takes.total_cmp(&a.takes).then(a.domain.uuid.cmp(&b.domain.uuid)));
        this.aggressors = kept;
        this
    }

    fn reserved(&self) -> CpuSet {
        self.claims.iter().fold(CpuSet::default(), |all, claim| all.union(&claim.pcpus))
    }

    /// Where an aggressor may stay of what its administrator gave it.
    fn rest(&self, domain: &DomainModel, original: &CpuSet) -> CpuSet {
        beside(domain, original, &self.reserved(), self.model, self.policy)
    }

    /// Whether what the victims gain within the time is more than what the move costs.
    fn pays(&self, pressing: &Pressing<'_>) -> bool {
        let domain = pressing.domain;
        if self.reserved().is_empty() || placement_refusal(domain, self.model, self.history).is_some() {
            return false;
        }
        let Some(given) = self.history.domains.get(&domain.uuid).and_then(given) else { return false };
        let to = self.rest(domain, &given);
        let (gain, cost) = self.gain_and_cost(pressing, &given, &to);
        !to.is_empty() && to != given && gain > cost
    }

    /// CPU time in seconds: what the victims wait less within [`PAYS_WITHIN`], and what the move costs.
    fn gain_and_cost(&self, pressing: &Pressing<'_>, given: &CpuSet, to: &CpuSet) -> (f64, f64) {
        let time = PAYS_WITHIN.as_secs_f64();
        let domain = pressing.domain;
        let leaves_memory = domain.memory_node.is_some_and(|node| {
            let local = self.model.topology.of_node(node);
            given.overlaps(&local) && !to.overlaps(&local)
        });
        let remote =
            if leaves_memory { domain.cpu_demand().unwrap_or(0.0) * REMOTE_COSTS * time } else { 0.0 };
        (pressing.takes * time, domain.vcpu_count() * MOVE_COSTS.as_secs_f64() + remote)
    }

    /// Whether all of it may be done in one cycle: an aggressor that is left out takes what the others leave, and nobody has
    /// anything from it.
    fn is_worth_it(&self) -> bool {
        let moving: Vec<&DomainModel> = self.aggressors.iter().map(|pressing| pressing.domain).collect();
        !moving.is_empty() && may_pin_at_once(&moving, self.model, self.policy, self.history)
    }

    fn proposals(&self) -> Vec<Proposal> {
        if !self.is_worth_it() {
            return Vec::new();
        }
        let online = self.model.topology.online();
        let confined = self.aggressors.iter().flat_map(|pressing| {
            let domain = pressing.domain;
            let place = |original: &CpuSet| self.rest(domain, original);
            pin(domain, self.history, &online, place, |what| self.reason(pressing, what))
        });
        confined.chain(self.own_cores(&online)).collect()
    }

    /// Where cores run two pcpus, a victim that stays everywhere would run beside an aggressor's sibling: it goes to the
    /// cores that are kept free, if they are enough for all of its group's vcpus.
    fn own_cores(&self, online: &CpuSet) -> Vec<Proposal> {
        if !self.model.topology.has_smt() {
            return Vec::new();
        }
        let mut proposals = Vec::new();
        for claim in &self.claims {
            let members = || self.victims.iter().filter(|victim| claim.victims.contains(&victim.uuid));
            let vcpus: usize = members().map(|victim| victim.vcpus.len()).sum();
            if claim.pcpus.len() < vcpus {
                continue;
            }
            for victim in members() {
                if placement_refusal(victim, self.model, self.history).is_some() {
                    continue;
                }
                let allowed = self.policy.of(*victim).pcpus().value;
                let place = |original: &CpuSet| {
                    let own = original.intersection(&claim.pcpus);
                    allowed.as_ref().map_or_else(|| own.clone(), |allowed| own.intersection(allowed))
                };
                let reason = |what: &str| Reason {
                    rule: "placement.own_cores".to_owned(),
                    summary: format!(
                        "{what} of {} goes to the cores {} that are kept free, because elsewhere it would share a \
                         core with those who took its CPU",
                        victim.name, claim.pcpus
                    ),
                    inputs: vec![input("its group's vcpus", vcpus), input("pcpus kept free", &claim.pcpus)],
                    threshold: "cores with more than one pcpu, and as many pcpus kept free as vcpus"
                        .to_owned(),
                    expected: format!("no vcpu of {} beside an aggressor on one core", victim.name),
                    prediction: self.prediction(),
                    alternatives: vec![
                        "a pcpu for each vcpu, which takes the choice from the kernel and is harder to undo"
                            .to_owned(),
                    ],
                };
                proposals.extend(pin(victim, self.history, online, place, reason));
            }
        }
        proposals
    }

    fn reason(&self, pressing: &Pressing<'_>, what: &str) -> Reason {
        let Self { policy, history, .. } = self;
        let reserved = self.reserved();
        let domain = pressing.domain;
        let names = pressing.of.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let given = history.domains.get(&domain.uuid).and_then(given).unwrap_or_default();
        let (gain, cost) = self.gain_and_cost(pressing, &given, &self.rest(domain, &given));
        let waits = self.victims.iter().filter_map(|victim| {
            let states = &history.domains.get(&victim.uuid)?.states;
            Some(input(&format!("cycles that {} needed help", victim.name), states.waiting))
        });
        let parts = pressing
            .of
            .iter()
            .map(|(name, part)| input(&format!("its part of the waiting of {name}"), Ratio(*part)));
        let homes = self.claims.iter().filter_map(|claim| {
            Some(input("kept free near the memory on node", format!("{}: {}", claim.home?, claim.pcpus)))
        });
        Reason {
            rule: "placement.separate".to_owned(),
            summary: format!(
                "{} takes the CPU of {names} in spite of its weight, so {what} leaves the pcpus {reserved} to it",
                domain.name
            ),
            inputs: waits
                .chain(parts)
                .chain([
                    input("pcpus wanted by it", format!("{:.2}", domain.cpu_demand().unwrap_or(0.0))),
                    input("pcpus kept free", &reserved),
                    input(
                        "waiting saved in 30 s",
                        format!("{gain:.2} s of CPU time, at a cost of {cost:.3} s"),
                    ),
                ])
                .chain(homes)
                .collect(),
            threshold: format!(
                "a latency domain over its target for {} cycles in spite of the weights, and at least {} of its \
                 waiting because of a batch domain ({} of a standard one)",
                policy.state.cycles,
                Ratio(TAKES_PART),
                Ratio(STANDARD_TAKES)
            ),
            expected: format!("{names} finds a free pcpu when it wakes up"),
            prediction: self.prediction(),
            alternatives: vec![
                "weights alone: they were changed first, and were not enough".to_owned(),
                "pinning the victim would take the choice of its pcpus from the kernel and help nobody else"
                    .to_owned(),
            ],
        }
    }

    /// The victim that waits most, and what is left of its waiting without those that are confined.
    fn prediction(&self) -> Option<Prediction> {
        let waits = self.victims.iter().filter_map(|victim| Some((victim.wait_ratio()?.0, *victim)));
        let (before, victim) = waits.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
        let target = target_wait(class_of(victim, self.policy, self.history), self.policy)?;
        // Held up by a raised weight alone it may not wait at all now; then there is nothing that could be measured.
        if before <= target {
            return None;
        }
        let of_victim = |pressing: &Pressing<'_>| {
            pressing.of.iter().filter(|(name, _)| *name == victim.name).map(|(_, part)| part).sum::<f64>()
        };
        let gone = self.aggressors.iter().map(of_victim).sum::<f64>().clamp(0.0, 1.0);
        let left = before * (1.0 - gone);
        let expected = (left / (left + 1.0 - before)).max(target / 2.0).min(before);
        Some(Prediction {
            metric: Metric::WaitRatio,
            of: victim.uuid,
            of_name: victim.name.clone(),
            before,
            expected,
        })
    }
}

/// pcpus that may be kept free: those of `placement.allowed` that nobody set aside.
fn usable(model: &Model, policy: &Policy) -> CpuSet {
    let online = model.topology.online();
    let allowed =
        policy.placement.allowed.as_ref().map_or_else(|| online.clone(), |mask| mask.intersection(&online));
    allowed.difference(&model.topology.set_aside())
}

/// pcpus that a domain waits for.
fn waiting(domain: &DomainModel) -> f64 {
    domain.wait_ratio().zip(domain.cpu_demand()).map_or(0.0, |(ratio, demand)| ratio.0 * demand)
}

/// The victims by where their memory is, in the order of the nodes, and the pcpus that each group should have.
fn groups(
    victims: &[&DomainModel],
    model: &Model,
    history: &History,
    room: &Room,
    before: &[Claim],
) -> Vec<Group> {
    let mut groups: BTreeMap<Option<u32>, Vec<&DomainModel>> = BTreeMap::new();
    for victim in victims {
        let home = victim.memory_node.or_else(|| runs_on(victim, &model.topology));
        groups.entry(home).or_default().push(victim);
    }
    let group = |(home, victims): (Option<u32>, Vec<&DomainModel>)| {
        let had = before.iter().find(|claim| claim.home == home).map_or(0, |claim| claim.pcpus.len());
        let masks = victims.iter().filter_map(|victim| given(history.domains.get(&victim.uuid)?));
        Group {
            home,
            victims: victims.iter().map(|victim| victim.uuid).collect(),
            mask: masks.reduce(|all, mask| all.union(&mask)).unwrap_or_default(),
            wanted: room.wanted(&victims, had),
        }
    };
    groups.into_iter().map(group).collect()
}

/// The node on which most of its vcpus ran last, on hosts with more than one.
fn runs_on(domain: &DomainModel, topology: &Topology) -> Option<u32> {
    if topology.nodes.len() < 2 {
        return None;
    }
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for vcpu in &domain.vcpus {
        let pcpu = vcpu.thread.as_ref().and_then(|thread| thread.pcpu);
        let found = pcpu.and_then(|pcpu| topology.pcpus.iter().find(|other| other.id == pcpu));
        if let Some(node) = found.and_then(|pcpu| pcpu.node) {
            *counts.entry(node).or_default() += 1;
        }
    }
    counts.into_iter().max_by_key(|(node, count)| (*count, std::cmp::Reverse(*node))).map(|(node, _)| node)
}
