//! `kvmpilot replay`.

use super::super::page::{Page, Screen, doubtful};
use super::super::words::{count, seconds, time};
use crate::api::views::{PlannedView, ReplayView};

pub(in super::super) fn replay(view: &ReplayView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    page.line(&format!(
        "recorded on {} (Linux {}) by kvmpilotd {} from {} on",
        view.host,
        view.kernel,
        view.version,
        time(view.started_unix_ms)
    ));
    page.line(&format!(
        "{} in {}, {} and {} decided{}",
        count(usize::try_from(view.turns).unwrap_or(usize::MAX), "turn"),
        seconds(Some(view.length_s)),
        count(usize::try_from(view.ticks).unwrap_or(usize::MAX), "tick"),
        count(usize::try_from(view.cycles).unwrap_or(usize::MAX), "cycle"),
        if view.other_configuration { " with another configuration than the recorded one" } else { "" }
    ));
    view.notes.iter().for_each(|note| page.line(note));
    let rows: Vec<Vec<String>> = merged(&view.plan)
        .iter()
        .map(|(planned, times, last_s)| {
            let again = if *times > 1 {
                format!(" ({times} times until {})", offset(*last_s))
            } else {
                String::new()
            };
            let proposal = &planned.proposal;
            let held = planned.held.as_ref().map(|why| doubtful(&format!("held back: {why}; ")));
            vec![
                offset(planned.at_s),
                proposal.domain_name.clone(),
                proposal.action.to_string(),
                format!(
                    "{}{} [{}]{again}",
                    held.unwrap_or_default(),
                    proposal.reason.summary,
                    proposal.reason.rule
                ),
            ]
        })
        .collect();
    if rows.is_empty() {
        page.line("nothing would have been proposed");
    } else {
        page.heading("PLAN");
        page.table(&[">AT", "~DOMAIN", "~CHANGE", "~WHY"], rows);
    }
    if !view.applied.is_empty() {
        page.heading("CARRIED OUT MEANWHILE");
        let rows = view.applied.iter().map(|applied| {
            let proposal = &applied.proposal;
            vec![offset(applied.at_s), proposal.domain_name.clone(), proposal.action.to_string()]
        });
        page.table(&[">AT", "~DOMAIN", "~CHANGE"], rows.collect());
    }
    let findings: Vec<_> = view.findings.iter().map(|found| found.finding.clone()).collect();
    super::findings(&mut page, &findings);
    page.finish()
}

/// Proposals that were made again and again, once: with how often, and when last.
fn merged(plan: &[PlannedView]) -> Vec<(&PlannedView, u32, f64)> {
    let mut merged: Vec<(&PlannedView, u32, f64)> = Vec::new();
    for planned in plan {
        let same = |(other, ..): &&mut (&PlannedView, u32, f64)| {
            (other.proposal.domain, &other.proposal.action, &other.held)
                == (planned.proposal.domain, &planned.proposal.action, &planned.held)
        };
        match merged.iter_mut().find(same) {
            Some((_, times, last_s)) => {
                *times += 1;
                *last_s = planned.at_s;
            }
            None => merged.push((planned, 1, planned.at_s)),
        }
    }
    merged
}

/// Seconds since the start.
fn offset(at_s: f64) -> String {
    format!("{at_s:.0}\u{a0}s")
}
