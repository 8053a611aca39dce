//! The states that orders came into, one after the other, for who follows all of them.

use kvmpilot_core::order::{OrderState, Proposal};
use rusqlite::params;

use super::sql::{Json, Word, clamp};
use super::{Store, StoreError};

/// An order came into a state.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredOrderEvent {
    /// Number of the event; later ones have larger numbers.
    pub id: u64,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Number of the order.
    pub order: u64,
    /// The state.
    pub state: OrderState,
    /// What was known of its outcome then.
    pub outcome: String,
    /// What the order is about.
    pub proposal: Proposal,
}

/// How far who follows has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen(Option<(bool, u64)>);

impl Store {
    /// The events since the last time, oldest first, `limit` at most. What was before the first time is history, and so is what
    /// stands in another database: a spare one numbers them anew. Nothing is lost when the file cannot be read just now.
    pub fn order_news(&self, seen: &mut Seen, limit: u32) -> Vec<StoredOrderEvent> {
        let spare = self.is_spare();
        let read = match seen.0 {
            Some((was_spare, last)) if was_spare == spare => self.order_events(last, limit).map(|events| {
                let last = events.last().map_or(last, |event| event.id);
                (events, last)
            }),
            _ => self.last_order_event().map(|last| (Vec::new(), last)),
        };
        match read {
            Ok((events, last)) => {
                seen.0 = Some((spare, last));
                events
            }
            Err(error) => {
                tracing::debug!(%error, "news of orders come later");
                Vec::new()
            }
        }
    }

    /// Number of the last event; 0 before the first.
    ///
    /// # Errors
    /// When the file could not be read.
    fn last_order_event(&self) -> Result<u64, StoreError> {
        self.read(|connection| {
            let mut last = connection.prepare_cached("select coalesce(max(id), 0) from order_event")?;
            last.query_row([], |row| row.get(0))
        })
    }

    /// Events behind number `after`, oldest first, `limit` at most.
    ///
    /// # Errors
    /// When the file could not be read.
    fn order_events(&self, after: u64, limit: u32) -> Result<Vec<StoredOrderEvent>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "select e.id, e.unix_ms, e.state, e.outcome, e.work_order, w.proposal
                     from order_event e join work_order w on w.id = e.work_order
                     where e.id > ?1 order by e.id limit ?2",
                )?
                .query_map(params![clamp(after), limit], |row| {
                    let (Word(state), Json(proposal)) = (row.get(2)?, row.get(5)?);
                    Ok(StoredOrderEvent {
                        id: row.get(0)?,
                        unix_ms: row.get(1)?,
                        order: row.get(4)?,
                        state,
                        outcome: row.get(3)?,
                        proposal,
                    })
                })?
                .collect()
        })
    }
}
