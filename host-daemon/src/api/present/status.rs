//! [`StatusView`].

use kvmpilot_core::model::HostModel;
use kvmpilot_core::policy::{Actuator, Mode};
use kvmpilot_core::sample::DomainState;
use kvmpilot_core::units::{KiB, Ratio};

use super::{Scene, own, seconds};
use crate::api::views::{
    CycleView, DomainCountsView, HealthView, HostView, LibvirtView, OrderCountsView, OrderMovesView,
    PressureView, StatusView,
};
use crate::libvirt::Status;

pub(super) fn status(scene: &Scene<'_>) -> StatusView {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let running = || scene.model.domains.iter().filter(|domain| domain.state == DomainState::Running);
    let managed = running()
        .filter(|domain| {
            let settings = scene.policy.of(*domain);
            Actuator::ALL.iter().any(|of| settings.mode(*of).value > Mode::Observe)
        })
        .count();
    let host = &scene.model.host;
    StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: HostView {
            name: scene.host_name.to_owned(),
            kernel: scene.kernel_release.to_owned(),
            pcpus: count(scene.model.topology.pcpus.len()),
            memory_total_kib: host.memory_total.map(|KiB(kib)| kib),
            memory_available_kib: host.memory_available.map(|KiB(kib)| kib),
            pressure: pressure(host),
        },
        uptime_s: scene.now.as_secs(),
        mode: scene.policy.mode,
        paused: scene.paused,
        tiers: own::tiers(scene),
        libvirt: libvirt(scene),
        health: health(scene),
        domains: DomainCountsView { running: count(running().count()), managed: count(managed) },
        cycle: CycleView {
            number: scene.cycles,
            period_s: seconds(scene.policy.periods.cycle),
            last_duration_ms: scene.last_cycle.map(|(_, took)| seconds(took) * 1000.0),
            seconds_since_last: scene.last_cycle.map(|(ago, _)| seconds(ago)),
        },
        own_cost: own::own_cost(scene),
        ledger_entries: u64::try_from(scene.ledger_entries).unwrap_or(u64::MAX),
        orders: OrderCountsView {
            proposed: scene.orders.map_or(0, |orders| orders.proposed),
            total: scene.orders.map_or(0, |orders| orders.total),
            since_start: scene
                .order_moves
                .iter()
                .map(|(state, times)| OrderMovesView { state: *state, times: *times })
                .collect(),
        },
        otlp: scene.otlp.clone(),
        findings: scene.findings.clone(),
    }
}

pub(super) fn pressure(host: &HostModel) -> PressureView {
    let percent = |pressure: Option<Ratio>| pressure.map(|pressure| pressure.0 * 100.0);
    PressureView {
        cpu_some_avg10_percent: percent(host.cpu_pressure_avg10),
        memory_some_avg10_percent: percent(host.memory_pressure_avg10),
        io_some_avg10_percent: percent(host.io_pressure_avg10),
    }
}

fn libvirt(scene: &Scene<'_>) -> LibvirtView {
    match &scene.libvirt {
        Status::Up { uri, libvirt_version, .. } => LibvirtView {
            connected: true,
            uri: uri.clone(),
            version: Some(libvirt_version.clone()),
            message: None,
        },
        down @ Status::Down { .. } => LibvirtView {
            connected: false,
            uri: scene.daemon.libvirt_uri.clone(),
            version: None,
            message: Some(down.to_string()),
        },
    }
}

fn health(scene: &Scene<'_>) -> HealthView {
    let mut problems = scene.problems.clone();
    if !scene.libvirt.is_up() {
        problems.push(format!("libvirt: {}", scene.libvirt));
    }
    if let Some(trouble) = &scene.store_trouble {
        problems.push(format!("nothing is changed: {trouble}"));
    } else if !scene.recovered {
        problems.push(
            "values that an earlier daemon changed are not put back yet; nothing is changed until they are"
                .to_owned(),
        );
    }
    problems.extend(scene.unread.iter().cloned());
    HealthView { ok: problems.is_empty(), problems }
}
