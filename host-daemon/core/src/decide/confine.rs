//! Where the threads of one domain may go: out of what its administrator gave them, never out of more.
//!
//! The emulator, and the iothreads, follow the vcpus unless their administrator put them somewhere else. vhost workers need
//! no order of their own: they run in the emulator's cgroup (as threads of QEMU since Linux 6.4, attached to its owner's
//! cgroups before), so the cpuset that libvirt gives that cgroup holds for them, too.

use super::history::{DomainHistory, History, Managed};
use super::propose;
use crate::CpuSet;
use crate::model::{DomainModel, Model};
use crate::order::{Action, Proposal, Reason};
use crate::policy::Policy;

/// Why the threads of a domain are where they are to stay, if so: real-time vcpus and cache allocation, as its XML tells,
/// or pins of its administrator that give each vcpu a pcpu of its own.
#[must_use]
pub fn placement_refusal(domain: &DomainModel, model: &Model, history: &History) -> Option<String> {
    if let Some(why) = &domain.placement_refusal {
        return Some(why.clone());
    }
    let entry = history.domains.get(&domain.uuid)?;
    let originals: Option<Vec<&CpuSet>> =
        domain.vcpus.iter().map(|vcpu| entry.pins.get(&vcpu.number)?.original.as_ref()).collect();
    let originals = originals?;
    let all = originals.iter().fold(CpuSet::default(), |all, pin| all.union(pin));
    let dedicated = originals.iter().all(|pin| pin.len() == 1)
        && all.len() == originals.len()
        && !originals.is_empty()
        && !model.topology.online().is_subset(&all);
    dedicated.then(|| format!("its administrator pinned each vcpu to a pcpu of its own ({all})"))
}

/// pcpus that the administrator of a domain gave its vcpus; `None` before they were read.
pub(super) fn given(entry: &DomainHistory) -> Option<CpuSet> {
    entry.pins.values().filter_map(|pin| pin.original.clone()).reduce(|all, pin| all.union(&pin))
}

/// Where a domain may stay of what its administrator gave it (`original`), beside pcpus that are kept free for others.
pub(super) fn beside(
    domain: &DomainModel,
    original: &CpuSet,
    kept_free: &CpuSet,
    model: &Model,
    policy: &Policy,
) -> CpuSet {
    let online = model.topology.online();
    let mut rest = original.intersection(&online).difference(kept_free);
    if let Some(allowed) = policy.of(domain).pcpus().value {
        rest = rest.intersection(&allowed);
    }
    // Not pinned at all is no decision for pcpus that were set aside.
    if online.is_subset(original) { rest.difference(&model.topology.set_aside()) } else { rest }
}

/// Pins all threads of a domain to what `place` makes of what its administrator gave them. What it leaves empty, or as it
/// was, stays.
pub(super) fn pin(
    domain: &DomainModel,
    history: &History,
    online: &CpuSet,
    place: impl Fn(&CpuSet) -> CpuSet,
    reason: impl Fn(&str) -> Reason,
) -> Vec<Proposal> {
    let Some(entry) = history.domains.get(&domain.uuid) else { return Vec::new() };
    let Some(of_vcpus) = given(entry) else { return Vec::new() };
    let target = |live: Option<&CpuSet>, managed: Option<&Managed<CpuSet>>| {
        let (from, original) = (live?, managed?.original.as_ref()?);
        let to = place(original);
        (!to.is_empty() && to != *from && to != *original).then(|| (from.clone(), to))
    };
    // One that was pinned elsewhere on purpose does not follow.
    let follows = |managed: &Managed<CpuSet>| {
        let original = managed.original.as_ref();
        original.is_some_and(|original| *original == of_vcpus || online.is_subset(original))
    };
    let mut actions = Vec::new();
    for vcpu in &domain.vcpus {
        if let Some((from, to)) = target(vcpu.pin.as_ref(), entry.pins.get(&vcpu.number)) {
            let action = Action::PinVcpu { vcpu: vcpu.number, from, to };
            actions.push((format!("vcpu {}", vcpu.number), action));
        }
    }
    let emulator = Some(&entry.emulator_pin).filter(|managed| follows(managed));
    if let Some((from, to)) = target(domain.emulator_pin.as_ref(), emulator) {
        actions.push(("the emulator".to_owned(), Action::PinEmulator { from, to }));
    }
    for iothread in &domain.iothreads {
        let managed = entry.iothread_pins.get(&iothread.number).filter(|managed| follows(managed));
        if let Some((from, to)) = target(iothread.pin.as_ref(), managed) {
            let action = Action::PinIothread { iothread: iothread.number, from, to };
            actions.push((format!("iothread {}", iothread.number), action));
        }
    }
    actions.into_iter().map(|(what, action)| propose(domain, action, reason(&what), false)).collect()
}

/// Puts the originals of all pins of ours back.
pub(super) fn unpin(domain: &DomainModel, entry: &DomainHistory, reason: &Reason) -> Vec<Proposal> {
    let back = |pin: &Managed<CpuSet>| pin.ours.clone().zip(pin.original.clone());
    let vcpus = entry
        .pins
        .iter()
        .filter_map(|(vcpu, pin)| back(pin).map(|(from, to)| Action::PinVcpu { vcpu: *vcpu, from, to }));
    let emulator = back(&entry.emulator_pin).map(|(from, to)| Action::PinEmulator { from, to });
    let iothreads = entry.iothread_pins.iter().filter_map(|(iothread, pin)| {
        back(pin).map(|(from, to)| Action::PinIothread { iothread: *iothread, from, to })
    });
    let actions = vcpus.chain(emulator).chain(iothreads);
    actions.map(|action| propose(domain, action, reason.clone(), true)).collect()
}
