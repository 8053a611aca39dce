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
pub(super) struct Machine {
    pub(super) command: String,
    pub(super) unix_s: u64,
    pub(super) kernel: String,
    pub(super) cpu: String,
    pub(super) pcpus: usize,
    /// Load average of the last minute before it began.
    pub(super) load_before: f64,
    /// What runs the guests: `kvm` or `tcg`.
    pub(super) accel: String,
}

impl Machine {
    /// This one, now. Called before the work begins.
    pub(super) fn look(command: String) -> Result<Self> {
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
pub(super) fn build_daemon() -> Result<()> {
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

/// The middle one of some values; the lower one of an even number. NaN of none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// Writes a report to the file that `--json` names, if it does.
pub(super) fn write(report: &impl Serialize, json: Option<&Path>) -> Result<()> {
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
        assert!(median([4.0, 1.0, 2.0, 3.0]).total_cmp(&2.0).is_eq());
        assert!(median([]).is_nan());
    }
}
