//! The ladder: raises guest applications that communicate, lowers the others, one level a cycle, while CPU is scarce;
//! without scarcity everything goes back one level a cycle. What a step changes is in `steps.rs`, whether it counts in
//! `effect.rs`.

pub(super) mod effect;
mod steps;

use std::time::Duration;

use super::history::{ApplicationHistory, History};
use super::state::waits_too_long;
use super::{input, propose};
use crate::cpuset::CpuSet;
use crate::finding::Finding;
use crate::model::{Application, DomainModel, GuestModel, ProcessModel};
use crate::order::{Action, LadderMeans, Proposal, Reason};
use crate::policy::{Level, Policy, matches_pattern, service_of};
use crate::rules::Means;
use crate::sample::SchedPolicy;
use crate::units::Ratio;
use steps::{Steps, Vcpus, level_found, upper_half};

/// Proposes the steps of one domain's applications.
pub(super) fn decide(
    domain: &DomainModel,
    policy: &Policy,
    history: &mut History,
    findings: &mut Vec<Finding>,
) -> Vec<Proposal> {
    let Some(guest) = &domain.guest else { return Vec::new() };
    let scarce = scarcity(domain, guest, policy, history);
    let Some(entry) = history.domains.get_mut(&domain.uuid) else { return Vec::new() };
    let is_favoured = |application: &Application| {
        entry.applications.get(&application.name).is_some_and(|known| known.level > known.original)
    };
    let is_new = entry.guest_decided_at.is_none_or(|at: Duration| at < guest.at);
    if is_new {
        entry.ladder.measure(guest, is_favoured, guest.at);
    }
    findings.extend(entry.ladder.findings(domain, guest.at));
    entry.guest_decided_at = Some(guest.at);
    // One step needs one look: an old poll must not move anything twice. Nor is there a step before the first window: what it
    // does could not be measured.
    if !is_new || guest.window.is_none() {
        return Vec::new();
    }

    let all = CpuSet::first(guest.vcpus_online.unwrap_or(0));
    let shares_vcpus = policy.ladder.affinity && guest.sets_affinity;
    let bottom = guest.vcpus_online.filter(|_| shares_vcpus).and_then(upper_half);
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
        let Some(asked) = entry.asked.step(&application.name) else { continue };
        let known = entry.applications.get(&application.name);
        // A unit's weight is that of all of its processes.
        let spared = application.processes.iter().any(|process| listed(process, domain, policy).is_some());
        let usable = entry.ladder.means_for(application, spared, guest.at);
        let (means, asked, is_void) = way(known, usable, asked);
        let known = known.filter(|known| known.means == means);
        let Some((from, to)) = step(application, known, means, asked) else { continue };
        let touches =
            |process: &ProcessModel| is_movable(process) && listed(process, domain, policy).is_none();
        let vcpus = Vcpus { all: &all, bottom: bottom.as_ref() };
        let Steps { processes, groups } = Steps::new(application, known, means, (from, to), vcpus, touches);
        let changes = processes.len() + groups.len();
        if changes == 0 || changes > budget {
            continue;
        }
        budget -= changes;
        let action = Action::SetLevel {
            application: application.name.clone(),
            communicating: application.communicating(),
            from,
            to,
            processes,
            groups,
        };
        let mut reason = reason(application, asked, scarce.as_deref(), from, to);
        reason.inputs.push(input("means", means));
        if is_void {
            reason.rule = "ladder.void".to_owned();
            reason.summary = format!(
                "{means} changes nobody's share of CPU here, so {} goes back one level",
                application.name
            );
        }
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
    if let Some(pattern) = listed(root, domain, policy) {
        return Some(format!("on the protected list ({pattern})"));
    }
    let movable = application.processes.iter().any(is_movable);
    (!movable).then(|| "real-time or idle scheduling policy".to_owned())
}

/// The pattern of the protected list that a process' name matches.
fn listed<'a>(process: &ProcessModel, domain: &'a DomainModel, policy: &'a Policy) -> Option<&'a str> {
    let mut patterns = policy.of(domain).protected();
    patterns.find_map(|(pattern, _)| matches_pattern(pattern, &process.sample.name).then_some(pattern))
}

fn is_movable(process: &ProcessModel) -> bool {
    matches!(process.sample.policy, SchedPolicy::Other | SchedPolicy::Batch)
}

/// Level now and wanted, or `None` where nothing has to be looked at.
fn step(
    application: &Application,
    known: Option<&ApplicationHistory>,
    means: LadderMeans,
    asked: Means,
) -> Option<(Level, Level)> {
    let (from, original) = match known {
        Some(known) => (known.level, known.original),
        None => level_found(application, means).map(|found| (found, found))?,
    };
    let to = match asked {
        Means::Raise => from.up(),
        Means::Lower => from.down(),
        _ => from.towards(original),
    };
    (from != to || known.is_some()).then_some((from, to))
}

/// By which means the application goes where, and whether that is because the means that holds it has no effect. What is
/// held by one means goes all the way back before another one takes over.
fn way(
    known: Option<&ApplicationHistory>,
    usable: Option<LadderMeans>,
    asked: Means,
) -> (LadderMeans, Means, bool) {
    match known {
        Some(known) if known.level != known.original && usable != Some(known.means) => {
            (known.means, Means::Decay, true)
        }
        Some(known) => usable.map_or((known.means, Means::Decay, true), |usable| (usable, asked, false)),
        None => usable.map_or((LadderMeans::Nice, Means::Decay, true), |usable| (usable, asked, false)),
    }
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
    let cpu = application.cpu().unwrap_or(0.0);
    let mut inputs = vec![
        input("processes", application.processes.len()),
        input("CPU", format!("{} of a vcpu", Ratio(cpu))),
        input("level now", from),
        input("level wanted", to),
    ];
    inputs.extend(application.conversations.iter().map(|conversation| input("found", conversation)));
    Reason { rule: rule.to_owned(), summary, inputs, expected: expected.to_owned(), ..Reason::default() }
}
