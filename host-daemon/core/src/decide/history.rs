//! [`History`]: what decisions remember. Outcomes come back only through [`History::applied`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use super::managed::Managed;
use super::managed::{Look, Moment};
use crate::CpuSet;
use crate::ledger::{LedgerEntry, LedgerTarget, Value};
use crate::model::{BalloonModel, DomainModel, Model};
use crate::order::{Action, GroupValue, LadderMeans, Proposal, TaskGroup};
use crate::policy::{Class, Level, Policy};
use crate::sample::ProcessKey;
use crate::units::KiB;

/// What decisions remember between calls.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// Domains by uuid; those that are gone are forgotten.
    pub domains: BTreeMap<Uuid, DomainHistory>,
    pub(super) released_at: Option<Duration>,
    #[serde(default)]
    pub(super) arrived_at: Option<Duration>,
    pub(super) ticked_at: Option<Duration>,
    pub(super) cycled_at: Option<Duration>,
    pub(super) guard: super::guard::GuardHistory,
    /// What came of asking each rule.
    #[serde(default)]
    pub rules: BTreeMap<Arc<str>, super::RuleCount>,
    /// What is normal for domains, those included that do not run now.
    #[serde(default)]
    pub baselines: super::baseline::Baselines,
    /// What is known of services.
    #[serde(default)]
    pub services: super::service::Services,
    #[serde(default)]
    pub(super) host_memory: super::balloon::HostMemoryHistory,
    #[serde(default)]
    pub(super) trials: super::trial::TrialHistory,
    /// Cycles in a row in which the host had next to no memory left.
    #[serde(default)]
    pub(super) host_full: u32,
    #[serde(default)]
    pub(super) rivals: super::rivals::Rivals,
    #[serde(default)]
    pub(super) placement: super::placement::PlacementHistory,
    #[serde(default)]
    pub(crate) relaxing: super::weight::Relaxing,
}

/// What is remembered of one domain.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DomainHistory {
    incarnation: Option<String>,
    /// Class inferred, with its evidence.
    pub class: super::class::ClassHistory,
    /// What it does in the fast windows until now.
    #[serde(default)]
    pub(super) onset: super::onset::Onset,
    /// CPU weight.
    pub shares: Managed<u64>,
    /// vcpu pins.
    #[serde(with = "crate::pairs")]
    pub pins: BTreeMap<u32, Managed<CpuSet>>,
    /// Emulator pin.
    pub emulator_pin: Managed<CpuSet>,
    /// Pins of the iothreads.
    #[serde(default, with = "crate::pairs")]
    pub iothread_pins: BTreeMap<u32, Managed<CpuSet>>,
    /// Memory.
    pub balloon: Managed<KiB>,
    /// Which means of the ladder count in the guest.
    #[serde(default)]
    pub ladder: super::LadderHistory,
    /// Applications on the ladder, by name.
    pub applications: BTreeMap<String, ApplicationHistory>,
    /// States of the resources and how long the domain has been off its optimum.
    pub states: super::state::StateHistory,
    /// What the rules said last.
    #[serde(default)]
    pub asked: super::Asked,
    /// Since when the domain has waited less than its target.
    pub(crate) calm_since: Option<Duration>,
    /// Who pressed it when it last waited too long.
    #[serde(default)]
    pub(super) pressed: Option<super::pressed::Pressed>,
    /// pcpus that it wanted in its busiest time, fading.
    #[serde(default)]
    pub(super) busiest: f64,
    /// Cycles in a row in which a pin of ours was not needed.
    pub(crate) pin_unneeded: u32,
    /// What the guest reported about its memory, and how its balloon moved.
    #[serde(default)]
    pub(super) memory: super::balloon::BalloonHistory,
    /// How far its placement at its start has come.
    #[serde(default)]
    pub(super) newcomer: super::newcomer::Newcomer,
    /// Guest poll that the ladder decided on last.
    pub(super) guest_decided_at: Option<Duration>,
}

