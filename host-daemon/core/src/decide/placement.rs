//! cpusets: keeps pcpus free for latency domains from the batch domains that take their CPU.
//!
//! The means after weights: only for a domain that has needed help for the policy's number of cycles. It is the
//! aggressor that is confined, to a part of the pcpus that its administrator gave it; the victim keeps all of its own.

use super::class::class_of;
use super::guard;
use super::history::{DomainHistory, History};
use super::rules::wants;
use super::state::target_wait;
use super::weight::takes_cpu_of;
use super::{input, propose, running};
use crate::CpuSet;
use crate::model::{DomainModel, Model};
use crate::order::{Action, Metric, Prediction, Proposal, Reason};
use crate::policy::{Class, Policy};
use crate::rules::Means;
use crate::topology::{Pcpu, Topology};

/// Of this many pcpus, one at least stays with the batch domains.
const BATCH_KEEPS_ONE_IN: usize = 4;
/// Part of a pcpu that may stay unused of those that are kept free.
const SPARE: f64 = 0.1;

/// Proposes pins for one cycle.
pub(super) fn decide(model: &Model, policy: &Policy, history: &mut History) -> Vec<Proposal> {
    let online = model.topology.online();
    let allowed =
        policy.placement.allowed.as_ref().map_or_else(|| online.clone(), |mask| mask.intersection(&online));
    let needs_help = |domain: &DomainModel| wants(domain, Means::Separate, history);
    let is_victim =
        |domain: &&DomainModel| class_of(domain, policy, history) == Class::Latency || needs_help(domain);
    let victims: Vec<&DomainModel> = running(model).filter(is_victim).collect();
    let in_need: Vec<&DomainModel> = victims.iter().copied().filter(|domain| needs_help(domain)).collect();
    let takes_from = |aggressor: &DomainModel, victims: &[&DomainModel]| {
        class_of(aggressor, policy, history) == Class::Batch
            && victims.iter().any(|victim| takes_cpu_of(aggressor, victim, policy, history))
    };
    let reserved = reserve(&in_need, &model.topology, &allowed);

    let mut proposals = Vec::new();
    let mut unneeded = Vec::new();
    // One that is left out would take what the others leave, and nobody had anything from it.
    let aggressors: Vec<&DomainModel> =
        running(model).filter(|domain| takes_from(domain, &in_need)).collect();
    let separates = !reserved.is_empty() && guard::may_pin_at_once(&aggressors, model, policy);
    for aggressor in running(model) {
        if separates && takes_from(aggressor, &in_need) {
            let own = policy.of(aggressor).pcpus().value.unwrap_or_else(|| online.clone());
            proposals.extend(confine(aggressor, &in_need, &reserved, &online, &own, policy, history));
        } else if !takes_from(aggressor, &victims) && is_confined(aggressor, history) {
            unneeded.push(aggressor);
        }
    }
    for entry in
        history.domains.iter_mut().filter(|(uuid, _)| !unneeded.iter().any(|domain| domain.uuid == **uuid))
    {
        entry.1.pin_unneeded = 0;
    }
    for domain in unneeded {
        proposals.extend(set_free(domain, policy, history));
    }
    proposals
}

/// The pcpus to keep free: as many as the victims fill, a core at a time, never more than leaves batch its part. A pcpu
/// that they would use for a part of the time only is better shared by weight: what they leave of it would be lost.
fn reserve(victims: &[&DomainModel], topology: &Topology, allowed: &CpuSet) -> CpuSet {
    let used: f64 = victims.iter().filter_map(|victim| Some(victim.cpu_use()?.0 * victim.vcpu_count())).sum();
    let wanted = (used + SPARE).floor();
    let limit = allowed.len() - (allowed.len() / BATCH_KEEPS_ONE_IN).max(1).min(allowed.len());
    // Neighbours in cache and node first, so that what is kept free is one piece.
    let mut order: Vec<&Pcpu> = topology.pcpus.iter().filter(|pcpu| allowed.contains(pcpu.id)).collect();
    order.sort_by_key(|pcpu| (pcpu.node, pcpu.llc, pcpu.socket, pcpu.core, pcpu.id));
    let mut reserved = CpuSet::default();
    for pcpu in order {
        let core = topology.siblings(pcpu.id).intersection(allowed);
        let with_core = reserved.union(&core);
        let fits = u32::try_from(with_core.len()).is_ok_and(|count| f64::from(count) <= wanted);
        if fits && with_core.len() <= limit {
            reserved = with_core;
        }
    }
    reserved
}

