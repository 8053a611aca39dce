//! What the daemon itself costs, over one window: its own CPU time, and what its eBPF programs take on everybody's.

use std::time::Duration;

use super::{part_of, per_second, rise_of};
use crate::sample::{OwnSample, ProgramSample};
use crate::units::KiB;

/// The daemon's own cost over one window. Parts are of one pcpu and may be above 1.
#[derive(Clone, Debug, Default)]
pub struct OwnModel {
    /// CPU time of the daemon's threads.
    pub daemon: Option<f64>,
    /// Resident memory at the end.
    pub rss: Option<KiB>,
    /// Its eBPF programs, which run on the account of whoever switches or sends.
    pub programs: Vec<ProgramModel>,
}

/// One kind of eBPF program over one window.
#[derive(Clone, Debug)]
pub struct ProgramModel {
    /// Name, as `bpftool prog` shows it.
    pub name: String,
    /// Tier that it belongs to, 1 to 3.
    pub tier: u8,
    /// Instances that are attached.
    pub attached: u32,
    /// Runs since the daemon started.
    pub runs: Option<u64>,
    /// Runs a second.
    pub runs_per_s: Option<f64>,
    /// Mean time of one run when it was measured last.
    pub ns_per_run: Option<u64>,
    /// Estimate of its CPU time, runs a second times mean time, as a part of one pcpu.
    pub cpu: Option<f64>,
}

impl OwnModel {
    /// Derives the window from its two ends.
    #[must_use]
    pub fn new(begin: &OwnSample, end: &OwnSample, elapsed: Duration) -> Self {
        let earlier = |name: &str| begin.programs.iter().find(|program| program.name == name);
        Self {
            daemon: rise_of(begin.cpu_ns, end.cpu_ns).and_then(|ns| part_of(ns, elapsed)),
            rss: end.rss_kib.map(KiB),
            programs: end
                .programs
                .iter()
                .map(|program| ProgramModel::new(earlier(&program.name), program, elapsed))
                .collect(),
        }
    }

    /// CPU time of all programs whose time is known.
    #[must_use]
    pub fn programs_cpu(&self) -> f64 {
        // Not `sum`, which is -0 of nothing.
        self.programs.iter().filter_map(|program| program.cpu).fold(0.0, |sum, part| sum + part)
    }

    /// Daemon and programs together; `None` while the daemon's own is not known. Programs that were not measured yet are
    /// not in it.
    #[must_use]
    pub fn total(&self) -> Option<f64> {
        Some(self.daemon? + self.programs_cpu())
    }
}

impl ProgramModel {
    fn new(begin: Option<&ProgramSample>, end: &ProgramSample, elapsed: Duration) -> Self {
        let runs = rise_of(begin.and_then(|begin| begin.runs), end.runs);
        let ns = runs.zip(end.ns_per_run).map(|(runs, ns)| runs.saturating_mul(ns));
        Self {
            name: end.name.clone(),
            tier: end.tier,
            attached: end.attached,
            runs: end.runs,
            runs_per_s: per_second(runs, elapsed),
            ns_per_run: end.ns_per_run,
            cpu: ns.and_then(|ns| part_of(ns, elapsed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cpu_ns: Option<u64>, runs: &[(&str, u64, Option<u64>)]) -> OwnSample {
        let program = |(name, runs, ns_per_run): &(&str, u64, Option<u64>)| ProgramSample {
            name: (*name).to_owned(),
            tier: 1,
            attached: 1,
            runs: Some(*runs),
            ns_per_run: *ns_per_run,
        };
        OwnSample { cpu_ns, rss_kib: Some(2048), programs: runs.iter().map(program).collect() }
    }

    #[test]
    fn programs_cost_runs_times_time() {
        let begin = sample(Some(1_000), &[("switch", 1_000, None), ("fork", 5, Some(100))]);
        let end = sample(
            Some(100_001_000),
            &[("switch", 2_001_000, Some(40)), ("fork", 4, Some(100)), ("new", 9, None)],
        );
        let own = OwnModel::new(&begin, &end, Duration::from_secs(2));
        assert_eq!(own.daemon, Some(0.05));
        assert_eq!(own.rss, Some(KiB(2048)));
        let seen: Vec<_> = own.programs.iter().map(|program| (program.runs_per_s, program.cpu)).collect();
        // The second one's counter went backwards, the third was not there.
        assert_eq!(seen, [(Some(1_000_000.0), Some(0.04)), (None, None), (None, None)]);
        assert!((own.total().unwrap() - 0.09).abs() < 1e-12);
    }

    #[test]
    fn without_the_daemons_own_time_there_is_no_total() {
        let own = OwnModel::new(&sample(None, &[]), &sample(Some(5), &[]), Duration::from_secs(1));
        assert_eq!((own.daemon, own.total()), (None, None));
    }
}
