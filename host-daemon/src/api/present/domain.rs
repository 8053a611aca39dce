//! [`DomainDetailView`].

use std::time::Duration;

use kvmpilot_core::decide::history::Managed;
use kvmpilot_core::decide::{class_of, least_memory, need};
use kvmpilot_core::model::{DomainModel, GuestModel, InterfaceModel, ThreadModel};
use kvmpilot_core::policy::Actuator;
use kvmpilot_core::sample::Job;
use kvmpilot_core::units::{KiB, Ratio};

use super::explain::class_source;
use super::{Scene, seconds};
use crate::api::views::{
    AgentView, BalloonView, ClassSource, DomainDetailView, DomainView, GuestView, InterfaceView, ModesView,
    NetworkView, SharesView, StatesView, ThreadView, VcpuView,
};

pub(super) fn detail(domain: &DomainModel, scene: &Scene<'_>) -> DomainDetailView {
    DomainDetailView {
        row: row(domain, scene),
        vcpus: domain
            .vcpus
            .iter()
            .map(|vcpu| self::vcpu(vcpu.number, vcpu.pin.clone(), vcpu.thread.as_ref()))
            .collect(),
        vcpu_times: super::detail::vcpu_times(domain),
        quota_pcpus: domain.detail.as_ref().and_then(|detail| detail.quota),
        pressure: domain
            .detail
            .as_ref()
            .and_then(|detail| detail.pressure)
            .as_ref()
            .map(super::detail::pressure),
        detail_missing: domain.detail.iter().flat_map(|detail| &detail.missing).cloned().collect(),
        emulator_pin: domain.emulator_pin.clone(),
        threads: domain.threads.iter().map(thread).collect(),
        roles: super::detail::roles(domain),
        interfaces: domain.interfaces.iter().map(interface).collect(),
        disks: domain.disks.clone(),
        balloon: balloon(domain, scene),
        findings: scene.findings_of(domain.uuid),
        baseline: scene.history.baselines.get(&domain.uuid).copied(),
        guest: domain.guest.as_ref().map(|guest| GuestView {
            load1: guest.load1,
            runnable: guest.runnable,
            vcpus_online: guest.vcpus_online,
            unread: guest.unread.clone(),
            system: scene.guests.get(&domain.uuid).and_then(|state| state.system.clone()),
        }),
    }
}

fn row(domain: &DomainModel, scene: &Scene<'_>) -> DomainView {
    let known = scene.history.domains.get(&domain.uuid);
    let states = known.map(|known| &known.states);
    let class_source = class_source(domain, scene);
    let evidence = known
        .filter(|_| class_source == ClassSource::Inferred)
        .map(|known| &known.class.evidence)
        .into_iter()
        .flatten();
    let ratio = |ratio: Option<Ratio>| ratio.map(|ratio| ratio.0);
    DomainView {
        name: domain.name.clone(),
        uuid: domain.uuid,
        state: domain.state,
        quarantine: domain.quarantine.clone(),
        job: domain.job.or_else(|| domain.job_active.then_some(Job::Other)),
        accel: domain.accel.clone(),
        class: class_of(domain, scene.policy, scene.history),
        class_source,
        class_evidence: evidence
            .map(|(name, value)| format!("{name}: {value}"))
            .collect::<Vec<_>>()
            .join(", "),
        modes: modes(domain, scene),
        vcpu_count: u32::try_from(domain.vcpus.len()).unwrap_or(u32::MAX),
        memory_current_kib: domain
            .balloon
            .map(|balloon| balloon.current)
            .or_else(|| known.and_then(|known| in_force(&known.balloon)))
            .map(|KiB(kib)| kib),
        memory_maximum_kib: domain.memory_maximum.0,
        cpu_shares: SharesView {
            // Not read again yet after a change: then what we set counts.
            current: domain.cpu_shares.or_else(|| known.and_then(|known| in_force(&known.shares))),
            original: known.and_then(|known| known.shares.original).or(domain.cpu_shares),
        },
        cpu_use_ratio: ratio(domain.cpu_use()),
        wait_ratio: ratio(domain.wait_ratio()),
        need: need(domain, scene.policy, scene.history),
        states: StatesView {
            cpu: states.map(|states| states.cpu).unwrap_or_default(),
            memory: states.map(|states| states.memory).unwrap_or_default(),
        },
        agent: agent(domain, scene),
        network: network(domain),
        cycles_off_optimum: states.map_or(0, |states| states.off_optimum),
        communicating: domain.guest.as_ref().and_then(GuestModel::communicating),
    }
}

/// What we set, else what we found.
fn in_force<T: Copy>(managed: &Managed<T>) -> Option<T> {
    managed.ours.or(managed.original)
}

