//! [`ProcessesView`].

use std::net::SocketAddr;

use kvmpilot_core::decide::history::ApplicationHistory;
use kvmpilot_core::decide::{Effect, LadderHistory, MeansHistory, protection, scarcity};
use kvmpilot_core::model::{Application, DomainModel, GuestModel, ProcessModel};
use kvmpilot_core::order::{LadderMeans, TaskGroup};
use kvmpilot_core::policy::Level;

use super::{Scene, seconds};
use crate::api::views::{
    ApplicationView, ConnectionView, LadderView, ListenView, ProcessView, ProcessesView,
};

pub(super) fn processes(domain: &DomainModel, scene: &Scene<'_>) -> ProcessesView {
    let guest = domain.guest.as_ref();
    let scarce_reason = guest.and_then(|guest| scarcity(domain, guest, scene.policy, scene.history));
    let trouble = scene.guests.get(&domain.uuid).and_then(|state| state.trouble.clone());
    let unread = || guest.and_then(|guest| guest.unread.clone());
    let none_yet = || guest.is_none().then(|| "the guest's agent has not told yet".to_owned());
    ProcessesView {
        domain: domain.name.clone(),
        uuid: domain.uuid,
        age_s: guest.map(|guest| seconds(scene.now.saturating_sub(guest.at))),
        message: trouble.or_else(unread).or_else(none_yet),
        scarce: scarce_reason.is_some(),
        scarce_reason,
        truncated: guest.map(|guest| guest.truncated.clone()).unwrap_or_default(),
        ladder: scene
            .history
            .domains
            .get(&domain.uuid)
            .map(|known| means(&known.ladder, scene))
            .unwrap_or_default(),
        applications: guest.map(|guest| applications(guest, domain, scene)).unwrap_or_default(),
    }
}

fn means(ladder: &LadderHistory, scene: &Scene<'_>) -> Vec<LadderView> {
    let view = |(means, history): (&LadderMeans, &MeansHistory)| {
        let Effect { verdict, raised, lowered, waits } = history.last?;
        Some(LadderView {
            means: *means,
            verdict,
            raised_vcpus: raised.into(),
            lowered_vcpus: lowered.into(),
            waits_ratio: waits,
            rests_s: history.rests_until.and_then(|until| until.checked_sub(scene.now)).map(seconds),
        })
    };
    ladder.means.iter().filter_map(view).collect()
}

fn applications(guest: &GuestModel, domain: &DomainModel, scene: &Scene<'_>) -> Vec<ApplicationView> {
    let known = scene.history.domains.get(&domain.uuid).map(|known| &known.applications);
    let system = scene.guests.get(&domain.uuid).and_then(|state| state.system.as_deref());
    let user = |uid: u32| system.and_then(|system| system.users.get(&uid).cloned());
    let view = |application: &Application| {
        let known = known.and_then(|known| known.get(&application.name));
        let found =
            application.processes.first().map(|root| Level::of_nice(root.sample.nice)).unwrap_or_default();
        let cpu_weight = application.unit.as_ref().map(|unit| unit.weight);
        let group = TaskGroup::Unit { name: application.name.clone() };
        let weight_original = known.and_then(|known| u16::try_from(known.groups.get(&group)?.number()?).ok());
        ApplicationView {
            name: application.name.clone(),
            level: known.map_or(found, |known| known.level),
            level_original: known.map_or(found, |known| known.original),
            cpu_weight,
            cpu_weight_original: weight_original.or(cpu_weight),
            communicating: application.communicating(),
            evidence: application.communicating().then(|| application.conversations.join("; ")),
            traffic: application.traffic.map(super::flow::rate),
            protected: protection(application, domain, scene.policy),
            processes: application
                .processes
                .iter()
                .map(|process| ProcessView {
                    user: process.sample.uid.and_then(user),
                    ..self::process(process, known)
                })
                .collect(),
        }
    };
    guest.applications.iter().map(view).collect()
}

fn process(process: &ProcessModel, known: Option<&ApplicationHistory>) -> ProcessView {
    let sample = &process.sample;
    ProcessView {
        pid: sample.key.pid,
        start_ticks: sample.key.start_ticks,
        name: sample.name.clone(),
        command: sample.command.clone(),
        uid: sample.uid,
        user: None,
        state: sample.state,
        cpu_ratio: process.cpu,
        rss_kib: sample.rss_kib,
        nice: sample.nice,
        nice_original: known
            .and_then(|known| known.processes.get(&sample.key).copied())
            .unwrap_or(sample.nice),
        policy: sample.policy,
        unit: sample.unit.clone(),
        threads: sample.threads,
        traffic: process.traffic.map(super::flow::rate),
        connections: process
            .connections
            .iter()
            .map(|socket| ConnectionView {
                protocol: socket.protocol,
                local: SocketAddr::new(socket.local_address, socket.local_port).to_string(),
                peer: SocketAddr::new(socket.peer_address, socket.peer_port).to_string(),
                state: socket.state,
            })
            .collect(),
        listens: process
            .listeners
            .iter()
            .map(|listener| ListenView {
                protocol: listener.protocol,
                local: SocketAddr::new(listener.address, listener.port).to_string(),
            })
            .collect(),
    }
}
