//! Which watched thread has which slot. Pure book-keeping: no map, no memory, no clock.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// A program that looked up a slot just before its index entry was cleared may still write into it. Programs
/// run for well under a microsecond without preemption; a slot rests for this long before it goes to another
/// thread.
const REST: Duration = Duration::from_millis(100);

/// What names a thread for ever: a tid alone is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadKey {
    /// Kernel thread id, in the host's pid name space.
    pub tid: u32,
    /// Start time as in `/proc/PID/task/TID/stat`, in clock ticks since boot.
    pub start_ticks: u64,
}

#[derive(Debug)]
pub(super) struct Table {
    slots: HashMap<u32, (ThreadKey, u32)>,
    /// The lowest goes first: what few threads need stays in few pages.
    free: BTreeSet<u32>,
    /// Given back a moment ago, the oldest first.
    resting: VecDeque<(u32, Instant)>,
}

impl Table {
    pub(super) fn new(slots: u32) -> Self {
        Self { slots: HashMap::new(), free: (0..slots).collect(), resting: VecDeque::new() }
    }

    /// A slot for `key`, which must have none; `None` while all are in use or resting.
    pub(super) fn take(&mut self, key: ThreadKey, now: Instant) -> Option<u32> {
        while let Some((slot, _)) =
            self.resting.pop_front_if(|(_, freed)| now.saturating_duration_since(*freed) >= REST)
        {
            self.free.insert(slot);
        }
        let slot = self.free.pop_first()?;
        self.slots.insert(key.tid, (key, slot));
        Some(slot)
    }

    /// Gives back the slot of whichever thread has this tid.
    pub(super) fn give_back(&mut self, tid: u32, now: Instant) -> Option<u32> {
        let (_, slot) = self.slots.remove(&tid)?;
        self.resting.push_back((slot, now));
        Some(slot)
    }

    /// The slot of exactly this thread.
    pub(super) fn slot(&self, key: ThreadKey) -> Option<u32> {
        self.slots.get(&key.tid).filter(|(owner, _)| *owner == key).map(|&(_, slot)| slot)
    }

    /// All slots in use.
    pub(super) fn in_use(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.values().map(|&(_, slot)| slot)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = ThreadKey> + '_ {
        self.slots.values().map(|&(key, _)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ThreadKey = ThreadKey { tid: 7, start_ticks: 1 };
    const A_REUSED: ThreadKey = ThreadKey { tid: 7, start_ticks: 2 };
    const B: ThreadKey = ThreadKey { tid: 8, start_ticks: 1 };

    #[test]
    fn a_slot_is_read_by_its_owner_only() {
        let mut table = Table::new(2);
        let now = Instant::now();
        assert_eq!(table.take(A, now), Some(0));
        assert_eq!(table.slot(A), Some(0));
        assert_eq!(table.slot(A_REUSED), None);
        assert_eq!(table.slot(B), None);
        assert_eq!(table.keys().collect::<Vec<_>>(), [A]);
    }

    #[test]
    fn a_freed_slot_rests_before_it_is_used_again() {
        let mut table = Table::new(1);
        let now = Instant::now();
        assert_eq!(table.take(A, now), Some(0));
        assert_eq!(table.take(B, now), None, "table full");
        assert_eq!(table.give_back(A.tid, now), Some(0));
        assert_eq!(table.give_back(A.tid, now), None, "given back once");
        assert_eq!(table.take(B, now + REST / 2), None, "resting");
        assert_eq!(table.take(B, now + REST), Some(0));
        assert_eq!(table.slot(A), None);
    }
}
