//! Advice: what a host cannot do alone. More vcpus, a larger maximum of memory, another host: orders that a person or an
//! orchestrator carries out, proposed only when everything that kvmpilot can do has not helped for the policy's number of
//! cycles. Whether they came true shows in the model ([`came_true`]).

use super::class::class_of;
use super::history::History;
use super::rules::wants;
use super::state::{ResourceState, need, target_wait, waits_too_long};
use super::{balloon, input, propose, running};
use crate::model::{DomainModel, Model};
use crate::order::{Action, Proposal, Reason};
use crate::policy::{Class, Policy};
use crate::rules::Means;
use crate::units::{KiB, Ratio};

/// Part of the host's memory that must be available, else it is too small for its guests.
const HOST_FULL: f64 = 0.05;
/// A maximum of memory is raised to a multiple of so much.
const MEMORY_UNIT: KiB = KiB::from_mib(256);

/// Counts the cycles of one domain that speak for advice. Called once a cycle, after its states were judged.
pub(super) fn count(domain: &DomainModel, policy: &Policy, history: &mut History) {
    let waits = waits_too_long(domain, policy, history);
    let Some(entry) = history.domains.get_mut(&domain.uuid) else { return };
    let states = &mut entry.states;
    let step = |before: u32, now: bool| if now { before.saturating_add(1) } else { 0 };
    states.cpu_over = step(states.cpu_over, states.cpu == ResourceState::Over && !waits);
    states.memory_over = step(states.memory_over, states.memory == ResourceState::Over);
    states.starved = step(states.starved, waits);
}

/// What a person or an orchestrator should do, at most one thing for each domain and kind.
pub(super) fn decide(model: &Model, policy: &Policy, history: &History) -> Vec<Proposal> {
    let mut proposals: Vec<Proposal> = running(model)
        .flat_map(|domain| [more_vcpus(domain, model, policy, history), more_memory(domain, policy, history)])
        .flatten()
        .collect();
    proposals.extend(move_away(model, policy, history));
    proposals
}

/// Whether what an order advised has happened, and in which words. `domain` is the order's domain, if it is still here.
#[must_use]
pub fn came_true(action: &Action, domain: Option<&DomainModel>) -> Option<String> {
    match (action, domain) {
        (Action::MoveAway { .. }, None) => Some("the domain does not run here any more".to_owned()),
        (Action::MoreVcpus { from, .. }, Some(domain)) => {
            let now = domain.vcpus.len();
            (u32::try_from(now).is_ok_and(|now| now > *from)).then(|| format!("it has {now} vcpus now"))
        }
        (Action::MoreMemory { from, .. }, Some(domain)) => {
            let now = domain.memory_maximum;
            (now > *from).then(|| format!("its maximum is {now} now"))
        }
        _ => None,
    }
}

/// All vcpus are used up and get what they ask for, so that only more of them can give more.
fn more_vcpus(domain: &DomainModel, model: &Model, policy: &Policy, history: &History) -> Option<Proposal> {
    let states = &history.domains.get(&domain.uuid)?.states;
    // Best effort takes all that there is, and would take any number of vcpus.
    if !wants(domain, Means::MoreVcpus, history) || class_of(domain, policy, history) == Class::Batch {
        return None;
    }
    let from = u32::try_from(domain.vcpus.len()).ok()?;
    let wanted = domain.cpu_demand()? / f64::midpoint(policy.state.high, policy.state.low);
    let pcpus = u32::try_from(model.topology.online().len()).ok()?;
    let to = ceil(wanted).max(from + 1).min(pcpus);
    if to <= from {
        return None;
    }
    let reason = Reason {
        rule: "advice.more_vcpus".to_owned(),
        summary: format!(
            "{} uses all of its {from} vcpus and waits for none of them, so more weight or other pcpus cannot help it",
            domain.name
        ),
        inputs: vec![
            input("use of its vcpus", domain.cpu_use()?),
            input("wait ratio", domain.wait_ratio()?),
            input("cycles in a row", states.cpu_over),
        ],
        threshold: format!(
            "{} of its CPU for {} cycles without waiting for pcpus",
            Ratio(policy.state.high),
            policy.state.cycles
        ),
        expected: format!(
            "each of {to} vcpus is used to about {}",
            Ratio(domain.cpu_demand()? / f64::from(to))
        ),
        alternatives: vec![
            "a higher CPU weight: it gets all the CPU already that its vcpus can use".to_owned(),
            "lower priorities inside: what talks to others comes first already".to_owned(),
        ],
        ..Reason::default()
    };
    Some(propose(domain, Action::MoreVcpus { from, to }, reason, false))
}

/// It has all the memory that its balloon can give back, and needs nearly all of it.
fn more_memory(domain: &DomainModel, policy: &Policy, history: &History) -> Option<Proposal> {
    let states = &history.domains.get(&domain.uuid)?.states;
    let model = domain.balloon.filter(|balloon| {
        !balloon.is_stale(policy.balloon.stale_after) && balloon.current >= domain.memory_maximum
    })?;
    if !wants(domain, Means::MoreMemory, history) {
        return None;
    }
    let (demand, available) = (model.demand?, model.available?);
    let from = domain.memory_maximum;
    let to = KiB(from
        .part(demand.as_f64() / available.as_f64() / policy.state.low)
        .0
        .next_multiple_of(MEMORY_UNIT.0));
    let to = to.max(KiB((from.0 + 1).next_multiple_of(MEMORY_UNIT.0)));
    let reason = Reason {
        rule: "advice.more_memory".to_owned(),
        summary: format!(
            "{} needs {demand} of the {available} that its guest has, and its balloon has nothing left to give back",
            domain.name
        ),
        inputs: vec![
            input("memory now", model.current),
            input("demand", demand),
            input("age of the statistics", format!("{} s", model.age?.as_secs())),
            input("cycles in a row", states.memory_over),
        ],
        threshold: format!("{} of its memory for {} cycles", Ratio(policy.state.high), policy.state.cycles),
        expected: format!("the same demand is about {} of it", Ratio(policy.state.low)),
        alternatives: vec!["the balloon: it is at the maximum".to_owned()],
        ..Reason::default()
    };
    Some(propose(domain, Action::MoreMemory { from, to }, reason, false))
}