/// What is remembered of one guest application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationHistory {
    /// Level that we set last.
    pub level: Level,
    /// Level before our first step.
    pub original: Level,
    /// Nice value of its root process before our first step.
    pub nice_original: i8,
    /// By which means it has its level.
    #[serde(default)]
    pub means: LadderMeans,
    /// Original values of the groups that we changed.
    #[serde(default, with = "crate::pairs")]
    pub groups: BTreeMap<TaskGroup, GroupValue>,
    /// Original nice values of the processes that we changed.
    #[serde(with = "crate::pairs")]
    pub processes: BTreeMap<ProcessKey, i8>,
}

impl History {
    /// Takes note of what is live now.
    pub(super) fn observe(&mut self, model: &Model, policy: &Policy) {
        let present: BTreeSet<Uuid> = model.domains.iter().map(|domain| domain.uuid).collect();
        // One that is destroyed and started again is mostly seen to be away in between, and is a new one when it is back.
        let gone: Vec<Uuid> = self.domains.keys().filter(|uuid| !present.contains(uuid)).copied().collect();
        for uuid in gone {
            self.domains.remove(&uuid);
            self.trials.gone(uuid, model.at);
        }
        self.rivals.observe(&model.host);
        let moment = Moment { at: model.at, unix_s: model.wall_unix_s };
        for domain in &model.domains {
            let enforce = policy.of(domain).enforce().value;
            let entry = self.domains.entry(domain.uuid).or_insert_with(DomainHistory::of_newcomer);
            if entry.is_another_life(domain) {
                // It has its configured values again.
                *entry = DomainHistory::of_newcomer();
                self.trials.born(domain.uuid, model.at);
            }
            for target in entry.observe(domain, Look { moment, enforce }) {
                self.trials.taken_over(domain.uuid, &target);
            }
            if entry.newcomer.is_unseen() {
                self.guard.born(domain.uuid);
            }
        }
    }

    /// Domains of which we hold memory back.
    pub fn lean(&self) -> impl Iterator<Item = Uuid> {
        self.domains.iter().filter(|(_, domain)| domain.balloon.ours.is_some()).map(|(uuid, _)| *uuid)
    }

    /// Takes note of a change that was carried out and read back as `order`.
    pub fn applied(&mut self, order: u64, proposal: &Proposal, now: Duration) {
        let domain = self.domains.entry(proposal.domain).or_default();
        match &proposal.action {
            Action::SetCpuShares { to, .. } => domain.shares.set(to),
            Action::PinVcpu { vcpu, to, .. } => domain.pins.entry(*vcpu).or_default().set(to),
            Action::PinEmulator { to, .. } => domain.emulator_pin.set(to),
            Action::PinIothread { iothread, to, .. } => {
                domain.iothread_pins.entry(*iothread).or_default().set(to);
            }
            Action::SetBalloon { from, to } => {
                domain.balloon.set(to);
                domain.memory.applied(*from, *to, now);
            }
            Action::SetLevel { application: name, from, to, .. } => {
                if let Some(application) = domain.remember_originals(&proposal.action) {
                    application.level = *to;
                    let means = application.means;
                    domain.ladder.moved(name, means, *from, *to);
                }
            }
            Action::MoreVcpus { .. } | Action::MoreMemory { .. } | Action::MoveAway { .. } => return,
        }
        self.guard.applied(proposal, now);
        self.trials.applied(order, proposal, now);
    }

