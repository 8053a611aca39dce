//! The rows of the history, as the daemon fills them.

use kvmpilot_core::Uuid;
use kvmpilot_core::finding::Finding;
use kvmpilot_core::policy::{Class, Level};
use kvmpilot_core::sample::{ProcessKey, SchedPolicy, SocketProtocol, SocketState};

/// What one cycle leaves behind. The store dates it and keeps it until retention takes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CycleRecord {
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// One row for each running domain.
    pub domains: Vec<DomainRow>,
    /// The guests' processes, where the guest was polled since the last cycle.
    pub processes: Vec<ProcessRow>,
    /// Their connections and listening sockets.
    pub connections: Vec<ConnectionRow>,
    /// Conditions found.
    pub findings: Vec<Finding>,
}

/// A row with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Dated<T> {
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The row.
    pub row: T,
}

/// One domain in one cycle.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DomainRow {
    /// The domain.
    pub domain: Uuid,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub class: Class,
    /// vcpus.
    pub vcpus: u32,
    /// CPU weight.
    pub cpu_shares: Option<u64>,
    /// Memory now.
    pub memory_current_kib: Option<u64>,
    /// Most memory without a restart.
    pub memory_maximum_kib: u64,
    /// What the guest can still use without swapping.
    pub memory_usable_kib: Option<u64>,
    /// Share of its vcpus' time on a pcpu.
    pub cpu_use_ratio: Option<f64>,
    /// Share of the wanted time spent waiting for a pcpu.
    pub wait_ratio: Option<f64>,
    /// How urgently it needed something.
    pub need: Option<f64>,
    /// `ok`, `over`, `under` or `unknown`.
    pub cpu_state: String,
    /// The same for memory.
    pub memory_state: String,
    /// Bytes that the guest received.
    pub received_bytes_per_s: Option<f64>,
    /// Bytes that the guest sent.
    pub sent_bytes_per_s: Option<f64>,
    /// Whether it talked to other nodes.
    pub communicating: Option<bool>,
    /// Cycles in a row off its optimum.
    pub cycles_off_optimum: u32,
}

/// One guest process in one cycle.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessRow {
    /// The domain.
    pub domain: Uuid,
    /// Identity inside the guest.
    pub key: ProcessKey,
    /// The kernel's name of it.
    pub name: String,
    /// Command line.
    pub command: String,
    /// The application it belongs to.
    pub application: String,
    /// The application's level.
    pub level: Level,
    /// Whether the application talked to other nodes.
    pub communicating: bool,
    /// User id.
    pub uid: Option<u32>,
    /// systemd unit.
    pub unit: Option<String>,
    /// Nice value.
    pub nice: i8,
    /// Scheduling policy.
    pub policy: SchedPolicy,
    /// CPU affinity as the guest writes it.
    pub affinity: Option<String>,
    /// CPU time as a share of one vcpu.
    pub cpu_ratio: Option<f64>,
    /// Resident memory.
    pub rss_kib: u64,
    /// Threads.
    pub threads: u32,
}

/// One connection or listening socket of a guest in one cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRow {
    /// The domain.
    pub domain: Uuid,
    /// Its owner inside the guest, if known.
    pub pid: Option<u32>,
    /// Protocol.
    pub protocol: SocketProtocol,
    /// The guest's address and port.
    pub local: String,
    /// The peer's address and port; `None` for a listening socket.
    pub peer: Option<String>,
    /// State; `None` for a listening socket.
    pub state: Option<SocketState>,
}
