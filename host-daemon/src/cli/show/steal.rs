//! `kvmpilot steal`.

use std::collections::BTreeMap;

use super::super::page::{Page, Screen, doubtful};
use super::super::words::{UNKNOWN, micros, percent, seconds};
use crate::api::views::{RunnerKind, StealPartView, StealView};

/// Share of the window above which a cell stands out.
const NOTABLE: f64 = 0.1;

pub(in super::super) fn steal(view: &StealView, columns: usize, screen: Screen) -> String {
    let mut page = Page::new(screen);
    if let Some(message) = &view.message {
        page.line(message);
    }
    if view.domains.is_empty() {
        return page.finish();
    }
    page.line(&format!(
        "in the last {}, while the vcpus of the domain on the left waited for a pcpu, there ran",
        seconds(view.window_s)
    ));
    let runners = runners(view);
    let shown = &runners[..runners.len().min(columns)];
    let mut titles = vec!["~WAITED".to_owned()];
    titles.extend(shown.iter().map(|name| format!(">{name}")));
    let more = runners.len() > shown.len();
    if more {
        titles.push(format!(">{} OTHERS", runners.len() - shown.len()));
    }
    titles.extend([">HOST", ">UNKNOWN", ">SUM", ">OF THE WINDOW"].map(str::to_owned));
    let rows = view.domains.iter().map(|domain| {
        let sum = |of: &dyn Fn(&StealPartView) -> bool| {
            let parts: Vec<&StealPartView> = domain.by.iter().filter(|part| of(part)).collect();
            cell(parts.iter().map(|part| part.ms).sum(), parts.iter().map(|part| part.window_ratio).sum())
        };
        let ran = |part: &StealPartView| part.runner == RunnerKind::Domain;
        let is_shown = |part: &StealPartView| shown.contains(&name(part));
        let mut row = vec![domain.domain.clone()];
        row.extend(shown.iter().map(|runner| sum(&|part| ran(part) && name(part) == *runner)));
        if more {
            row.push(sum(&|part| ran(part) && !is_shown(part)));
        }
        row.push(sum(&|part| part.runner == RunnerKind::Host));
        row.push(sum(&|part| part.runner == RunnerKind::Unknown));
        row.push(time(domain.wait_ms));
        let window: f64 = domain.by.iter().map(|part| part.window_ratio).sum();
        row.push(percent(Some(window * 100.0)));
        row
    });
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    page.table(&titles, rows.collect());
    page.finish()
}

/// The domains that ran while others waited, the one that took most first.
fn runners(view: &StealView) -> Vec<String> {
    let mut taken: BTreeMap<String, f64> = BTreeMap::new();
    for part in view.domains.iter().flat_map(|domain| &domain.by) {
        if part.runner == RunnerKind::Domain {
            *taken.entry(name(part)).or_default() += part.ms;
        }
    }
    let mut runners: Vec<(String, f64)> = taken.into_iter().collect();
    runners.sort_by(|(a, a_ms), (b, b_ms)| b_ms.total_cmp(a_ms).then_with(|| a.cmp(b)));
    runners.into_iter().map(|(name, _)| name).collect()
}

fn name(part: &StealPartView) -> String {
    let uuid = || part.uuid.map_or_else(|| UNKNOWN.to_owned(), |uuid| uuid.to_string());
    part.domain.clone().unwrap_or_else(uuid)
}

fn cell(ms: f64, window_ratio: f64) -> String {
    match ms {
        ms if ms <= 0.0 => UNKNOWN.to_owned(),
        ms if window_ratio >= NOTABLE => doubtful(&time(ms)),
        ms => time(ms),
    }
}

fn time(ms: f64) -> String {
    micros(Some(ms * 1e3))
}
