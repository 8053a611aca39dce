//! What the probes themselves cost the host.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use aya::programs::{ProgramError, ProgramInfo, loaded_programs};
use aya::sys::{Stats, enable_stats};
use kvmpilot_core::sample::ProgramSample;

use super::Probes;

/// In the order of their attachment: exits are watched before anybody is, so that a thread that is watched is never
/// forgotten. Also the order of [`Cpus::runs`](super::cpus::Cpus::runs).
pub(super) const PROGRAMS: [&str; 3] = ["sched_process_exit", "sched_process_fork", "sched_switch"];

/// A time during which the kernel measures every run of every eBPF program on the host, see
/// [`Probes::begin_cost`]. Dropping it ends the measurement.
#[derive(Debug)]
pub struct CostWindow {
    stats: OwnedFd,
    begin: BTreeMap<&'static str, (u128, u64)>,
}

impl CostWindow {
    /// As [`Probes::begin_cost`], for the sake of other programs than tier 1's: dropping it ends it.
    ///
    /// # Errors
    /// As [`Probes::begin_cost`].
    pub fn of_others() -> std::io::Result<Self> {
        let stats = enable_stats(Stats::RunTime).map_err(|err| err.io_error)?;
        Ok(Self { stats, begin: BTreeMap::new() })
    }
}

/// Measured time in ns and measured runs of all programs on the host with these names, by name: only runs within a
/// [`CostWindow`] are measured.
#[must_use]
pub fn run_times(names: &BTreeSet<String>) -> BTreeMap<String, (u128, u64)> {
    let mut sums = BTreeMap::new();
    for info in loaded_programs().flatten() {
        let Some(name) = info.name_as_str().filter(|name| names.contains(*name)) else { continue };
        let (ns, runs) = sums.entry(name.to_owned()).or_insert((0, 0));
        *ns += info.run_time().as_nanos();
        *runs += info.run_count();
    }
    sums
}

/// How much work a program is, in a measure that does not depend on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramSize {
    /// Instructions after the verifier's rewriting.
    pub instructions: u32,
    /// Instructions that the verifier looked at, every path on its own. Told from Linux 5.16 on.
    pub verified: Option<u32>,
}

impl Probes {
    /// The size of each program of tier 1.
    #[must_use]
    pub fn program_sizes(&self) -> BTreeMap<&'static str, ProgramSize> {
        const BYTES: u32 = 8;
        let size = |name| {
            let info = self.info(name).ok()?;
            let instructions = info.size_translated()? / BYTES;
            Some((name, ProgramSize { instructions, verified: info.verified_instruction_count() }))
        };
        PROGRAMS.into_iter().filter_map(size).collect()
    }

    fn info(&self, name: &str) -> Result<ProgramInfo, ProgramError> {
        self.ebpf.program(name).ok_or(ProgramError::NotLoaded)?.info()
    }

    /// The programs of tier 1. How often they ran is counted always and exactly; what a run takes is known after a
    /// [`CostWindow`].
    #[must_use]
    pub fn programs(&self) -> Vec<ProgramSample> {
        let runs = self.cpus.runs();
        let sample = |(name, runs): (&'static str, u64)| ProgramSample {
            name: name.to_owned(),
            tier: 1,
            attached: 1,
            runs: Some(runs),
            ns_per_run: self.ns_per_run.get(name).copied(),
        };
        PROGRAMS.into_iter().zip(runs).map(sample).collect()
    }

    /// Lets the kernel measure until [`Probes::end_cost`]. That costs each run of each eBPF program two readings of
    /// the clock (about 30 ns, which the result contains): keep it to a second or so, and rare.
    ///
    /// # Errors
    /// Before Linux 5.8, or where it is not permitted.
    pub fn begin_cost(&self) -> std::io::Result<CostWindow> {
        let window = CostWindow::of_others()?;
        Ok(CostWindow { begin: self.run_times(), ..window })
    }

    /// Ends the measurement and keeps the mean time of a run for [`Probes::programs`]. A program that did not run
    /// meanwhile keeps what it had.
    pub fn end_cost(&mut self, window: CostWindow) {
        let end = self.run_times();
        let CostWindow { stats, begin } = window;
        drop(stats);
        for (name, (ns, runs)) in end {
            let Some((ns_before, runs_before)) = begin.get(name) else { continue };
            let (ns, runs) = (ns.saturating_sub(*ns_before), runs.saturating_sub(*runs_before));
            if let Some(mean) = ns.checked_div(u128::from(runs)).and_then(|mean| mean.try_into().ok()) {
                self.ns_per_run.insert(name, mean);
            }
        }
    }

    /// Of each program the time and number of all measured runs.
    fn run_times(&self) -> BTreeMap<&'static str, (u128, u64)> {
        let read =
            |name| self.info(name).ok().map(|info| (name, (info.run_time().as_nanos(), info.run_count())));
        PROGRAMS.into_iter().filter_map(read).collect()
    }
}
