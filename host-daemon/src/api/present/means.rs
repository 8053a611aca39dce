//! Where each means stands with a domain: what it would do next, or why nothing.

use kvmpilot_core::decide::{class_of, least_memory, scarcity, target_wait};
use kvmpilot_core::model::DomainModel;
use kvmpilot_core::order::{Proposal, WorkOrder};
use kvmpilot_core::policy::{Actuator, Mode, Source};
use kvmpilot_core::sample::DomainState;
use kvmpilot_core::units::Ratio;

use super::explain::Background;
use super::{Scene, domain};
use crate::api::views::{MeansState, MeansView};

pub(super) fn means(domain: &DomainModel, scene: &Scene<'_>, more: &Background<'_>) -> Vec<MeansView> {
    Actuator::ALL.into_iter().map(|actuator| one(actuator, domain, scene, more)).collect()
}

fn one(actuator: Actuator, domain: &DomainModel, scene: &Scene<'_>, more: &Background<'_>) -> MeansView {
    let setting = scene.policy.of(domain).mode(actuator);
    let mut said: Vec<(MeansState, String)> = Vec::new();
    said.extend(paused(scene).map(|why| (MeansState::Paused, why)));
    said.extend(refusal(actuator, domain, scene).map(|why| (MeansState::Refused, why)));
    if setting.value == Mode::Observe {
        said.push((MeansState::Observes, observed(setting.source)));
    }
    let orders: Vec<&WorkOrder> =
        more.open.iter().filter(|order| order.proposal.action.actuator() == actuator).collect();
    said.extend(orders.iter().map(|order| {
        let (id, change) = (order.id, &order.proposal.action);
        (MeansState::Waits, format!("order {id} waits for `kvmpilot orders approve {id}`: {change}"))
    }));
    said.extend(wishes(actuator, setting.value, domain, more));
    if more.busy && said.is_empty() {
        said.push((MeansState::Acts, "the domain is being changed right now".to_owned()));
    }
    if said.iter().all(|(state, _)| *state == MeansState::Observes) {
        said.push((MeansState::Idle, idle(actuator, domain, scene)));
    }
    MeansView {
        means: actuator,
        mode: setting.value,
        state: said.first().map_or(MeansState::Idle, |(state, _)| *state),
        text: said.into_iter().map(|(_, sentence)| sentence).collect(),
        orders: orders.iter().map(|order| order.id).collect(),
    }
}

/// What it wanted at its last look, and what became of that.
fn wishes(
    actuator: Actuator,
    mode: Mode,
    domain: &DomainModel,
    more: &Background<'_>,
) -> Vec<(MeansState, String)> {
    let of_it =
        |proposal: &&Proposal| proposal.domain == domain.uuid && proposal.action.actuator() == actuator;
    let mut said = Vec::new();
    for proposal in more.wishes.values().flat_map(|wishes| &wishes.wanted).filter(of_it) {
        let Proposal { action, reason, release, .. } = proposal;
        let target = action.target();
        let waits = more.open.iter().any(|order| order.proposal.action.target() == target);
        let rest = more.resting.iter().find(|(resting, _)| *resting == target && !release);
        let why = &reason.summary;
        said.push(match (rest, mode) {
            (Some((_, rest)), _) => {
                let rest = rest.as_secs();
                (
                    MeansState::Held,
                    format!("{target} rests for another {rest} s, because a person refused it"),
                )
            }
            (None, Mode::Auto) => (MeansState::Acts, format!("at its last look: {action} ({why})")),
            (None, _) if *release => (MeansState::Acts, format!("at its last look: {action} ({why})")),
            (None, Mode::Observe) => (MeansState::Observes, format!("it would: {action} ({why})")),
            (None, Mode::Recommend) if waits => continue,
            (None, Mode::Recommend) => (MeansState::Waits, format!("it proposed: {action} ({why})")),
        });
    }
    let held = more.wishes.values().flat_map(|wishes| &wishes.held).filter(|(held, _)| of_it(&held));
    said.extend(held.map(|(held, why)| (MeansState::Held, format!("held back: {}: {why}", held.action))));
    said
}

fn paused(scene: &Scene<'_>) -> Option<String> {
    if scene.paused {
        return Some(
            "a person asked for a restore; kvmpilot changes nothing until it is reloaded (SIGHUP) or restarted"
                .to_owned(),
        );
    }
    (!scene.recovered).then(|| "values that an earlier daemon left are being put back".to_owned())
}

