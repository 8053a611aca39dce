//! The inside of a guest, as its agent told: processes, sockets, load. All of it hostile input that a gateway has bounded.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One poll of a guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuestSample {
    /// Time of the poll on the guest's monotonic clock, in hundredths of a second since its boot (`/proc/uptime`).
    pub uptime_cs: u64,
    /// Clock ticks a second in the guest's `/proc` (100 on every Linux of today).
    pub ticks_per_second: u64,
    /// vcpus that the guest has online.
    pub vcpus_online: Option<u32>,
    /// Runnable threads at the poll (`/proc/loadavg`, fourth field), the poll's own included.
    pub runnable: Option<u32>,
    /// One-minute load average.
    pub load1: Option<f64>,
    /// Time of all vcpus not idle, in clock ticks since boot, and of that the part stolen by the host.
    pub busy_ticks: Option<u64>,
    /// Steal in clock ticks since boot.
    pub steal_ticks: Option<u64>,
    /// Whether autogroup is on (`/proc/sys/kernel/sched_autogroup_enabled`), which makes nice void between sessions.
    pub autogroup: Option<bool>,
    /// Whether the guest's processes are in systemd's cgroups.
    pub systemd: bool,
    /// Processes, kernel threads left out.
    pub processes: Vec<ProcessSample>,
    /// Connected sockets, and UDP sockets with a peer.
    pub sockets: Vec<SocketSample>,
    /// Sockets that wait for peers.
    pub listeners: Vec<Listener>,
    /// Why processes and sockets could not be read; `None` where they were, so that none are none.
    #[serde(default)]
    pub unread: Option<String>,
    /// What was cut off because the guest had more of it than we read, in words.
    pub truncated: Vec<String>,
}

/// What names a guest process for ever: a pid alone is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ProcessKey {
    /// Process id inside the guest.
    pub pid: u32,
    /// Start time in clock ticks since the guest's boot.
    pub start_ticks: u64,
}

/// Scheduling policy of a process' main thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchedPolicy {
    /// `SCHED_OTHER`.
    Other,
    /// `SCHED_BATCH`.
    Batch,
    /// `SCHED_IDLE`.
    Idle,
    /// `SCHED_FIFO`, `SCHED_RR` or `SCHED_DEADLINE`: never touched.
    RealTime,
    /// A policy that this version does not know: never touched.
    Unknown,
}

/// One guest process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSample {
    /// Identity.
    pub key: ProcessKey,
    /// Parent's pid; 0 for the first process.
    pub parent: u32,
    /// `comm`, at most 15 bytes, made printable.
    pub name: String,
    /// Executable's path, if readable.
    pub executable: Option<String>,
    /// Command line, bounded and made printable.
    pub command: String,
    /// User id.
    pub uid: Option<u32>,
    /// One-letter state of `/proc/PID/stat`.
    pub state: char,
    /// Threads.
    pub threads: u32,
    /// Its own user and system time in clock ticks since it started.
    pub cpu_ticks: u64,
    /// CPU time of waited-for children, in clock ticks: a server that forks a worker per request spends it here, unless it
    /// ignores SIGCHLD as busybox' httpd does.
    pub children_cpu_ticks: u64,
    /// Resident memory.
    pub rss_kib: u64,
    /// Nice value of the main thread, -20 to 19.
    pub nice: i8,
    /// Scheduling policy.
    pub policy: SchedPolicy,
    /// systemd unit that owns it.
    pub unit: Option<String>,
    /// vcpus it may run on, as the guest writes them.
    pub affinity: Option<String>,
}

/// Transport protocol of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SocketProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// State of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SocketState {
    /// Data can flow.
    Established,
    /// Being set up (`SYN_SENT`, `SYN_RECV`).
    Opening,
    /// Being torn down, or waiting after that.
    Closing,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketSample {
    /// Protocol.
    pub protocol: SocketProtocol,
    /// Guest's address.
    pub local_address: IpAddr,
    /// Guest's port.
    pub local_port: u16,
    /// Peer's address.
    pub peer_address: IpAddr,
    /// Peer's port.
    pub peer_port: u16,
    /// State.
    pub state: SocketState,
    /// Owners; empty where none was found (already closed, another network namespace).
    pub owners: Vec<u32>,
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Protocol.
    pub protocol: SocketProtocol,
    /// Address it listens on; the unspecified address for all.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Owners.
    pub owners: Vec<u32>,
}
