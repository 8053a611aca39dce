//! [`ProcessesView`]: the inside of a guest, application by application.

use kvmpilot_core::Uuid;
use kvmpilot_core::decide::EffectVerdict;
use kvmpilot_core::order::LadderMeans;
use kvmpilot_core::policy::Level;
use kvmpilot_core::sample::{SchedPolicy, SocketProtocol, SocketState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RateView;

/// The applications of one guest. All texts in it come from the guest: made printable and bounded, but not to be trusted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessesView {
    /// libvirt's name of the domain.
    pub domain: String,
    /// libvirt's UUID of the domain.
    pub uuid: Uuid,
    /// Age of this data; null if there never was any.
    pub age_s: Option<f64>,
    /// Why there is no data, or no fresh data.
    pub message: Option<String>,
    /// Whether CPU is scarce for this guest: only then levels move away from their originals.
    pub scarce: bool,
    /// What says so.
    pub scarce_reason: Option<String>,
    /// What was left out because the guest has too much of it, in words.
    pub truncated: Vec<String>,
    /// What came of each means of the ladder that was measured in this guest.
    pub ladder: Vec<LadderView>,
    /// The applications: processes of one unit or executable.
    pub applications: Vec<ApplicationView>,
}

/// What one means of the ladder does in a guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LadderView {
    /// The means.
    pub means: LadderMeans,
    /// What the last step that was measured did.
    pub verdict: EffectVerdict,
    /// CPU of the applications that were raised, in vcpus, before and after the step.
    pub raised_vcpus: [f64; 2],
    /// CPU of the applications that were lowered, in vcpus, before and after the step.
    pub lowered_vcpus: [f64; 2],
    /// Part of the time in which an application that is raised waits for a vcpu.
    pub waits_ratio: Option<f64>,
    /// How long it is not used any more because it has no effect; null where it is used.
    pub rests_s: Option<f64>,
}

/// The processes of one unit or executable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApplicationView {
    /// Unit or executable.
    pub name: String,
    /// Level on the ladder now.
    pub level: Level,
    /// Level before kvmpilot first moved it.
    pub level_original: Level,
    /// `CPUWeight` of its systemd unit now; null where it is no unit.
    pub cpu_weight: Option<u16>,
    /// `CPUWeight` before kvmpilot first changed it.
    pub cpu_weight_original: Option<u16>,
    /// Whether it talks to other nodes.
    pub communicating: bool,
    /// What says so.
    pub evidence: Option<String>,
    /// What its processes move, shared sockets included; null without flow probes.
    pub traffic: Option<RateView>,
    /// Why it is never moved, if so.
    pub protected: Option<String>,
    /// Its processes.
    pub processes: Vec<ProcessView>,
}

/// One guest process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessView {
    /// Process id inside the guest.
    pub pid: u32,
    /// Start time in clock ticks since the guest's boot; with `pid` it names the process for ever.
    pub start_ticks: u64,
    /// The kernel's name of it.
    pub name: String,
    /// Command line.
    pub command: String,
    /// User id.
    pub uid: Option<u32>,
    /// The guest's name of that user.
    #[serde(default)]
    pub user: Option<String>,
    /// One-letter state of `/proc/PID/stat`.
    pub state: char,
    /// CPU time it used, as a share of one vcpu.
    pub cpu_ratio: Option<f64>,
    /// Resident memory.
    pub rss_kib: u64,
    /// Nice value now.
    pub nice: i8,
    /// Nice value before kvmpilot first changed it.
    pub nice_original: i8,
    /// Scheduling policy.
    pub policy: SchedPolicy,
    /// systemd unit that owns it.
    pub unit: Option<String>,
    /// Threads.
    pub threads: u32,
    /// What it moves by itself; null without flow probes.
    pub traffic: Option<RateView>,
    /// Its connections.
    pub connections: Vec<ConnectionView>,
    /// Where it waits for peers.
    pub listens: Vec<ListenView>,
}

/// One connection of a guest process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionView {
    /// Protocol.
    pub protocol: SocketProtocol,
    /// The guest's address and port, like `10.0.0.2:80` or `[::1]:80`.
    pub local: String,
    /// The peer's address and port.
    pub peer: String,
    /// State.
    pub state: SocketState,
}

/// One listening socket of a guest process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListenView {
    /// Protocol.
    pub protocol: SocketProtocol,
    /// Address and port, like `0.0.0.0:80`.
    pub local: String,
}
