//! Balloons: takes idle memory in small steps, gives it back at once. Never on stale statistics, never below the floor,
//! never from a guest that was short a moment ago.
//!
//! The guest writes the statistics. One that calls itself idle gets less memory, one that calls itself short gets back what
//! was its own: a liar harms nobody else.

mod accounting;
mod history;
mod host;
mod inflate;
mod need;
mod often;
mod progress;
mod release;

use std::time::Duration;

pub use accounting::Accounting;
pub(super) use history::{BalloonHistory, HostMemoryHistory};
pub(super) use inflate::reclaimable;
pub use need::least_memory;
pub(super) use need::memory_use;
pub use often::often;
pub(super) use release::deflate;

use super::history::History;
use super::{finding, input, running};
use crate::finding::{Finding, Severity};
use crate::model::{DomainModel, Model};
use crate::order::Proposal;
use crate::policy::{BalloonPolicy, Policy};
use crate::units::KiB;

/// Changes below this part of the domain's memory are not worth a call (MOM skips below 0.25 % too).
const WORTH: f64 = 0.0025;

/// The least change of a balloon that is worth a call.
pub(super) fn worth(maximum: KiB) -> KiB {
    maximum.part(WORTH).max(KiB(1))
}

/// Takes note of what the guests report. Each decision begins with it.
pub(super) fn note(model: &Model, policy: &Policy, history: &mut History) {
    host::note(model, &mut history.host_memory);
    for domain in running(model) {
        note_domain(domain, model.at, &policy.balloon, history);
    }
}

fn note_domain(domain: &DomainModel, at: Duration, policy: &BalloonPolicy, history: &mut History) {
    let Some(entry) = history.domains.get_mut(&domain.uuid) else { return };
    let memory = &mut entry.memory;
    match domain.agent_connected {
        Some(true) => (memory.agent_seen, memory.agent_gone_since) = (true, None),
        Some(false) if memory.agent_seen => {
            memory.agent_gone_since.get_or_insert(at);
        }
        _ => memory.agent_gone_since = None,
    }
    if domain.balloon.is_none() {
        return;
    }
    while memory.needs.front().is_some_and(|(then, _)| at.saturating_sub(*then) > policy.window) {
        memory.needs.pop_front();
    }
    let Some(fresh) = need::fresh(domain, policy) else {
        memory.rise_kib_per_s = 0.0;
        // Nobody has heard of it yet: the time that it is silent begins now.
        memory.fresh_at.get_or_insert(at);
        return;
    };
    memory.fresh_at = Some(at);
    let moved = memory.moved.map_or(at, |(moved, _)| moved);
    if memory.books.learn(&fresh, at, moved) {
        // The last report was counted in another way. Older needs stay: they are too large at worst.
        memory.report = None;
    }
    let Some(needs) = memory.books.accounting.demand(&fresh) else { return };
    if let (Some((before, needed)), Some(report)) = (memory.report, fresh.reported_unix_s)
        && report != before
    {
        let seconds = Duration::from_secs(report.saturating_sub(before).max(1)).as_secs_f64();
        memory.rise_kib_per_s = (needs - needed).as_f64() / seconds;
    }
    memory.report = fresh.reported_unix_s.map(|report| (report, needs));
    while memory.needs.back().is_some_and(|(_, smaller)| *smaller <= needs) {
        memory.needs.pop_back();
    }
    memory.needs.push_back((at, needs));
}

/// Takes one step of idle memory from who has it, and says what is wrong with whose balloon.
pub(super) fn inflate(
    model: &Model,
    policy: &Policy,
    history: &mut History,
    findings: &mut Vec<Finding>,
) -> Vec<Proposal> {
    findings.extend(host::judge(model, history));
    for domain in running(model).filter(|domain| domain.balloon_refusal.is_none()) {
        findings.extend(silence(domain, &policy.balloon));
        findings.extend(progress::judge(domain, model.at, history));
        findings.extend(release::judge(domain, model.at, &policy.balloon, history));
        findings.extend(unclear(domain, history));
    }
    inflate::decide(model, policy, history)
}

/// Says whose statistics are no ground for decisions.
fn silence(domain: &DomainModel, policy: &BalloonPolicy) -> Option<Finding> {
    let balloon = domain.balloon.filter(|_| need::fresh(domain, policy).is_none())?;
    if let Some(doubt) = balloon.doubt {
        return Some(finding(
            domain,
            "balloon_figures_doubtful",
            Severity::Warning,
            format!("the guest reports {doubt}, so its balloon is left alone; look at who runs the guest"),
            vec![],
        ));
    }
    // Figures that only we have not read again are no silence of the guest's: whoever keeps us from reading is named elsewhere.
    let age = balloon.age_when_read.or(balloon.age);
    if age.is_some_and(|age| age <= policy.stale_after) {
        return None;
    }
    let age = age.map_or_else(|| "unknown".to_owned(), |age| format!("{} s", age.as_secs()));
    Some(finding(
        domain,
        "balloon_statistics_stale",
        Severity::Info,
        format!(
            "the guest's memory statistics are old, so its balloon stays; set <stats period='1'/> in its <memballoon> or \
             `virsh dommemstat {} --period 1 --live`",
            domain.name
        ),
        vec![input("age", age)],
    ))
}

fn unclear(domain: &DomainModel, history: &History) -> Option<Finding> {
    let books = &history.domains.get(&domain.uuid)?.memory.books;
    books.unclear.then(|| {
        finding(
            domain,
            "balloon_accounting_unclear",
            Severity::Info,
            "it is not clear whether the guest counts its balloon as used, so no more is taken from it"
                .to_owned(),
            vec![],
        )
    })
}

#[cfg(test)]
mod tests;
