//! Taking: idle memory in small steps, from who has most of it first.

use std::time::Duration;

use super::accounting::Accounting;
use super::host::{HostMemory, tax_rank};
use super::need::{fresh, guard, is_young, least_memory, working_set};
use super::{progress, worth};
use crate::decide::history::History;
use crate::decide::{input, propose, running};
use crate::model::{DomainModel, Model};
use crate::order::{Action, Metric, Prediction, Proposal, Reason};
use crate::policy::{Actuator, Mode, Policy};
use crate::rules::Means;
use crate::units::KiB;

/// Under host pressure: 5 % per 10 s.
const PRESSED_STEP: (f64, Duration) = (0.05, Duration::from_secs(10));

/// Memory that the domain could give, if there is enough to be worth it.
pub(in crate::decide) fn reclaimable(
    domain: &DomainModel,
    policy: &Policy,
    history: &History,
) -> Option<KiB> {
    if domain.balloon_refusal.is_some() {
        return None;
    }
    let idle = domain.balloon?.current - least_memory(domain, &policy.of(domain).balloon(), history)?;
    (idle >= domain.memory_maximum.part(0.01).max(KiB(1))).then_some(idle)
}

/// Takes one step of idle memory from each domain that has had it for the policy's number of cycles.
pub(super) fn decide(model: &Model, policy: &Policy, history: &mut History) -> Vec<Proposal> {
    let host = HostMemory::new(&model.host, &history.host_memory);
    let rank = |domain: &DomainModel| {
        let needs = working_set(domain, &policy.balloon, history)?;
        tax_rank(domain, needs, policy, history)
    };
    let mut givers: Vec<_> = running(model).filter_map(|domain| Some((rank(domain)?, domain))).collect();
    givers.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    // A short host hurries until it is none any more; what is on its way counts. It once hurried for twice its reserve only,
    // and fell back to a third of the pace at half of the way (`bench memory`).
    let mut wanted = host.enough - host.available.unwrap_or_default();
    let mut proposals = Vec::new();
    for (_, domain) in givers {
        let hurries = host.short.filter(|_| wanted > KiB(0));
        let Some(proposal) = step(domain, model.at, hurries, policy, history) else { continue };
        if let Action::SetBalloon { from, to } = &proposal.action {
            wanted = wanted - (*from - *to);
        }
        proposals.push(proposal);
    }
    proposals
}

/// Why nothing more may be taken from a domain now, although it has it.
pub(super) fn waits(
    domain: &DomainModel,
    at: Duration,
    policy: &Policy,
    history: &History,
) -> Option<String> {
    let entry = history.domains.get(&domain.uuid)?;
    let memory = &entry.memory;
    let current = domain.balloon?.current;
    if entry.asked.wants(Means::Reclaim).is_none() {
        return Some(format!(
            "no rule asks for it; its memory was idle for {} cycles",
            entry.states.idle_memory
        ));
    }
    if entry.balloon.is_theirs() {
        return Some("somebody else has set it".to_owned());
    }
    if entry.balloon.ours.is_none() && !memory.is_still(at) {
        return Some("it may be on its way to where it belongs: it is watched for 10 s first".to_owned());
    }
    if progress::is_left_alone(domain, at, history) {
        return Some("it does not follow".to_owned());
    }
    if let Some(left) = memory.rests_until.checked_sub(at).filter(|left| !left.is_zero()) {
        return Some(format!("it needed its memory back {} times; {} s", memory.forced, left.as_secs()));
    }
    if memory.pressed_at.is_some_and(|then| at.saturating_sub(then) < policy.balloon.window) {
        return Some("it was short of memory a moment ago".to_owned());
    }
    if grows_faster_than_is_taken(domain, memory.rise_kib_per_s, policy) {
        return Some("its need is growing".to_owned());
    }
    // The balloon has not arrived where it was sent: asking for more shows no progress sooner.
    if entry.balloon.ours.is_some_and(|ours| current > ours + worth(domain.memory_maximum)) {
        return Some("its balloon is on its way".to_owned());
    }
    // The first step tells how the guest counts; until then there is no second one.
    let probing = memory.books.accounting == Accounting::Unknown && entry.balloon.ours.is_some();
    probing.then(|| "its way of counting the balloon is not known yet".to_owned())
}

/// Whether its need grew by more than a step of ours in the time of one, by its last two reports.
fn grows_faster_than_is_taken(domain: &DomainModel, rise_kib_per_s: f64, policy: &Policy) -> bool {
    let step = domain.memory_maximum.part(f64::from(policy.balloon.step_permille) / 1000.0);
    rise_kib_per_s * policy.balloon.step_period.as_secs_f64() > step.as_f64()
}

fn step(
    domain: &DomainModel,
    at: Duration,
    hurries: Option<&'static str>,
    policy: &Policy,
    history: &mut History,
) -> Option<Proposal> {
    let idle = reclaimable(domain, policy, history)?;
    if waits(domain, at, policy, history).is_some() {
        return None;
    }
    let enough = least_memory(domain, &policy.of(domain).balloon(), history)?;
    let needs = working_set(domain, &policy.balloon, history)?;
    let balloon = fresh(domain, &policy.balloon)?;
    // A person who is asked takes longer to answer than figures to change. Whoever acts at once waits for the next reading,
    // which `often` hurries.
    let acts = policy.of(domain).mode(Actuator::Balloon).value == Mode::Auto;
    if acts && !is_young(&balloon, &policy.balloon) {
        return None;
    }
    let current = balloon.current;
    let entry = history.domains.get_mut(&domain.uuid)?;
    let probing = entry.memory.books.accounting == Accounting::Unknown;
    let (part, period) = if hurries.is_some() && !probing {
        PRESSED_STEP
    } else {
        (f64::from(policy.balloon.step_permille) / 1000.0, policy.balloon.step_period)
    };
    let since = entry.memory.took_at.map_or(period, |then| at.saturating_sub(then).min(period));
    let step = domain.memory_maximum.part(part * since.as_secs_f64() / period.as_secs_f64());
    // Whole MiB: QEMU rounds to pages, and a target between two of them would never be reached.
    let to = KiB((current - step).max(enough).0.next_multiple_of(1024));
    if current - to < worth(domain.memory_maximum) {
        return None;
    }
    entry.memory.took_at = Some(at);
    let guard = guard(domain, &policy.balloon);
    let mut inputs = vec![
        input("memory now", current),
        input("in use, at most", needs),
        input("guard", guard),
        input("least it may have", enough),
    ];
    inputs.extend(balloon.usable.map(|usable| input("usable in the guest", usable)));
    inputs.extend(hurries.map(|why| input("the host is short of memory", why)));
    let reason = Reason {
        rule: "balloon.reclaim".to_owned(),
        summary: format!(
            "{} has had {idle} more than it needs for {} cycles",
            domain.name, entry.states.idle_memory
        ),
        inputs,
        threshold: format!(
            "idle memory for {} cycles, with statistics younger than {} s",
            policy.state.cycles,
            policy.balloon.stale_after.as_secs()
        ),
        expected: format!(
            "{} for the host, and a guest that is no slower: no swap-in, no more major faults",
            current - to
        ),
        prediction: Some(Prediction {
            metric: Metric::MemoryMib,
            of: domain.uuid,
            of_name: domain.name.clone(),
            before: current.as_f64() / 1024.0,
            expected: to.as_f64() / 1024.0,
        }),
        alternatives: vec![
            format!("taking all {idle} at once: what the guest needs next is not known"),
            "leaving it: the memory lies idle".to_owned(),
        ],
    };
    Some(propose(domain, Action::SetBalloon { from: current, to }, reason, false))
}
