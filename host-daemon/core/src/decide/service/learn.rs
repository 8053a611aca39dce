//! Learning a service from what runs and talks now between some domains: who listens for other nodes, and who of these
//! domains talks to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{DomainModel, GuestModel, ProcessModel};
use crate::policy::{ComponentPolicy, ConnectionPolicy, MAX_COMPONENTS, ServicePolicy};
use crate::sample::{Listener, SocketProtocol, SocketSample};

/// Ports from here on are given out to whoever asks for any: a listener there is no server that has a place of its own.
const EPHEMERAL: u16 = 32_768;

/// What was learned, and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// The service.
    pub service: ServicePolicy,
    /// What an administrator should know about it, in words.
    pub notes: Vec<String>,
}

/// Puts a service together.
#[must_use]
pub fn learn(name: &str, domains: &[&DomainModel]) -> Learned {
    let mut learned = Learned {
        service: ServicePolicy { name: name.to_owned(), ..ServicePolicy::default() },
        notes: Vec::new(),
    };
    let several = domains.len() > 1;
    let addresses: Vec<BTreeSet<IpAddr>> = domains.iter().map(|domain| addresses(domain)).collect();
    for domain in domains {
        let Some(guest) = &domain.guest else {
            learned
                .notes
                .push(format!("{}: its agent has told nothing, so nothing of it is in here", domain.name));
            continue;
        };
        learned.notes.extend(guest.truncated.iter().map(|cut| format!("{}: left out: {cut}", domain.name)));
        for (process, listener) in servers(guest) {
            learned.component(domain, Some(process), Some((listener.protocol, listener.port)), several);
        }
    }
    for (domain, ours) in domains.iter().zip(&addresses) {
        for (peer, protocol, port) in talks(domain) {
            let Some(at) =
                addresses.iter().position(|theirs| theirs.contains(&peer) && !ours.contains(&peer))
            else {
                continue;
            };
            let Some(target) = domains.get(at) else { continue };
            let to = learned.listener(target, protocol, port, several);
            let process = domain.guest.as_ref().and_then(|guest| talker(guest, peer, protocol, port));
            let from = learned.talker(domain, process, several);
            let connection = ConnectionPolicy { from, to, port, protocol };
            if connection.from != connection.to && !learned.service.connections.contains(&connection) {
                learned.service.connections.push(connection);
            }
        }
    }
    let ServicePolicy { components, connections, .. } = &mut learned.service;
    let is_in = |name: &String| components.iter().any(|component| component.name == *name);
    connections.retain(|connection| is_in(&connection.from) && is_in(&connection.to));
    connections.truncate(MAX_COMPONENTS);
    if learned.service.components.is_empty() {
        learned
            .notes
            .push("nobody listens for other nodes and nobody talks between these domains".to_owned());
    }
    learned
}

impl Learned {
    /// The name of the component that listens on this port of the domain.
    fn listener(
        &mut self,
        domain: &DomainModel,
        protocol: SocketProtocol,
        port: u16,
        several: bool,
    ) -> String {
        let is = |component: &&ComponentPolicy| {
            component.domain == domain.name && (component.protocol, component.port) == (protocol, Some(port))
        };
        match self.service.components.iter().find(is) {
            Some(component) => component.name.clone(),
            None => self.component(domain, None, Some((protocol, port)), several),
        }
    }

    /// The name of the component that talks: the one of the process, else a server of the domain if it has only one, else the
    /// domain itself.
    fn talker(&mut self, domain: &DomainModel, process: Option<&ProcessModel>, several: bool) -> String {
        let here: Vec<&ComponentPolicy> =
            self.service.components.iter().filter(|component| component.domain == domain.name).collect();
        let by_process = process.and_then(|process| here.iter().find(|component| component.is(process)));
        if let Some(component) = by_process {
            return component.name.clone();
        }
        match (process, here.as_slice()) {
            (None, [only]) => only.name.clone(),
            _ => self.component(domain, process, None, several),
        }
    }