fn observed(source: Source) -> String {
    match source {
        Source::Malformed => {
            "its metadata is not understood, so it is only observed (see the findings)".to_owned()
        }
        _ => "mode observe: it looks and starts nothing; memory and pins that it took earlier may still go back".to_owned(),
    }
}

/// Why a means cannot or must not do anything with this domain.
fn refusal(actuator: Actuator, domain: &DomainModel, scene: &Scene<'_>) -> Option<String> {
    if domain.state != DomainState::Running {
        return Some("the domain does not run".to_owned());
    }
    if domain.job_active && actuator != Actuator::Resize {
        return Some("a migration, backup or snapshot of the domain runs".to_owned());
    }
    match actuator {
        Actuator::Ladder => {
            let agent = domain::agent(domain, scene);
            let unasked = || "its guest has not been asked yet".to_owned();
            (!agent.usable).then(|| agent.message.unwrap_or_else(unasked))
        }
        Actuator::Weight => domain.weight_refusal.clone().or_else(|| {
            let why = "its weight is not known: it was changed a moment ago, or libvirt does not tell it";
            domain.cpu_shares.is_none().then(|| why.to_owned())
        }),
        Actuator::Placement if domain.placement_refusal.is_some() => domain.placement_refusal.clone(),
        Actuator::Placement => {
            let none = scene.policy.of(domain).pcpus().value.is_some_and(|pcpus| pcpus.is_empty());
            none.then(|| "its settings leave no pcpu that all of them allow".to_owned())
        }
        Actuator::Balloon => balloon_refusal(domain, scene),
        Actuator::Resize => None,
    }
}

fn balloon_refusal(domain: &DomainModel, scene: &Scene<'_>) -> Option<String> {
    if let Some(why) = &domain.balloon_refusal {
        return Some(format!("its balloon must not be touched: {why}"));
    }
    let Some(balloon) = &domain.balloon else {
        return Some("its balloon could not be read".to_owned());
    };
    let advice = format!("`virsh dommemstat {} --period 5 --live` makes the guest report", domain.name);
    match balloon.age {
        None => Some(format!("its guest has never reported its memory; {advice}")),
        Some(age) if balloon.is_stale(scene.policy.balloon.stale_after) => Some(format!(
            "its guest's figures are {} s old, and nothing is decided on old ones; {advice}",
            age.as_secs()
        )),
        Some(_) => None,
    }
}

/// What was found where nothing has to be done.
fn idle(actuator: Actuator, domain: &DomainModel, scene: &Scene<'_>) -> String {
    let Scene { policy, history, .. } = scene;
    let known = history.domains.get(&domain.uuid);
    let cycles = policy.state.cycles;
    match actuator {
        Actuator::Ladder => match &domain.guest {
            None => "its guest has not been asked yet".to_owned(),
            Some(guest) => scarcity(domain, guest, policy, history).map_or_else(
                || "CPU is not scarce in the guest, so no process has to be moved".to_owned(),
                |why| format!("CPU is scarce in the guest ({why}), and every process is where it should be"),
            ),
        },
        Actuator::Weight => {
            let class = class_of(domain, policy, history);
            let wait =
                domain.wait_ratio().map_or_else(|| "an unknown part".to_owned(), |wait| wait.to_string());
            target_wait(class, policy).map_or_else(
                || {
                    format!(
                        "class {class} has no target: it gets what others leave (it waits {wait} of the time)"
                    )
                },
                |target| {
                    format!(
                        "it waits {wait} of the time it could run, class {class} allows {}",
                        Ratio(target)
                    )
                },
            )
        }
        Actuator::Placement => {
            let waiting = known.map_or(0, |known| known.states.waiting);
            let arrival = known.and_then(|known| known.arrival());
            let arrival = arrival.map_or_else(String::new, |word| format!("; when it came, {word}"));
            format!(
                "it has needed help for {waiting} of the {cycles} cycles after which others are kept off its pcpus{arrival}"
            )
        }
        Actuator::Balloon => {
            let idle = known.map_or(0, |known| known.states.idle_memory);
            let least = least_memory(domain, &policy.of(domain).balloon(), history)
                .map_or_else(|| "an unknown amount".to_owned(), |least| least.to_string());
            format!("memory has lain idle for {idle} of {cycles} cycles; {least} is the least that it keeps")
        }
        Actuator::Resize => "nothing is called for that only a person can do".to_owned(),
    }
}