    /// Takes note of a change with an unclear outcome: it may be in force or not. `ledger` has the domain's entries; those of
    /// other values are as sure as before.
    pub fn unsure(&mut self, proposal: &Proposal, ledger: &[LedgerEntry]) {
        let domain = self.domains.entry(proposal.domain).or_default();
        domain.remember_originals(&proposal.action);
        let touched = LedgerTarget::of(&proposal.action);
        for entry in ledger.iter().filter(|entry| touched.contains(&entry.target)) {
            let pin = match &entry.target {
                LedgerTarget::CpuShares => {
                    domain.shares.doubt(entry, |value| match value {
                        Value::Shares(shares) => Some(*shares),
                        _ => None,
                    });
                    continue;
                }
                LedgerTarget::Balloon => {
                    domain.memory.forget_target();
                    domain.balloon.doubt(entry, |value| match value {
                        Value::Memory(memory) => Some(*memory),
                        _ => None,
                    });
                    domain.balloon.suppose_sent();
                    continue;
                }
                LedgerTarget::VcpuPin { vcpu } => domain.pins.entry(*vcpu).or_default(),
                LedgerTarget::EmulatorPin => &mut domain.emulator_pin,
                LedgerTarget::IothreadPin { iothread } => domain.iothread_pins.entry(*iothread).or_default(),
                LedgerTarget::Nice { .. }
                | LedgerTarget::UnitWeight { .. }
                | LedgerTarget::Autogroup { .. }
                | LedgerTarget::Affinity { .. } => {
                    continue;
                }
            };
            pin.doubt(entry, |value| match value {
                Value::Pin(pin) => Some(pin.clone()),
                _ => None,
            });
        }
    }

    /// Forgets everything that we hold, after all of it was put back.
    pub fn restored(&mut self) {
        for domain in self.domains.values_mut() {
            domain.shares.restored();
            domain.balloon.restored();
            domain.memory.forget_target();
            let pins = domain.pins.values_mut().chain(domain.iothread_pins.values_mut());
            pins.chain([&mut domain.emulator_pin]).for_each(Managed::restored);
            domain.applications.clear();
        }
        self.trials.restored();
    }
}

impl DomainHistory {
    /// What the guest has in use, its balloon left out, in whichever way it counts.
    #[must_use]
    pub fn memory_demand(&self, balloon: &BalloonModel) -> Option<KiB> {
        self.memory.accounting().demand(balloon)
    }

    /// The class that counts, as inferred.
    #[must_use]
    pub fn inferred_class(&self) -> Class {
        self.class.current
    }

    /// What was decided when it came, in words; `None` while nothing was, or if that was before this history began.
    #[must_use]
    pub fn arrival(&self) -> Option<&str> {
        self.newcomer.word()
    }

    fn of_newcomer() -> Self {
        Self { newcomer: super::newcomer::Newcomer::fresh(), ..Self::default() }
    }

    /// Whether what an action changes belongs to somebody else, who changed what we had set.
    pub(super) fn is_theirs(&self, action: &Action) -> bool {
        match action {
            Action::SetCpuShares { .. } => self.shares.is_theirs(),
            Action::PinVcpu { vcpu, .. } => self.pins.get(vcpu).is_some_and(Managed::is_theirs),
            Action::PinEmulator { .. } => self.emulator_pin.is_theirs(),
            Action::PinIothread { iothread, .. } => {
                self.iothread_pins.get(iothread).is_some_and(Managed::is_theirs)
            }
            Action::SetBalloon { .. } => self.balloon.is_theirs(),
            _ => false,
        }
    }