/// The host is too small for what is no best effort, whatever the weights: the domain in the greatest need goes. One at a
/// time, because the others may have room when it has gone.
fn move_away(model: &Model, policy: &Policy, history: &History) -> Option<Proposal> {
    let no_batch = |domain: &&DomainModel| class_of(domain, policy, history) != Class::Batch;
    let demand: f64 = running(model).filter(no_batch).filter_map(DomainModel::cpu_demand).sum();
    let online = model.topology.online();
    let pcpus =
        policy.placement.allowed.as_ref().map_or_else(|| online.clone(), |mask| mask.intersection(&online));
    let pcpus = f64::from(u32::try_from(pcpus.len()).ok()?);
    let starved = |domain: &&DomainModel| wants(domain, Means::Move, history);
    if demand > pcpus {
        let by_need = |domain: &DomainModel| need(domain, policy, history).unwrap_or(0.0);
        let neediest = running(model).filter(no_batch).filter(starved);
        if let Some(domain) = neediest.max_by(|a, b| by_need(a).total_cmp(&by_need(b))) {
            return away_for_cpu(domain, demand, pcpus, policy, history);
        }
    }
    away_for_memory(model, policy, history)
}

fn away_for_cpu(
    domain: &DomainModel,
    demand: f64,
    pcpus: f64,
    policy: &Policy,
    history: &History,
) -> Option<Proposal> {
    let class = class_of(domain, policy, history);
    let reason = Reason {
        rule: "advice.move_away".to_owned(),
        summary: format!(
            "this host has {pcpus:.0} pcpus, its domains that are no best effort want {demand:.1}, and {} waits longest of them",
            domain.name
        ),
        inputs: vec![
            input("wait ratio", domain.wait_ratio()?),
            input("target of its class", format!("{} ({class})", Ratio(target_wait(class, policy)?))),
            input("cycles in a row", history.domains.get(&domain.uuid)?.states.starved),
            input("pcpus that it wants", format!("{:.2}", domain.cpu_demand()?)),
        ],
        threshold: format!(
            "over its target for {} cycles while demand without best effort is above the number of pcpus",
            policy.state.cycles
        ),
        expected: "it finds free pcpus elsewhere, and the others find some here".to_owned(),
        alternatives: vec![
            "weights and cpusets: they share out what there is, and there is too little".to_owned(),
        ],
        ..Reason::default()
    };
    Some(propose(domain, away(domain, policy, history), reason, false))
}

/// No guest has memory to spare and the host has none left: the largest goes, which helps most.
fn away_for_memory(model: &Model, policy: &Policy, history: &History) -> Option<Proposal> {
    let (total, available) = (model.host.memory_total?, model.host.memory_available?);
    let idle = running(model).any(|domain| balloon::reclaimable(domain, policy, history).is_some());
    let spare = Ratio::of(available.as_f64(), total.as_f64())?;
    if idle || spare.0 >= HOST_FULL || history.host_full < policy.state.cycles {
        return None;
    }
    let memory =
        |domain: &DomainModel| domain.balloon.map_or(domain.memory_maximum, |balloon| balloon.current);
    let domain = running(model).max_by_key(|domain| memory(domain))?;
    let reason = Reason {
        rule: "advice.move_away".to_owned(),
        summary: format!(
            "{available} of this host's {total} are available, no guest has any to spare, and {} has most",
            domain.name
        ),
        inputs: vec![
            input("available on the host", format!("{available} ({spare})")),
            input("memory of the domain", memory(domain)),
            input("cycles in a row", history.host_full),
        ],
        threshold: format!(
            "less than {} of the host's memory available for {} cycles, and no guest with idle memory",
            Ratio(HOST_FULL),
            policy.state.cycles
        ),
        expected: format!("{} for the others", memory(domain)),
        alternatives: vec!["balloons: what is left in the guests is in use".to_owned()],
        ..Reason::default()
    };
    Some(propose(domain, away(domain, policy, history), reason, false))
}

/// What it needs elsewhere.
fn away(domain: &DomainModel, policy: &Policy, history: &History) -> Action {
    let pcpus = domain.cpu_demand().unwrap_or_else(|| domain.vcpu_count());
    let memory = balloon::least_memory(domain, &policy.balloon, history).unwrap_or(domain.memory_maximum);
    Action::MoveAway { pcpus_percent: ceil(pcpus * 100.0), memory: memory.min(domain.memory_maximum) }
}

/// Counts the cycles in which the host was full.
pub(super) fn count_host(model: &Model, history: &mut History) {
    let spare = model.host.memory_available.zip(model.host.memory_total);
    let full = spare.is_some_and(|(available, total)| available < total.part(HOST_FULL));
    history.host_full = if full { history.host_full.saturating_add(1) } else { 0 };
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and numbers of pcpus are neither negative nor above 2^20"
)]
fn ceil(number: f64) -> u32 {
    number.ceil() as u32
}
