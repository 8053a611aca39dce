//! [`OrderBook`]: the life of work orders between decision and execution. It numbers what is proposed, keeps one open
//! order for each target, knows who said yes or no, and makes a rejected or rolled-back target rest.

use std::collections::BTreeMap;
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::asker::Asker;
use kvmpilot_core::decide::{Verdict, came_true};
use kvmpilot_core::ledger::{LedgerTarget, RestoreOutcome, RestoredValue};
use kvmpilot_core::model::Model;
use kvmpilot_core::order::{OrderState, Proposal, Reason, WorkOrder};
use kvmpilot_core::policy::{Actuator, Mode};
use kvmpilot_core::units::doubled;

use crate::act::Outcome;
use crate::api::CommandError;
use crate::store::{OrderFilter, Store, StoreError};

/// First pause of a target after a person refused an order; doubles each time.
const PAUSE: Duration = Duration::from_secs(600);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// Time that people or an orchestrator get to do what was approved.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Open orders, and the targets that rest.
#[derive(Debug)]
pub struct OrderBook {
    store: Store,
    open: BTreeMap<Target, Open>,
    pauses: BTreeMap<Target, (Duration, u32)>,
    /// In force or on their way when an earlier daemon ended: closed when their values have been put back.
    left: Vec<WorkOrder>,
}

type Target = (Uuid, String);

fn target_of(proposal: &Proposal) -> Target {
    (proposal.domain, proposal.action.target())
}

#[derive(Debug)]
struct Open {
    order: WorkOrder,
    wanted_at: Duration,
}

impl OrderBook {
    /// Opens the book. Orders that an earlier daemon left open are closed: what they saw is no longer true. What people or
    /// orchestrators were to do stays.
    ///
    /// # Errors
    /// When the store fails.
    pub fn open(store: Store, unix_ms: u64) -> Result<Self, StoreError> {
        let in_state = |state| store.orders(&OrderFilter { state: Some(state), ..OrderFilter::default() });
        for order in in_state(OrderState::Proposed)? {
            let why = "the daemon was restarted before anybody decided";
            store.order_update(order.id, OrderState::Expired, why, unix_ms)?;
        }
        let mut open = BTreeMap::new();
        for order in in_state(OrderState::Approved)? {
            if order.proposal.action.actuator() == Actuator::Resize {
                open.insert(target_of(&order.proposal), Open { order, wanted_at: Duration::ZERO });
                continue;
            }
            let why = "the daemon ended before the order was carried out; nothing was changed";
            store.order_update(order.id, OrderState::Failed, why, unix_ms)?;
        }
        let mut left = in_state(OrderState::Applied)?;
        left.extend(in_state(OrderState::Verified)?);
        Ok(Self { store, open, pauses: BTreeMap::new(), left })
    }

    /// Closes the orders that an earlier daemon left in force or on their way, now that everything in its ledger was put
    /// back, as far as it could be.
    pub fn put_back(&mut self, values: &[RestoredValue], unix_ms: u64) {
        for order in std::mem::take(&mut self.left) {
            let Proposal { domain_name, action, .. } = &order.proposal;
            let targets: Vec<String> = LedgerTarget::of(action).iter().map(LedgerTarget::to_string).collect();
            let of_order =
                |value: &&RestoredValue| value.domain == *domain_name && targets.contains(&value.target);
            let trouble = values
                .iter()
                .filter(of_order)
                .find(|value| matches!(value.outcome, RestoreOutcome::Failed | RestoreOutcome::Drift));
            let ended = if order.state == OrderState::Applied {
                "the daemon ended while the change was being made"
            } else {
                "the daemon ended before the trial was over"
            };
            let (state, text) = match trouble {
                None => (OrderState::RolledBack, format!("{ended}; the next one put the original back")),
                Some(value) => {
                    let why = value.message.as_deref().unwrap_or("no reason was given");
                    (OrderState::Failed, format!("{ended}; {} was not put back: {why}", value.target))
                }
            };
            if let Err(error) = self.store.order_update_soon(order.id, state, &text, unix_ms) {
                tracing::error!(%error, order.id, "cannot close an order that an earlier daemon left");
            }
        }
    }

    /// Closes what people or orchestrators were to do and have done.
    ///
    /// # Errors
    /// When the store fails.
    pub fn follow_up(&mut self, model: &Model, unix_ms: u64) -> Result<(), StoreError> {
        let done = |(target, open): (&Target, &Open)| {
            let domain = model.domains.iter().find(|domain| domain.uuid == target.0);
            Some((target.clone(), came_true(&open.order.proposal.action, domain)?))
        };
        for (target, what) in self.open.iter().filter_map(done).collect::<Vec<_>>() {
            if let Some(open) = self.open.remove(&target) {
                let text = format!("{what}; somebody else did it");
                self.store.order_update_soon(open.order.id, OrderState::Kept, &text, unix_ms)?;
            }
        }
        Ok(())
    }