    /// Whether a pin of it is one of ours.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        let mut pins = self.pins.values().chain(self.iothread_pins.values()).chain([&self.emulator_pin]);
        pins.any(|pin| pin.ours.is_some())
    }

    /// Remembers what an application was like before an order touched it.
    fn remember_originals(&mut self, action: &Action) -> Option<&mut ApplicationHistory> {
        let Action::SetLevel { application, from, processes, groups, .. } = action else { return None };
        let is_unit = groups.iter().any(|step| matches!(step.group, TaskGroup::Unit { .. }));
        // vcpus go with either means.
        let of_either = processes.is_empty() && groups.iter().all(|step| step.group.is_threads());
        let known = self.applications.get(application).map(|known| known.means).filter(|_| of_either);
        let means = known.unwrap_or(if is_unit { LadderMeans::UnitWeight } else { LadderMeans::Nice });
        let fresh = || ApplicationHistory {
            level: *from,
            original: *from,
            nice_original: processes.first().map_or_else(|| from.nice(), |process| process.nice_original),
            means,
            groups: BTreeMap::new(),
            processes: BTreeMap::new(),
        };
        let entry = self.applications.entry(application.clone()).or_insert_with(fresh);
        if entry.means != means {
            // The other means has taken everything back by now.
            *entry = fresh();
        }
        entry.groups.extend(groups.iter().map(|step| (step.group.clone(), step.original.clone())));
        entry.processes.extend(processes.iter().map(|process| (process.key, process.nice_original)));
        Some(entry)
    }

    /// Whether the domain was started anew since the last look.
    fn is_another_life(&self, live: &DomainModel) -> bool {
        self.incarnation.is_some() && live.incarnation.is_some() && self.incarnation != live.incarnation
    }

    /// Takes note of what is live; returns the targets that others have taken over just now.
    fn observe(&mut self, live: &DomainModel, look: Look) -> Vec<String> {
        self.incarnation = live.incarnation.clone().or_else(|| self.incarnation.take());
        let mut taken_over = Vec::new();
        if let Some(shares) = &live.cpu_shares
            && self.shares.observe(shares, look)
        {
            taken_over.push("cpu_shares".to_owned());
        }
        for vcpu in &live.vcpus {
            if let Some(pin) = &vcpu.pin
                && self.pins.entry(vcpu.number).or_default().observe(pin, look)
            {
                taken_over.push(format!("vcpu {} pin", vcpu.number));
            }
        }
        self.pins.retain(|number, _| live.vcpus.iter().any(|vcpu| vcpu.number == *number));
        if let Some(pin) = &live.emulator_pin
            && self.emulator_pin.observe(pin, look)
        {
            taken_over.push("emulator pin".to_owned());
        }
        for iothread in &live.iothreads {
            if let Some(pin) = &iothread.pin
                && self.iothread_pins.entry(iothread.number).or_default().observe(pin, look)
            {
                taken_over.push(format!("iothread {} pin", iothread.number));
            }
        }
        self.iothread_pins.retain(|number, _| live.iothreads.iter().any(|other| other.number == *number));
        // A balloon moves slowly towards its target, so a value that is not ours says nothing about others yet. Nor is it
        // ever enforced: that would take memory in one step.
        if live.balloon.is_none() {
            self.memory.unseen();
        }
        if let Some(balloon) = &live.balloon {
            let (at, current) = (look.moment.at, balloon.current);
            self.memory.follow(current, live.memory_maximum, at);
            let ours = self.balloon.ours;
            let strays = ours.is_some_and(|ours| self.memory.strays(current, ours, live.memory_maximum, at));
            let at_rest = ours.is_none() && !self.memory.is_on_its_way(at);
            let (is_due, stands_for) = if self.balloon.is_unsure() {
                // Whose it is shows where it comes to rest.
                (self.memory.is_still(at), self.balloon.stands_for(current, live.memory_maximum))
            } else {
                (at_rest || strays, current)
            };
            if is_due && self.balloon.observe(&stands_for, Look { enforce: false, ..look }) {
                taken_over.push("balloon".to_owned());
            }
        }
        if let Some(guest) = &live.guest {
            // A unit that is stopped keeps the weight that we gave it, and has it when it starts again.
            let holds = |known: &ApplicationHistory| {
                known.means == LadderMeans::UnitWeight && known.level != known.original
            };
            self.applications.retain(|name, known| {
                guest.unread.is_some()
                    || holds(known)
                    || guest.applications.iter().any(|application| application.name == *name)
            });
            self.states.learn_loss(guest.virtualisation_loss);
        }
        taken_over
    }
}
