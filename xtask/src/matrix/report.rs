//! The verdict about one kernel, and the table of all of them.

use std::time::Duration;

use anyhow::Result;
use kvmpilot_tests::probe_report::{ProbeReport, TierOutcome};
use serde::Serialize;

/// What a kernel has to show.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    /// All tiers run and are right.
    Probes,
    /// Tier 1 is off and says why in these words.
    Refusal {
        /// Part of the reason.
        words: &'static str,
        /// So are the tiers above; else they may run, because they need less.
        all: bool,
    },
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
    let outcome = |number| report.tier(number).map(|tier| tier.outcome);
    if let Some(missing) = (0..4).find(|number| outcome(*number).is_none()) {
        return Some(format!("tier {missing} was not checked"));
    }
    if let Some(wrong) = report.tiers.iter().find(|tier| tier.outcome == TierOutcome::Wrong) {
        return Some(format!("tier {}: {}", wrong.tier, wrong.note));
    }
    let off = report.tiers.iter().find(|tier| tier.outcome == TierOutcome::Off);
    let reason = report.tier(1).map(|tier| tier.note.as_str()).unwrap_or_default();
    let lacks = |words: &str| !reason.contains(words);
    let runs = |number| outcome(number) == Some(TierOutcome::Ok);
    match expected {
        Expected::Probes => off.map(|tier| format!("tier {} is off: {}", tier.tier, tier.note)),
        Expected::Refusal { .. } if runs(1) => Some("tier 1 runs although it must not".to_owned()),
        Expected::Refusal { all: true, .. } if runs(2) || runs(3) => {
            Some("tiers 2 and 3 run although they must not".to_owned())
        }
        Expected::Refusal { words, .. } => {
            lacks(words).then(|| format!("the reason does not say `{words}`: {reason}"))
        }
        Expected::LockedDown if report.lockdown.as_deref() != Some("confidentiality") => {
            Some(format!("its lockdown mode is {:?}", report.lockdown))
        }
        Expected::LockedDown => (!runs(1) && lacks("locked down"))
            .then(|| format!("tier 1 does not say that lockdown keeps it off: {reason}")),
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

    use TierOutcome::{Off, Ok, Wrong};

    /// Tiers 1 to 3; the reason is that of tier 1.
    fn report(outcomes: [TierOutcome; 3], reason: &str) -> ProbeReport {
        let tier = |tier, outcome, note: &str| TierReport { tier, outcome, note: note.to_owned() };
        let [one, two, three] = outcomes;
        let tiers = vec![tier(0, Ok, ""), tier(1, one, reason), tier(2, two, ""), tier(3, three, "")];
        let kernel = "6.1.0".to_owned();
        ProbeReport { kernel, lockdown: None, tiers, errors: None, matrix_error: None, window_s: 3.0 }
    }

    #[test]
    fn a_kernel_passes_only_with_what_was_expected() {
        let passes = |expected, outcomes, reason| fault(expected, &report(outcomes, reason)).is_none();
        assert!(passes(Expected::Probes, [Ok, Ok, Ok], ""));
        for outcomes in [[Off, Ok, Ok], [Ok, Off, Ok], [Ok, Ok, Off], [Wrong, Ok, Ok], [Ok, Ok, Wrong]] {
            assert!(!passes(Expected::Probes, outcomes, "why"), "{outcomes:?}");
        }
        let refusal = Expected::Refusal { words: "no BTF", all: false };
        assert!(passes(refusal, [Off, Off, Ok], "it has no BTF"));
        assert!(!passes(refusal, [Off, Off, Ok], "something else"));
        assert!(!passes(refusal, [Ok, Off, Ok], "no BTF"));
        assert!(!passes(refusal, [Off, Wrong, Ok], "no BTF"));
        let nothing = Expected::Refusal { words: "no BTF", all: true };
        assert!(passes(nothing, [Off, Off, Off], "no BTF") && !passes(nothing, [Off, Off, Ok], "no BTF"));
        assert!(!passes(Expected::LockedDown, [Ok, Off, Ok], ""), "it is not locked down");
        let locked = |outcome, note| {
            let report = report([outcome, Off, Ok], note);
            let report = ProbeReport { lockdown: Some("confidentiality".to_owned()), ..report };
            fault(Expected::LockedDown, &report).is_none()
        };
        assert!(locked(Ok, "") && locked(Off, "it is locked down"));
        assert!(!locked(Off, "no idea") && !locked(Wrong, ""));
        let mut short = report([Ok, Ok, Ok], "");
        short.tiers.pop();
        assert!(fault(Expected::Probes, &short).is_some());
    }

    #[test]
    fn the_table_shows_a_machine_that_did_not_boot() {
        let rows =
            [Row::new("5.10", Expected::Probes, Err(anyhow::anyhow!("panic")), Duration::from_secs(4))];
        let text = table(&rows);
        assert!(text.contains("5.10 FAILED: panic") && text.contains("FAILED in 4 s"), "{text}");
    }
}
