//! What the benchmarks share: on which machine they ran, medians, and the file that they leave.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use kvmpilot_tests::daemon::use_release_build;
use serde::Serialize;

use crate::command::{cargo, run_shown, say};

/// Where and when a benchmark ran, and how it is run again.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) command: String,
    pub(crate) unix_s: u64,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) pcpus: usize,
    /// Load average of the last minute before it began.
    pub(crate) load_before: f64,
    /// What runs the guests: `kvm` or `tcg`.
    pub(crate) accel: String,
}

impl Machine {
    /// This one, now. Called before the work begins.
    pub(crate) fn look(command: String) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let cpuinfo = read("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = read("/proc/loadavg")?;
        Ok(Self {
            command,
            unix_s: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpu: model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            pcpus: std::thread::available_parallelism()?.get(),
            load_before: load.split(' ').next().unwrap_or_default().parse()?,
            accel: String::new(),
        })
    }
}

/// Builds the daemon for release, and has the lab use that: a debug build takes ten times the CPU from the guests.
pub(crate) fn build_daemon() -> Result<()> {
    say("building the daemon for release, which takes some minutes the first time");
    run_shown(cargo().args(["build", "--quiet", "--release", "--package", "kvmpilot"]))?;
    use_release_build();
    Ok(())
}

/// CPU time of a process until now, in seconds, all of its threads together: proc(5), in ticks of 10 ms.
pub(super) fn cpu_s(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // utime and stime are the fields 14 and 15, the state behind the name is field 3.
    let fields = stat.rsplit_once(')').with_context(|| format!("no name in {path}"))?.1.split_whitespace();
    let ticks = fields.skip(11).take(2).map(|ticks| Ok(ticks.parse::<f64>()?)).sum::<Result<f64>>()?;
    Ok(ticks / 100.0)
}

/// The middle one of some values; the mean of the middle two of an even number. NaN of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
    f64::midpoint(middle(values.len().saturating_sub(1) / 2), middle(values.len() / 2))
}

/// The smallest of some values that at least this part of all does not exceed, 0 to 1. NaN of none.
pub(crate) fn quantile(values: impl IntoIterator<Item = f64>, part: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let whole = u32::try_from(values.len()).map_or(f64::INFINITY, f64::from);
    let enough = (1..).zip(&values).find(|(seen, _)| f64::from(*seen) >= part * whole);
    enough.map_or(f64::NAN, |(_, value)| *value)
}

/// Writes a report to the file that `--json` names, if it does.
pub(crate) fn write(report: &impl Serialize, json: Option<&Path>) -> Result<()> {
    let Some(file) = json else { return Ok(()) };
    let text = serde_json::to_string_pretty(report)? + "\n";
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_values_that_were_measured() {
        assert!(median([3.0, 1.0, 2.0]).total_cmp(&2.0).is_eq());
        assert!(median([4.0, 1.0, 2.0, 3.0]).total_cmp(&2.5).is_eq());
        assert!(median([]).is_nan());
        let hundred = || (1..=100).map(f64::from);
        assert!(quantile(hundred(), 0.99).total_cmp(&99.0).is_eq());
        assert!(quantile(hundred(), 0.0).total_cmp(&1.0).is_eq());
        assert!(quantile([], 0.5).is_nan());
    }
}
