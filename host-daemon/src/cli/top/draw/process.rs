//! The processes of a guest, with the levels of their applications.

use std::cmp::Ordering;

use kvmpilot_core::policy::Level;

use super::super::super::words::{changed, memory, plain, rate, seconds};
use super::super::text::{Cell, Column};
use super::super::theme::Theme;
use super::head::share;
use super::page::Page;
use crate::api::views::{ApplicationView, ProcessView, ProcessesView};

pub(super) fn part(page: &mut Page, view: &ProcessesView, theme: Theme, width: u16) {
    let age = view.age_s.map_or_else(|| "not known".to_owned(), |age| format!("{} ago", seconds(Some(age))));
    let scarce = match (view.age_s, view.scarce, &view.scarce_reason) {
        (None, ..) => String::new(),
        (_, true, Some(reason)) => format!("; CPU is scarce: {reason}"),
        (_, true, None) => "; CPU is scarce".to_owned(),
        (_, false, _) => "; CPU is not scarce".to_owned(),
    };
    let message = view.message.as_ref().map_or_else(String::new, |message| format!("; {message}"));
    page.part(&format!("PROCESSES, {age}{scarce}{message}"), theme);
    if view.applications.is_empty() {
        return;
    }
    let mut all: Vec<(&ApplicationView, &ProcessView)> = view
        .applications
        .iter()
        .flat_map(|application| application.processes.iter().map(move |process| (application, process)))
        .collect();
    // Who was moved, then who uses most: that is what one looks for.
    let moved = |application: &ApplicationView| application.level != application.level_original;
    let by_cpu = |a: &ProcessView, b: &ProcessView| {
        b.cpu_ratio.unwrap_or(-1.0).total_cmp(&a.cpu_ratio.unwrap_or(-1.0))
    };
    all.sort_by(|(a, x), (b, y)| {
        moved(b).cmp(&moved(a)).then_with(|| by_cpu(x, y)).then_with(|| x.pid.cmp(&y.pid))
    });
    let is_wide = width >= 120;
    let mut columns = vec![
        Column::left("LEVEL", if is_wide { 25 } else { 15 }),
        Column::left("PROCESS", if is_wide { 20 } else { 12 }),
        Column::right("PID", 6),
        Column::right("NICE", 4),
        Column::right("CPU", 5),
    ];
    if is_wide {
        columns.extend([
            Column::right("MEMORY", 9),
            Column::right("IN", 10),
            Column::right("OUT", 10),
            Column::left("USER", 10),
            Column::left("TALKS", 5),
        ]);
    }
    columns.push(Column::left("COMMAND", 20));
    let rows = all.into_iter().map(|(application, process)| cells(application, process, theme, is_wide));
    page.table(&columns, rows.collect(), theme, width);
}

fn cells(application: &ApplicationView, process: &ProcessView, theme: Theme, is_wide: bool) -> Vec<Cell> {
    let mut cells = vec![
        level(application, theme, is_wide),
        Cell::plain(&process.name),
        Cell::plain(process.pid.to_string()),
        Cell::plain(process.nice.to_string()),
        Cell::plain(share(process.cpu_ratio)),
    ];
    if is_wide {
        let traffic = process.traffic;
        cells.extend([
            Cell::plain(memory(Some(process.rss_kib))),
            Cell::plain(rate(traffic.and_then(|traffic| traffic.received_bytes_per_s))),
            Cell::plain(rate(traffic.and_then(|traffic| traffic.sent_bytes_per_s))),
            Cell::plain(process.user.clone().unwrap_or_else(|| plain(process.uid))),
            if application.communicating { Cell::styled("yes", theme.good()) } else { Cell::plain("no") },
        ]);
    }
    cells.push(Cell::plain(&process.command));
    cells
}

/// The level; in a narrow terminal by how many steps it was moved, in a wide one from where.
fn level(application: &ApplicationView, theme: Theme, is_wide: bool) -> Cell {
    let (now, before) = (application.level, application.level_original);
    let text = if is_wide {
        changed(now.as_str(), before.as_str())
    } else if now == before {
        now.as_str().to_owned()
    } else {
        format!("{} {:+}", now.as_str(), place(now) - place(before))
    };
    match now.cmp(&before) {
        Ordering::Greater => Cell::styled(text, theme.good()),
        Ordering::Equal => Cell::plain(text),
        Ordering::Less => Cell::styled(text, theme.doubtful()),
    }
}

const fn place(level: Level) -> i8 {
    match level {
        Level::Low => 0,
        Level::BelowNormal => 1,
        Level::Normal => 2,
        Level::AboveNormal => 3,
        Level::High => 4,
    }
}
