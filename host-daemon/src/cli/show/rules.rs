//! `kvmpilot rules list` and `kvmpilot rules test`.

use super::super::page::{Page, Screen, bad, doubtful};
use super::super::words::{UNKNOWN, count, seconds};
use crate::api::views::{PlannedView, RuleView, RulesTestView, RulesView};

pub(in super::super) fn rules(view: &RulesView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let rows = view.rules.iter().map(|rule| {
        vec![
            rule.name.clone(),
            rule.source.clone(),
            rule.on.clone(),
            one_line(&rule.when),
            rule.then.clone(),
            held(rule),
        ]
    });
    page.table(&["RULE", "~FROM", "ON", "~WHEN", "~THEN", ">HELD"], rows.collect());
    let failed = view.rules.iter().filter_map(|rule| Some((rule, rule.result.as_ref()?)));
    for (rule, result) in failed.filter(|(_, result)| result.failed > 0) {
        let text = format!(
            "{} could not be evaluated for {} of {}: {}",
            rule.name, result.failed, result.asked, result.last_error
        );
        page.line(&bad(&text));
    }
    page.finish()
}

/// How often it held when it was asked last.
fn held(rule: &RuleView) -> String {
    rule.result.as_ref().map_or_else(
        || UNKNOWN.to_owned(),
        |result| {
            let unknown =
                if result.unknown > 0 { format!(", {} unknown", result.unknown) } else { String::new() };
            format!("{} of {}{unknown}", result.held, result.asked)
        },
    )
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(in super::super) fn rules_test(view: &RulesTestView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    page.line(&format!(
        "{} on {}: {} and {} decided with the recorded rules and with these",
        seconds(Some(view.length_s)),
        view.host,
        count(number(view.ticks), "tick"),
        count(number(view.cycles), "cycle"),
    ));
    if view.rules.is_empty() {
        page.line("all rules of the file are as recorded");
    }
    let times = |held: Option<u64>| held.map_or_else(|| UNKNOWN.to_owned(), |held| held.to_string());
    let rows: Vec<_> = view
        .rules
        .iter()
        .map(|rule| {
            let failed = if rule.failed > 0 {
                bad(&format!("{} ({})", rule.failed, rule.last_error))
            } else {
                "0".to_owned()
            };
            vec![
                rule.name.clone(),
                rule.change.clone(),
                times(rule.held_before),
                times(rule.held_after),
                failed,
            ]
        })
        .collect();
    if !rows.is_empty() {
        page.heading("RULES");
        page.table(&["RULE", "CHANGE", ">HELD BEFORE", ">HELD NOW", "~FAILED"], rows);
    }
    plan(&mut page, "PROPOSED WITH THESE RULES ONLY", &view.added);
    plan(&mut page, "PROPOSED WITH THE RECORDED RULES ONLY", &view.removed);
    for (title, findings) in [
        ("FOUND WITH THESE RULES ONLY", &view.findings_added),
        ("FOUND WITH THE RECORDED RULES ONLY", &view.findings_removed),
    ] {
        if !findings.is_empty() {
            page.heading(title);
        }
        for finding in findings {
            let domain = finding.domain_name.as_ref().map_or_else(String::new, |name| format!("{name}: "));
            page.line(&format!("{domain}{} ({})", finding.summary, finding.name));
        }
    }
    let same = view.added.is_empty()
        && view.removed.is_empty()
        && view.findings_added.is_empty()
        && view.findings_removed.is_empty();
    if same {
        page.line("the plan is the same");
    }
    page.finish()
}

fn plan(page: &mut Page, title: &str, plan: &[PlannedView]) {
    if plan.is_empty() {
        return;
    }
    page.heading(title);
    let rows = plan.iter().map(|planned| {
        let proposal = &planned.proposal;
        let held =
            planned.held.as_ref().map(|why| doubtful(&format!("held back: {why}; "))).unwrap_or_default();
        let why = format!("{held}{} [{}]", proposal.reason.summary, proposal.reason.rule);
        vec![seconds(Some(planned.at_s)), proposal.domain_name.clone(), proposal.action.to_string(), why]
    });
    page.table(&[">AT", "~DOMAIN", "~CHANGE", "~WHY"], rows.collect());
}
