//! The guest's system on the page of `kvmpilot domain`.

use kvmpilot_core::sample::{GuestSystem, ServiceState};

use super::super::page::{Page, bad, doubtful, good};
use super::super::words::{UNKNOWN, memory};

pub(super) fn facts(system: &GuestSystem) -> Vec<(&'static str, String)> {
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    let mut facts = vec![(
        "system",
        format!(
            "{}: {}, kernel {}",
            or_unknown(&system.host_name),
            or_unknown(&system.os),
            or_unknown(&system.kernel)
        ),
    )];
    if !system.missing.is_empty() {
        facts.push(("not told", doubtful(&system.missing.join("; "))));
    }
    facts
}

/// What has more than one line.
pub(super) fn tables(page: &mut Page, system: &GuestSystem) {
    if !system.interfaces.is_empty() {
        page.heading("IN THE GUEST: INTERFACES");
        let rows = system.interfaces.iter().map(|interface| {
            vec![
                interface.name.clone(),
                interface.mac.clone().unwrap_or_default(),
                interface.addresses.join(", "),
            ]
        });
        page.table(&["NAME", "MAC", "~ADDRESSES"], rows.collect());
    }
    if !system.file_systems.is_empty() {
        page.heading("IN THE GUEST: FILE SYSTEMS");
        let rows = system.file_systems.iter().map(|found| {
            vec![
                found.mount.clone(),
                found.device.clone(),
                found.kind.clone().unwrap_or_default(),
                memory(found.used_kib),
                memory(found.total_kib),
            ]
        });
        page.table(&["~MOUNT", "~DEVICE", "TYPE", ">USED", ">SIZE"], rows.collect());
    }
    if !system.services.is_empty() {
        let running = system.services.iter().filter(|service| service.state == ServiceState::Running).count();
        page.heading(&format!("IN THE GUEST: SERVICES ({running} of {} run)", system.services.len()));
        let rows = system.services.iter().map(|service| {
            let state = match service.state {
                ServiceState::Running => good("running"),
                ServiceState::Stopped => "stopped".to_owned(),
                ServiceState::Failed => bad("failed"),
                ServiceState::Changing => doubtful("changing"),
                ServiceState::Unknown => UNKNOWN.to_owned(),
            };
            vec![service.name.clone(), state, service.detail.clone()]
        });
        page.dense_table(&["~NAME", "STATE", "~DETAIL"], rows.collect());
    }
}
