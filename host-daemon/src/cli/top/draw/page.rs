//! The page of one domain: what it has, its vcpus, its processes, its orders.

use kvmpilot_core::order::{OrderState, WorkOrder};
use ratatui::style::Style;
use ratatui::text::Line;

use super::super::super::words::{changed, memory, micros, number, plain, rate, seconds};
use super::super::moment::Found;
use super::super::state::{State, state_name};
use super::super::text::{Cell, Column, clean, row, titles};
use super::super::theme::Theme;
use super::head::{ago, share};
use super::process;
use crate::api::views::{RunnerKind, StealPartView};

/// Lines, and where the parts begin.
#[derive(Default)]
pub(super) struct Page {
    pub(super) lines: Vec<Line<'static>>,
    pub(super) sections: Vec<usize>,
}

impl Page {
    fn text(&mut self, text: &str, style: Style) {
        self.lines.push(Line::styled(clean(text), style));
    }

    /// A part with a table.
    pub(super) fn part(&mut self, title: &str, theme: Theme) {
        self.sections.push(self.lines.len());
        self.text(title, theme.title());
    }

    pub(super) fn table(&mut self, columns: &[Column], rows: Vec<Vec<Cell>>, theme: Theme, width: u16) {
        self.lines.push(titles(columns, theme.title(), width));
        self.lines.extend(rows.into_iter().map(|cells| row(columns, cells, width)));
    }
}

pub(super) fn page(state: &State, theme: Theme, width: u16) -> Page {
    let mut page = Page::default();
    let found = match state.focus().map(|focus| &focus.found) {
        None => {
            let nothing = state.moment.is_some() && state.wants().is_none();
            page.text(if nothing { "no domain" } else { "asking" }, theme.quiet());
            return page;
        }
        Some(Err(why)) => {
            page.text(why, theme.doubtful());
            return page;
        }
        Some(Ok(found)) => found,
    };
    facts(&mut page, found, theme);
    vcpus(&mut page, state, found, theme, width);
    process::part(&mut page, &found.processes, theme, width);
    orders(&mut page, state, &found.orders, theme, width);
    page
}

fn facts(page: &mut Page, found: &Found, theme: Theme) {
    let domain = &found.domain;
    let row = &domain.row;
    page.text(
        &format!(
            "{}  {}, {}, class {}: {}",
            row.name,
            state_name(row),
            row.accel,
            row.class,
            row.class_evidence
        ),
        theme.title(),
    );
    if let Some(why) = &row.quarantine {
        page.text(&format!("quarantine: {why}"), theme.bad());
    }
    if let Some(job) = row.job {
        page.text(&format!("{job} is under way: nothing is changed until it is over"), theme.doubtful());
    }
    let weight = changed(&plain(row.cpu_shares.current), &plain(row.cpu_shares.original));
    page.text(
        &format!(
            "cpu {}: runs {}, waits {}  weight {weight}  need {}",
            row.states.cpu.as_str(),
            share(row.cpu_use_ratio),
            share(row.wait_ratio),
            number(row.need)
        ),
        theme.resource(row.states.cpu),
    );
    let mut text = format!(
        "memory {}: {} of {}",
        row.states.memory.as_str(),
        memory(row.memory_current_kib),
        memory(Some(row.memory_maximum_kib))
    );
    if let Some(balloon) = &domain.balloon {
        let (usable, floor) = (memory(balloon.usable_kib), memory(balloon.floor_kib));
        text.push_str(&format!("  balloon: {usable} usable, floor {floor}"));
        text.push_str(if balloon.stale { ", stale" } else { "" });
    }
    page.text(&text, theme.resource(row.states.memory));
    let agent = match (row.agent.connected, row.agent.usable) {
        (None, _) => "none".to_owned(),
        (Some(true), true) => format!("heard {} ago", seconds(row.agent.last_poll_age_s)),
        _ => row.agent.message.clone().unwrap_or_else(|| "not connected".to_owned()),
    };
    let network = row.network;
    page.text(
        &format!(
            "network in {}, out {}  agent {agent}",
            rate(network.received_bytes_per_s),
            rate(network.sent_bytes_per_s)
        ),
        Style::new(),
    );
    let modes = row.modes;
    page.text(
        &format!(
            "modes: ladder {}, weight {}, placement {}, balloon {}, resize {}",
            modes.ladder, modes.weight, modes.placement, modes.balloon, modes.resize
        ),
        theme.quiet(),
    );
    for finding in &domain.findings {
        page.text(&format!("finding: {} ({})", finding.summary, finding.name), theme.doubtful());
    }
}

