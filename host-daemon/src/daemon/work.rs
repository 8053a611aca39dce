//! Orders on their way: domains side by side, the orders of one domain one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::ledger::{RestoreOutcome, RestoredValue};
use kvmpilot_core::model::incarnation_of;
use kvmpilot_core::order::{OrderState, WorkOrder};
use kvmpilot_core::policy::Actuator;
use kvmpilot_core::sample::{DomainSample, Sample};
use tokio::task::{JoinError, block_in_place};
use tokio::time::Instant;

use super::Daemon;
use super::laps::Laps;
use super::life_of;
use crate::act::{Outcome, crash_point_after};
use crate::clock::unix_ms;
use crate::record::Event;

/// Pause between two tries to put back what could not be.
const REST: Duration = Duration::from_secs(10);

/// What a task reports when it is done.
pub(super) enum Done {
    /// The orders of one domain.
    Orders(Uuid, Vec<(WorkOrder, Outcome)>),
    /// Everything in the ledger.
    Restored(Vec<RestoredValue>),
    /// What one domain had left in it.
    PutBack(Uuid, Vec<RestoredValue>),
}

impl Daemon {
    /// Carries orders out in the background.
    pub(super) fn start_work(&mut self, orders: Vec<WorkOrder>) {
        let mut by_domain: BTreeMap<Uuid, Vec<WorkOrder>> = BTreeMap::new();
        for order in orders {
            tracing::info!(
                id = order.id,
                domain = order.proposal.domain_name,
                change = %order.proposal.action,
                rule = order.proposal.reason.rule,
                why = order.proposal.reason.summary,
                "work order"
            );
            by_domain.entry(order.proposal.domain).or_default().push(order);
        }
        for (domain, orders) in by_domain {
            let Some(incarnation) = life_of(&self.latest, domain) else {
                let text = "nothing was changed, because the domain's QEMU process is not known".to_owned();
                let outcome = Outcome::untried(text);
                orders.iter().for_each(|order| self.conclude(order, &outcome));
                continue;
            };
            self.crash_point("start");
            self.busy.insert(domain);
            let executor = Arc::clone(&self.executor);
            self.work.spawn(async move {
                let mut done = Vec::new();
                for order in orders {
                    let outcome = executor.carry_out(&order, &incarnation).await;
                    done.push((order, outcome));
                }
                Done::Orders(domain, done)
            });
        }
    }

    pub(super) fn crash_point(&self, name: &str) {
        crash_point_after(name, || {
            let _ = block_in_place(|| self.store.settle());
        });
    }

    /// Puts everything back in the background.
    pub(super) fn start_restore(&mut self) {
        self.restoring = true;
        let executor = Arc::clone(&self.executor);
        self.work.spawn(async move { Done::Restored(executor.restore().await) });
    }

    /// Takes note of what came of it.
    pub(super) fn done(&mut self, done: Result<Done, JoinError>) {
        let mut laps = Laps::of("what came of orders");
        match done {
            Ok(Done::Orders(domain, outcomes)) => {
                self.busy.remove(&domain);
                self.changed.insert(domain, Instant::now());
                if outcomes.iter().any(|(order, _)| order.proposal.action.actuator() == Actuator::Ladder) {
                    self.levelled.insert(domain, Instant::now());
                }
                for (order, outcome) in &outcomes {
                    self.conclude(order, outcome);
                }
                self.inventory.refresh(domain);
            }
            Ok(Done::Restored(values)) => self.restored(values),
            Ok(Done::PutBack(domain, values)) => self.put_back(domain, &values),
            Err(error) => {
                // Which domain it was is not known any more; what it changed is in the ledger.
                tracing::error!(%error, "carrying out orders ended early");
                self.busy.clear();
                self.restoring = false;
            }
        }
        self.restore_when_idle();
        laps.lap("conclude");
        self.publish();
        laps.lap("publish");
    }

