//! The slots of the watched threads, in memory shared with the probes. Whose slot it is, is `table.rs`'s business.

use std::mem::{offset_of, transmute};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed};

use kvmpilot_ebpf_common::sched::Slot;

use super::shared::Shared;

const WORDS: usize = size_of::<Slot>() / size_of::<u64>();

/// Words before the histogram: each switch changes at least one of them.
const HEAD: usize = offset_of!(Slot, waits) / size_of::<u64>();

#[derive(Debug)]
pub(super) struct Slots(Shared);

impl Slots {
    /// Maps all of a `BPF_F_MMAPABLE` array of `count` slots.
    pub(super) fn map(array: impl AsFd, count: usize) -> nix::Result<Self> {
        Shared::map(array, 0, count.saturating_mul(WORDS)).map(Self)
    }

    fn at(&self, slot: u32) -> &[AtomicU64] {
        let begin = usize::try_from(slot).unwrap_or(usize::MAX).saturating_mul(WORDS);
        &self.0.words()[begin..][..WORDS]
    }

    /// A slot between two switches. We may be preempted while we copy and mix what was before a switch with
    /// what came after it (seen within seconds on a busy machine), so the copy counts only if the slot still
    /// says the same.
    pub(super) fn load(&self, slot: u32) -> Slot {
        self.copy(slot, WORDS)
    }

    /// As [`Self::load`] with zeros for the histogram: a third of the memory, which is what it costs where thousands of
    /// slots are read that lie in no cache.
    pub(super) fn load_head(&self, slot: u32) -> Slot {
        self.copy(slot, HEAD)
    }

    fn copy(&self, slot: u32, count: usize) -> Slot {
        const TRIES: usize = 100;
        let shared = self.at(slot);
        let mut words = [0; WORDS];
        let copy = |words: &mut [u64; WORDS]| {
            words.iter_mut().zip(shared).take(count).for_each(|(word, shared)| *word = shared.load(Acquire));
        };
        let still = |words: &[u64; WORDS]| (0..HEAD).all(|n| shared[n].load(Acquire) == words[n]);
        copy(&mut words);
        for _ in 0..TRIES {
            if still(&words) {
                break;
            }
            copy(&mut words);
        }
        // SAFETY: same size, and every field is an integer.
        unsafe { transmute(words) }
    }

    /// Overwrites a slot that no index entry leads to.
    pub(super) fn store(&self, slot: u32, value: Slot) {
        // SAFETY: same size, and the struct has no padding (asserted where it is defined).
        let words: [u64; WORDS] = unsafe { transmute(value) };
        for (shared, word) in self.at(slot).iter().zip(words) {
            shared.store(word, Relaxed);
        }
    }

    /// How many threads its thread has started.
    pub(super) fn forks(&self, slot: u32) -> u64 {
        self.at(slot)[offset_of!(Slot, forks) / size_of::<u64>()].load(Relaxed)
    }

    /// Sets the one field that belongs to us while the probe writes the rest.
    pub(super) fn next_window(&self, slot: u32) {
        let window = &self.at(slot)[offset_of!(Slot, window) / size_of::<u64>()];
        window.store(window.load(Relaxed).wrapping_add(1), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_comes_back_as_stored_and_the_window_alone_changes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let slots = Slots::map(&file, 8).unwrap();
        let mut stored = Slot::armed(77, 88, 4, 2);
        (stored.window, stored.max_window) = (4, 9);
        slots.store(3, stored);
        slots.next_window(3);
        let slot = slots.load(3);
        assert_eq!((slot.tid, slot.start_ticks, slot.window, slot.max_window), (77, 88, 5, 9));
        assert_eq!((slot.row, slot.group, slots.forks(3)), (4, 2, 0));
        stored.waits[7] = 1;
        slots.store(3, stored);
        assert_eq!((slots.load(3).waits[7], slots.load_head(3).waits[7]), (1, 0));
        assert_eq!((slots.load_head(3).tid, slots.load_head(3).row), (77, 4));
        assert_eq!(slots.load(2).tid, 0);
        assert_eq!(slots.load(4).tid, 0);
    }
}
