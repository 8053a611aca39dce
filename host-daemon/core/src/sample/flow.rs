//! What one domain's network devices (or host sockets) moved, flow by flow. "Sent" is what the guest sent.

use std::net::IpAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SocketProtocol;

/// One reading of the flow probes for one domain. Counters run since the probes watch the domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsSample {
    /// How long the domain has been watched.
    pub watched_ms: u64,
    /// What each device moved, as its own statistics count it.
    pub devices: Vec<DeviceTraffic>,
    /// What all devices moved, those that are gone included.
    pub total: Traffic,
    /// Flows that the probes remember.
    pub flows: Vec<FlowSample>,
    /// Flows that ended, added up by port.
    pub ended: Vec<EndedFlows>,
    /// Flows that there were in all.
    pub flows_made: u64,
    /// Of those, how many were pushed out of the table by others, without having ended.
    pub flows_evicted: u64,
    /// Part of `total` that is in no flow and in nothing that ended: what flows moved between their last reading and
    /// their eviction.
    pub unseen: Traffic,
}

/// Bytes and packets in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    /// Bytes that the guest sent.
    pub sent_bytes: u64,
    /// Packets that the guest sent.
    pub sent_packets: u64,
    /// Bytes that the guest received.
    pub received_bytes: u64,
    /// Packets that the guest received.
    pub received_packets: u64,
}

/// One device of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceTraffic {
    /// Host name of the tap, or of the process whose sockets are watched.
    pub device: String,
    /// Interface index: names are used again. 0 for sockets.
    pub index: u32,
    /// What it moved.
    pub traffic: Traffic,
}

/// One side of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlowSide {
    /// The guest.
    Guest,
    /// The other node.
    Peer,
}

/// Where a flow was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlowSource {
    /// On a tap: addresses are the guest's own, bytes are whole frames.
    #[default]
    Tap,
    /// On a socket of the host that stands for the guest (user-mode networking): addresses are the host's, bytes are
    /// payload, packets are calls.
    Socket,
}

/// State of a flow, from the TCP flags that were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlowState {
    /// A SYN without an answer.
    Opening,
    /// Data can flow; also every flow of a protocol without states.
    Established,
    /// One side has sent its FIN.
    Closing,
    /// Both have, or one has reset it.
    Closed,
}

/// One flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSample {
    /// Where it was seen.
    pub source: FlowSource,
    /// IP protocol number; `None` for all that is not (well-formed) IP.
    pub ip_protocol: Option<u8>,
    /// The guest's address (the host's, for a socket); unspecified for what is not IP.
    pub guest_address: IpAddr,
    /// The guest's port; 0 for fragments and for protocols without ports.
    pub guest_port: u16,
    /// The peer's address.
    pub peer_address: IpAddr,
    /// The peer's port.
    pub peer_port: u16,
    /// Who opened it, if that was seen.
    pub opened_by: Option<FlowSide>,
    /// State.
    pub state: FlowState,
    /// Time since its first packet.
    pub age_ms: u64,
    /// Time since it was last seen moving, to the precision of the readings.
    pub idle_ms: u64,
    /// First packet on the kernel's monotonic clock: tells two lives of the same ports apart.
    pub first_ns: u64,
    /// What it moved.
    pub traffic: Traffic,
}

/// Flows that ended, added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedFlows {
    /// Where they were seen.
    pub source: FlowSource,
    /// IP protocol number.
    pub ip_protocol: Option<u8>,
    /// Whose port it is: the side that was connected to, or that has the lower port where that was not seen.
    pub side: FlowSide,
    /// The port; 0 for those without, and for what was added up because there were too many ports.
    pub port: u16,
    /// How many.
    pub flows: u64,
    /// Time since the last one of them moved.
    pub idle_ms: u64,
    /// What they moved.
    pub traffic: Traffic,
}

/// A sample with its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowReading {
    /// When it was taken, on the daemon's monotonic clock.
    pub at: Duration,
    /// What was read.
    pub sample: FlowsSample,
}

impl FlowSample {
    /// The protocol, if it is one whose sockets the guest's agent tells.
    #[must_use]
    pub const fn protocol(&self) -> Option<SocketProtocol> {
        socket_protocol(self.ip_protocol)
    }

    /// The port that names the service, and whose it is.
    #[must_use]
    pub fn service(&self) -> (FlowSide, u16) {
        service(self.opened_by, self.guest_port, self.peer_port)
    }
}

/// The port that names the service: that of whoever was connected to, else the lower one.
#[must_use]
pub fn service(opened_by: Option<FlowSide>, guest_port: u16, peer_port: u16) -> (FlowSide, u16) {
    let of_guest = opened_by.map_or(guest_port <= peer_port, |opener| opener == FlowSide::Peer);
    if of_guest { (FlowSide::Guest, guest_port) } else { (FlowSide::Peer, peer_port) }
}

impl EndedFlows {
    /// The protocol, if it is one whose sockets the guest's agent tells.
    #[must_use]
    pub const fn protocol(&self) -> Option<SocketProtocol> {
        socket_protocol(self.ip_protocol)
    }
}

const fn socket_protocol(ip_protocol: Option<u8>) -> Option<SocketProtocol> {
    match ip_protocol {
        Some(6) => Some(SocketProtocol::Tcp),
        Some(17) => Some(SocketProtocol::Udp),
        _ => None,
    }
}

impl Traffic {
    /// This and `other` together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.saturating_add(other.sent_bytes),
            sent_packets: self.sent_packets.saturating_add(other.sent_packets),
            received_bytes: self.received_bytes.saturating_add(other.received_bytes),
            received_packets: self.received_packets.saturating_add(other.received_packets),
        }
    }

    /// What `self` has more than `other`, counter by counter, never below zero.
    #[must_use]
    pub const fn less(self, other: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.saturating_sub(other.sent_bytes),
            sent_packets: self.sent_packets.saturating_sub(other.sent_packets),
            received_bytes: self.received_bytes.saturating_sub(other.received_bytes),
            received_packets: self.received_packets.saturating_sub(other.received_packets),
        }
    }

    /// The larger of each counter.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.max(other.sent_bytes),
            sent_packets: self.sent_packets.max(other.sent_packets),
            received_bytes: self.received_bytes.max(other.received_bytes),
            received_packets: self.received_packets.max(other.received_packets),
        }
    }

    /// Bytes in both directions.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.sent_bytes.saturating_add(self.received_bytes)
    }

    /// Packets in both directions.
    #[must_use]
    pub const fn packets(self) -> u64 {
        self.sent_packets.saturating_add(self.received_packets)
    }
}
