//! The ladder: raises guest applications that communicate, lowers the others, one level a cycle, while CPU is scarce;
//! without scarcity everything goes back one level a cycle.

use std::time::Duration;

use super::history::{ApplicationHistory, History};
use super::state::waits_too_long;
use super::{input, propose};
use crate::model::{Application, DomainModel, GuestModel, ProcessModel};
use crate::order::{Action, ProcessStep, Proposal, Reason};
use crate::policy::{Level, Policy, matches_pattern, service_of};
use crate::rules::Means;
use crate::sample::SchedPolicy;
use crate::units::Ratio;

/// Proposes the steps of one domain's applications.
pub(super) fn decide(domain: &DomainModel, policy: &Policy, history: &mut History) -> Vec<Proposal> {
    let Some(guest) = &domain.guest else { return Vec::new() };
    let scarce = scarcity(domain, guest, policy, history);
    let Some(entry) = history.domains.get_mut(&domain.uuid) else { return Vec::new() };
    // One step needs one look: an old poll must not move anything twice.
    if entry.guest_decided_at.is_some_and(|at: Duration| at >= guest.at) {
        return Vec::new();
    }
    entry.guest_decided_at = Some(guest.at);

    let mut budget = policy.ladder.max_processes;
    let mut proposals = Vec::new();
    // Members of services come first to the budget.
    let mut applications: Vec<&Application> = guest.applications.iter().collect();
    applications.sort_by_key(|application| service_of(&policy.services, domain, application).is_none());
    for application in applications {
        if protection(application, domain, policy).is_some()
            || entry.asked.protects(&application.name).is_some()
        {
            continue;
        }
        let known = entry.applications.get(&application.name);
        let Some(asked) = entry.asked.step(&application.name) else { continue };
        let Some((from, to)) = step(application, known, asked) else { continue };
        let steps = process_steps(application, known, from, to);
        if steps.is_empty() || steps.len() > budget {
            continue;
        }
        budget -= steps.len();
        let action = Action::SetLevel {
            application: application.name.clone(),
            communicating: application.communicating(),
            from,
            to,
            processes: steps,
        };
        let mut reason = reason(application, asked, scarce.as_deref(), from, to);
        // A step back needs no proof.
        reason.prediction = (asked != Means::Decay).then(|| super::trial::answers_stay(domain)).flatten();
        proposals.push(propose(domain, action, reason, false));
    }
    proposals
}

/// Why CPU is scarce for this guest, or `None` where it is not: inside, more threads want to run than there are vcpus;
/// outside, the vcpus wait for pcpus or are used up.
#[must_use]
pub fn scarcity(
    domain: &DomainModel,
    guest: &GuestModel,
    policy: &Policy,
    history: &History,
) -> Option<String> {
    let rule = history.domains.get(&domain.uuid)?.asked.scarce()?;
    Some(seen(domain, guest, policy, history).unwrap_or_else(|| format!("the rule {rule} holds")))
}

/// What makes CPU scarce, in words.
fn seen(domain: &DomainModel, guest: &GuestModel, policy: &Policy, history: &History) -> Option<String> {
    let vcpus = guest.vcpus_online.filter(|vcpus| *vcpus > 0)?;
    if let Some(runnable) = guest.runnable.filter(|runnable| *runnable > vcpus) {
        return Some(format!("{runnable} threads want to run on {vcpus} vcpus"));
    }
    if waits_too_long(domain, policy, history) {
        return Some(format!("its vcpus wait {} of the time they could run", domain.wait_ratio()?));
    }
    let used = domain.cpu_use()?;
    (used.0 >= policy.state.high).then(|| format!("its vcpus are used to {used}"))
}

/// Why the application is never touched, if so.
#[must_use]
pub fn protection(application: &Application, domain: &DomainModel, policy: &Policy) -> Option<String> {
    let root = application.processes.first()?;
    if root.sample.key.pid == 1 {
        return Some("the guest's first process".to_owned());
    }
    let mut patterns = policy.of(domain).protected();
    if let Some((pattern, _)) = patterns.find(|(pattern, _)| matches_pattern(pattern, &root.sample.name)) {
        return Some(format!("on the protected list ({pattern})"));
    }
    let movable = application.processes.iter().any(is_movable);
    (!movable).then(|| "real-time or idle scheduling policy".to_owned())
}

fn is_movable(process: &ProcessModel) -> bool {
    matches!(process.sample.policy, SchedPolicy::Other | SchedPolicy::Batch)
}

/// Level now and wanted, or `None` where nothing has to be looked at.
fn step(
    application: &Application,
    known: Option<&ApplicationHistory>,
    asked: Means,
) -> Option<(Level, Level)> {
    let found = Level::of_nice(application.processes.first()?.sample.nice);
    let (from, original) = known.map_or((found, found), |known| (known.level, known.original));
    let to = match asked {
        Means::Raise => from.up(),
        Means::Lower => from.down(),
        _ => from.towards(original),
    };
    (from != to || known.is_some()).then_some((from, to))
}

/// The processes whose nice value is not the one of the level wanted.
fn process_steps(
    application: &Application,
    known: Option<&ApplicationHistory>,
    from: Level,
    to: Level,
) -> Vec<ProcessStep> {
    let movable = application.processes.iter().filter(|process| is_movable(process));
    movable
        .filter_map(|process| {
            let now = process.sample.nice;
            let key = process.sample.key;
            let original = match known {
                // A worker that was forked from a process of ours has our nice value, not one of its own.
                Some(known) => {
                    let inherited = if now == from.nice() { known.nice_original } else { now };
                    known.processes.get(&key).copied().unwrap_or(inherited)
                }
                None => now,
            };
            let wanted = if to == Level::of_nice(original) { original } else { to.nice() };
            (wanted != now).then(|| ProcessStep {
                key,
                name: process.sample.name.clone(),
                nice_from: now,
                nice_to: wanted,
                nice_original: original,
            })
        })
        .collect()
}

fn reason(application: &Application, asked: Means, scarce: Option<&str>, from: Level, to: Level) -> Reason {
    let name = &application.name;
    let why = scarce.unwrap_or("a rule says so");
    let (rule, summary, expected) = match asked {
        Means::Raise | Means::Lower if from == to => (
            "ladder.catch_up",
            format!("{name} has processes that do not have its level yet ({why})"),
            "all of its processes at one level",
        ),
        Means::Raise => (
            "ladder.raise",
            format!("{name} talks to another node and CPU is scarce: {why}"),
            "its requests wait less for processes that nobody outside waits for",
        ),
        Means::Lower => (
            "ladder.lower",
            format!("{name} does not talk to another node and CPU is scarce: {why}"),
            "the CPU that it does not get goes to what communicates",
        ),
        _ => (
            "ladder.decay",
            format!("CPU is no longer scarce in the guest, so {name} goes back one level"),
            "the original priorities in force again",
        ),
    };
    let cpu: f64 = application.processes.iter().filter_map(|process| process.cpu).sum();
    let mut inputs = vec![
        input("processes", application.processes.len()),
        input("CPU", format!("{} of a vcpu", Ratio(cpu))),
        input("level now", from),
        input("level wanted", to),
    ];
    inputs.extend(application.conversations.iter().map(|conversation| input("found", conversation)));
    Reason { rule: rule.to_owned(), summary, inputs, expected: expected.to_owned(), ..Reason::default() }
}
