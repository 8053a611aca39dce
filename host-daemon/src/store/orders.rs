//! Work orders.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvmpilot_core::Uuid;
use kvmpilot_core::asker::Asker;
use kvmpilot_core::order::{OrderEvent, OrderState, Proposal, Trial, WorkOrder};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::sql::{Json, Word, clamp};
use super::writer::State;
use super::{Store, StoreError};

/// Which work orders to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrderFilter {
    /// Only those in this state.
    pub state: Option<OrderState>,
    /// Only those of the domain of this name or UUID.
    pub domain: Option<String>,
    /// Only those with a smaller number.
    pub before: Option<u64>,
    /// Only those that were proposed at this time, in milliseconds since 1970, or later.
    pub since_unix_ms: Option<u64>,
    /// Whether to read the states that each was in.
    pub with_history: bool,
    /// At most so many; `None` for all.
    pub limit: Option<u32>,
}

/// How many work orders there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderCounts {
    /// They wait for approval.
    pub proposed: u64,
    /// All in the store.
    pub total: u64,
}

/// How often orders came into each state since the daemon started, in the order of [`OrderState::ALL`]. Unlike what is in the
/// store, these never fall.
#[derive(Debug, Default)]
pub(super) struct OrderMoves([AtomicU64; OrderState::ALL.len()]);

