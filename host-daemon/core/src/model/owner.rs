//! Whose a flow is: the join of what the host counted with what the guest's agent told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{GuestModel, GuestReading};
use crate::sample::{
    EndedFlows, FlowSample, FlowSide, FlowSource, FlowState, Listener, SocketProtocol, SocketSample,
};

/// Under this address a guest with user-mode networking sees its host, which sees itself under a loopback address.
const SLIRP_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));
/// A connection that began so long before the agent looked must have been among what it saw.
const SURELY_SEEN: Duration = Duration::from_secs(1);

/// Whose a flow is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// One process.
    Process {
        /// Its pid inside the guest.
        pid: u32,
        /// Its name.
        name: String,
        /// Its application, if it is part of one.
        application: Option<String>,
    },
    /// Several processes of one application hold the same socket; which of them it was cannot be told.
    Application {
        /// The application.
        name: String,
        /// The processes.
        pids: Vec<u32>,
    },
    /// Processes of several applications hold the same socket.
    Shared {
        /// The processes.
        pids: Vec<u32>,
    },
    /// Nobody that is known, and why.
    Nobody(&'static str),
}

type Connection = (SocketProtocol, IpAddr, u16, IpAddr, u16);

/// The sockets of a guest and who holds them, as the agent told last.
pub(super) struct Inside<'a> {
    reading: &'a GuestReading,
    sockets: HashMap<Connection, &'a SocketSample>,
    /// By protocol and port.
    listeners: HashMap<(SocketProtocol, u16), Vec<&'a Listener>>,
    names: BTreeMap<u32, &'a str>,
    applications: BTreeMap<u32, &'a str>,
}

impl<'a> Inside<'a> {
    pub(super) fn new(reading: &'a GuestReading, model: &'a GuestModel) -> Self {
        let sample = &reading.sample;
        let mut listeners: HashMap<_, Vec<&Listener>> = HashMap::new();
        for listener in &sample.listeners {
            listeners.entry((listener.protocol, listener.port)).or_default().push(listener);
        }
        let applications = model.applications.iter().flat_map(|application| {
            let pids = application.processes.iter().map(|process| process.sample.key.pid);
            pids.map(|pid| (pid, application.name.as_str()))
        });
        Self {
            reading,
            sockets: sample.sockets.iter().map(|socket| (connection(socket), socket)).collect(),
            listeners,
            names: sample.processes.iter().map(|process| (process.key.pid, process.name.as_str())).collect(),
            applications: applications.collect(),
        }
    }

    /// Whose a flow is that was read at `at`.
    pub(super) fn owner(&self, flow: &FlowSample, at: Duration) -> Owner {
        let Some(protocol) = flow.protocol().filter(|_| flow.guest_port != 0) else {
            return Owner::Nobody("it has no ports");
        };
        if flow.source == FlowSource::Socket {
            return self.owner_behind_socket(flow, protocol);
        }
        let (guest, peer) = (flow.guest_address.to_canonical(), flow.peer_address.to_canonical());
        let connection = (protocol, guest, flow.guest_port, peer, flow.peer_port);
        let socket = self.sockets.get(&connection);
        if let Some(socket) = socket.filter(|socket| !socket.owners.is_empty()) {
            return self.group(socket.owners.iter().copied());
        }
        // It was there when the agent looked, and yet not among the guest's own: so it is somebody else's.
        let began = at.saturating_sub(Duration::from_millis(flow.age_ms));
        let looked = self.reading.at;
        let lasted = began + SURELY_SEEN < looked && looked <= at && flow.state == FlowState::Established;
        if socket.is_none() && lasted && protocol == SocketProtocol::Tcp && !self.truncated() {
            return Owner::Nobody(
                "the guest's own network namespace has no such connection: a container's, or passed on by the guest",
            );
        }
        // Whoever connects is no server, whatever else uses the same port.
        if protocol == SocketProtocol::Tcp && flow.opened_by == Some(FlowSide::Guest) {
            return Owner::Nobody(if socket.is_some() {
                "nobody holds its socket any more"
            } else {
                "it was shorter than the time between two looks of the agent"
            });
        }
        self.listening(protocol, flow.guest_port, Some(guest))
    }

