//! [`History`]: what decisions remember. Outcomes come back only through [`History::applied`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{finding, input};
use crate::CpuSet;
use crate::finding::{Finding, Severity};
use crate::ledger::{LedgerEntry, LedgerTarget, Value};
use crate::model::{DomainModel, Model};
use crate::order::{Action, Proposal};
use crate::policy::{Class, Level};
use crate::sample::ProcessKey;
use crate::units::KiB;

/// What decisions remember between calls.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// Domains by uuid; those that are gone are forgotten.
    pub domains: BTreeMap<Uuid, DomainHistory>,
    pub(super) released_at: Option<Duration>,
    pub(super) ticked_at: Option<Duration>,
    pub(super) cycled_at: Option<Duration>,
    pub(super) guard: super::guard::GuardHistory,
    /// What came of asking each rule.
    #[serde(default)]
    pub rules: BTreeMap<Arc<str>, super::RuleCount>,
    #[serde(default)]
    pub(super) trials: super::trial::TrialHistory,
    #[serde(default)]
    pub(crate) relaxing: super::weight::Relaxing,
}

/// What is remembered of one domain.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DomainHistory {
    incarnation: Option<String>,
    /// Class inferred, with its evidence.
    pub class: super::class::ClassHistory,
    /// CPU weight.
    pub shares: Managed<u64>,
    /// vcpu pins.
    pub pins: BTreeMap<u32, Managed<CpuSet>>,
    /// Emulator pin.
    pub emulator_pin: Managed<CpuSet>,
    /// Pins of the iothreads.
    #[serde(default)]
    pub iothread_pins: BTreeMap<u32, Managed<CpuSet>>,
    /// Memory.
    pub balloon: Managed<KiB>,
    /// Applications on the ladder, by name.
    pub applications: BTreeMap<String, ApplicationHistory>,
    /// States of the resources and how long the domain has been off its optimum.
    pub states: super::state::StateHistory,
    /// What the rules said last.
    #[serde(default)]
    pub asked: super::Asked,
    /// Since when the domain has waited less than its target.
    pub(crate) calm_since: Option<Duration>,
    /// Cycles in a row in which a pin of ours was not needed.
    pub(crate) pin_unneeded: u32,
    /// Demand for memory, newest last, over the policy's window.
    pub(super) demand: VecDeque<(Duration, KiB)>,
    pub(super) inflated_at: Option<Duration>,
    /// Until when no memory is taken, because some had to be given back.
    #[serde(default)]
    pub(super) no_inflation_until: Duration,
    /// How often in a row it had to.
    #[serde(default)]
    pub(super) forced_releases: u32,
    /// Guest poll that the ladder decided on last.
    pub(super) guest_decided_at: Option<Duration>,
}

/// A value that kvmpilot may hold away from its original.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managed<T> {
    /// As we found it; `None` before the first reading.
    pub original: Option<T>,
    /// What we set it to; `None` while the original is in force.
    pub ours: Option<T>,
    /// A change of ours had no clear outcome: what is live now is ours or the original.
    unsure: bool,
}

impl<T> Default for Managed<T> {
    fn default() -> Self {
        Self { original: None, ours: None, unsure: false }
    }
}

impl<T: Clone + PartialEq> Managed<T> {
    /// Takes note of the live value. Returns what we had set where somebody else has changed it since: their value is
    /// the original from now on.
    fn observe(&mut self, live: &T) -> Option<T> {
        if std::mem::take(&mut self.unsure) {
            self.set(live);
            return None;
        }
        if self.ours.as_ref() == Some(live) {
            return None;
        }
        let drift = self.ours.take();
        self.original = Some(live.clone());
        drift
    }

    fn doubt(&mut self, original: &T) {
        self.original = Some(original.clone());
        self.unsure = true;
    }

    fn set(&mut self, value: &T) {
        self.ours = (self.original.as_ref() != Some(value)).then(|| value.clone());
    }
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
    /// Original nice values of the processes that we changed.
    #[serde(with = "crate::pairs")]
    pub processes: BTreeMap<ProcessKey, i8>,
}

