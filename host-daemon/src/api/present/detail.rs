//! Where a domain's time goes: the parts of [`crate::api::views::DomainDetailView`] that come of detailed readings.

use std::time::Duration;

use kvmpilot_core::model::{DomainModel, GroupPressureModel, VcpuTimeModel};

use super::seconds;
use crate::api::views::{GroupPressureView, RoleView, VcpuTimeView};

pub(super) fn vcpu_times(domain: &DomainModel) -> Vec<VcpuTimeView> {
    let micros = |time: Duration| seconds(time) * 1e6;
    let view = |time: &VcpuTimeModel| VcpuTimeView {
        number: time.number,
        window_s: time.elapsed.map(seconds),
        run_ratio: time.run,
        contention_ratio: time.contention,
        throttled_ratio: time.throttled,
        halt_polling_ratio: time.halt_polling,
        exit_handling_ratio: time.exit_handling,
        idle_ratio: time.idle,
        quota_pcpus: time.quota,
        exits_per_s: time.exits_per_s,
        halt_poll_hit_ratio: time.halt_poll_hits.map(|ratio| ratio.0),
        halt_wait_p50_us: time.halt_wait_p50.map(micros),
    };
    domain.detail.iter().flat_map(|detail| &detail.vcpus).map(view).collect()
}

pub(super) fn pressure(pressure: &GroupPressureModel) -> GroupPressureView {
    GroupPressureView {
        cpu_ratio: pressure.cpu.map(|ratio| ratio.0),
        memory_ratio: pressure.memory.map(|ratio| ratio.0),
        io_ratio: pressure.io.map(|ratio| ratio.0),
    }
}

pub(super) fn roles(domain: &DomainModel) -> Vec<RoleView> {
    let roles = domain.roles().into_iter();
    roles
        .map(|sum| RoleView {
            role: sum.role,
            threads: sum.threads,
            run_pcpus: sum.run,
            wait_pcpus: sum.wait,
        })
        .collect()
}
