//! The verdict about one kernel, and the table of all of them.

use std::time::Duration;

use anyhow::Result;
use kvmpilot_tests::probe_report::{ProbeReport, TierOutcome};
use serde::Serialize;

/// What a kernel has to show.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    /// Tier 1 runs and is right, and no tier is wrong.
    Probes,
    /// Every tier above 0 is off, and tier 1 says why in these words.
    Refusal(&'static str),
    /// The kernel is locked down to confidentiality, and tier 1 is right all the same, or off for that reason. Which of
    /// the two depends on the kernel: loads that the verifier checks against BTF are not among what it hides.
    LockedDown,
}

/// One kernel.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) passed: bool,
    seconds: u64,
    /// Why it did not pass.
    fault: Option<String>,
    report: Option<ProbeReport>,
}

impl Row {
    pub(crate) fn new(name: &str, expected: Expected, outcome: Result<ProbeReport>, took: Duration) -> Self {
        let (report, fault) = match outcome {
            Ok(report) => {
                let fault = fault(expected, &report);
                (Some(report), fault)
            }
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        Self { name: name.to_owned(), passed: fault.is_none(), seconds: took.as_secs(), fault, report }
    }
}

/// What is missing from what was expected.
fn fault(expected: Expected, report: &ProbeReport) -> Option<String> {
    if let Some(wrong) = report.tiers.iter().find(|tier| tier.outcome == TierOutcome::Wrong) {
        return Some(format!("tier {}: {}", wrong.tier, wrong.note));
    }
    if report.tier(0).is_none_or(|tier| tier.outcome != TierOutcome::Ok) {
        return Some("tier 0 was not checked".to_owned());
    }
    let Some(tier1) = report.tier(1) else { return Some("tier 1 was not checked".to_owned()) };
    let locked = report.lockdown.as_deref() == Some("confidentiality");
    match expected {
        Expected::LockedDown if !locked => Some(format!("its lockdown mode is {:?}", report.lockdown)),
        Expected::LockedDown if tier1.outcome == TierOutcome::Off && !tier1.note.contains("locked down") => {
            Some(format!("tier 1 does not say that lockdown keeps it off: {}", tier1.note))
        }
        Expected::LockedDown => None,
        Expected::Probes if tier1.outcome == TierOutcome::Ok => None,
        Expected::Probes => Some(format!("tier 1 is off: {}", tier1.note)),
        Expected::Refusal(_)
            if report.tiers.iter().any(|tier| tier.tier > 0 && tier.outcome == TierOutcome::Ok) =>
        {
            Some("the probes run although they must not".to_owned())
        }
        Expected::Refusal(words) if tier1.note.contains(words) => None,
        Expected::Refusal(words) => Some(format!("the reason does not say `{words}`: {}", tier1.note)),
    }
}

/// Kernel by tier, then the largest errors, then the notes.
pub(crate) fn table(rows: &[Row]) -> String {
    let line = |cells: [String; 8]| {
        let [name, kernel, t1, t2, t3, errors, matrix, verdict] = cells;
        format!("{name:<16}{kernel:<32}{t1:<7}{t2:<7}{t3:<7}{errors:<36}{matrix:<10}{verdict}\n")
    };
    let head = ["", "kernel", "T1", "T2", "T3", "T1 error: on-CPU, wait, arrivals", "matrix", "verdict"];
    let mut text = line(head.map(str::to_owned));
    for row in rows {
        let tier = |number| {
            let outcome = row.report.as_ref().and_then(|report| Some(report.tier(number)?.outcome));
            outcome.map_or("-", |outcome| match outcome {
                TierOutcome::Ok => "ok",
                TierOutcome::Off => "off",
                TierOutcome::Wrong => "WRONG",
            })
        };
        let errors = row.report.as_ref().and_then(|report| report.errors);
        let errors = errors.map_or_else(
            || "-".to_owned(),
            |errors| errors.map(|error| format!("{:.4} %", error * 100.0)).join(", "),
        );
        let matrix = row.report.as_ref().and_then(|report| report.matrix_error);
        let matrix = matrix.map_or_else(|| "-".to_owned(), |error| format!("{:.2} %", error * 100.0));
        let kernel = row.report.as_ref().map_or("-", |report| report.kernel.as_str());
        let verdict = if row.passed { "passed" } else { "FAILED" };
        let verdict = format!("{verdict} in {} s", row.seconds);
        text += &line([
            row.name.clone(),
            kernel.to_owned(),
            tier(1).into(),
            tier(2).into(),
            tier(3).into(),
            errors,
            matrix,
            verdict,
        ]);
    }
    for row in rows {
        for tier in row.report.iter().flat_map(|report| &report.tiers) {
            text += &format!("\n{}, tier {}: {}", row.name, tier.tier, tier.note);
        }
        if let Some(fault) = &row.fault {
            text += &format!("\n{} FAILED: {fault}", row.name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use kvmpilot_tests::probe_report::TierReport;

    use super::*;

    fn report(tier1: TierOutcome, note: &str) -> ProbeReport {
        let tier = |tier, outcome, note: &str| TierReport { tier, outcome, note: note.to_owned() };
        let tiers = vec![tier(0, TierOutcome::Ok, ""), tier(1, tier1, note)];
        ProbeReport {
            kernel: "6.1.0".to_owned(),
            lockdown: None,
            tiers,
            errors: None,
            matrix_error: None,
            window_s: 3.0,
        }
    }

    #[test]
    fn a_kernel_passes_only_with_what_was_expected() {
        let faults = |expected, outcome, note| fault(expected, &report(outcome, note)).is_some();
        assert!(!faults(Expected::Probes, TierOutcome::Ok, ""));
        assert!(faults(Expected::Probes, TierOutcome::Off, "why"));
        assert!(faults(Expected::Probes, TierOutcome::Wrong, "why"));
        assert!(!faults(Expected::Refusal("locked"), TierOutcome::Off, "it is locked down"));
        assert!(faults(Expected::Refusal("locked"), TierOutcome::Off, "something else"));
        assert!(faults(Expected::Refusal("locked"), TierOutcome::Ok, "locked"));
        assert!(faults(Expected::LockedDown, TierOutcome::Ok, ""));
        let locked = |outcome, note| {
            let report =
                ProbeReport { lockdown: Some("confidentiality".to_owned()), ..report(outcome, note) };
            fault(Expected::LockedDown, &report).is_none()
        };
        assert!(locked(TierOutcome::Ok, "") && locked(TierOutcome::Off, "it is locked down"));
        assert!(!locked(TierOutcome::Off, "no idea") && !locked(TierOutcome::Wrong, ""));
        let none = ProbeReport { tiers: Vec::new(), ..report(TierOutcome::Ok, "") };
        assert!(fault(Expected::Probes, &none).is_some());
    }

    #[test]
    fn the_table_shows_a_machine_that_did_not_boot() {
        let rows =
            [Row::new("5.10", Expected::Probes, Err(anyhow::anyhow!("panic")), Duration::from_secs(4))];
        let text = table(&rows);
        assert!(text.contains("5.10 FAILED: panic") && text.contains("FAILED in 4 s"), "{text}");
    }
}
