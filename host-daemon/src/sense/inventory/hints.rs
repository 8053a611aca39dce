//! What libvirt's hook has told, until an event of libvirt's has confirmed it or its time is up.
//!
//! The hook comes first: libvirt still holds the domain when it calls it, and sends the event when it lets go. A call about
//! the domain in between would have to wait, and one more after the event would be for nothing. So a hint waits for a
//! moment, and counts only where the event has not led to a reading by then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvmpilot_core::Uuid;
use tokio::time::Instant;

use super::Entries;
use crate::hook::{HookCall, Turn};

/// Time that the event gets. Together with one turn of the fast loop it leaves room for a second look within two seconds.
const WAITS: Duration = Duration::from_millis(400);
/// Hints that are kept. With more, everything is looked at.
const MOST: usize = 256;

/// The last hint about each domain, by name.
#[derive(Debug, Default)]
pub(super) struct Hints {
    waiting: BTreeMap<String, (Turn, Instant)>,
    /// Since when there are more than can be kept.
    too_many: Option<Instant>,
}

/// Hints whose time is up and that nothing has confirmed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Names of domains that should run.
    pub(super) look_for: BTreeSet<String>,
    /// Domains that should have gone.
    pub(super) look_at: Vec<Uuid>,
    /// There were too many: read the list.
    pub(super) everything: bool,
}

impl Hints {
    /// Takes note of a call of the hook.
    pub(super) fn take(&mut self, call: HookCall) {
        if !matches!(call.turn, Turn::Here | Turn::Gone) {
            return;
        }
        if self.waiting.len() < MOST || self.waiting.contains_key(&call.name) {
            self.waiting.insert(call.name, (call.turn, call.at));
        } else {
            self.too_many.get_or_insert(call.at);
        }
    }

    /// When the first hint's time is up.
    pub(super) fn due(&self) -> Option<Instant> {
        let told = self.waiting.values().map(|(_, at)| *at).chain(self.too_many).min();
        told.map(|at| at + WAITS)
    }

    /// Takes out the hints whose time is up, and says what is to be done about those that `entries` does not bear out.
    pub(super) fn settle(&mut self, now: Instant, entries: &Entries) -> Settled {
        let is_due = |at: Instant| at + WAITS <= now;
        let mut settled = Settled { everything: self.too_many.is_some_and(is_due), ..Settled::default() };
        if settled.everything {
            self.too_many = None;
        }
        self.waiting.retain(|name, (turn, at)| {
            if !is_due(*at) {
                return true;
            }
            let mut known = entries.iter().filter(|(_, entry)| entry.name == *name);
            let is_read = |entry: &super::InventoryEntry| entry.read_at.is_some_and(|read| read >= *at);
            match turn {
                Turn::Gone => settled.look_at.extend(known.map(|(uuid, _)| *uuid)),
                _ if known.any(|(_, entry)| is_read(entry)) => {}
                _ => {
                    settled.look_for.insert(name.clone());
                }
            }
            false
        });
        settled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sense::InventoryEntry;

    const MS: Duration = Duration::from_millis(1);

    fn entries(domains: &[(u128, &str, Instant)]) -> Entries {
        let entry = |(id, name, read_at): &(u128, &str, Instant)| {
            let entry = InventoryEntry { read_at: Some(*read_at), ..InventoryEntry::new(name, *read_at) };
            (Uuid::from_u128(*id), Arc::new(entry))
        };
        domains.iter().map(entry).collect()
    }

    fn call(name: &str, turn: Turn, at: Instant) -> HookCall {
        HookCall { name: name.to_owned(), turn, at }
    }

    #[test]
    fn only_what_no_event_has_told_is_looked_for() {
        let began = Instant::now();
        let mut hints = Hints::default();
        for name in ["event", "no-event", "old"] {
            hints.take(call(name, Turn::Coming, began));
            hints.take(call(name, Turn::Here, began));
        }
        hints.take(call("later", Turn::Here, began + 300 * MS));
        assert_eq!(hints.due(), Some(began + WAITS));
        let known = entries(&[(1, "event", began + 20 * MS), (2, "old", began - MS)]);
        assert_eq!(hints.settle(began + 399 * MS, &known), Settled::default());
        let settled = hints.settle(began + 400 * MS, &known);
        let wanted = ["no-event", "old"].map(str::to_owned).into();
        assert_eq!(settled, Settled { look_for: wanted, ..Settled::default() });
        assert_eq!(hints.due(), Some(began + 700 * MS), "one hint is left");
    }

    #[test]
    fn who_has_gone_is_looked_at_once_unless_forgotten_already() {
        let began = Instant::now();
        let mut hints = Hints::default();
        for name in ["here-still", "gone"] {
            hints.take(call(name, Turn::Here, began));
            hints.take(call(name, Turn::Gone, began + MS));
            hints.take(call(name, Turn::Gone, began + 2 * MS));
        }
        let known = entries(&[(1, "here-still", began + 10 * MS)]);
        let settled = hints.settle(began + 500 * MS, &known);
        assert_eq!(settled, Settled { look_at: vec![Uuid::from_u128(1)], ..Settled::default() });
        assert_eq!(hints.due(), None);
    }

    #[test]
    fn a_flood_of_names_ends_in_one_look_at_everything() {
        let began = Instant::now();
        let mut hints = Hints::default();
        for n in 0..10 * MOST {
            hints.take(call(&format!("d{n}"), Turn::Here, began));
        }
        let settled = hints.settle(began + WAITS, &Entries::new());
        assert!(settled.everything && settled.look_for.len() == MOST);
        assert_eq!(hints.due(), None);
    }
}
