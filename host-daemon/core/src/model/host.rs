//! The host over one window.

use std::time::Duration;

use super::{part_of, rise};
use crate::sample::{HostSample, PressureSample};
use crate::units::{KiB, Ratio};

/// The host over one window.
#[derive(Clone, Debug, Default)]
pub struct HostModel {
    /// Part of the window in which some task waited for CPU.
    pub cpu_pressure: Option<Ratio>,
    /// Part of the window in which some task waited for memory.
    pub memory_pressure: Option<Ratio>,
    /// Part of the window in which some task waited for I/O.
    pub io_pressure: Option<Ratio>,
    /// The kernel's own ten-second average of [`Self::cpu_pressure`]; the same for memory and I/O follow.
    pub cpu_pressure_avg10: Option<Ratio>,
    /// Ten-second average of the memory pressure.
    pub memory_pressure_avg10: Option<Ratio>,
    /// Ten-second average of the I/O pressure.
    pub io_pressure_avg10: Option<Ratio>,
    /// Memory of the host.
    pub memory_total: Option<KiB>,
    /// Memory that can be had without swapping.
    pub memory_available: Option<KiB>,
    /// pcpus with their use.
    pub pcpus: Vec<PcpuModel>,
    /// Daemons that run and change what kvmpilot changes, by name.
    pub competitors: Vec<String>,
    /// The sched_ext scheduler that is in force instead of the kernel's own.
    pub sched_ext: Option<String>,
}

/// One pcpu over one window.
#[derive(Clone, Copy, Debug)]
pub struct PcpuModel {
    /// Number.
    pub id: u32,
    /// Part of the time that it was busy.
    pub busy: Option<Ratio>,
}

impl HostModel {
    /// Derives the window from its two ends.
    #[must_use]
    pub fn new(begin: &HostSample, end: &HostSample, elapsed: Duration) -> Self {
        let pressure = |begin: Option<PressureSample>, end: Option<PressureSample>| {
            let stalled_usec = rise(begin?.some_total_usec, end?.some_total_usec)?;
            part_of(stalled_usec.saturating_mul(1000), elapsed).map(|part| Ratio(part.min(1.0)))
        };
        let avg10 =
            |pressure: Option<PressureSample>| pressure.map(|end| Ratio(end.some_avg10_percent / 100.0));
        let pcpus = end
            .pcpus
            .iter()
            .map(|pcpu| {
                let busy = begin.pcpus.iter().find(|other| other.id == pcpu.id).and_then(|earlier| {
                    let busy = rise(earlier.busy_ns, pcpu.busy_ns)?;
                    let idle = rise(earlier.idle_ns, pcpu.idle_ns)?;
                    #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 53 bits")]
                    Ratio::of(busy as f64, (busy + idle) as f64)
                });
                PcpuModel { id: pcpu.id, busy }
            })
            .collect();
        Self {
            cpu_pressure: pressure(begin.cpu_pressure, end.cpu_pressure),
            memory_pressure: pressure(begin.memory_pressure, end.memory_pressure),
            io_pressure: pressure(begin.io_pressure, end.io_pressure),
            cpu_pressure_avg10: avg10(end.cpu_pressure),
            memory_pressure_avg10: avg10(end.memory_pressure),
            io_pressure_avg10: avg10(end.io_pressure),
            memory_total: end.memory.map(|memory| KiB(memory.total_kib)),
            memory_available: end.memory.map(|memory| KiB(memory.available_kib)),
            pcpus,
            competitors: end.competitors.clone(),
            sched_ext: end.sched_ext.clone(),
        }
    }
}
