//! [`DiskSample`]: one disk of a domain.

use serde::{Deserialize, Serialize};

/// One disk. It is read much more rarely than the rest, because QEMU has to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSample {
    /// The guest's name for it, as libvirt guesses: `vda`.
    pub target: String,
    /// Path or name of its image; `None` where it has none.
    pub source: Option<String>,
    /// Size that the guest sees.
    pub capacity_bytes: u64,
    /// Storage that it takes on the host.
    pub allocation_bytes: u64,
    /// What went through it since QEMU began; `None` where it does not tell.
    pub counters: Option<DiskCounters>,
    /// The same at the reading before, and how long before, in milliseconds.
    pub before: Option<(DiskCounters, u64)>,
}

/// What went through a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCounters {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests to read.
    pub reads: u64,
    /// Requests to write.
    pub writes: u64,
}
