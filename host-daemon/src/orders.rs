//! [`OrderBook`]: the life of work orders between decision and execution. It numbers what is proposed, keeps one open
//! order for each target, knows who said yes or no, and makes a rejected or rolled-back target rest.

use std::collections::BTreeMap;
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::decide::Verdict;
use kvmpilot_core::order::{OrderState, Proposal, Reason, WorkOrder};
use kvmpilot_core::policy::{Actuator, Mode};

use crate::act::Outcome;
use crate::api::CommandError;
use crate::store::{OrderFilter, Store, StoreError};

/// First pause of a target after a person refused an order; doubles each time.
const PAUSE: Duration = Duration::from_secs(600);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);

/// Open orders, and the targets that rest.
#[derive(Debug)]
pub struct OrderBook {
    store: Store,
    open: BTreeMap<Target, Open>,
    pauses: BTreeMap<Target, (Duration, u32)>,
}

type Target = (Uuid, String);

#[derive(Debug)]
struct Open {
    order: WorkOrder,
    wanted_at: Duration,
}

impl OrderBook {
    /// Opens the book. Orders that an earlier daemon left open are closed: what they saw is no longer true.
    ///
    /// # Errors
    /// When the store fails.
    pub fn open(store: Store, unix_ms: u64) -> Result<Self, StoreError> {
        for (state, to, outcome) in [
            (OrderState::Proposed, OrderState::Expired, "the daemon was restarted before anybody decided"),
            (OrderState::Approved, OrderState::Failed, "the daemon ended before the order was carried out"),
            (
                OrderState::Applied,
                OrderState::RolledBack,
                "the daemon ended before the change was read back, and the next one put the original back",
            ),
            (
                OrderState::Verified,
                OrderState::RolledBack,
                "the daemon ended before the trial was over, and the original was put back",
            ),
        ] {
            for order in store.orders(&OrderFilter { state: Some(state), ..OrderFilter::default() })? {
                store.order_update(order.id, to, outcome, unix_ms)?;
            }
        }
        Ok(Self { store, open: BTreeMap::new(), pauses: BTreeMap::new() })
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
        let mut ready = Vec::new();
        for proposal in proposals {
            let target = (proposal.domain, proposal.action.target());
            let mode = mode(&proposal);
            let paused = self.pauses.get(&target).is_some_and(|(until, _)| *until > now);
            // Releases come first in a round; nothing else may answer them in the same one.
            let taken = ready
                .iter()
                .any(|order: &WorkOrder| (order.proposal.domain, order.proposal.action.target()) == target);
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
            (rested || !is_running(target.0)).then(|| target.clone())
        };
        for target in self.open.iter().filter_map(stale).collect::<Vec<_>>() {
            self.close(&target, "it is no longer needed", unix_ms)?;
        }
        Ok(())
    }

    fn close(&mut self, target: &Target, why: &str, unix_ms: u64) -> Result<(), StoreError> {
        let Some(open) = self.open.remove(target) else { return Ok(()) };
        self.store.order_update(open.order.id, OrderState::Expired, why, unix_ms)
    }

    /// A person said yes: the order to carry out.
    ///
    /// # Errors
    /// When there is no such open order, or the store fails.
    pub fn approve(&mut self, id: u64, by_uid: u32, unix_ms: u64) -> Result<WorkOrder, CommandError> {
        let target = self.target_of(id, "only proposed orders can be approved")?;
        let Some(open) = self.open.get(&target) else { return Err(CommandError::NoSuchOrder(id)) };
        self.decide(id, OrderState::Approved, by_uid, "", unix_ms)?;
        let order = WorkOrder { state: OrderState::Approved, changed_unix_ms: unix_ms, ..open.order.clone() };
        // What somebody else carries out stays open, or it would be proposed again at once.
        if order.proposal.action.actuator() != Actuator::Resize {
            self.open.remove(&target);
        }
        Ok(order)
    }

