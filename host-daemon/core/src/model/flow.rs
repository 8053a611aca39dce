//! The flows of a domain over one window, and whose process of the guest each of them is.
//!
//! The host sees every byte and no process; the agent sees processes and no byte, and only now and then. A flow belongs to
//! whoever holds its socket; if the agent never saw that, to whoever listens on its port. What neither tells belongs to
//! nobody: nothing is guessed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::owner::{Inside, Owner};
use super::{GuestModel, GuestReading, per_second};
use crate::sample::{
    DeviceTraffic, EndedFlows, FlowReading, FlowSample, FlowSide, FlowState, FlowsSample, Traffic,
};

/// The flows of one domain over one window.
#[derive(Clone, Debug)]
pub struct FlowsModel {
    /// When they were read, on the daemon's monotonic clock.
    pub at: Duration,
    /// Window of the rates; `None` at the first reading.
    pub window: Option<Duration>,
    /// The devices.
    pub devices: Vec<DeviceModel>,
    /// Rates of all devices together.
    pub rate: TrafficRate,
    /// Flows that the probes remember.
    pub flows: Vec<FlowModel>,
    /// Flows that ended, by port.
    pub ended: Vec<EndedModel>,
    /// Everything else that was read; its lists are empty.
    pub sample: FlowsSample,
}

/// Bytes a second in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrafficRate {
    /// What the guest sent.
    pub sent_bytes_per_s: Option<f64>,
    /// What the guest received.
    pub received_bytes_per_s: Option<f64>,
}

/// One device over one window.
#[derive(Clone, Debug)]
pub struct DeviceModel {
    /// As read.
    pub sample: DeviceTraffic,
    /// Its rates.
    pub rate: TrafficRate,
}

/// One flow over one window.
#[derive(Clone, Debug)]
pub struct FlowModel {
    /// As read.
    pub sample: FlowSample,
    /// Its rates.
    pub rate: TrafficRate,
    /// Whose it is.
    pub owner: Owner,
}

/// Flows of one port that ended.
#[derive(Clone, Debug)]
pub struct EndedModel {
    /// As read.
    pub sample: EndedFlows,
    /// What they moved in this window, before they ended.
    pub rate: TrafficRate,
    /// Whose port it is.
    pub owner: Owner,
}

type FlowIdentity = (Option<u8>, IpAddr, u16, IpAddr, u16, u64);
type Port = (Option<u8>, FlowSide, u16);

