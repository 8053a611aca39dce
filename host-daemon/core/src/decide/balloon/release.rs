//! Giving back: at once, and twice what is missing. Skips every pause. A guest of which nothing is known any more gets all.

use std::time::Duration;

use super::history::BalloonHistory;
use super::host::HostMemory;
use super::need::{demand, fresh, guard, is_young};
use super::progress;
use crate::decide::history::History;
use crate::decide::{finding, input, propose};
use crate::finding::{Finding, Severity};
use crate::model::{BalloonModel, DomainModel, Model};
use crate::order::{Action, Proposal, Reason};
use crate::policy::{BalloonPolicy, Policy};
use crate::rules::Means;
use crate::units::{KiB, doubled};

/// Part of the guard below which a guest gets memory back.
const PRESSED: f64 = 0.5;
/// A guest whose need rises is helped if it would be below that within so many seconds: reports come each second at best.
const AHEAD_S: f64 = 3.0;
/// Major faults a second that show a guest which reads its own code back from disk, if it has little to spare.
const FAULTS_PER_S: f64 = 100.0;
/// Part of the memory in use that is swapped in each minute, and by waiting allocations reclaimed, at which a guest thrashes
/// (Google's far memory promotes no more); but no less than sixteen pages a second.
const REFAULTS_PER_MINUTE: f64 = 0.002;
const REFAULTS_KIB_PER_S: f64 = 64.0;
/// First pause after a forced release, doubling up to the longest; and the calm after which it starts over.
const REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(30 * 60);
const FORGIVEN: Duration = Duration::from_secs(4 * 3600);
/// What was given back is not asked for again before.
const AGAIN: Duration = Duration::from_secs(5);
/// An agent that is gone for so long is dead, and with it perhaps the guest.
const AGENT_GONE: Duration = Duration::from_secs(10);

/// Why a guest gets memory back, and how much of it.
#[derive(Debug, PartialEq)]
struct Pressure {
    why: String,
    threshold: String,
    /// What is missing; `None`: everything goes back.
    missing: Option<KiB>,
    /// Whether it was seen thrashing, whatever it calls usable.
    thrashes: bool,
}

/// Gives memory back to a domain that we took some from and that needs it now.
pub(in crate::decide) fn deflate(
    domain: &DomainModel,
    model: &Model,
    policy: &Policy,
    history: &mut History,
) -> Option<Proposal> {
    let balloon = domain.balloon?;
    let pressure = pressure(domain, &balloon, model.at, &policy.balloon, history);
    let entry = history.domains.get_mut(&domain.uuid)?;
    if pressure.is_some() {
        entry.memory.pressed_at = Some(model.at);
    }
    let (Some(original), Some(ours)) = (entry.balloon.original, entry.balloon.ours) else { return None };
    let Some(pressure) = pressure else { return progress::put_back(domain, model.at, history) };
    let guard = guard(domain, &policy.balloon);
    let host = HostMemory::new(&model.host, &history.host_memory);
    let to = match pressure.missing {
        None => original,
        Some(missing) => {
            // The second half is a courtesy that the host may not be able to afford.
            let twice = balloon.current + missing + missing.min(host.spare());
            KiB(twice.0.next_multiple_of(1024)).min(original)
        }
    };
    // Already on its way there, or there.
    if to <= ours.max(balloon.current) {
        return None;
    }
    let memory = &mut history.domains.get_mut(&domain.uuid)?.memory;
    if memory.released.is_some_and(|(then, target)| model.at.saturating_sub(then) < AGAIN && to <= target) {
        return None;
    }
    // Where nothing is said of how much is missing, as much as it had, and the guard.
    let needed = balloon.current + pressure.missing.filter(|_| !pressure.thrashes).unwrap_or(guard);
    let rest = memory.forced_release(needed, to, pressure.thrashes, model.at);
    let mut inputs = vec![
        input("memory now", balloon.current),
        input("original", original),
        input("guard", guard),
        input("times in a row", memory.forced),
    ];
    inputs.extend(balloon.usable.map(|usable| input("usable in the guest", usable)));
    let reason = Reason {
        rule: "balloon.release".to_owned(),
        summary: format!("{}: {}", domain.name, pressure.why),
        inputs,
        threshold: pressure.threshold,
        expected: format!(
            "{} more for the guest at once; nothing is taken from it for {} s",
            to - balloon.current,
            rest.as_secs()
        ),
        alternatives: vec!["leaving it: the guest would swap, or kill processes".to_owned()],
        ..Reason::default()
    };
    Some(propose(domain, Action::SetBalloon { from: balloon.current, to }, reason, true))
}

impl BalloonHistory {
    /// Takes note of a release that was forced, and returns how long nothing is taken because of it. Several within a
    /// few seconds are one.
    pub(super) fn forced_release(&mut self, needed: KiB, to: KiB, thrashes: bool, at: Duration) -> Duration {
        let last = self.released.map(|(then, _)| at.saturating_sub(then));
        if last.is_none_or(|last| last >= FORGIVEN) {
            self.forced = 0;
        }
        if self.forced == 0 || last.is_none_or(|last| last > AGAIN * 2) {
            self.forced = self.forced.saturating_add(1);
        }
        let rest = doubled(REST, self.forced - 1, LONGEST_REST);
        self.released = Some((at, to));
        self.rests_until = at + rest;
        self.took_at = Some(at);
        // Once may be chance. A load that comes back would else be met with less memory each time that the rest is over.
        if thrashes || self.forced > 1 {
            self.learned = Some((at, needed));
        }
        rest
    }
}