fn modes(domain: &DomainModel, scene: &Scene<'_>) -> ModesView {
    let settings = scene.policy.of(domain);
    let mode = |actuator| settings.mode(actuator).value;
    ModesView {
        ladder: mode(Actuator::Ladder),
        weight: mode(Actuator::Weight),
        placement: mode(Actuator::Placement),
        balloon: mode(Actuator::Balloon),
        resize: mode(Actuator::Resize),
    }
}

pub(super) fn agent(domain: &DomainModel, scene: &Scene<'_>) -> AgentView {
    let state = scene.guests.get(&domain.uuid);
    let latest = state.and_then(|state| state.latest.as_ref());
    let unread = latest.and_then(|latest| latest.sample.unread.clone());
    let trouble = state.and_then(|state| state.trouble.clone()).or(unread);
    let refusal = scene.daemon.agent.refusal(&domain.name, domain.os.as_deref());
    let message = refusal.or_else(|| trouble.clone()).or_else(|| match domain.agent_connected {
        None => Some("the domain has no agent channel (org.qemu.guest_agent.0)".to_owned()),
        Some(false) => Some("no agent is connected; is qemu-guest-agent running in the guest?".to_owned()),
        Some(true) => None,
    });
    AgentView {
        connected: domain.agent_connected,
        usable: latest.is_some() && trouble.is_none(),
        message,
        last_poll_age_s: latest.map(|latest| seconds(scene.now.saturating_sub(latest.at))),
    }
}

fn network(domain: &DomainModel) -> NetworkView {
    let sum = |rate: fn(&InterfaceModel) -> Option<f64>| {
        domain.interfaces.iter().map(rate).try_fold(0.0, |sum, rate| Some(sum + rate?))
    };
    NetworkView {
        received_bytes_per_s: sum(|tap| tap.received_bytes_per_s),
        sent_bytes_per_s: sum(|tap| tap.sent_bytes_per_s),
    }
}

fn vcpu(number: u32, pin: Option<kvmpilot_core::CpuSet>, thread: Option<&ThreadModel>) -> VcpuView {
    let micros = |wait: Duration| seconds(wait) * 1e6;
    VcpuView {
        number,
        tid: thread.map(|thread| thread.tid),
        pcpu: thread.and_then(|thread| thread.pcpu),
        pin,
        run_ratio: thread.and_then(|thread| thread.run),
        wait_ratio: thread.and_then(|thread| thread.wait),
        runq_wait_p50_us: thread.and_then(|thread| thread.runq_wait_p50).map(micros),
        runq_wait_p99_us: thread.and_then(|thread| thread.runq_wait_p99).map(micros),
        run_total_s: thread.map(|thread| seconds(thread.run_total)),
        runq_wait_total_s: thread.map(|thread| seconds(thread.wait_total)),
        runq_wait_counts: thread
            .and_then(|thread| thread.waits.as_deref())
            .map_or_else(Vec::new, until_zeros),
        preempted_per_s: thread.and_then(|thread| thread.preempted_per_s),
        blocked_per_s: thread.and_then(|thread| thread.blocked_per_s),
        migrations_per_s: thread.and_then(|thread| thread.migrations_per_s),
    }
}

/// The counts without the zeros at their end.
fn until_zeros(counts: &[u64]) -> Vec<u64> {
    let length = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    counts.iter().take(length).copied().collect()
}

fn thread(thread: &ThreadModel) -> ThreadView {
    ThreadView {
        tid: thread.tid,
        role: thread.role,
        comm: thread.comm.to_string(),
        source: thread.source,
        pcpu: thread.pcpu,
        run_ratio: thread.run,
        wait_ratio: thread.wait,
    }
}

fn interface(tap: &InterfaceModel) -> InterfaceView {
    InterfaceView {
        device: tap.device.clone(),
        received_bytes_per_s: tap.received_bytes_per_s,
        sent_bytes_per_s: tap.sent_bytes_per_s,
        received_packets_per_s: tap.received_packets_per_s,
        sent_packets_per_s: tap.sent_packets_per_s,
    }
}

fn balloon(domain: &DomainModel, scene: &Scene<'_>) -> Option<BalloonView> {
    let balloon = domain.balloon?;
    let kib = |memory: Option<KiB>| memory.map(|KiB(kib)| kib);
    Some(BalloonView {
        current_kib: balloon.current.0,
        usable_kib: kib(balloon.usable),
        available_kib: kib(balloon.available),
        unused_kib: kib(balloon.unused),
        stale: balloon.is_stale(scene.policy.balloon.stale_after),
        floor_kib: kib(least_memory(domain, &scene.policy.of(domain).balloon(), scene.history)),
        refusal: domain.balloon_refusal.clone(),
    })
}