impl History {
    /// Takes note of what is live now; returns what somebody else changed.
    pub(super) fn observe(&mut self, model: &Model) -> Vec<Finding> {
        self.domains.retain(|uuid, _| model.domains.iter().any(|domain| domain.uuid == *uuid));
        model
            .domains
            .iter()
            .flat_map(|domain| self.domains.entry(domain.uuid).or_default().observe(domain))
            .collect()
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
            Action::SetBalloon { to, .. } => domain.balloon.set(to),
            Action::SetLevel { to, .. } => {
                if let Some(application) = domain.remember_originals(&proposal.action) {
                    application.level = *to;
                }
            }
            Action::MoreVcpus { .. } | Action::MoreMemory { .. } | Action::MoveAway { .. } => return,
        }
        self.guard.applied(proposal, now);
        self.trials.applied(order, proposal, now);
    }

    /// Takes note of a change with an unclear outcome: it may be in force or not. `ledger` has the domain's entries.
    pub fn unsure(&mut self, proposal: &Proposal, ledger: &[LedgerEntry]) {
        let domain = self.domains.entry(proposal.domain).or_default();
        domain.remember_originals(&proposal.action);
        for entry in ledger {
            match (&entry.target, &entry.original) {
                (LedgerTarget::CpuShares, Value::Shares(original)) => domain.shares.doubt(original),
                (LedgerTarget::VcpuPin { vcpu }, Value::Pin(original)) => {
                    domain.pins.entry(*vcpu).or_default().doubt(original);
                }
                (LedgerTarget::EmulatorPin, Value::Pin(original)) => domain.emulator_pin.doubt(original),
                (LedgerTarget::IothreadPin { iothread }, Value::Pin(original)) => {
                    domain.iothread_pins.entry(*iothread).or_default().doubt(original);
                }
                (LedgerTarget::Balloon, Value::Memory(original)) => domain.balloon.doubt(original),
                _ => {}
            }
        }
    }

    /// Forgets everything that we hold, after all of it was put back.
    pub fn restored(&mut self) {
        for domain in self.domains.values_mut() {
            domain.shares.ours = None;
            domain.emulator_pin.ours = None;
            domain.balloon.ours = None;
            domain.pins.values_mut().chain(domain.iothread_pins.values_mut()).for_each(|pin| pin.ours = None);
            domain.applications.clear();
        }
        self.trials.restored();
    }
}

impl DomainHistory {
    /// The class that counts, as inferred.
    #[must_use]
    pub fn inferred_class(&self) -> Class {
        self.class.current
    }

    /// Whether a pin of it is one of ours.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        let mut pins = self.pins.values().chain(self.iothread_pins.values()).chain([&self.emulator_pin]);
        pins.any(|pin| pin.ours.is_some())
    }

    /// Remembers what an application was like before an order touched it.
    fn remember_originals(&mut self, action: &Action) -> Option<&mut ApplicationHistory> {
        let Action::SetLevel { application, from, processes, .. } = action else { return None };
        let entry = self.applications.entry(application.clone()).or_insert_with(|| ApplicationHistory {
            level: *from,
            original: *from,
            nice_original: processes.first().map_or_else(|| from.nice(), |process| process.nice_original),
            processes: BTreeMap::new(),
        });
        entry.processes.extend(processes.iter().map(|process| (process.key, process.nice_original)));
        Some(entry)
    }

    fn observe(&mut self, live: &DomainModel) -> Vec<Finding> {
        if self.incarnation.is_some() && live.incarnation.is_some() && self.incarnation != live.incarnation {
            // A new life of the domain has its configured values again.
            *self = Self::default();
        }
        self.incarnation = live.incarnation.clone().or_else(|| self.incarnation.take());
        let mut drifts = Vec::new();
        let mut drift = |what: &str, ours: String, theirs: String| {
            drifts.push(finding(
                live,
                "drift",
                Severity::Warning,
                format!(
                    "somebody else set {what} to {theirs}; kvmpilot had set {ours} and leaves it alone now"
                ),
                vec![input("ours", ours), input("live", theirs)],
            ));
        };
        if let Some(shares) = &live.cpu_shares
            && let Some(ours) = self.shares.observe(shares)
        {
            drift("cpu_shares", ours.to_string(), shares.to_string());
        }
        for vcpu in &live.vcpus {
            if let Some(pin) = &vcpu.pin
                && let Some(ours) = self.pins.entry(vcpu.number).or_default().observe(pin)
            {
                drift(&format!("the pin of vcpu {}", vcpu.number), ours.to_string(), pin.to_string());
            }
        }
        self.pins.retain(|number, _| live.vcpus.iter().any(|vcpu| vcpu.number == *number));
        if let Some(pin) = &live.emulator_pin
            && let Some(ours) = self.emulator_pin.observe(pin)
        {
            drift("the emulator pin", ours.to_string(), pin.to_string());
        }
        for iothread in &live.iothreads {
            if let Some(pin) = &iothread.pin
                && let Some(ours) = self.iothread_pins.entry(iothread.number).or_default().observe(pin)
            {
                drift(&format!("the pin of iothread {}", iothread.number), ours.to_string(), pin.to_string());
            }
        }
        self.iothread_pins.retain(|number, _| live.iothreads.iter().any(|other| other.number == *number));
        // A balloon moves slowly towards its target, so a value that is not ours says nothing about others.
        if let Some(balloon) = &live.balloon
            && (self.balloon.ours.is_none() || self.balloon.unsure)
        {
            self.balloon.observe(&balloon.current);
        }
        if let Some(guest) = &live.guest {
            self.applications
                .retain(|name, _| guest.applications.iter().any(|application| application.name == *name));
            self.states.learn_loss(guest.virtualisation_loss);
        }
        drifts
    }
}
