//! What `probe-check` tells about one kernel and the kernel matrix reads: one line of JSON on a console.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Begins the line.
const MARK: &str = "probe-check: ";

/// How a tier of the telemetry fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TierOutcome {
    /// It runs, and what it counts is right.
    Ok,
    /// It does not run and said why.
    Off,
    /// It runs and is wrong, or it failed without a reason.
    Wrong,
}

/// One tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierReport {
    /// 0 to 3.
    pub tier: u8,
    /// How it fared.
    pub outcome: TierOutcome,
    /// What was counted, or the reason.
    pub note: String,
}

/// One kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// `uname -r`.
    pub kernel: String,
    /// Lockdown mode, where the kernel tells.
    pub lockdown: Option<String>,
    /// The tiers that were tried, tier 0 first.
    pub tiers: Vec<TierReport>,
    /// Largest relative error of tier 1 against schedstat over the window: on-CPU time, runq_wait, arrivals.
    pub errors: Option<[f64; 3]>,
    /// Largest error of the steal matrix, as a part of the waiting thread's wait.
    pub matrix_error: Option<f64>,
    /// Length of the window in seconds.
    pub window_s: f64,
}

impl ProbeReport {
    /// The line to print.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn line(&self) -> Result<String> {
        Ok(format!("{MARK}{}", serde_json::to_string(self)?))
    }

    /// Finds the report in what a console showed.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn find(console: &str) -> Result<Self> {
        let line = console.lines().find_map(|line| Some(line.split_once(MARK)?.1));
        let line = line.context("the console shows no report")?;
        serde_json::from_str(line.trim()).context("the report is damaged")
    }

    /// The report of one tier.
    #[must_use]
    pub fn tier(&self, number: u8) -> Option<&TierReport> {
        self.tiers.iter().find(|tier| tier.tier == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_found_between_the_kernels_own_words() {
        let tier = TierReport { tier: 1, outcome: TierOutcome::Off, note: "no \"BTF\"".to_owned() };
        let report = ProbeReport {
            kernel: "5.10.0".to_owned(),
            lockdown: Some("none".to_owned()),
            tiers: vec![tier],
            errors: Some([0.0, 1e-9, 0.5]),
            matrix_error: Some(0.01),
            window_s: 3.0,
        };
        let console =
            format!("[    1.0] Run /init\r\n[   2.0] x{}\r\nreboot: Power down\r\n", report.line().unwrap());
        assert_eq!(ProbeReport::find(&console).unwrap(), report);
        assert!(ProbeReport::find("[ 1.0] Kernel panic").is_err());
        assert!(ProbeReport::find("probe-check: {").is_err());
    }
}