impl FlowsModel {
    /// Derives the window between two readings. `guest` is what the agent told last, and what follows from it.
    #[must_use]
    pub fn new(
        begin: Option<&FlowReading>,
        end: &FlowReading,
        guest: Option<(&GuestReading, &GuestModel)>,
    ) -> Self {
        let inside = guest.map(|(reading, model)| Inside::new(reading, model));
        // Whoever has only now been watched has no earlier reading; one that was watched anew began again from zero.
        let begin =
            begin.filter(|begin| begin.sample.watched_ms < end.sample.watched_ms && begin.at < end.at);
        let window = begin.map(|begin| end.at - begin.at);
        let since = begin.map(|begin| &begin.sample);
        let mut before: BTreeMap<FlowIdentity, &FlowSample> =
            since.iter().flat_map(|sample| &sample.flows).map(|flow| (identity(flow), flow)).collect();
        let owner_of = |flow: &FlowSample| match &inside {
            Some(inside) => inside.owner(flow, end.at),
            None => Owner::Nobody("the guest's agent has not told who holds which socket"),
        };
        let flows = end.sample.flows.iter().map(|flow| {
            let earlier = before.remove(&identity(flow)).map(|earlier| earlier.traffic);
            let rate = TrafficRate::new(flow.traffic.less(earlier.unwrap_or_default()), window);
            FlowModel { sample: *flow, rate, owner: owner_of(flow) }
        });
        let flows: Vec<FlowModel> = flows.collect();
        // What is left ended since: the part that it had moved before is no traffic of this window.
        let ports: BTreeMap<Port, Traffic> =
            end.sample.ended.iter().map(|ended| (port_of(ended), ended.traffic)).collect();
        let mut known: BTreeMap<Port, Traffic> = BTreeMap::new();
        for ended in since.iter().flat_map(|sample| &sample.ended) {
            let sum = known.entry(port_of(ended)).or_default();
            *sum = sum.plus(ended.traffic);
        }
        for flow in before.values() {
            let (side, port) = flow.service();
            let port = Some((flow.ip_protocol, side, port)).filter(|port| ports.contains_key(port));
            let sum = known.entry(port.unwrap_or((flow.ip_protocol, side, 0))).or_default();
            *sum = sum.plus(flow.traffic);
        }
        let ended = end.sample.ended.iter().map(|ended| {
            let moved = ended.traffic.less(known.get(&port_of(ended)).copied().unwrap_or_default());
            let owner = match &inside {
                Some(inside) => inside.owner_of_port(ended),
                None => Owner::Nobody("the guest's agent has not told who listens where"),
            };
            EndedModel { sample: *ended, rate: TrafficRate::new(moved, window), owner }
        });
        let devices = end.sample.devices.iter().map(|device| {
            let same =
                |other: &&DeviceTraffic| (&other.device, other.index) == (&device.device, device.index);
            let earlier = since.iter().flat_map(|sample| &sample.devices).find(same);
            let earlier = earlier.map(|device| device.traffic).unwrap_or_default();
            DeviceModel {
                sample: device.clone(),
                rate: TrafficRate::new(device.traffic.less(earlier), window),
            }
        });
        let before = since.map(|sample| sample.total).unwrap_or_default();
        Self {
            at: end.at,
            window,
            devices: devices.collect(),
            rate: TrafficRate::new(end.sample.total.less(before), window),
            ended: ended.collect(),
            flows,
            sample: FlowsSample {
                devices: Vec::new(),
                flows: Vec::new(),
                ended: Vec::new(),
                ..end.sample.clone()
            },
        }
    }
}

fn identity(flow: &FlowSample) -> FlowIdentity {
    let FlowSample { ip_protocol, guest_address, guest_port, peer_address, peer_port, first_ns, .. } = *flow;
    (ip_protocol, guest_address, guest_port, peer_address, peer_port, first_ns)
}

const fn port_of(ended: &EndedFlows) -> Port {
    (ended.ip_protocol, ended.side, ended.port)
}

impl FlowModel {
    /// Whether it moved something to or from another node within `window` before it was read: more than the opening of
    /// a connection, and not what goes to everybody.
    #[must_use]
    pub fn conversed(&self, window: Duration) -> bool {
        let flow = &self.sample;
        let everybody = match flow.peer_address {
            IpAddr::V4(peer) => peer.is_multicast() || peer.is_broadcast() || peer.is_unspecified(),
            IpAddr::V6(peer) => peer.is_multicast() || peer.is_unspecified(),
        };
        flow.state != FlowState::Opening
            && !everybody
            && flow.traffic.bytes() > 0
            && Duration::from_millis(flow.idle_ms) <= window
    }
}

impl TrafficRate {
    fn new(moved: Traffic, window: Option<Duration>) -> Self {
        let rate = |bytes| window.and_then(|window| per_second(Some(bytes), window));
        Self { sent_bytes_per_s: rate(moved.sent_bytes), received_bytes_per_s: rate(moved.received_bytes) }
    }

    /// Both together; `None` where one of them is not known.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let sum = |a: Option<f64>, b: Option<f64>| Some(a? + b?);
        Self {
            sent_bytes_per_s: sum(self.sent_bytes_per_s, other.sent_bytes_per_s),
            received_bytes_per_s: sum(self.received_bytes_per_s, other.received_bytes_per_s),
        }
    }

    /// In both directions.
    #[must_use]
    pub fn bytes_per_s(self) -> Option<f64> {
        Some(self.sent_bytes_per_s? + self.received_bytes_per_s?)
    }
}

#[cfg(test)]
#[path = "flow_test.rs"]
mod tests;