impl OrderMoves {
    pub(super) fn note(&self, state: OrderState, moved: bool) {
        if !moved {
            return;
        }
        let known = OrderState::ALL.iter().zip(&self.0).find(|(of, _)| **of == state);
        if let Some((_, count)) = known {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

const COLUMNS: &str =
    "id, state, created_unix_ms, changed_unix_ms, outcome, proposal, trial, decided_by_uid, decided_by_token";

impl Store {
    /// Gives a proposal its number. It is written down soon: before whatever is written later, and [`Store::take_lost`] tells
    /// if it could not be.
    ///
    /// # Errors
    /// When the disk does not keep up, or the writer has ended.
    pub fn order_insert(
        &self,
        proposal: &Proposal,
        state: OrderState,
        unix_ms: u64,
    ) -> Result<WorkOrder, StoreError> {
        let id = self.current().next_order.fetch_add(1, Ordering::Relaxed);
        let (health, moves) = (Arc::clone(&self.shared.health), Arc::clone(&self.shared.moves));
        let of_order = proposal.clone();
        let insert = move |writer: &mut State| {
            writer
                .connection
                .prepare_cached(
                    "insert into work_order
                         (id, domain, domain_name, state, created_unix_ms, changed_unix_ms, outcome, proposal)
                     values (?1, ?2, ?3, ?4, ?5, ?5, '', ?6)",
                )?
                .execute(params![
                    clamp(id),
                    of_order.domain.as_bytes(),
                    of_order.domain_name,
                    Word(state),
                    clamp(unix_ms),
                    Json(&of_order)
                ])?;
            moves.note(state, true);
            Ok(())
        };
        self.write_soon("a work order", insert, move || health.lose(id))?;
        Ok(WorkOrder {
            id,
            proposal: proposal.clone(),
            state,
            created_unix_ms: unix_ms,
            changed_unix_ms: unix_ms,
            outcome: String::new(),
            trial: None,
            decided_by_uid: None,
            decided_by_token: None,
            history: vec![OrderEvent { unix_ms, state, outcome: String::new() }],
        })
    }

    /// Moves an order to another state.
    ///
    /// # Errors
    /// When there is no such order, or the file could not be written.
    pub fn order_update(
        &self,
        id: u64,
        state: OrderState,
        outcome: &str,
        unix_ms: u64,
    ) -> Result<(), StoreError> {
        self.move_order(id, state, outcome, None, unix_ms)
    }

    /// Moves an order from approved to applied: whoever gets `true` may make the change, and nobody gets it twice.
    ///
    /// # Errors
    /// When the file could not be written.
    pub fn order_apply(&self, id: u64, unix_ms: u64) -> Result<bool, StoreError> {
        let changed = self.write(move |connection| {
            connection
                .prepare_cached(
                    "update work_order set state = 'applied', changed_unix_ms = ?2
                     where id = ?1 and state = 'approved'",
                )?
                .execute(params![clamp(id), clamp(unix_ms)])
        })?;
        self.shared.moves.note(OrderState::Applied, changed > 0);
        Ok(changed > 0)
    }

    /// Moves an order to the state that a person chose.
    ///
    /// # Errors
    /// As [`Self::order_update`].
    pub fn order_decided(
        &self,
        id: u64,
        state: OrderState,
        by: &Asker,
        outcome: &str,
        unix_ms: u64,
    ) -> Result<(), StoreError> {
        self.move_order(id, state, outcome, Some(by), unix_ms)
    }

    fn move_order(
        &self,
        id: u64,
        state: OrderState,
        outcome: &str,
        by: Option<&Asker>,
        unix_ms: u64,
    ) -> Result<(), StoreError> {
        let step = Step {
            id,
            from: None,
            to: state,
            outcome: outcome.to_owned(),
            trial: None,
            by: by.cloned(),
            unix_ms,
        };
        let changed = self.write(move |connection| step.take(connection))?;
        self.shared.moves.note(state, changed);
        if changed { Ok(()) } else { Err(StoreError::NoSuchOrder(id)) }
    }

    /// As [`Self::order_update`], but does not wait.
    ///
    /// # Errors
    /// When the disk does not keep up, or the writer has ended.
    pub fn order_update_soon(
        &self,
        id: u64,
        state: OrderState,
        outcome: &str,
        unix_ms: u64,
    ) -> Result<(), StoreError> {
        let outcome = outcome.to_owned();
        self.step_soon(Step { id, from: None, to: state, outcome, trial: None, by: None, unix_ms })
    }

    /// Moves a verified order to the state in which its trial ended, without waiting. One that a person has undone meanwhile
    /// stays as it is.
    ///
    /// # Errors
    /// As [`Self::order_update_soon`].
    pub fn order_judged_soon(
        &self,
        id: u64,
        state: OrderState,
        trial: &Trial,
        unix_ms: u64,
    ) -> Result<(), StoreError> {
        let (from, outcome) = (Some(OrderState::Verified), trial.verdict.clone());
        self.step_soon(Step { id, from, to: state, outcome, trial: Some(trial.clone()), by: None, unix_ms })
    }

    fn step_soon(&self, step: Step) -> Result<(), StoreError> {
        let moves = Arc::clone(&self.shared.moves);
        let take = move |state: &mut State| state.step(step, &moves);
        self.write_soon("what came of a work order; it is tried again", take, || ())
    }

    /// One order, with the states that it was in. As in [`Self::orders`], what was written down before is in it.
    ///
    /// # Errors
    /// When the file could not be read.
    pub fn order(&self, id: u64) -> Result<Option<WorkOrder>, StoreError> {
        self.settle()?;
        self.read(|connection| {
            let order = connection
                .prepare_cached(&format!("select {COLUMNS} from work_order where id = ?1"))?
                .query_row([clamp(id)], from_row)
                .optional()?;
            let Some(mut order) = order else { return Ok(None) };
            order.history = history(connection, id)?;
            Ok(Some(order))
        })
    }

    /// Orders, newest first.
    ///
    /// # Errors
    /// When the file could not be read.
    pub fn orders(&self, filter: &OrderFilter) -> Result<Vec<WorkOrder>, StoreError> {
        self.settle()?;
        let uuid = filter.domain.as_deref().and_then(|domain| domain.parse::<Uuid>().ok());
        self.read(|connection| {
            let mut orders: Vec<WorkOrder> = connection
                .prepare_cached(&format!(
                    "select {COLUMNS} from work_order
                     where (?1 is null or state = ?1) and (?2 is null or domain_name = ?2 or domain = ?3)
                         and (?4 is null or id < ?4) and (?6 is null or created_unix_ms >= ?6)
                     order by id desc limit ?5"
                ))?
                .query_map(
                    params![
                        filter.state.map(Word),
                        filter.domain,
                        uuid.map(|uuid| *uuid.as_bytes()),
                        filter.before.map(clamp),
                        filter.limit.map_or(-1, i64::from),
                        filter.since_unix_ms.map(clamp)
                    ],
                    from_row,
                )?
                .collect::<rusqlite::Result<_>>()?;
            if filter.with_history {
                for order in &mut orders {
                    order.history = history(connection, order.id)?;
                }
            }
            Ok(orders)
        })
    }

    /// How often orders came into each state since the daemon started.
    #[must_use]
    pub fn order_moves(&self) -> Vec<(OrderState, u64)> {
        let counts = self.shared.moves.0.iter().map(|count| count.load(Ordering::Relaxed));
        OrderState::ALL.into_iter().zip(counts).collect()
    }

    /// How many orders there are, without those that wait to be written.
    ///
    /// # Errors
    /// When the file could not be read.
    pub fn order_counts(&self) -> Result<OrderCounts, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "select count(*) filter (where state = 'proposed'), count(*) from work_order",
                )?
                .query_row([], |row| Ok(OrderCounts { proposed: row.get(0)?, total: row.get(1)? }))
        })
    }
}