    fn conclude(&mut self, order: &WorkOrder, outcome: &Outcome) {
        self.crash_point("conclude");
        let WorkOrder { id, ref proposal, .. } = *order;
        let done = outcome.state == OrderState::Verified;
        let mut outcome = outcome.clone();
        if done {
            if outcome.changed {
                let at = self.began.elapsed();
                self.history.applied(id, proposal, at);
                let applied = || Event::Applied { order: id, proposal: Box::new(proposal.clone()), at };
                self.recordings.event(applied);
            }
            tracing::info!(id, outcome = outcome.text, "done");
            if proposal.reason.prediction.is_none() || !outcome.changed {
                // Nothing to be judged by.
                outcome.state = OrderState::Kept;
            }
        } else {
            tracing::warn!(id, outcome = outcome.text, "not done");
            if !outcome.untried {
                // It may have been changed all the same: the ledger knows the original.
                let ledger = self.executor.ledger().entries_of(proposal.domain);
                self.history.unsure(proposal, &ledger);
                self.recordings.event(|| Event::Unsure { proposal: Box::new(proposal.clone()), ledger });
            }
            // A person who asked for it has the answer, and may ask again.
            if outcome.in_the_way && !proposal.undoes.is_empty() && !self.waiting.contains_key(&id) {
                let life = life_of(&self.latest, proposal.domain);
                self.undoing.keep(proposal.clone(), life, Instant::now() + REST);
            }
        }
        self.book.settle(id, &outcome, unix_ms());
        let undone = if done {
            let text = format!("rolled back by order {id}: {}", proposal.reason.summary);
            Outcome { state: OrderState::RolledBack, ..Outcome::verified(text, true) }
        } else {
            Outcome::failed(format!("it could not be undone by order {id}: {}", outcome.text))
        };
        // Where nothing was tried they are in force as before, and can be undone later.
        for undone_id in proposal.undoes.iter().filter(|_| !outcome.untried) {
            self.book.settle(*undone_id, &undone, unix_ms());
        }
        self.crash_point("answer");
        self.answer(order, &outcome);
    }

    fn restored(&mut self, values: Vec<RestoredValue>) {
        tell(&values);
        let left = self.executor.ledger().lives().into_iter();
        self.leftovers = left.map(|(domain, _)| (domain, Instant::now() + REST)).collect();
        self.restoring = false;
        self.recovered = true;
        self.book.put_back(&values, unix_ms());
        self.history.restored();
        self.undoing.clear();
        self.recordings.event(|| Event::Restored);
        for domain in self.inventory.snapshot().into_keys() {
            self.changed.insert(domain, Instant::now());
            self.levelled.insert(domain, Instant::now());
            self.inventory.refresh(domain);
        }
        self.answer_restore(values);
    }

    /// Looks for values that an earlier life of a domain has left in the ledger.
    pub(super) fn find_leftovers(&mut self, sample: &Sample) {
        if !self.recovered || self.restoring {
            return;
        }
        for (domain, incarnation) in self.executor.ledger().lives() {
            let now = sample.domains.iter().find(|other| other.uuid == domain).and_then(incarnation_of);
            if now.is_some_and(|now| now != incarnation) {
                self.leftovers.entry(domain).or_insert_with(Instant::now);
            }
        }
    }

    /// Puts back what could not be put back before, domain by domain, as soon as each can be reached. Until then nothing
    /// is changed on it.
    pub(super) fn put_back_leftovers(&mut self, sample: &Sample) {
        let now = Instant::now();
        let ready = |uuid: &Uuid| {
            let there = |domain: &&DomainSample| {
                domain.uuid == *uuid && domain.quarantine.is_none() && !domain.job_active
            };
            !self.busy.contains(uuid) && sample.domains.iter().any(|domain| there(&domain))
        };
        let due = self.leftovers.iter().filter(|(uuid, at)| **at <= now && ready(uuid));
        let due: Vec<Uuid> = due.map(|(uuid, _)| *uuid).collect();
        if self.restoring || !self.libvirt.status().is_up() {
            return;
        }
        for domain in due {
            self.busy.insert(domain);
            let executor = Arc::clone(&self.executor);
            self.work.spawn(async move { Done::PutBack(domain, executor.restore_one(domain).await) });
        }
    }

    fn put_back(&mut self, domain: Uuid, values: &[RestoredValue]) {
        tell(values);
        self.busy.remove(&domain);
        // What the agent told before is no longer true either: it would be taken for the original.
        self.changed.insert(domain, Instant::now());
        self.levelled.insert(domain, Instant::now());
        self.inventory.refresh(domain);
        if values.iter().any(|value| value.outcome.is_open()) {
            self.leftovers.insert(domain, Instant::now() + REST);
        } else {
            self.leftovers.remove(&domain);
        }
    }

    /// Before the first change: puts back what a daemon that was killed has left.
    pub(super) fn recover(&mut self) {
        // What a spare database knows of originals is nothing.
        if self.recovered || self.restoring || self.on_spare {
            return;
        }
        if self.executor.ledger().is_empty() {
            self.book.put_back(&[], unix_ms());
            self.recovered = true;
        } else if self.libvirt.status().is_up() {
            tracing::warn!(
                values = self.executor.ledger().len(),
                "an earlier daemon left changed values; putting them back"
            );
            self.start_restore();
        }
    }
}

/// Writes into the log what came of putting values back.
fn tell(values: &[RestoredValue]) {
    for value in values {
        let RestoredValue { domain, target, original, outcome, message } = value;
        let message = message.as_deref().unwrap_or_default();
        if *outcome == RestoreOutcome::Failed {
            tracing::error!(domain, target, original, message, "not put back; it stays in the ledger");
        } else {
            tracing::info!(domain, target, original, ?outcome, message, "put back");
        }
    }
}