/// Confines one aggressor to what its administrator allows less what is reserved.
fn confine(
    aggressor: &DomainModel,
    victims: &[&DomainModel],
    reserved: &CpuSet,
    online: &CpuSet,
    allowed: &CpuSet,
    policy: &Policy,
    history: &History,
) -> Vec<Proposal> {
    let names: Vec<&str> = victims.iter().map(|victim| victim.name.as_str()).collect();
    let reason = |what: &str| Reason {
        rule: "placement.separate".to_owned(),
        summary: format!(
            "{} takes the CPU of {} in spite of its weight, so {what} leaves the pcpus {reserved} to it",
            aggressor.name,
            names.join(", ")
        ),
        inputs: victims
            .iter()
            .filter_map(|victim| {
                let waiting = history.domains.get(&victim.uuid)?.states.waiting;
                Some(input(&format!("cycles that {} needed help", victim.name), waiting))
            })
            .chain([
                input("pcpus wanted by it", format!("{:.2}", aggressor.cpu_demand().unwrap_or(0.0))),
                input("pcpus kept free", reserved),
            ])
            .collect(),
        threshold: "a latency domain over its target for three cycles in spite of the weights".to_owned(),
        expected: format!("{} finds a free pcpu when it wakes up", names.join(", ")),
        prediction: prediction(victims, policy, history),
        alternatives: vec![
            "pinning the victim would take the choice of its pcpus from the kernel and help nobody else"
                .to_owned(),
        ],
    };
    let rest = |original: &CpuSet| original.intersection(online).intersection(allowed).difference(reserved);
    let Some(entry) = history.domains.get(&aggressor.uuid) else { return Vec::new() };
    let mut proposals = Vec::new();
    for vcpu in &aggressor.vcpus {
        let managed = entry.pins.get(&vcpu.number);
        let (Some(from), Some(original)) = (&vcpu.pin, managed.and_then(|managed| managed.original.as_ref()))
        else {
            continue;
        };
        let to = rest(original);
        if !to.is_empty() && to != *from && to != *original {
            let action = Action::PinVcpu { vcpu: vcpu.number, from: from.clone(), to };
            proposals.push(propose(aggressor, action, reason(&format!("vcpu {}", vcpu.number)), false));
        }
    }
    // QEMU's other threads go where the vcpus went.
    if let (Some(from), Some(original)) = (&aggressor.emulator_pin, &entry.emulator_pin.original) {
        let to = rest(original);
        if !to.is_empty() && to != *from && to != *original {
            let action = Action::PinEmulator { from: from.clone(), to };
            proposals.push(propose(aggressor, action, reason("the emulator"), false));
        }
    }
    for iothread in &aggressor.iothreads {
        let managed = entry.iothread_pins.get(&iothread.number);
        let (Some(from), Some(original)) =
            (&iothread.pin, managed.and_then(|managed| managed.original.as_ref()))
        else {
            continue;
        };
        let to = rest(original);
        if !to.is_empty() && to != *from && to != *original {
            let number = iothread.number;
            let action = Action::PinIothread { iothread: number, from: from.clone(), to };
            proposals.push(propose(aggressor, action, reason(&format!("iothread {number}")), false));
        }
    }
    proposals
}

/// The victim that waits most, and what is left of it once it has pcpus of its own: half of what its class allows.
fn prediction(victims: &[&DomainModel], policy: &Policy, history: &History) -> Option<Prediction> {
    let waits = victims.iter().filter_map(|victim| Some((victim.wait_ratio()?.0, *victim)));
    let (before, victim) = waits.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    let target = target_wait(class_of(victim, policy, history), policy)?;
    // Held up by a raised weight alone it may not wait at all now; then there is nothing that could be measured.
    (before > target).then(|| Prediction {
        metric: Metric::WaitRatio,
        of: victim.uuid,
        of_name: victim.name.clone(),
        before,
        expected: target / 2.0,
    })
}

fn is_confined(domain: &DomainModel, history: &History) -> bool {
    history.domains.get(&domain.uuid).is_some_and(DomainHistory::is_pinned)
}

/// Gives the original pins back to a domain whose confinement has helped nobody for the policy's number of cycles.
fn set_free(domain: &DomainModel, policy: &Policy, history: &mut History) -> Vec<Proposal> {
    let asked = wants(domain, Means::ReleasePins, history);
    let Some(entry) = history.domains.get_mut(&domain.uuid) else { return Vec::new() };
    entry.pin_unneeded = entry.pin_unneeded.saturating_add(1);
    if !asked {
        return Vec::new();
    }
    let reason = Reason {
        rule: "placement.release".to_owned(),
        summary: format!(
            "nobody has needed the pcpus that {} was kept off for {} cycles",
            domain.name, entry.pin_unneeded
        ),
        inputs: vec![input("cycles", entry.pin_unneeded)],
        threshold: format!("{} cycles in which it took nobody's CPU", policy.state.cycles),
        expected: "the original pins in force again".to_owned(),
        ..Reason::default()
    };
    let vcpus = entry.pins.iter().filter_map(|(vcpu, pin)| {
        let action = Action::PinVcpu { vcpu: *vcpu, from: pin.ours.clone()?, to: pin.original.clone()? };
        Some(propose(domain, action, reason.clone(), true))
    });
    let emulator = entry
        .emulator_pin
        .ours
        .clone()
        .zip(entry.emulator_pin.original.clone())
        .map(|(from, to)| propose(domain, Action::PinEmulator { from, to }, reason.clone(), true));
    let iothreads = entry.iothread_pins.iter().filter_map(|(iothread, pin)| {
        let action =
            Action::PinIothread { iothread: *iothread, from: pin.ours.clone()?, to: pin.original.clone()? };
        Some(propose(domain, action, reason.clone(), true))
    });
    vcpus.chain(emulator).chain(iothreads).collect()
}
