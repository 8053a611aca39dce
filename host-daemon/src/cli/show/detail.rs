//! The parts of `kvmpilot domain` that tell where time goes.

use kvmpilot_core::model::RoleKind;

use super::super::page::{Page, doubtful};
use super::super::words::{UNKNOWN, number, ratio};
use crate::api::views::DomainDetailView;

/// Where each vcpu's time went.
pub(super) fn times(page: &mut Page, view: &DomainDetailView) {
    if !view.vcpu_times.is_empty() {
        page.heading("WHERE THE VCPUS' TIME GOES");
        let rows = view.vcpu_times.iter().map(|time| {
            vec![
                time.number.to_string(),
                ratio(time.run_ratio),
                lost(time.contention_ratio),
                lost(time.throttled_ratio),
                ratio(time.halt_polling_ratio),
                ratio(time.exit_handling_ratio),
                ratio(time.idle_ratio),
                time.quota_pcpus.map_or_else(|| "none".to_owned(), |quota| number(Some(quota))),
                number(time.exits_per_s),
            ]
        });
        let titles = [
            ">VCPU",
            ">GUEST",
            ">CONTENDED",
            ">THROTTLED",
            ">POLLING",
            ">EXITS",
            ">IDLE",
            ">QUOTA",
            ">EXITS/S",
        ];
        page.table(&titles, rows.collect());
    }
    for missing in &view.detail_missing {
        page.line(&doubtful(&format!("not known: {missing}")));
    }
}

/// Quota and pressure in a line each.
pub(super) fn facts(view: &DomainDetailView) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(quota) = view.quota_pcpus {
        facts.push(("quota", format!("{quota:.2} pcpus for all its threads together")));
    }
    if let Some(pressure) = view.pressure {
        facts.push((
            "pressure",
            format!(
                "some thread waits {} of the time for CPU, {} for memory, {} for I/O",
                ratio(pressure.cpu_ratio),
                ratio(pressure.memory_ratio),
                ratio(pressure.io_ratio)
            ),
        ));
    }
    facts
}

/// Threads by purpose.
pub(super) fn roles(page: &mut Page, view: &DomainDetailView) {
    let rows = view.roles.iter().map(|sum| {
        let pcpus =
            |pcpus: Option<f64>| pcpus.map_or_else(|| UNKNOWN.to_owned(), |pcpus| format!("{pcpus:.3}"));
        let role = match sum.role {
            RoleKind::Vcpu => "vcpu",
            RoleKind::Emulator => "emulator",
            RoleKind::Iothread => "iothread",
            RoleKind::Vhost => "vhost",
            RoleKind::Worker => "worker",
        };
        vec![role.to_owned(), sum.threads.to_string(), pcpus(sum.run_pcpus), pcpus(sum.wait_pcpus)]
    });
    page.heading("THREADS BY ROLE (in pcpus)");
    page.table(&["ROLE", ">THREADS", ">RUN", ">WAIT"], rows.collect());
}

/// Lost time of more than a tenth stands out.
fn lost(part: Option<f64>) -> String {
    let text = ratio(part);
    if part.is_some_and(|part| part > 0.1) { doubtful(&text) } else { text }
}
