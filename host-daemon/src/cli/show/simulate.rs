//! `kvmpilot simulate`: what came of a scenario.

use kvmpilot_core::simulate::Report;

use super::super::page::{Page, Screen, bad, good};

pub(in super::super) fn simulate(report: &Report, screen: Screen) -> String {
    let mut page = Page::new(screen);
    page.line(&report.about);
    let or_none =
        |value: Option<u64>| value.map_or_else(|| "none".to_owned(), |seconds| format!("{seconds} s"));
    page.facts([
        ("simulated", format!("{} s, {} vcpus on {} pcpus", report.seconds, report.vcpus, report.pcpus)),
        ("actions", report.all_actions().to_string()),
        ("work against without kvmpilot", percent(report.work_ratio)),
        ("windows with 95 % of it at least", percent(report.unharmed_ratio)),
        ("memory given to the host", percent(report.reclaimed_ratio)),
        ("memory given to the host at most", format!("{:.0} MiB", report.most_reclaimed_mib)),
        ("seconds below a working set", report.short_s.to_string()),
        ("longest until a release", or_none(report.release_s)),
        ("balloons turned round", format!("{:.2} times an hour", report.turns_per_hour)),
        ("values that went to and fro", format!("{} times", report.oscillations)),
        ("weights settled after a step", or_none(report.answered_s)),
        ("targets kept after a step", or_none(report.converged_s)),
        (
            "trials",
            format!(
                "{} kept, {} undone; {} held back, {} failed",
                report.trials_kept, report.trials_undone, report.held, report.failed
            ),
        ),
    ]);
    let rows = report.classes.iter().map(|(class, figures)| {
        vec![
            class.clone(),
            figures.domains.to_string(),
            percent(figures.wait_ratio),
            percent(figures.wait_ratio_without),
            format!("{:.2}", figures.p50_ms),
            format!("{:.2}", figures.p50_ms_without),
            format!("{:.2}", figures.p99_ms),
            format!("{:.2}", figures.p99_ms_without),
            percent(figures.work_ratio),
        ]
    });
    page.table(
        &["CLASS", ">DOMAINS", ">WAIT", ">WITHOUT", ">P50 MS", ">WITHOUT", ">P99 MS", ">WITHOUT", ">WORK"],
        rows.collect(),
    );
    if !report.actions.is_empty() {
        let rows = report.actions.iter().map(|(rule, count)| vec![rule.clone(), count.to_string()]);
        page.table(&["RULE", ">TIMES"], rows.collect());
    }
    let rows = report.domains.iter().filter(|domain| domain.unharmed_ratio < 1.0).take(5).map(|domain| {
        vec![
            domain.name.clone(),
            domain.class.clone(),
            percent(domain.figures.work_ratio),
            domain.worst_window_ratio.map_or_else(|| "none".to_owned(), percent),
            percent(domain.unharmed_ratio),
        ]
    });
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        page.table(&["~WORST OFF", "CLASS", ">WORK", ">WORST WINDOW", ">WINDOWS UNHARMED"], rows);
    }
    for missed in &report.missed {
        let found = missed.found.map_or_else(|| "never".to_owned(), |found| format!("{found:.3}"));
        page.line(&bad(&format!(
            "missed: {} is {found}, the scenario allows {}",
            missed.bound, missed.allowed
        )));
    }
    if report.missed.is_empty() {
        page.line(&good("every bound of the scenario is kept"));
    }
    page.finish()
}

fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}