    /// Whose the port is that flows had which ended.
    pub(super) fn owner_of_port(&self, ended: &EndedFlows) -> Owner {
        match ended.protocol().filter(|_| ended.port != 0 && ended.source == FlowSource::Tap) {
            Some(protocol) if ended.side == FlowSide::Guest => self.listening(protocol, ended.port, None),
            Some(_) => Owner::Nobody("they had ended"),
            None => Owner::Nobody("their port is not known"),
        }
    }

    /// Host sockets do not show the guest's port: the peer alone has to tell.
    fn owner_behind_socket(&self, flow: &FlowSample, protocol: SocketProtocol) -> Owner {
        let peer = flow.peer_address.to_canonical();
        let is_peer = |socket: &&&SocketSample| {
            let of_guest = socket.peer_address.to_canonical();
            socket.protocol == protocol
                && socket.peer_port == flow.peer_port
                && (of_guest == peer || (of_guest == SLIRP_HOST && peer.is_loopback()))
        };
        let owners: BTreeSet<u32> =
            self.sockets.values().filter(is_peer).flat_map(|socket| socket.owners.iter().copied()).collect();
        if owners.is_empty() {
            return Owner::Nobody("the agent saw no connection of the guest to this peer");
        }
        self.group(owners.into_iter())
    }

    /// Whoever waits for peers on a port, at the address if that is known.
    fn listening(&self, protocol: SocketProtocol, port: u16, address: Option<IpAddr>) -> Owner {
        let none = Vec::new();
        let all = self.listeners.get(&(protocol, port)).unwrap_or(&none);
        let bound =
            |listener: &&&Listener| address.is_none_or(|address| listener.address.to_canonical() == address);
        let unbound = |listener: &&&Listener| {
            let takes = |address: IpAddr| listener.address.is_ipv6() || address.is_ipv4();
            listener.address.is_unspecified() && address.is_none_or(takes)
        };
        let mut owners: BTreeSet<u32> = owners_of(all.iter().filter(bound));
        if owners.is_empty() {
            owners = owners_of(all.iter().filter(unbound));
        }
        if owners.is_empty() {
            return Owner::Nobody(if all.is_empty() {
                "no process of the guest's own network namespace has this port"
            } else {
                "the agent saw the socket, but not who holds it"
            });
        }
        self.group(owners.into_iter())
    }

    /// All who hold one socket.
    fn group(&self, pids: impl Iterator<Item = u32>) -> Owner {
        let pids: Vec<u32> = pids.collect::<BTreeSet<u32>>().into_iter().collect();
        let mut names = pids.iter().map(|pid| self.applications.get(pid).copied());
        let first = names.next().flatten();
        match pids[..] {
            [pid] => Owner::Process {
                pid,
                name: self.names.get(&pid).map_or_else(String::new, |name| (*name).to_owned()),
                application: first.map(str::to_owned),
            },
            _ => match first.filter(|first| names.all(|name| name == Some(*first))) {
                Some(name) => Owner::Application { name: name.to_owned(), pids },
                None => Owner::Shared { pids },
            },
        }
    }

    /// The agent may not have told all sockets.
    fn truncated(&self) -> bool {
        !self.reading.sample.truncated.is_empty()
    }
}

fn connection(socket: &SocketSample) -> Connection {
    let SocketSample { protocol, local_address, local_port, peer_address, peer_port, .. } = *socket;
    (protocol, local_address.to_canonical(), local_port, peer_address.to_canonical(), peer_port)
}

fn owners_of<'l>(listeners: impl Iterator<Item = &'l &'l Listener>) -> BTreeSet<u32> {
    listeners.flat_map(|listener| listener.owners.iter().copied()).collect()
}
