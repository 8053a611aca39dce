//! The steal matrix, with names for the domains in it.

use std::time::Duration;

use kvmpilot_core::model::Model;
use kvmpilot_core::sample::{Runner, ThreadSource};

use super::super::views::{DomainStealView, RunnerKind, StealPartView, StealView, VcpuStealView};
use super::{Scene, seconds};

pub(super) fn steal(scene: &Scene<'_>) -> StealView {
    let model = scene.model;
    let ended = !model.elapsed.is_zero();
    let mut domains: Vec<DomainStealView> = model
        .steal
        .domains
        .iter()
        .map(|domain| DomainStealView {
            domain: domain.name.clone(),
            uuid: domain.uuid,
            wait_ms: ms(domain.wait()),
            by: parts(&domain.by, domain.vcpus.len(), model),
            vcpus: domain
                .vcpus
                .iter()
                .map(|vcpu| VcpuStealView {
                    number: vcpu.number,
                    wait_ms: ms(vcpu.wait()),
                    by: parts(&vcpu.by, 1, model),
                })
                .collect(),
        })
        .collect();
    domains.sort_by(|a, b| b.wait_ms.total_cmp(&a.wait_ms).then_with(|| a.domain.cmp(&b.domain)));
    StealView { window_s: ended.then(|| seconds(model.elapsed)), domains, message: message(scene) }
}

/// Why there is nothing to see, if there is nothing.
fn message(scene: &Scene<'_>) -> Option<String> {
    if let Some(tier) = scene.tiers.iter().find(|tier| tier.tier == 1 && !tier.on) {
        return Some(format!(
            "who ran while others waited is seen by the scheduler probe (tier 1) only, and that is off: {}",
            tier.reason
        ));
    }
    let vcpus = || scene.model.domains.iter().flat_map(|domain| &domain.vcpus);
    let by_file = vcpus()
        .filter(|vcpu| vcpu.thread.as_ref().is_some_and(|thread| thread.source == ThreadSource::Schedstat));
    let followed: usize = scene.model.steal.domains.iter().map(|domain| domain.vcpus.len()).sum();
    match (by_file.count(), vcpus().count().saturating_sub(followed)) {
        (0, 0) => None,
        (0, _) if followed == 0 => Some(
            "no window with the steal matrix at both ends has ended yet; ask again in a few seconds"
                .to_owned(),
        ),
        (0, missing) => Some(format!("{missing} vcpus were not followed all through the window")),
        (by_file, _) => {
            Some(format!("{by_file} vcpus are not followed by the probe; raise [probes] max_threads"))
        }
    }
}

fn parts(by: &[(Runner, Duration)], vcpus: usize, model: &Model) -> Vec<StealPartView> {
    let wait: Duration = by.iter().map(|(_, time)| *time).sum();
    let window = seconds(model.elapsed) * u32::try_from(vcpus).map_or(f64::INFINITY, f64::from);
    by.iter()
        .map(|(runner, time)| {
            let (kind, uuid) = match runner {
                Runner::Host => (RunnerKind::Host, None),
                Runner::Domain(uuid) => (RunnerKind::Domain, Some(*uuid)),
                Runner::Unknown => (RunnerKind::Unknown, None),
            };
            let named = |uuid| model.domains.iter().find(|domain| domain.uuid == uuid);
            StealPartView {
                runner: kind,
                domain: uuid.and_then(named).map(|domain| domain.name.clone()),
                uuid,
                ms: ms(*time),
                wait_ratio: ratio(seconds(*time), seconds(wait)),
                window_ratio: ratio(seconds(*time), window),
            }
        })
        .collect()
}

fn ms(time: Duration) -> f64 {
    seconds(time) * 1e3
}

/// A share; nothing of nothing is nothing.
fn ratio(part: f64, of: f64) -> f64 {
    if of > 0.0 { part / of } else { 0.0 }
}