/// An order moves to another state.
#[derive(Debug)]
pub(super) struct Step {
    id: u64,
    /// Only if it is in this one.
    from: Option<OrderState>,
    pub(super) to: OrderState,
    outcome: String,
    trial: Option<Trial>,
    by: Option<Asker>,
    unix_ms: u64,
}

impl Step {
    /// Takes it; `false` where there is no such order.
    pub(super) fn take(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let Asker { uid, token } = self.by.clone().unwrap_or_default();
        let changed = connection
            .prepare_cached(
                "update work_order set state = ?2, outcome = ?3, changed_unix_ms = ?4,
                     trial = coalesce(?5, trial), decided_by_uid = coalesce(?6, decided_by_uid),
                     decided_by_token = coalesce(?7, decided_by_token)
                 where id = ?1 and (?8 is null or state = ?8)",
            )?
            .execute(params![
                clamp(self.id),
                Word(self.to),
                self.outcome,
                clamp(self.unix_ms),
                self.trial.as_ref().map(Json),
                uid,
                token,
                self.from.map(Word)
            ])?;
        Ok(changed > 0)
    }
}

/// Number of the next order. None is given out twice, also when the newest are deleted.
pub(super) fn next(connection: &Connection) -> rusqlite::Result<u64> {
    let last = "select max(coalesce((select seq from sqlite_sequence where name = 'work_order'), 0),
                    coalesce((select max(id) from work_order), 0))";
    connection.query_row(last, [], |row| row.get::<_, u64>(0)).map(|last| last + 1)
}

/// The states that an order was in, oldest first.
fn history(connection: &Connection, id: u64) -> rusqlite::Result<Vec<OrderEvent>> {
    connection
        .prepare_cached("select unix_ms, state, outcome from order_event where work_order = ?1 order by id")?
        .query_map([clamp(id)], |row| {
            let Word(state) = row.get("state")?;
            Ok(OrderEvent { unix_ms: row.get("unix_ms")?, state, outcome: row.get("outcome")? })
        })?
        .collect()
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<WorkOrder> {
    let Word(state) = row.get("state")?;
    let Json(proposal) = row.get("proposal")?;
    Ok(WorkOrder {
        id: row.get("id")?,
        proposal,
        state,
        created_unix_ms: row.get("created_unix_ms")?,
        changed_unix_ms: row.get("changed_unix_ms")?,
        outcome: row.get("outcome")?,
        trial: row.get::<_, Option<Json<Trial>>>("trial")?.map(|Json(trial)| trial),
        decided_by_uid: row.get("decided_by_uid")?,
        decided_by_token: row.get("decided_by_token")?,
        history: Vec::new(),
    })
}
