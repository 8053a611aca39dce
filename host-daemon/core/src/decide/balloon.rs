//! Balloons: takes idle memory in small steps, gives it back at once. Never on stale statistics, never below the floor.

use std::time::Duration;

use super::history::History;
use super::{finding, input, propose};
use crate::finding::{Finding, Severity};
use crate::model::{BalloonModel, DomainModel, HostModel, Model};
use crate::order::{Action, Metric, Prediction, Proposal, Reason};
use crate::policy::{BalloonPolicy, Policy};
use crate::rules::Means;
use crate::units::{KiB, Ratio};

/// Part of the guard below which a guest gets memory back.
const PRESSED: f64 = 0.5;
/// Changes below this part of the domain's memory are not worth a call (MOM skips below 0.25 % too).
const WORTH: f64 = 0.0025;
/// Part of the host's memory that must be available, else the host is short of it.
const HOST_SHORT: f64 = 0.20;
/// Under host pressure: 5 % per 10 s.
const PRESSED_STEP: (f64, Duration) = (0.05, Duration::from_secs(10));
/// Pause after memory had to be given back; doubles each time (arcbox#469 went round each 5 min).
const PAUSE: Duration = Duration::from_secs(60);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 60);
/// Major faults a second that show a guest which reads its own code back from disk.
const FAULTS_PER_S: f64 = 100.0;

/// Memory that the guest keeps above its demand.
fn guard(domain: &DomainModel, policy: &BalloonPolicy) -> KiB {
    policy.guard.max(domain.memory_maximum.part(0.10))
}

/// The statistics, if they are fresh enough to act on.
fn fresh(domain: &DomainModel, policy: &BalloonPolicy) -> Option<BalloonModel> {
    domain.balloon.filter(|balloon| balloon.age.is_some_and(|age| age <= policy.stale_after))
}

/// The least memory that the domain should have: what it needed at most in the window, and the guard; never below the
/// floor. `None` without fresh statistics.
#[must_use]
pub fn least_memory(domain: &DomainModel, policy: &BalloonPolicy, history: &History) -> Option<KiB> {
    let demand = fresh(domain, policy)?.demand?;
    let remembered = history.domains.get(&domain.uuid).into_iter().flat_map(|entry| &entry.demand);
    let most = remembered.map(|(_, demand)| *demand).fold(demand, KiB::max);
    Some((most + guard(domain, policy)).max(policy.floor))
}

/// Memory that the domain could give, if there is enough to be worth it.
pub(super) fn reclaimable(domain: &DomainModel, policy: &Policy, history: &History) -> Option<KiB> {
    if domain.balloon_refusal.is_some() {
        return None;
    }
    let idle = domain.balloon?.current - least_memory(domain, &policy.of(domain).balloon(), history)?;
    (idle >= domain.memory_maximum.part(0.01).max(KiB(1))).then_some(idle)
}

/// Takes one step of idle memory from a domain that has had it for the policy's number of cycles.
pub(super) fn inflate(
    domain: &DomainModel,
    model: &Model,
    policy: &Policy,
    history: &mut History,
    findings: &mut Vec<Finding>,
) -> Option<Proposal> {
    remember_demand(domain, model.at, &policy.balloon, history);
    if domain.balloon_refusal.is_none()
        && let Some(balloon) = domain.balloon.filter(|_| fresh(domain, &policy.balloon).is_none())
    {
        let age = balloon.age.map_or_else(|| "unknown".to_owned(), |age| format!("{} s", age.as_secs()));
        findings.push(finding(
            domain,
            "balloon_statistics_stale",
            Severity::Info,
            format!(
                "the guest's memory statistics are old, so its balloon stays; set <stats period='5'/> in its <memballoon> \
                 or `virsh dommemstat {} --period 5 --live`",
                domain.name
            ),
            vec![input("age", age)],
        ));
    }
    let idle = reclaimable(domain, policy, history)?;
    let enough = least_memory(domain, &policy.of(domain).balloon(), history)?;
    let current = domain.balloon?.current;
    let entry = history.domains.get_mut(&domain.uuid)?;
    if entry.asked.wants(Means::Reclaim).is_none() || model.at < entry.no_inflation_until {
        return None;
    }
    // The balloon has not arrived where it was sent: asking for more shows no progress sooner.
    if entry.balloon.ours.is_some_and(|ours| current > ours + domain.memory_maximum.part(WORTH)) {
        return None;
    }
    let short = host_is_short(&model.host);
    let (part, period) = if short {
        PRESSED_STEP
    } else {
        (f64::from(policy.balloon.step_permille) / 1000.0, policy.balloon.step_period)
    };
    let since = entry.inflated_at.map_or(period, |at| model.at.saturating_sub(at).min(period));
    let step = domain.memory_maximum.part(part * since.as_secs_f64() / period.as_secs_f64());
    // Whole MiB: QEMU rounds to pages, and a target between two of them would never be reached.
    let to = KiB((current - step).max(enough).0.next_multiple_of(1024));
    if current - to < domain.memory_maximum.part(WORTH).max(KiB(1)) {
        return None;
    }
    entry.inflated_at = Some(model.at);
    let reason = Reason {
        rule: "balloon.reclaim".to_owned(),
        summary: format!(
            "{} has had {idle} more than it needs for {} cycles",
            domain.name, entry.states.idle_memory
        ),
        inputs: vec![
            input("memory now", current),
            input("demand and guard", enough),
            input("guard", guard(domain, &policy.balloon)),
            input("host is short of memory", short),
        ],
        threshold: format!(
            "idle memory for {} cycles, with statistics younger than {} s",
            policy.state.cycles,
            policy.balloon.stale_after.as_secs()
        ),
        expected: format!("{} for the host, nothing that the guest notices", current - to),
        prediction: Some(Prediction {
            metric: Metric::MemoryMib,
            of: domain.uuid,
            of_name: domain.name.clone(),
            before: current.as_f64() / 1024.0,
            expected: to.as_f64() / 1024.0,
        }),
        ..Reason::default()
    };
    Some(propose(domain, Action::SetBalloon { from: current, to }, reason, false))
}

