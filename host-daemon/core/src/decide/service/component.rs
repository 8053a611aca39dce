//! Whether a component is there: its domain, its process, its port.

use super::Inside;
use crate::model::{DomainModel, GuestModel, ProcessModel};
use crate::policy::ComponentPolicy;
use crate::sample::{FlowSide, Listener};
use crate::service::{ComponentStatus, PartState};

/// As it is before anybody looked.
pub(super) fn blank(component: &ComponentPolicy) -> ComponentStatus {
    ComponentStatus {
        name: component.name.clone(),
        domain: component.domain.clone(),
        process: component.process.clone(),
        unit: component.unit.clone(),
        port: component.port,
        protocol: component.protocol,
        state: PartState::Unknown,
        reason: format!("the agent of {} has not told yet", component.domain),
    }
}

pub(super) fn judge(component: &ComponentPolicy, inside: &Inside<'_>, known: &mut ComponentStatus) {
    let needs_agent = component.process.is_some() || component.unit.is_some();
    let (state, reason) = match inside {
        Inside::Gone(why) => (PartState::Down, why.clone()),
        Inside::Told(domain) => match &domain.guest {
            Some(guest) => told(component, guest),
            None => return,
        },
        Inside::Later(domain) | Inside::Silent(_, domain)
            if !needs_agent && component.port.is_none_or(|port| is_served(domain, component, port)) =>
        {
            (PartState::Up, "its domain runs".to_owned())
        }
        Inside::Later(_) => return,
        Inside::Silent(why, _) => (PartState::Unknown, why.clone()),
    };
    (known.state, known.reason) = (state, reason);
}

/// Whether the flow probes saw the port being used just now.
fn is_served(domain: &DomainModel, component: &ComponentPolicy, port: u16) -> bool {
    let flows = domain.flows.iter().flat_map(|flows| &flows.flows);
    flows.filter(|flow| flow.sample.protocol() == Some(component.protocol)).any(|flow| {
        flow.sample.service() == (FlowSide::Guest, port)
            && flow.rate.bytes_per_s().is_some_and(|rate| rate > 0.0)
    })
}

/// The processes of a component.
pub(super) fn processes<'a>(
    component: &'a ComponentPolicy,
    guest: &'a GuestModel,
) -> impl Iterator<Item = &'a ProcessModel> {
    let all = guest.applications.iter().flat_map(|application| &application.processes);
    all.filter(move |process| component.is(process))
}

/// Those who listen on a port of the guest.
pub(super) fn listeners<'a>(
    component: &'a ComponentPolicy,
    port: u16,
    guest: &'a GuestModel,
) -> impl Iterator<Item = &'a Listener> {
    let all = guest.reading.iter().flat_map(|reading| &reading.sample.listeners);
    all.filter(move |listener| (listener.protocol, listener.port) == (component.protocol, port))
}

fn told(component: &ComponentPolicy, guest: &GuestModel) -> (PartState, String) {
    let domain = &component.domain;
    // What was cut from a poll may be just what is looked for.
    let missing = |what: String| match guest.truncated.first() {
        None => (PartState::Down, what),
        Some(cut) => (PartState::Unknown, format!("{what}, but not all of it was read: {cut}")),
    };
    let named = match (&component.unit, &component.process) {
        (Some(unit), Some(process)) => Some(format!("process {process} of unit {unit}")),
        (Some(unit), None) => Some(format!("process of unit {unit}")),
        (None, Some(process)) => Some(format!("process {process}")),
        (None, None) => None,
    };
    let first = processes(component, guest).next();
    if let (Some(named), None) = (&named, first) {
        return missing(format!("no {named} in {domain}"));
    }
    let running = first.map_or_else(
        || format!("domain {domain} runs"),
        |process| format!("{} runs (pid {})", process.sample.name, process.sample.key.pid),
    );
    let Some(port) = component.port else { return (PartState::Up, running) };
    let place = format!("{} port {port}", component.protocol.as_str());
    let found: Vec<_> = listeners(component, port, guest).collect();
    if found.is_empty() {
        return missing(format!("nobody listens on {place} in {domain}"));
    }
    // A socket that was handed over by systemd, or is in another namespace, has no owner that we know.
    let own = |listener: &&Listener| {
        named.is_none()
            || listener.owners.is_empty()
            || processes(component, guest).any(|process| listener.owners.contains(&process.sample.key.pid))
    };
    if found.iter().any(own) {
        return (PartState::Up, format!("{running} and listens on {place}"));
    }
    let mut all = guest.applications.iter().flat_map(|application| &application.processes);
    let holds = |process: &&ProcessModel| {
        found.iter().any(|listener| listener.owners.contains(&process.sample.key.pid))
    };
    let holder = all.find(holds);
    let holder = holder.map_or("another process", |process| process.sample.name.as_str());
    (PartState::Down, format!("{holder} listens on {place} in {domain}, not {}", named.unwrap_or_default()))
}
