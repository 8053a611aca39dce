//! The inside of a guest, as its agent told: processes, sockets, load. All of it hostile input that a gateway has bounded.

use std::fmt;
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
    /// systemd's units with a cgroup of their own (cgroup v2), as far as the guest's kernel accounts for them.
    #[serde(default)]
    pub units: Vec<UnitSample>,
    /// Whether the guest has the program that sets the vcpus of processes (taskset).
    #[serde(default)]
    pub sets_affinity: bool,
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
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct ProcessKey {
    /// Process id inside the guest.
    pub pid: u32,
    /// Start time in clock ticks since the guest's boot.
    pub start_ticks: u64,
}

/// One systemd unit's cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitSample {
    /// Name of the unit, unique in the guest.
    pub name: String,
    /// `cpu.weight`, 1 to 10000; `None` where the cpu controller is off for it, so that it has none yet.
    pub weight: Option<u16>,
    /// CPU time of all that ever ran in it (`usage_usec` of `cpu.stat`).
    pub usage_usec: Option<u64>,
    /// Time in which something in it waited for a vcpu (`some` of `cpu.pressure`).
    pub waited_usec: Option<u64>,
}

/// `CPUWeight` of a systemd unit, with what is needed to leave no trace of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnitWeight {
    /// The property, 1 to 10000; `None` where it is not set, which counts as 100.
    pub weight: Option<u16>,
    /// Whether it was set at run time (`systemctl set-property --runtime`), which a file in the guest's /run keeps.
    pub at_run_time: bool,
}

impl UnitWeight {
    /// What counts where the property is not set (systemd.resource-control(5)).
    pub const DEFAULT: u16 = 100;

    /// The weight in force.
    #[must_use]
    pub fn in_force(self) -> u16 {
        self.weight.unwrap_or(Self::DEFAULT)
    }
}

impl fmt::Display for UnitWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.weight {
            Some(weight) => weight.fmt(f),
            None => f.write_str("not set"),
        }
    }
}

/// The autogroup of a process: where autogroup is on, CPU is shared out among these before nice counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autogroup {
    /// Number of the group, never used again until the guest boots.
    pub id: u64,
    /// Its nice value.
    pub nice: i8,
}

/// Scheduling policy of a process' main thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchedPolicy {
    /// `SCHED_OTHER`.
    #[default]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Time that its main thread was runnable and did not run, in nanoseconds since it started (`/proc/PID/schedstat`).
    #[serde(default)]
    pub wait_ns: Option<u64>,
    /// Its autogroup, where autogroup is on.
    #[serde(default)]
    pub autogroup: Option<Autogroup>,
    /// systemd unit that owns it.
    pub unit: Option<String>,
    /// vcpus it may run on, as the guest writes them.
    pub affinity: Option<String>,
}

/// Transport protocol of a socket.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SocketProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl SocketProtocol {
    /// Its name as people write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
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
