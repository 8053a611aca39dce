//! [`FlowsView`]: who talks to whom on a domain's network devices, and whose process of the guest it is.

use kvmpilot_core::Uuid;
use kvmpilot_core::sample::{FlowSide, FlowSource, FlowState, Traffic};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The flows of one domain. "Sent" is what the guest sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowsView {
    /// libvirt's name of the domain.
    pub domain: String,
    /// libvirt's UUID of the domain.
    pub uuid: Uuid,
    /// Age of this data; null if there is none.
    pub age_s: Option<f64>,
    /// Why there is no data.
    pub message: Option<String>,
    /// How long the domain has been watched: totals count from there on.
    pub watched_s: Option<f64>,
    /// Window of the rates.
    pub window_s: Option<f64>,
    /// Its network devices.
    pub devices: Vec<DeviceView>,
    /// What all devices moved, those that are gone included.
    pub total: Traffic,
    /// Rates of all devices together.
    pub rate: RateView,
    /// Flows that there were in all.
    pub flows_made: u64,
    /// Of those, flows that were pushed out of the table by others.
    pub flows_evicted: u64,
    /// Part of `total` that is in no flow and no port below: moved by flows between their last reading and their eviction.
    pub unseen: Traffic,
    /// The flows, busiest first.
    pub flows: Vec<FlowView>,
    /// Flows that ended, added up by port.
    pub ended: Vec<EndedView>,
}

/// Bytes a second; null before there was a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RateView {
    /// What the guest sent.
    pub sent_bytes_per_s: Option<f64>,
    /// What the guest received.
    pub received_bytes_per_s: Option<f64>,
}

/// One network device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceView {
    /// Host name of the tap.
    pub device: String,
    /// What it moved since it is watched, to the byte as its own statistics count it.
    pub total: Traffic,
    /// Rates.
    pub rate: RateView,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowView {
    /// Where it was seen: bytes of a tap are whole frames, those of a socket payload.
    pub source: FlowSource,
    /// `tcp`, `udp`, `icmp`, `icmp6`, the number of another IP protocol, or `other` for what is not IP.
    pub protocol: String,
    /// The guest's address and port, like `10.0.0.2:80` or `[::1]:80`.
    pub guest: String,
    /// The peer's.
    pub peer: String,
    /// Which way it was opened, or which side has the lower port where that was not seen; null without ports.
    pub direction: Option<Direction>,
    /// State.
    pub state: FlowState,
    /// Time since its first packet.
    pub age_s: f64,
    /// Time since it moved.
    pub idle_s: f64,
    /// What it moved.
    pub total: Traffic,
    /// Rates.
    pub rate: RateView,
    /// Whose it is.
    pub owner: OwnerView,
}

/// Which way a connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the guest, which serves.
    In,
    /// From the guest, which is served.
    Out,
}

impl From<FlowSide> for Direction {
    /// The side whose port it is.
    fn from(service: FlowSide) -> Self {
        match service {
            FlowSide::Guest => Self::In,
            FlowSide::Peer => Self::Out,
        }
    }
}

/// Flows that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndedView {
    /// As in [`FlowView`].
    pub protocol: String,
    /// Whether it is the guest's port or the peer's.
    pub direction: Direction,
    /// The port; 0 for several or none.
    pub port: u16,
    /// How many flows.
    pub flows: u64,
    /// Time since the last of them moved.
    pub idle_s: f64,
    /// What they moved.
    pub total: Traffic,
    /// What they moved in this window, before they ended.
    pub rate: RateView,
    /// Whose the port is.
    pub owner: OwnerView,
}

/// Whose a flow is. Where it is known, `pids` is not empty; else `reason` says why not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnerView {
    /// Processes of the guest that hold the socket; with several, nobody knows which of them it was.
    pub pids: Vec<u32>,
    /// The process's name, if there is one process.
    pub process: Option<String>,
    /// The application, if all of them are of one.
    pub application: Option<String>,
    /// Why it has no owner.
    pub reason: Option<String>,
}
