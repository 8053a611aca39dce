//! Who used the machine's CPU during a turn. A unit of work takes longer when somebody else is at work on the machine, and the
//! report must show that it was not the contestant.

use std::fs;

use anyhow::{Context, Result};

use crate::bench::common::cpu_s;

/// CPU time so far, or in between, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct CpuTime {
    /// Everything on all pcpus, what a hypervisor took from this machine included.
    pub(super) machine_s: f64,
    /// The guests' QEMUs together.
    pub(super) guests_s: f64,
}

impl CpuTime {
    pub(super) fn now(qemus: impl IntoIterator<Item = u32>) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let machine_s = busy_s(&stat).context("/proc/stat has no line of all pcpus")?;
        Ok(Self { machine_s, guests_s: qemus.into_iter().map(cpu_s).sum::<Result<f64>>()? })
    }

    pub(super) fn since(self, before: &Self) -> Self {
        Self { machine_s: self.machine_s - before.machine_s, guests_s: self.guests_s - before.guests_s }
    }
}

/// user, nice, system, irq, softirq and steal of proc_stat(5), in seconds: ticks of 10 ms; not idle, iowait, and guests, which are part of user.
fn busy_s(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|ticks| ticks.parse().ok()).collect();
    let busy: u64 = [0, 1, 2, 5, 6, 7].into_iter().filter_map(|field| ticks.get(field)).sum();
    (ticks.len() > 4).then_some(busy as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_busy() {
        let stat = "cpu  100 20 30 9000 800 5 6 7 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert!((busy_s(stat).unwrap() - 1.68).abs() < 1e-9);
        assert_eq!(busy_s("intr 1"), None);
    }
}