    /// Takes in what one decision wants and returns the orders to carry out now: those in mode `auto`, and releases, in
    /// whatever mode: what was taken in another mode must come back also when the mode has changed. The others wait for approval; one that is wanted again stays the same order as long as it starts from the same
    /// value.
    ///
    /// # Errors
    /// When the store fails; nothing is to be carried out then.
    pub fn admit(
        &mut self,
        proposals: Vec<Proposal>,
        mode: impl Fn(&Proposal) -> Mode,
        now: Duration,
        unix_ms: u64,
    ) -> Result<Vec<WorkOrder>, StoreError> {
        for lost in self.store.take_lost() {
            // Nobody could say yes or no to it.
            self.open.retain(|_, open| open.order.id != lost);
        }
        let mut ready = Vec::new();
        for proposal in proposals {
            let target = target_of(&proposal);
            let mode = mode(&proposal);
            let paused = self.pauses.get(&target).is_some_and(|(until, _)| *until > now);
            // Releases come first in a round; nothing else may answer them in the same one.
            let taken = ready.iter().any(|order: &WorkOrder| target_of(&order.proposal) == target);
            if taken || (!proposal.release && (paused || mode == Mode::Observe)) {
                continue;
            }
            let goes_ahead = mode == Mode::Auto || proposal.release;
            if goes_ahead && proposal.action.actuator() != Actuator::Resize {
                self.close(&target, "a newer order took its place", unix_ms)?;
                ready.push(self.store.order_insert(&proposal, OrderState::Approved, unix_ms)?);
                continue;
            }
            if let Some(open) = self.open.get_mut(&target)
                && open.order.proposal.action.from_text() == proposal.action.from_text()
            {
                open.wanted_at = now;
                continue;
            }
            self.close(&target, "the value that it starts from has changed", unix_ms)?;
            let order = self.store.order_insert(&proposal, OrderState::Proposed, unix_ms)?;
            self.open.insert(target, Open { order, wanted_at: now });
        }
        Ok(ready)
    }

    /// The orders of a domain that wait for approval.
    pub fn open_of(&self, domain: Uuid) -> impl Iterator<Item = &WorkOrder> {
        self.open.iter().filter(move |((of, _), _)| *of == domain).map(|(_, open)| &open.order)
    }

    /// What of a domain rests after a person refused it, and for how long.
    pub fn resting(&self, domain: Uuid, now: Duration) -> impl Iterator<Item = (&str, Duration)> {
        let of_domain = self.pauses.iter().filter(move |((of, _), (until, _))| *of == domain && *until > now);
        of_domain.map(move |((_, target), (until, _))| (target.as_str(), until.saturating_sub(now)))
    }

    /// Closes open orders that nobody has wanted for `patience`, and those of domains that are gone.
    ///
    /// # Errors
    /// When the store fails.
    pub fn expire(
        &mut self,
        is_running: impl Fn(Uuid) -> bool,
        patience: impl Fn(Actuator) -> Duration,
        now: Duration,
        unix_ms: u64,
    ) -> Result<(), StoreError> {
        let stale = |(target, open): (&Target, &Open)| {
            let rested = now.saturating_sub(open.wanted_at) > patience(open.order.proposal.action.actuator());
            let approved = open.order.state == OrderState::Approved;
            let waited = Duration::from_millis(unix_ms.saturating_sub(open.order.changed_unix_ms));
            if !is_running(target.0) {
                Some((target.clone(), "the domain does not run any more"))
            } else if approved {
                (waited > DAY).then(|| (target.clone(), "it was approved, and nobody did it within a day"))
            } else {
                rested.then(|| (target.clone(), "it is no longer needed"))
            }
        };
        for (target, why) in self.open.iter().filter_map(stale).collect::<Vec<_>>() {
            self.close(&target, why, unix_ms)?;
        }
        Ok(())
    }

    fn close(&mut self, target: &Target, why: &str, unix_ms: u64) -> Result<(), StoreError> {
        let Some(open) = self.open.get(target) else { return Ok(()) };
        self.store.order_update_soon(open.order.id, OrderState::Expired, why, unix_ms)?;
        self.open.remove(target);
        Ok(())
    }

