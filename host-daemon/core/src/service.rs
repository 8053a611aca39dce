//! What is known of services: states of their parts, with the reason for each, and their transitions. What makes them so is
//! `decide::service`'s.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sample::SocketProtocol;

/// State of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Everything is there.
    Healthy,
    /// All components are there, and a connection is missing.
    Degraded,
    /// A component is missing.
    Failed,
    /// Something cannot be read, and nothing is known to be missing.
    #[default]
    Unknown,
}

impl ServiceState {
    /// The state's name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// State of a component or a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartState {
    /// It is there.
    Up,
    /// It is missing.
    Down,
    /// It cannot be told.
    #[default]
    Unknown,
}

/// A service with all of its parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// File and line that define it.
    pub source: String,
    /// Its state.
    pub state: ServiceState,
    /// Since when, in milliseconds since 1970; null before the first look.
    pub since_unix_ms: Option<u64>,
    /// What the state follows from; empty for a healthy service.
    pub reasons: Vec<String>,
    /// Its components.
    pub components: Vec<ComponentStatus>,
    /// Its connections.
    pub connections: Vec<ConnectionStatus>,
    /// Its watched files.
    pub files: Vec<FileStatus>,
}

/// One component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ComponentStatus {
    /// Its name.
    pub name: String,
    /// Name or UUID of its domain, as configured.
    pub domain: String,
    /// Process that has to run, as configured.
    pub process: Option<String>,
    /// systemd unit that has to run, as configured.
    pub unit: Option<String>,
    /// Port that it has to listen on.
    pub port: Option<u16>,
    /// Protocol of the port.
    pub protocol: SocketProtocol,
    /// State.
    pub state: PartState,
    /// Why.
    pub reason: String,
}

/// One connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionStatus {
    /// Component that opens it.
    pub from: String,
    /// Component that listens.
    pub to: String,
    /// Port there.
    pub port: u16,
    /// Protocol.
    pub protocol: SocketProtocol,
    /// State.
    pub state: PartState,
    /// Why.
    pub reason: String,
    /// Whether one of the guests has a socket of it now, or had since the poll before; null if neither can be asked.
    pub present: Option<bool>,
    /// When that was last so.
    pub present_unix_ms: Option<u64>,
    /// Whether somebody listens on the port; null if that guest cannot be asked.
    pub port_open: Option<bool>,
    /// When that was last so.
    pub port_open_unix_ms: Option<u64>,
    /// Whether bytes moved in both directions in the flow probes' last window; null without flow probes.
    pub moving: Option<bool>,
    /// When that was last so.
    pub moving_unix_ms: Option<u64>,
    /// For how long it has been watched and could be told.
    pub watched_s: f64,
    /// Of that, the share in which it was up: network up-time. Null before the first.
    pub up_ratio: Option<f64>,
    /// When it was judged last.
    #[serde(default)]
    pub judged_unix_ms: Option<u64>,
    /// Its longest usual silence: it is not missed before twice that.
    #[serde(default)]
    pub usual_silence_s: f64,
}

/// State of a watched file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriftState {
    /// It is what it should be.
    Same,
    /// It is something else.
    Changed,
    /// It is not there.
    Missing,
    /// The agent's user may not read it, or it is no regular file.
    Unreadable,
    /// It is larger than 1 MiB.
    TooLarge,
    /// Nobody has looked yet, or nobody can.
    #[default]
    Unknown,
}

/// One watched file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileStatus {
    /// Component in whose guest it is.
    pub component: String,
    /// Path there.
    pub path: String,
    /// State.
    pub state: DriftState,
    /// Since when, in milliseconds since 1970; null before the first look.
    pub since_unix_ms: Option<u64>,
    /// SHA-256 that it should have: configured, or found first.
    pub expected_sha256: Option<String>,
    /// Whether `expected_sha256` is configured.
    pub configured: bool,
    /// SHA-256 that it has.
    pub found_sha256: Option<String>,
    /// The state in words.
    pub reason: String,
}

/// A service went from one state to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transition {
    /// The service.
    pub service: String,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// State before.
    pub from: ServiceState,
    /// State after.
    pub to: ServiceState,
    /// What the new state follows from.
    pub reasons: Vec<String>,
}
