//! What one cycle leaves in the store.

use std::net::SocketAddr;

use kvmpilot_core::decide::{History, class_of, need};
use kvmpilot_core::finding::Finding;
use kvmpilot_core::model::{Application, DomainModel, GuestModel, Model, ProcessModel};
use kvmpilot_core::policy::{Level, Policy};
use kvmpilot_core::sample::DomainState;

use crate::store::{ConnectionRow, CycleRecord, DomainRow, ProcessRow};

/// The rows of one cycle.
#[must_use]
pub fn record(
    model: &Model,
    findings: &[Finding],
    policy: &Policy,
    history: &History,
    unix_ms: u64,
) -> CycleRecord {
    let running = || model.domains.iter().filter(|domain| domain.state == DomainState::Running);
    let processes = || running().flat_map(processes);
    CycleRecord {
        unix_ms,
        domains: running().map(|domain| domain_row(domain, policy, history)).collect(),
        processes: processes()
            .map(|(domain, application, process)| process_row(domain, application, process, history))
            .collect(),
        connections: processes().flat_map(|(domain, _, process)| connection_rows(domain, process)).collect(),
        findings: findings.to_vec(),
    }
}

fn processes(domain: &DomainModel) -> impl Iterator<Item = (&DomainModel, &Application, &ProcessModel)> {
    let applications = domain.guest.iter().flat_map(|guest| &guest.applications);
    applications.flat_map(move |application| {
        application.processes.iter().map(move |process| (domain, application, process))
    })
}

fn domain_row(domain: &DomainModel, policy: &Policy, history: &History) -> DomainRow {
    let states = history.domains.get(&domain.uuid).map(|known| &known.states);
    let state = |of: fn(&kvmpilot_core::decide::StateHistory) -> kvmpilot_core::decide::ResourceState| {
        states.map(of).unwrap_or_default().as_str().to_owned()
    };
    let sum = |rate: fn(&kvmpilot_core::model::InterfaceModel) -> Option<f64>| {
        domain.interfaces.iter().map(rate).try_fold(0.0, |sum, rate| Some(sum + rate?))
    };
    DomainRow {
        domain: domain.uuid,
        name: domain.name.clone(),
        class: class_of(domain, policy, history),
        vcpus: u32::try_from(domain.vcpus.len()).unwrap_or(u32::MAX),
        cpu_shares: domain.cpu_shares,
        memory_current_kib: domain.balloon.map(|balloon| balloon.current.0),
        memory_maximum_kib: domain.memory_maximum.0,
        memory_usable_kib: domain.balloon.and_then(|balloon| balloon.usable).map(|usable| usable.0),
        cpu_use_ratio: domain.cpu_use().map(|used| used.0),
        wait_ratio: domain.wait_ratio().map(|wait| wait.0),
        need: need(domain, policy, history),
        cpu_state: state(|states| states.cpu),
        memory_state: state(|states| states.memory),
        received_bytes_per_s: sum(|tap| tap.received_bytes_per_s),
        sent_bytes_per_s: sum(|tap| tap.sent_bytes_per_s),
        communicating: domain.guest.as_ref().and_then(GuestModel::communicating),
        cycles_off_optimum: states.map_or(0, |states| states.off_optimum),
    }
}

fn process_row(
    domain: &DomainModel,
    application: &Application,
    process: &ProcessModel,
    history: &History,
) -> ProcessRow {
    let known = history.domains.get(&domain.uuid).and_then(|known| known.applications.get(&application.name));
    let sample = &process.sample;
    ProcessRow {
        domain: domain.uuid,
        key: sample.key,
        name: sample.name.clone(),
        command: sample.command.clone(),
        application: application.name.clone(),
        level: known.map_or_else(|| Level::of_nice(sample.nice), |known| known.level),
        communicating: application.communicating(),
        uid: sample.uid,
        unit: sample.unit.clone(),
        nice: sample.nice,
        policy: sample.policy,
        affinity: sample.affinity.clone(),
        cpu_ratio: process.cpu,
        rss_kib: sample.rss_kib,
        threads: sample.threads,
    }
}

fn connection_rows(domain: &DomainModel, process: &ProcessModel) -> Vec<ConnectionRow> {
    let pid = Some(process.sample.key.pid);
    let connected = process.connections.iter().map(|socket| ConnectionRow {
        domain: domain.uuid,
        pid,
        protocol: socket.protocol,
        local: SocketAddr::new(socket.local_address, socket.local_port).to_string(),
        peer: Some(SocketAddr::new(socket.peer_address, socket.peer_port).to_string()),
        state: Some(socket.state),
    });
    let listening = process.listeners.iter().map(|listener| ConnectionRow {
        domain: domain.uuid,
        pid,
        protocol: listener.protocol,
        local: SocketAddr::new(listener.address, listener.port).to_string(),
        peer: None,
        state: None,
    });
    connected.chain(listening).collect()
}