/// Gives memory back to a domain that we took some from and that needs it now.
pub(super) fn deflate(
    domain: &DomainModel,
    model: &Model,
    policy: &Policy,
    history: &mut History,
) -> Option<Proposal> {
    let entry = history.domains.get(&domain.uuid)?;
    let (original, ours) = (entry.balloon.original?, entry.balloon.ours?);
    let balloon = domain.balloon?;
    let guard = guard(domain, &policy.balloon);
    let (to, summary) = if balloon.age.is_none_or(|age| age > policy.balloon.window) {
        (original, "the guest has not reported its memory for too long".to_owned())
    } else if balloon.swapped_in.is_some_and(|swapped| swapped > KiB(0)) {
        (original, "the guest swaps in".to_owned())
    } else if balloon.major_faults_per_s.is_some_and(|faults| faults > FAULTS_PER_S) {
        (original, "the guest has many major faults".to_owned())
    } else if let Some(rule) = entry.asked.wants(Means::ReleaseMemory) {
        (original, format!("the rule {rule} asks for it"))
    } else {
        let usable = balloon.usable?;
        let deficit = (usable < guard.part(PRESSED)).then(|| guard - usable)?;
        let to = KiB((balloon.current + deficit + deficit).0.next_multiple_of(1024)).min(original);
        (to, format!("only {usable} are usable in the guest, the guard is {guard}"))
    };
    // Already on its way there.
    if to <= ours.max(balloon.current) {
        return None;
    }
    let reason = Reason {
        rule: "balloon.release".to_owned(),
        summary,
        inputs: vec![
            input("memory now", balloon.current),
            input("original", original),
            input("guard", guard),
        ],
        expected: "room for the guest at once".to_owned(),
        ..Reason::default()
    };
    let entry = history.domains.get_mut(&domain.uuid)?;
    entry.inflated_at = Some(model.at);
    // One give-back in several steps counts once; after a calm that is long enough the count begins anew.
    if model.at >= entry.no_inflation_until {
        let calm = model.at.saturating_sub(entry.no_inflation_until) > LONGEST_PAUSE * 2;
        entry.forced_releases = if calm { 0 } else { entry.forced_releases.saturating_add(1) };
    }
    let pause = PAUSE.saturating_mul(1_u32.checked_shl(entry.forced_releases).unwrap_or(u32::MAX));
    entry.no_inflation_until = model.at + pause.min(LONGEST_PAUSE);
    Some(propose(domain, Action::SetBalloon { from: balloon.current, to }, reason, true))
}

fn remember_demand(domain: &DomainModel, at: Duration, policy: &BalloonPolicy, history: &mut History) {
    let demand = fresh(domain, policy).and_then(|balloon| balloon.demand);
    let Some(entry) = history.domains.get_mut(&domain.uuid) else { return };
    entry.demand.extend(demand.map(|demand| (at, demand)));
    while entry.demand.front().is_some_and(|(then, _)| at.saturating_sub(*then) > policy.window) {
        entry.demand.pop_front();
    }
}

fn host_is_short(host: &HostModel) -> bool {
    let available = host.memory_available.zip(host.memory_total);
    available
        .and_then(|(available, total)| Ratio::of(available.as_f64(), total.as_f64()))
        .is_some_and(|part| part.0 < HOST_SHORT)
}