fn pressure(
    domain: &DomainModel,
    balloon: &BalloonModel,
    at: Duration,
    policy: &BalloonPolicy,
    history: &History,
) -> Option<Pressure> {
    let entry = history.domains.get(&domain.uuid)?;
    let memory = &entry.memory;
    let all = |why: &str, threshold: String| {
        Some(Pressure { why: why.to_owned(), threshold, missing: None, thrashes: false })
    };
    if memory.agent_gone_since.is_some_and(|since| at.saturating_sub(since) >= AGENT_GONE) {
        return all(
            "its agent has gone",
            format!("an agent that was there is gone for {} s", AGENT_GONE.as_secs()),
        );
    }
    if let Some(rule) = entry.asked.wants(Means::ReleaseMemory) {
        return all(&format!("the rule {rule} asks for it"), "the rule's condition".to_owned());
    }
    if let Some(doubt) = balloon.doubt {
        return all(&format!("its figures cannot be true: {doubt}"), "figures that can be true".to_owned());
    }
    // Whose memory is held back is looked at all the time: then old figures are bad news, whoever is silent.
    let lean = entry.balloon.ours.is_some();
    let told = fresh(domain, policy).filter(|balloon| !lean || is_young(balloon, policy));
    if told.is_none() {
        let patience = policy.stale_after * 2;
        let unheard = memory.fresh_at.map_or(at, |then| at.saturating_sub(then));
        return (unheard >= patience).then(|| {
            all(
                "the guest has not reported its memory for too long",
                format!("no report for {} s", patience.as_secs()),
            )
        })?;
    }
    if balloon.oom_kills.is_some_and(|kills| kills > 0) {
        let pressure = all("the guest kills processes for want of memory", "no such kill".to_owned())?;
        return Some(Pressure { thrashes: true, ..pressure });
    }
    let guard = guard(domain, policy);
    let usable = balloon.usable?;
    let used = demand(domain, balloon, history)?;
    thrashing(balloon, usable, used, guard).or_else(|| shortage(memory, usable, guard))
}

/// Signs that the guest suffers already.
fn thrashing(balloon: &BalloonModel, usable: KiB, used: KiB, guard: KiB) -> Option<Pressure> {
    let refaults = (used.as_f64() * REFAULTS_PER_MINUTE / 60.0).max(REFAULTS_KIB_PER_S);
    let limit = format!("{refaults:.0} KiB a second");
    let (why, threshold) = if balloon.alloc_stalls.is_some_and(|stalls| stalls > 0) {
        ("allocations in the guest had to wait for memory", "no such wait".to_owned())
    } else if balloon.swap_in_kib_per_s.is_some_and(|rate| rate > refaults) {
        ("the guest swaps in", limit)
    } else if balloon.direct_reclaim_kib_per_s.is_some_and(|rate| rate > refaults) {
        ("allocations in the guest reclaim memory themselves", limit)
    } else if balloon.major_faults_per_s.is_some_and(|rate| rate > FAULTS_PER_S) && usable < guard + guard {
        // With plenty to spare it is only starting a program.
        (
            "the guest has many major faults",
            format!("{FAULTS_PER_S} a second with less than twice the guard usable"),
        )
    } else {
        return None;
    };
    let missing = (guard - usable).max(guard.part(PRESSED));
    Some(Pressure { why: why.to_owned(), threshold, missing: Some(missing), thrashes: true })
}

/// Signs that it will.
fn shortage(memory: &BalloonHistory, usable: KiB, guard: KiB) -> Option<Pressure> {
    let least = guard.part(PRESSED);
    let threshold = format!("{least} usable, half of the guard");
    if usable < least {
        let why = format!("only {usable} are usable in the guest, the guard is {guard}");
        return Some(Pressure { why, threshold, missing: Some(guard - usable), thrashes: false });
    }
    let ahead = usable - KiB(1).times(memory.rise_kib_per_s * AHEAD_S);
    (ahead < least).then(|| Pressure {
        why: format!(
            "its need rises by {} a second, and only {usable} are usable",
            KiB(1).times(memory.rise_kib_per_s)
        ),
        threshold: format!("{threshold}, within {AHEAD_S} s"),
        missing: Some(guard - ahead),
        thrashes: false,
    })
}

/// Says who is short of memory although nothing of it is ours to give.
pub(super) fn judge(
    domain: &DomainModel,
    at: Duration,
    policy: &BalloonPolicy,
    history: &History,
) -> Option<Finding> {
    let balloon = fresh(domain, policy)?;
    let ours = history.domains.get(&domain.uuid)?.balloon.ours;
    let pressure = pressure(domain, &balloon, at, policy, history).filter(|pressure| pressure.thrashes)?;
    ours.is_none().then(|| {
        finding(
            domain,
            "memory_short",
            Severity::Warning,
            format!("{} with all the memory that it has: it needs more", pressure.why),
            vec![input("memory", balloon.current), input("limit", pressure.threshold)],
        )
    })
}