    fn component(
        &mut self,
        domain: &DomainModel,
        process: Option<&ProcessModel>,
        port: Option<(SocketProtocol, u16)>,
        several: bool,
    ) -> String {
        let unit = process.and_then(|process| process.sample.unit.clone());
        let program =
            process.filter(|_| unit.is_none()).map(|process| process.sample.name.replace('\u{fffd}', "*"));
        let what = unit.as_deref().map(|unit| unit.trim_end_matches(".service")).or(program.as_deref());
        let base = match (what, several) {
            (None, _) => domain.name.clone(),
            (Some(what), true) => format!("{}-{what}", domain.name),
            (Some(what), false) => what.to_owned(),
        };
        let same = |component: &&ComponentPolicy| {
            component.domain == domain.name
                && (&component.unit, &component.process) == (&unit, &program)
                && (component.protocol, component.port)
                    == (port.map_or(SocketProtocol::Tcp, |port| port.0), port.map(|port| port.1))
        };
        if let Some(known) = self.service.components.iter().find(same) {
            return known.name.clone();
        }
        if self.service.components.len() >= MAX_COMPONENTS {
            let note = format!("only the first {MAX_COMPONENTS} components are in here");
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
            return base;
        }
        let taken = |name: &str| self.service.components.iter().any(|component| component.name == name);
        let with_port = port.map_or_else(|| base.clone(), |(_, port)| format!("{base}-{port}"));
        let name = if taken(&base) { with_port } else { base };
        let name = if taken(&name) { format!("{name}-{}", self.service.components.len() + 1) } else { name };
        self.service.components.push(ComponentPolicy {
            name: name.clone(),
            domain: domain.name.clone(),
            process: program,
            unit,
            port: port.map(|port| port.1),
            protocol: port.map(|port| port.0).unwrap_or_default(),
        });
        name
    }
}

/// Addresses of its guest, as far as they were seen in use.
fn addresses(domain: &DomainModel) -> BTreeSet<IpAddr> {
    let sockets = sockets(domain).map(|socket| socket.local_address);
    let flows = domain.flows.iter().flat_map(|flows| &flows.flows).map(|flow| flow.sample.guest_address);
    let all = sockets.chain(flows).map(|address| address.to_canonical());
    all.filter(|address| !address.is_loopback() && !address.is_unspecified()).collect()
}

fn sockets(domain: &DomainModel) -> impl Iterator<Item = &SocketSample> {
    domain.guest.iter().flat_map(|guest| &guest.reading).flat_map(|reading| &reading.sample.sockets)
}

/// Who listens for other nodes: one entry for each port.
fn servers(guest: &GuestModel) -> Vec<(&ProcessModel, &Listener)> {
    let mut found: BTreeMap<(SocketProtocol, u16), (&ProcessModel, &Listener)> = BTreeMap::new();
    for process in guest.applications.iter().flat_map(|application| &application.processes) {
        let outside = process
            .listeners
            .iter()
            .filter(|listener| !listener.address.to_canonical().is_loopback() && listener.port < EPHEMERAL);
        for listener in outside {
            found.entry((listener.protocol, listener.port)).or_insert((process, listener));
        }
    }
    found.into_values().collect()
}

/// Peers that the domain opened connections to: it is who has the ephemeral port.
fn talks(domain: &DomainModel) -> BTreeSet<(IpAddr, SocketProtocol, u16)> {
    let listens: BTreeSet<(SocketProtocol, u16)> = domain
        .guest
        .iter()
        .flat_map(|guest| &guest.reading)
        .flat_map(|reading| &reading.sample.listeners)
        .map(|listener| (listener.protocol, listener.port))
        .collect();
    let sockets = sockets(domain)
        .map(|socket| (socket.protocol, socket.local_port, socket.peer_address, socket.peer_port));
    let flows = domain.flows.iter().flat_map(|flows| &flows.flows).filter_map(|flow| {
        let sample = &flow.sample;
        Some((sample.protocol()?, sample.guest_port, sample.peer_address, sample.peer_port))
    });
    sockets
        .chain(flows)
        .filter(|(protocol, local, _, port)| {
            !listens.contains(&(*protocol, *local)) && *port < EPHEMERAL && *port > 0
        })
        .map(|(protocol, _, peer, port)| (peer.to_canonical(), protocol, port))
        .collect()
}

/// Whose process has a connection to this peer now.
fn talker(guest: &GuestModel, peer: IpAddr, protocol: SocketProtocol, port: u16) -> Option<&ProcessModel> {
    let mut all = guest.applications.iter().flat_map(|application| &application.processes);
    let talks = |process: &&ProcessModel| {
        process.connections.iter().any(|socket| {
            (socket.peer_address.to_canonical(), socket.protocol, socket.peer_port) == (peer, protocol, port)
        })
    };
    all.find(talks).and_then(|process| settled(guest, process))
}

/// The process, or its nearest parent that has been there for a while: a program that a script runs for each request is no
/// component.
fn settled<'a>(guest: &'a GuestModel, process: &'a ProcessModel) -> Option<&'a ProcessModel> {
    const A_WHILE_S: u64 = 30;
    let sample = &guest.reading.as_ref()?.sample;
    let is_old = |process: &&ProcessModel| {
        let age = sample.uptime_cs / 100;
        age.saturating_sub(process.sample.key.start_ticks.checked_div(sample.ticks_per_second).unwrap_or(0))
            >= A_WHILE_S
    };
    let all = || guest.applications.iter().flat_map(|application| &application.processes);
    let parent = |process: &&'a ProcessModel| {
        all().find(|other| other.sample.key.pid == process.sample.parent && other.sample.key.pid > 1)
    };
    std::iter::successors(Some(process), parent).take(16).find(is_old)
}