fn vcpus(page: &mut Page, state: &State, found: &Found, theme: Theme, width: u16) {
    page.part("VCPUS", theme);
    let uuid = found.domain.row.uuid;
    let stolen = state.moment.as_ref().and_then(|moment| moment.steal.get(&uuid));
    let by = |number: u32| {
        let vcpu = stolen?.vcpus.iter().find(|vcpu| vcpu.number == number)?;
        let parts = vcpu.by.iter().filter(|part| part.ms > 0.0).take(4);
        Some(parts.map(|part| taken(part, uuid)).collect::<Vec<_>>().join(", "))
    };
    let columns = [
        Column::right("VCPU", 4),
        Column::right("PCPU", 4),
        Column::left("PIN", 10),
        Column::right("RUN", 6),
        Column::right("WAIT", 6),
        Column::right("P50", 8),
        Column::right("P99", 8),
        Column::left("WHILE IT WAITED THERE RAN", 20),
    ];
    let rows = found.domain.vcpus.iter().map(|vcpu| {
        vec![
            Cell::plain(vcpu.number.to_string()),
            Cell::plain(plain(vcpu.pcpu)),
            Cell::plain(plain(vcpu.pin.as_ref())),
            Cell::plain(share(vcpu.run_ratio)),
            Cell::plain(share(vcpu.wait_ratio)),
            Cell::plain(micros(vcpu.runq_wait_p50_us)),
            Cell::plain(micros(vcpu.runq_wait_p99_us)),
            Cell::plain(by(vcpu.number).unwrap_or_default()),
        ]
    });
    page.table(&columns, rows.collect(), theme, width);
}

fn taken(part: &StealPartView, own: kvmpilot_core::Uuid) -> String {
    let who = match part.runner {
        RunnerKind::Domain if part.uuid == Some(own) => "itself",
        RunnerKind::Domain => part.domain.as_deref().unwrap_or("a gone domain"),
        RunnerKind::Host => "the host",
        RunnerKind::Unknown => "unknown",
    };
    format!("{who} {}", share(Some(part.wait_ratio)))
}

fn orders(page: &mut Page, state: &State, orders: &[WorkOrder], theme: Theme, width: u16) {
    page.part(&format!("ORDERS, the newest {} (kvmpilot why ID tells more)", orders.len()), theme);
    let columns = [
        Column::right("ID", 5),
        Column::left("STATE", 11),
        Column::right("AGO", 6),
        Column::left("CHANGE", if width < 120 { 30 } else { 60 }),
        Column::left("WHY", 20),
    ];
    let rows = orders.iter().map(|order| {
        let style = match order.state {
            OrderState::Proposed | OrderState::Approved | OrderState::Applied => theme.doubtful(),
            OrderState::Verified | OrderState::Kept => theme.good(),
            OrderState::Failed => theme.bad(),
            OrderState::Rejected | OrderState::Expired | OrderState::RolledBack => theme.quiet(),
        };
        vec![
            Cell::plain(order.id.to_string()),
            Cell::styled(order.state.as_str(), style),
            Cell::plain(ago(state.now_unix_ms.saturating_sub(order.changed_unix_ms))),
            Cell::plain(order.proposal.action.to_string()),
            Cell::plain(&order.proposal.reason.summary),
        ]
    });
    page.table(&columns, rows.collect(), theme, width);
}
