//! `kvmpilot services`.

use kvmpilot_core::service::{ConnectionStatus, DriftState, PartState, ServiceState, ServiceStatus};

use super::super::page::{Page, Screen, bad, doubtful, good};
use super::super::words::{UNKNOWN, plain, ratio, seconds, time, yes_no};
use crate::api::views::{ServiceView, ServicesView};

pub(in super::super) fn services(view: &ServicesView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    if view.services.is_empty() {
        page.line("there are no services; `kvmpilot service learn NAME --from DOMAIN...` writes one down");
        return page.finish();
    }
    let rows = view.services.iter().map(|service| {
        let up = |state: &PartState| *state == PartState::Up;
        let components = service.components.iter().filter(|part| up(&part.state)).count();
        let connections = service.connections.iter().filter(|part| up(&part.state)).count();
        let same = service.files.iter().filter(|file| file.state == DriftState::Same).count();
        vec![
            service.name.clone(),
            state(service.state),
            service.since_unix_ms.map_or_else(|| UNKNOWN.to_owned(), time),
            format!("{components}/{}", service.components.len()),
            format!("{connections}/{}", service.connections.len()),
            format!("{same}/{}", service.files.len()),
            service.reasons.join("; "),
        ]
    });
    page.table(
        &["~SERVICE", "STATE", "~SINCE", ">COMPONENTS", ">CONNECTIONS", ">FILES", "~WHY"],
        rows.collect(),
    );
    page.finish()
}

pub(in super::super) fn service(view: &ServiceView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let service = &view.service;
    let since = service.since_unix_ms.map_or_else(String::new, |since| format!(" since {}", time(since)));
    page.line(&format!("{}: {}{since} ({})", service.name, state(service.state), service.source));
    service.reasons.iter().for_each(|reason| page.line(&format!("    {reason}")));
    parts(&mut page, service);
    if !view.transitions.is_empty() {
        page.heading("TRANSITIONS");
        let rows = view.transitions.iter().map(|transition| {
            vec![
                time(transition.unix_ms),
                state(transition.from),
                state(transition.to),
                transition.reasons.join("; "),
            ]
        });
        page.table(&["WHEN", "FROM", "TO", "~WHY"], rows.collect());
    }
    page.finish()
}

fn parts(page: &mut Page, service: &ServiceStatus) {
    page.heading("COMPONENTS");
    let rows = service.components.iter().map(|component| {
        vec![
            component.name.clone(),
            component.domain.clone(),
            component.unit.clone().or_else(|| component.process.clone()).unwrap_or_default(),
            component.port.map_or_else(String::new, |port| format!("{} {port}", component.protocol.as_str())),
            part(component.state),
            component.reason.clone(),
        ]
    });
    page.table(&["~COMPONENT", "~DOMAIN", "~PROCESS", "PORT", "STATE", "~WHY"], rows.collect());
    if !service.connections.is_empty() {
        page.heading("CONNECTIONS");
        page.table(
            &["~FROM", "~TO", "PORT", "STATE", ">UP", "~PRESENT", "~PORT OPEN", "~BYTES MOVE", "~WHY"],
            service.connections.iter().map(connection).collect(),
        );
    }
    if !service.files.is_empty() {
        page.heading("FILES");
        let rows = service.files.iter().map(|file| {
            let shown = match file.state {
                DriftState::Same => good("same"),
                DriftState::Changed => bad("changed"),
                DriftState::Missing => bad("missing"),
                DriftState::Unreadable => doubtful("unreadable"),
                DriftState::TooLarge => doubtful("too large"),
                DriftState::Unknown => doubtful("unknown"),
            };
            let since = file.since_unix_ms.map_or_else(|| UNKNOWN.to_owned(), time);
            vec![file.component.clone(), file.path.clone(), shown, since, file.reason.clone()]
        });
        page.table(&["~COMPONENT", "~PATH", "STATE", "~SINCE", "~WHY"], rows.collect());
    }
}

fn connection(connection: &ConnectionStatus) -> Vec<String> {
    let last = |now: Option<bool>, last: Option<u64>| match (now, last) {
        (Some(false) | None, Some(last)) => {
            format!("{}, last {}", now.map_or(UNKNOWN, yes_no), time(last))
        }
        (now, _) => plain(now.map(yes_no)),
    };
    let watched = format!(" of {}", seconds(Some(connection.watched_s)));
    vec![
        connection.from.clone(),
        connection.to.clone(),
        format!("{} {}", connection.protocol.as_str(), connection.port),
        part(connection.state),
        connection.up_ratio.map_or_else(|| UNKNOWN.to_owned(), |up| ratio(Some(up)) + &watched),
        last(connection.present, connection.present_unix_ms),
        last(connection.port_open, connection.port_open_unix_ms),
        last(connection.moving, connection.moving_unix_ms),
        connection.reason.clone(),
    ]
}

fn state(state: ServiceState) -> String {
    match state {
        ServiceState::Healthy => good(state.as_str()),
        ServiceState::Degraded | ServiceState::Unknown => doubtful(state.as_str()),
        ServiceState::Failed => bad(state.as_str()),
    }
}

fn part(state: PartState) -> String {
    match state {
        PartState::Up => good("up"),
        PartState::Down => bad("down"),
        PartState::Unknown => doubtful("unknown"),
    }
}
