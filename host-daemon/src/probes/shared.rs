//! Memory of the probes' arrays, shared with the daemon: aya has no mmap for arrays, so this maps the file descriptor
//! itself. The probes store aligned fields of at most a word, we load and store words: no system call, no copy.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Some of the words of a `BPF_F_MMAPABLE` array.
#[derive(Debug)]
pub(super) struct Shared {
    first: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping belongs to this value alone and is only accessed through atomics.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps `words` of an array from `skip` on, which must begin a page.
    pub(super) fn map(array: impl AsFd, skip: usize, words: usize) -> nix::Result<Self> {
        let bytes = words.checked_mul(size_of::<u64>()).and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        let offset = skip.checked_mul(size_of::<u64>()).and_then(|offset| offset.try_into().ok());
        let offset = offset.ok_or(Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the kernel checks offset and length against
        // the array.
        let first = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, array, offset) }?.cast();
        Ok(Self { first, words })
    }

    /// All of the mapped words.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping lives as long as `self`, is aligned to a page and holds only integers.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.words) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the whole of the mapping made in `map`; no reference into it outlives `self`.
        if let Err(err) = unsafe { munmap(self.first.cast(), self.words * size_of::<u64>()) } {
            tracing::error!(%err, "cannot unmap memory shared with the probes");
        }
    }
}
