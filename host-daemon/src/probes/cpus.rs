//! What the probes keep for each pcpu, in memory shared with them: how often they ran, and their timelines.

use std::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kvmpilot_core::topology::Topology;
use kvmpilot_ebpf_common::pcpu::{Cpu, NO_PLACE, Run};

use super::shared::Shared;

const WORDS: usize = size_of::<Cpu>() / size_of::<u64>();

#[derive(Debug)]
pub(super) struct Cpus(Shared);

impl Cpus {
    /// Maps all of a `BPF_F_MMAPABLE` array for `count` pcpus.
    pub(super) fn map(array: impl AsFd, count: usize) -> nix::Result<Self> {
        let cpus = Self(Shared::map(array, 0, count.saturating_mul(WORDS))?);
        cpus.all().for_each(|cpu| set_place(cpu, [NO_PLACE, NO_PLACE]));
        Ok(cpus)
    }

    fn all(&self) -> impl Iterator<Item = &[AtomicU64]> {
        self.0.words().chunks_exact(WORDS)
    }

    /// Tells the probes what the pcpus share. Of pcpus that are offline now the old word stands.
    pub(super) fn set_topology(&self, topology: &Topology) {
        for pcpu in &topology.pcpus {
            if let Some(cpu) = usize::try_from(pcpu.id).ok().and_then(|id| self.all().nth(id)) {
                set_place(cpu, [pcpu.llc.unwrap_or(NO_PLACE), pcpu.node.unwrap_or(NO_PLACE)]);
            }
        }
    }

    /// Runs of `sched_process_exit`, `sched_process_fork` and `sched_switch` on all pcpus.
    pub(super) fn runs(&self) -> [u64; 3] {
        [offset_of!(Cpu, exits), offset_of!(Cpu, forks), offset_of!(Cpu, switches)]
            .map(|at| self.all().map(|cpu| cpu[at / size_of::<u64>()].load(Relaxed)).sum())
    }

    /// Arrivals of a group that the timelines remember, ns of the run queues' clocks modulo 2^48, in rising order.
    pub(super) fn arrivals(&self, group: u32) -> Vec<u64> {
        let ring = offset_of!(Cpu, runs) / size_of::<u64>();
        let runs = self.all().flat_map(|cpu| &cpu[ring..]).map(|run| Run::from_word(run.load(Relaxed)));
        let mut arrivals: Vec<u64> = runs.filter(|run| run.group() == group).map(Run::arrival_ns).collect();
        arrivals.sort_unstable();
        arrivals
    }
}

fn set_place(cpu: &[AtomicU64], place: [u32; 2]) {
    // As the struct lies in memory: the objects are built for little-endian machines only.
    let word = u64::from(place[0]) | u64::from(place[1]) << 32;
    cpu[offset_of!(Cpu, place) / size_of::<u64>()].store(word, Relaxed);
}