    /// A person said yes: the order to carry out.
    ///
    /// # Errors
    /// When there is no such open order, or the store fails.
    pub fn approve(&mut self, id: u64, by: &Asker, unix_ms: u64) -> Result<WorkOrder, CommandError> {
        let target = self.target_of(id, "only proposed orders can be approved")?;
        let Some(open) = self.open.get(&target) else { return Err(CommandError::NoSuchOrder(id)) };
        if open.order.state != OrderState::Proposed {
            let allowed = "only proposed orders can be approved";
            return Err(CommandError::WrongState { id, state: open.order.state, allowed });
        }
        self.decide(id, OrderState::Approved, by, "", unix_ms)?;
        let order = WorkOrder {
            state: OrderState::Approved,
            changed_unix_ms: unix_ms,
            decided_by_uid: by.uid,
            decided_by_token: by.token.clone(),
            ..open.order.clone()
        };
        // What somebody else carries out stays open, or it would be proposed again at once.
        if order.proposal.action.actuator() == Actuator::Resize {
            let wanted_at = open.wanted_at;
            self.open.insert(target, Open { order: order.clone(), wanted_at });
        } else {
            self.open.remove(&target);
        }
        Ok(order)
    }

    /// A person said no: the target rests.
    ///
    /// # Errors
    /// When there is no such open order, or the store fails.
    pub fn reject(&mut self, id: u64, by: &Asker, now: Duration, unix_ms: u64) -> Result<(), CommandError> {
        let target = self.target_of(id, "only proposed orders can be rejected")?;
        self.decide(id, OrderState::Rejected, by, "rejected by a person", unix_ms)?;
        self.open.remove(&target);
        self.pause(target, now);
        Ok(())
    }

    /// The change that undoes an order that was carried out; its target rests.
    ///
    /// # Errors
    /// When there is no such order, it was not carried out, or the store fails.
    pub fn undo(&mut self, id: u64, now: Duration) -> Result<Proposal, CommandError> {
        let order = self.read(id)?;
        if !order.state.is_in_force() {
            let allowed = "only orders that were carried out can be rolled back";
            return Err(CommandError::WrongState { id, state: order.state, allowed });
        }
        let Some(action) = order.proposal.action.clone().reversed() else {
            return Err(CommandError::Failed(
                "kvmpilot did not carry it out, so it cannot undo it".to_owned(),
            ));
        };
        self.pause(target_of(&order.proposal), now);
        let reason = Reason {
            rule: "person.rollback".to_owned(),
            summary: format!("a person asked to undo order {id}"),
            ..Reason::default()
        };
        Ok(Proposal { action, reason, release: true, undoes: vec![id], ..order.proposal })
    }

    /// Writes down what a trial came to. What is to be undone stays verified until it is.
    pub fn judge(&self, verdict: &Verdict, unix_ms: u64) {
        let Verdict { orders, state, trial } = verdict;
        for id in orders {
            if let Err(error) = self.store.order_judged_soon(*id, *state, trial, unix_ms) {
                tracing::error!(%error, id, "cannot write down what a trial came to");
            }
        }
    }

    /// Writes down what came of an order.
    pub fn settle(&self, id: u64, outcome: &Outcome, unix_ms: u64) {
        if let Err(error) = self.store.order_update_soon(id, outcome.state, &outcome.text, unix_ms) {
            tracing::error!(%error, id, state = %outcome.state, "cannot write down what came of an order");
        }
    }

    /// The order as stored.
    ///
    /// # Errors
    /// When there is none of this number, or the store fails.
    pub fn read(&self, id: u64) -> Result<WorkOrder, CommandError> {
        let order = self.store.order(id).map_err(|error| CommandError::Failed(error.to_string()))?;
        order.ok_or(CommandError::NoSuchOrder(id))
    }

    fn target_of(&self, id: u64, allowed: &'static str) -> Result<Target, CommandError> {
        if let Some((target, _)) = self.open.iter().find(|(_, open)| open.order.id == id) {
            return Ok(target.clone());
        }
        let state = self.read(id)?.state;
        Err(CommandError::WrongState { id, state, allowed })
    }

    fn decide(
        &self,
        id: u64,
        state: OrderState,
        by: &Asker,
        outcome: &str,
        unix_ms: u64,
    ) -> Result<(), CommandError> {
        let result = self.store.order_decided(id, state, by, outcome, unix_ms);
        result.map_err(|error| CommandError::Failed(error.to_string()))
    }

    fn pause(&mut self, target: Target, now: Duration) {
        let (until, times) = self.pauses.entry(target).or_default();
        *until = now + doubled(PAUSE, *times, LONGEST_PAUSE);
        *times = times.saturating_add(1);
    }
}

#[cfg(test)]
mod tests;
