//! What the daemon itself costs: its own process, and its eBPF programs, whose runs are counted always and timed now and
//! then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvmpilot_core::sample::{OwnSample, ProgramSample};
use tokio::time::Instant;

use crate::kernel::Kernel;
use crate::probes::{CostWindow, Probes, run_times};

/// Between two measurements of what a run takes. One lasts from one sample to the next; meanwhile each run of each eBPF
/// program on the host costs two readings of the clock more.
const PERIOD: Duration = Duration::from_secs(60);

type Times = BTreeMap<String, (u128, u64)>;

/// Keeps the books of our own cost.
#[derive(Debug, Default)]
pub(super) struct Meter {
    window: Option<(CostWindow, Times)>,
    due: Option<Instant>,
    /// Programs that are not the scheduler probe's.
    others: Vec<ProgramSample>,
    ns_per_run: BTreeMap<String, u64>,
}

impl Meter {
    /// What the other programs have counted.
    pub(super) fn note(&mut self, others: Vec<ProgramSample>) {
        self.others = others;
    }

    /// One reading.
    pub(super) fn sample(&mut self, kernel: &Kernel, probes: Option<&mut Probes>, now: Instant) -> OwnSample {
        let own = kernel.own_use().ok();
        let mut programs = self.measure(probes, now);
        programs.extend(self.others.iter().cloned().map(|mut program| {
            program.ns_per_run = program.ns_per_run.or_else(|| self.ns_per_run.get(&program.name).copied());
            program
        }));
        OwnSample {
            cpu_ns: own.and_then(|own| u64::try_from(own.cpu.as_nanos()).ok()),
            rss_kib: own.map(|own| own.rss_kib),
            programs,
        }
    }

    /// Ends a measurement under way, or begins one that is due; returns tier 1's programs.
    fn measure(&mut self, mut probes: Option<&mut Probes>, now: Instant) -> Vec<ProgramSample> {
        let names: BTreeSet<String> = self.others.iter().map(|program| program.name.clone()).collect();
        let times = || if names.is_empty() { Times::new() } else { run_times(&names) };
        if let Some((window, begin)) = self.window.take() {
            let end = times();
            match &mut probes {
                Some(probes) => probes.end_cost(window),
                None => drop(window),
            }
            for (name, (ns, runs)) in end {
                let (ns_before, runs_before) = begin.get(&name).copied().unwrap_or_default();
                // An instance that ended meanwhile takes its figures along: then there is nothing to tell.
                let (ns, runs) = (ns.saturating_sub(ns_before), runs.saturating_sub(runs_before));
                let mean = ns.checked_div(u128::from(runs)).and_then(|mean| u64::try_from(mean).ok());
                self.ns_per_run.extend(mean.map(|mean| (name, mean)));
            }
        } else if (probes.is_some() || !names.is_empty()) && self.due.is_none_or(|due| now >= due) {
            self.due = Some(now + PERIOD);
            match probes.as_ref().map_or_else(CostWindow::of_others, |probes| probes.begin_cost()) {
                Ok(window) => self.window = Some((window, times())),
                Err(error) => tracing::debug!(%error, "the kernel does not time eBPF programs"),
            }
        }
        probes.map(|probes| probes.programs()).unwrap_or_default()
    }
}
