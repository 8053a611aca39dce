//! Reads a whole hash map in one call: `BPF_MAP_LOOKUP_BATCH` (Linux 5.6), which aya does not have. Where the kernel
//! has neither, entry by entry.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The member for single elements.
#[repr(C)]
#[derive(Default)]
struct ElementAttributes {
    map_fd: u32,
    _padding: u32,
    key: u64,
    /// Or `next_key`.
    value: u64,
    flags: u64,
}

/// Memory for one map's entries, used again and again.
#[derive(Debug)]
pub(super) struct Entries<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    found: usize,
    /// The kernel knows no batches.
    single: bool,
}

impl<K: Pod + Default, V: Pod + Default> Entries<K, V> {
    /// For maps of at most `capacity` entries. `single` does without batches.
    pub(super) fn new(capacity: usize, single: bool) -> Self {
        // One entry at a time still wants room for one.
        let capacity = capacity.max(1);
        Self { keys: vec![K::default(); capacity], values: vec![V::default(); capacity], found: 0, single }
    }

    /// Reads all entries. What changes meanwhile may be there or not.
    pub(super) fn read(&mut self, map: BorrowedFd<'_>) -> io::Result<()> {
        self.found = 0;
        if !self.single {
            match self.read_batches(map) {
                Err(err) if err.raw_os_error() == Some(libc::EINVAL) && self.found == 0 => self.single = true,
                result => return result,
            }
        }
        self.read_singly(map)
    }

    /// What the last [`Self::read`] found.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.keys[..self.found].iter().zip(&self.values[..self.found])
    }

    fn read_batches(&mut self, map: BorrowedFd<'_>) -> io::Result<()> {
        // The kernel's cursor is a bucket number, and it never writes more than the key's size (hashtab.c).
        let mut cursor = [0_u64; 16];
        const { assert!(size_of::<K>() <= size_of::<[u64; 16]>()) };
        let mut first = true;
        while self.found < self.keys.len() {
            let mut attributes = BatchAttributes {
                in_batch: if first { 0 } else { address(cursor.as_ptr()) },
                out_batch: address(cursor.as_mut_ptr()),
                keys: address(self.keys[self.found..].as_mut_ptr()),
                values: address(self.values[self.found..].as_mut_ptr()),
                count: u32::try_from(self.keys.len() - self.found).unwrap_or(u32::MAX),
                map_fd: descriptor(map),
                ..BatchAttributes::default()
            };
            first = false;
            let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes);
            let end = result.as_ref().is_err_and(|err| err.raw_os_error() == Some(libc::ENOENT));
            // Only these two come with a count.
            if result.is_ok() || end {
                self.found +=
                    usize::try_from(attributes.count).unwrap_or(0).min(self.keys.len() - self.found);
            }
            match result {
                Ok(()) => {}
                Err(_) if end => return Ok(()),
                // The next bucket has more entries than there is room: entries came while we read.
                Err(err) if err.raw_os_error() == Some(libc::ENOSPC) => return Ok(()),
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    fn read_singly(&mut self, map: BorrowedFd<'_>) -> io::Result<()> {
        let mut previous: Option<K> = None;
        // A key that is gone when we ask for the next one starts the walk again: so the tries are bounded, too.
        for _ in 0..self.keys.len() * 2 {
            if self.found == self.keys.len() {
                break;
            }
            let mut key = K::default();
            let mut attributes = ElementAttributes {
                map_fd: descriptor(map),
                key: previous.as_ref().map_or(0, |previous| address(std::ptr::from_ref(previous))),
                value: address(std::ptr::from_mut(&mut key)),
                ..ElementAttributes::default()
            };
            match bpf(BPF_MAP_GET_NEXT_KEY, &mut attributes) {
                Err(err) if err.raw_os_error() == Some(libc::ENOENT) => break,
                result => result?,
            }
            let mut value = V::default();
            attributes.key = address(std::ptr::from_ref(&key));
            attributes.value = address(std::ptr::from_mut(&mut value));
            match bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes) {
                Ok(()) => {
                    (self.keys[self.found], self.values[self.found]) = (key, value);
                    self.found += 1;
                }
                Err(err) if err.raw_os_error() == Some(libc::ENOENT) => {}
                Err(err) => return Err(err),
            }
            previous = Some(key);
        }
        Ok(())
    }
}

fn address<T>(pointer: *const T) -> u64 {
    u64::try_from(pointer.expose_provenance()).unwrap_or_default()
}

fn descriptor(map: BorrowedFd<'_>) -> u32 {
    map.as_raw_fd().unsigned_abs()
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<()> {
    // SAFETY: the attributes are those of the command, zero beyond what it knows, and the memory they point to is
    // alive and as large as the counts in it say.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
