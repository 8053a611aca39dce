//! What flows say about the processes of a guest: what each of them moved, and who really talks to other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::guest::{conversations, shorten};
use super::{Application, FlowsModel, GuestModel, GuestReading, Owner, TrafficRate};
use crate::sample::{FlowSide, FlowSource, SocketSample};

/// A connection that was silent for longer than this, or than the time between two looks of the agent if that is
/// longer, is not communication.
const SILENCE: Duration = Duration::from_secs(60);

impl GuestModel {
    /// Adds what the flows tell. `reading` is what this model was made of, and `flows` were joined with it.
    ///
    /// Who communicates is then told by bytes: a connection that moved some within the window counts, one that is
    /// merely open does not. Connections on devices that the probes do not see still count by being there.
    pub fn add_traffic(&mut self, reading: &GuestReading, flows: &FlowsModel) {
        let rates = Rates::new(flows);
        let window = self.window.unwrap_or_default().max(SILENCE);
        let judged = Judged::new(flows, window);
        for application in &mut self.applications {
            let mut sum = rates.applications.get(&application.name).copied().unwrap_or_else(|| rates.none());
            for process in &mut application.processes {
                let own = rates.processes.get(&process.sample.key.pid).copied();
                let own = own.unwrap_or_else(|| rates.none());
                process.traffic = Some(own);
                sum = sum.plus(own);
            }
            application.traffic = Some(sum);
            let mut lines = by_flows(application, flows, window);
            lines.extend(conversations(application, &reading.sample, |socket| !judged.judges(socket)));
            application.conversations = shorten(lines);
        }
    }
}

/// Rates by owner.
struct Rates {
    processes: BTreeMap<u32, TrafficRate>,
    /// Of sockets that several processes of one application hold.
    applications: BTreeMap<String, TrafficRate>,
    has_window: bool,
}

impl Rates {
    fn new(flows: &FlowsModel) -> Self {
        let mut rates = Self {
            processes: BTreeMap::new(),
            applications: BTreeMap::new(),
            has_window: flows.window.is_some(),
        };
        let live = flows.flows.iter().map(|flow| (&flow.owner, flow.rate));
        for (owner, rate) in live.chain(flows.ended.iter().map(|ended| (&ended.owner, ended.rate))) {
            let none = rates.none();
            let sum = match owner {
                Owner::Process { pid, .. } => rates.processes.entry(*pid).or_insert(none),
                Owner::Application { name, .. } => rates.applications.entry(name.clone()).or_insert(none),
                Owner::Shared { .. } | Owner::Nobody(_) => continue,
            };
            *sum = sum.plus(rate);
        }
        rates
    }

    /// Of whoever has no flow: nothing, if there was a window at all.
    fn none(&self) -> TrafficRate {
        let zero = self.has_window.then_some(0.0);
        TrafficRate { sent_bytes_per_s: zero, received_bytes_per_s: zero }
    }
}

/// The connections about which flows say enough.
struct Judged<'a> {
    addresses: BTreeSet<IpAddr>,
    flows: &'a FlowsModel,
    /// Whoever has no flow has moved nothing: all were seen for long enough, and none pushed out.
    complete: bool,
}

impl<'a> Judged<'a> {
    fn new(flows: &'a FlowsModel, window: Duration) -> Self {
        let on_taps = flows.flows.iter().filter(|flow| flow.sample.source == FlowSource::Tap);
        let complete =
            flows.sample.flows_evicted == 0 && Duration::from_millis(flows.sample.watched_ms) >= window;
        Self { addresses: on_taps.map(|flow| flow.sample.guest_address).collect(), flows, complete }
    }

    fn judges(&self, socket: &SocketSample) -> bool {
        let (local, peer) = (socket.local_address.to_canonical(), socket.peer_address.to_canonical());
        let same = |flow: &super::FlowModel| {
            let flow = &flow.sample;
            flow.protocol() == Some(socket.protocol)
                && (flow.guest_address, flow.guest_port) == (local, socket.local_port)
                && (flow.peer_address, flow.peer_port) == (peer, socket.peer_port)
        };
        self.addresses.contains(&local) && (self.complete || self.flows.flows.iter().any(same))
    }
}

/// How an application was seen talking to other nodes.
fn by_flows(application: &Application, flows: &FlowsModel, window: Duration) -> Vec<String> {
    let of_application = |owner: &Owner| match owner {
        Owner::Process { pid, .. } => {
            application.processes.iter().any(|process| process.sample.key.pid == *pid)
        }
        Owner::Application { name, .. } => *name == application.name,
        Owner::Shared { .. } | Owner::Nobody(_) => false,
    };
    let mut served: BTreeMap<(u16, IpAddr), u64> = BTreeMap::new();
    let mut connected: BTreeSet<(IpAddr, u16)> = BTreeSet::new();
    for flow in flows.flows.iter().filter(|flow| of_application(&flow.owner) && flow.conversed(window)) {
        match flow.sample.service() {
            (FlowSide::Guest, port) => *served.entry((port, flow.sample.peer_address)).or_default() += 1,
            (FlowSide::Peer, port) => {
                connected.insert((flow.sample.peer_address, port));
            }
        }
    }
    let ended = flows.ended.iter().filter(|ended| {
        of_application(&ended.owner) && Duration::from_millis(ended.sample.idle_ms) <= window
    });
    let ended = ended.map(|ended| {
        format!("served port {} ({} connections so far)", ended.sample.port, ended.sample.flows)
    });
    let served = served
        .into_iter()
        .map(|((port, peer), count)| format!("serves {peer} on port {port} ({count} connections)"));
    let connected = connected.into_iter().map(|(peer, port)| format!("connected to {peer} port {port}"));
    served.chain(connected).chain(ended).collect()
}
