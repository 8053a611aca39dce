//! The slots' memory, shared with the probes: aya has no mmap for arrays, so this maps the file descriptor
//! itself. A slot is read without a system call. Whose slot it is, is `table.rs`'s business.

use std::mem::{offset_of, transmute};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed};

use kvmpilot_ebpf_common::sched::Slot;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

const WORDS: usize = size_of::<Slot>() / size_of::<u64>();

/// Words before the histogram: each switch changes at least one of them.
const HEAD: usize = offset_of!(Slot, waits) / size_of::<u64>();

/// A slot as both sides see it: the probe stores aligned fields of at most a word, we load and store words.
type SharedSlot = [AtomicU64; WORDS];

#[derive(Debug)]
pub(super) struct Slots {
    first: NonNull<SharedSlot>,
    count: usize,
    bytes: NonZeroUsize,
}

// SAFETY: the mapping belongs to this value alone and is only accessed through atomics.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// Maps all of a `BPF_F_MMAPABLE` array of `count` slots.
    pub(super) fn map(array: impl AsFd, count: usize) -> nix::Result<Self> {
        let bytes =
            NonZeroUsize::new(count.saturating_mul(size_of::<Slot>())).ok_or(nix::errno::Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the kernel checks the length against
        // the array.
        let first = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, array, 0) }?.cast();
        Ok(Self { first, count, bytes })
    }

    fn at(&self, slot: u32) -> &SharedSlot {
        let index = usize::try_from(slot).unwrap_or(usize::MAX);
        assert!(index < self.count, "slot {slot} of {}", self.count);
        // SAFETY: inside the mapping, which lives as long as `self`, is aligned to a page and holds only
        // integers.
        unsafe { self.first.add(index).as_ref() }
    }

    /// A slot between two switches. We may be preempted while we copy and mix what was before a switch with
    /// what came after it (seen within seconds on a busy machine), so the copy counts only if the slot still
    /// says the same.
    pub(super) fn load(&self, slot: u32) -> Slot {
        const TRIES: usize = 100;
        let shared = self.at(slot);
        let copy = || -> [u64; WORDS] { std::array::from_fn(|n| shared[n].load(Acquire)) };
        let still = |words: &[u64; WORDS]| (0..HEAD).all(|n| shared[n].load(Acquire) == words[n]);
        let mut words = copy();
        for _ in 0..TRIES {
            if still(&words) {
                break;
            }
            words = copy();
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

    /// Sets the one field that belongs to us while the probe writes the rest.
    pub(super) fn set_window(&self, slot: u32, window: u64) {
        self.at(slot)[offset_of!(Slot, window) / size_of::<u64>()].store(window, Relaxed);
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: the whole of the mapping made in `map`; no reference into it outlives `self`.
        if let Err(err) = unsafe { munmap(self.first.cast(), self.bytes.get()) } {
            tracing::error!(%err, "cannot unmap the probes' slots");
        }
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
        let mut stored = Slot::armed(77, 88);
        stored.max_window = 9;
        slots.store(3, stored);
        slots.set_window(3, 5);
        let slot = slots.load(3);
        assert_eq!((slot.tid, slot.start_ticks, slot.window, slot.max_window), (77, 88, 5, 9));
        assert_eq!(slots.load(2).tid, 0);
        assert_eq!(slots.load(4).tid, 0);
    }
}