    /// A person said no: the target rests.
    ///
    /// # Errors
    /// When there is no such open order, or the store fails.
    pub fn reject(&mut self, id: u64, by_uid: u32, now: Duration, unix_ms: u64) -> Result<(), CommandError> {
        let target = self.target_of(id, "only proposed orders can be rejected")?;
        self.decide(id, OrderState::Rejected, by_uid, "rejected by a person", unix_ms)?;
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
        self.pause((order.proposal.domain, order.proposal.action.target()), now);
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
            // A person may have undone it meanwhile.
            if !matches!(self.store.order(*id), Ok(Some(order)) if order.state == OrderState::Verified) {
                continue;
            }
            if let Err(error) = self.store.order_judged(*id, *state, &trial.verdict, Some(trial), unix_ms) {
                tracing::error!(%error, id, "cannot write down what a trial came to");
            }
        }
    }

    /// Writes down what came of an order.
    pub fn settle(&self, id: u64, outcome: &Outcome, unix_ms: u64) {
        if let Err(error) = self.store.order_update(id, outcome.state, &outcome.text, unix_ms) {
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
        by_uid: u32,
        outcome: &str,
        unix_ms: u64,
    ) -> Result<(), CommandError> {
        let result = self.store.order_decided(id, state, by_uid, outcome, unix_ms);
        result.map_err(|error| CommandError::Failed(error.to_string()))
    }

    fn pause(&mut self, target: Target, now: Duration) {
        let (until, times) = self.pauses.entry(target).or_default();
        let pause = PAUSE.saturating_mul(1_u32.checked_shl(*times).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
        *until = now + pause;
        *times = times.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use kvmpilot_core::order::Action;

    use super::*;
    use crate::store::Limits;

    fn proposal(from: u64, to: u64) -> Proposal {
        Proposal {
            domain: Uuid::from_u128(1),
            domain_name: "web".into(),
            action: Action::SetCpuShares { from, to },
            reason: Reason::default(),
            release: false,
            undoes: Vec::new(),
        }
    }

    fn book() -> (tempfile::TempDir, OrderBook) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Limits::default()).unwrap();
        (directory, OrderBook::open(store, 0).unwrap())
    }

    fn policy(mode: Mode) -> impl Fn(&Proposal) -> Mode + Copy {
        move |_| mode
    }

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn recommend_waits_for_a_person_and_keeps_one_order_for_a_target() {
        let (_directory, mut book) = book();
        let recommend = policy(Mode::Recommend);
        assert!(book.admit(vec![proposal(1024, 8192)], recommend, S, 1).unwrap().is_empty());
        assert!(book.admit(vec![proposal(1024, 4096)], recommend, 2 * S, 2).unwrap().is_empty());
        let orders = book.store.orders(&OrderFilter::default()).unwrap();
        assert_eq!(orders.len(), 1, "the same start is the same order");
        assert!(book.admit(vec![proposal(2048, 4096)], recommend, 3 * S, 3).unwrap().is_empty());
        assert_eq!(book.read(1).unwrap().state, OrderState::Expired);
        assert_eq!(book.approve(2, 0, 4).unwrap().state, OrderState::Approved);
        assert!(matches!(book.approve(2, 0, 5), Err(CommandError::WrongState { id: 2, .. })));
        assert!(matches!(book.approve(9, 0, 5), Err(CommandError::NoSuchOrder(9))));
    }

    #[test]
    fn observe_writes_nothing_and_auto_goes_ahead() {
        let (_directory, mut book) = book();
        assert!(book.admit(vec![proposal(1, 2)], policy(Mode::Observe), S, 1).unwrap().is_empty());
        assert!(book.store.orders(&OrderFilter::default()).unwrap().is_empty());
        assert_eq!(book.admit(vec![proposal(1, 2)], policy(Mode::Auto), S, 1).unwrap().len(), 1);
        let release = Proposal { release: true, ..proposal(2, 1) };
        let back = book.admit(vec![release], policy(Mode::Observe), S, 1).unwrap();
        assert_eq!(back.len(), 1, "what is held goes back in mode observe, too");
    }

    #[test]
    fn what_a_person_refused_rests_and_longer_each_time() {
        let (_directory, mut book) = book();
        let recommend = policy(Mode::Recommend);
        book.admit(vec![proposal(1024, 8192)], recommend, S, 1).unwrap();
        book.reject(1, 0, S, 2).unwrap();
        for (at, orders) in [(PAUSE, 1), (PAUSE + 2 * S, 2)] {
            book.admit(vec![proposal(1024, 8192)], recommend, at, 3).unwrap();
            assert_eq!(book.store.orders(&OrderFilter::default()).unwrap().len(), orders);
        }
        book.reject(2, 0, PAUSE + 2 * S, 4).unwrap();
        book.admit(vec![proposal(1024, 8192)], recommend, PAUSE * 2 + 3 * S, 5).unwrap();
        assert_eq!(
            book.store.orders(&OrderFilter::default()).unwrap().len(),
            2,
            "the second pause is longer"
        );
    }

    #[test]
    fn an_undo_is_the_change_the_other_way_round() {
        let (_directory, mut book) = book();
        let order = book.admit(vec![proposal(1024, 8192)], policy(Mode::Auto), S, 1).unwrap().remove(0);
        assert!(book.undo(order.id, S).is_err(), "not carried out yet");
        book.settle(order.id, &Outcome { state: OrderState::Verified, text: "done".into() }, 2);
        let undo = book.undo(order.id, S).unwrap();
        assert_eq!(undo.action, Action::SetCpuShares { from: 8192, to: 1024 });
        assert!(book.admit(vec![proposal(1024, 8192)], policy(Mode::Auto), 2 * S, 3).unwrap().is_empty());
    }

    #[test]
    fn what_nobody_wants_any_more_expires() {
        let (_directory, mut book) = book();
        book.admit(vec![proposal(1024, 8192)], policy(Mode::Recommend), S, 1).unwrap();
        book.expire(|_| true, |_| 3 * S, 4 * S, 2).unwrap();
        assert_eq!(book.read(1).unwrap().state, OrderState::Proposed);
        book.expire(|_| true, |_| 3 * S, 5 * S, 2).unwrap();
        assert_eq!(book.read(1).unwrap().state, OrderState::Expired);
    }
}
