//! What a guest needs: its working set, and what must stay free above it.
//!
//! The working set is the most that was in use in the policy's window: up at once, down when the window has passed. A guest
//! that thrashed although it called memory usable needs more than it says: what it had then, and the guard, is kept from
//! then on, and comes down by 1 % of its memory an hour.

use std::time::Duration;

use crate::decide::history::History;
use crate::model::{BalloonModel, DomainModel};
use crate::policy::BalloonPolicy;
use crate::units::{KiB, Ratio};

/// Part of the domain's memory that stays free above its working set, at least.
const GUARD: f64 = 0.10;
/// The same for Windows, which crashes where Linux swaps (kvm-guest-drivers-windows#772), and what it keeps whatever it uses.
const WINDOWS_GUARD: f64 = 0.20;
const WINDOWS_FLOOR: KiB = KiB::from_mib(1024);
/// Part of the domain's memory by which a size at which it thrashed is trusted again in an hour.
const UNLEARN_PER_HOUR: f64 = 0.01;

/// Memory that the guest keeps above its working set.
pub(super) fn guard(domain: &DomainModel, policy: &BalloonPolicy) -> KiB {
    let part = if domain.is_windows() { WINDOWS_GUARD } else { GUARD };
    policy.guard.max(domain.memory_maximum.part(part))
}

/// Memory that the guest keeps whatever it uses.
fn floor(domain: &DomainModel, policy: &BalloonPolicy) -> KiB {
    if domain.is_windows() { policy.floor.max(WINDOWS_FLOOR) } else { policy.floor }
}

/// The statistics, if the guest reports and they can be true. They may be
/// [some minutes](crate::model::BALLOON_RECENT) old where nobody needs them sooner.
pub(super) fn fresh(domain: &DomainModel, policy: &BalloonPolicy) -> Option<BalloonModel> {
    domain.balloon.filter(|balloon| !balloon.is_stale(policy.stale_after) && balloon.doubt.is_none())
}

/// Whether statistics are young enough to change something on them right now.
pub(super) fn is_young(balloon: &BalloonModel, policy: &BalloonPolicy) -> bool {
    balloon.age.is_some_and(|age| age <= policy.stale_after)
}

/// What the guest has in use now, its balloon left out.
pub(super) fn demand(domain: &DomainModel, balloon: &BalloonModel, history: &History) -> Option<KiB> {
    let books = history.domains.get(&domain.uuid).map(|entry| entry.memory.books.accounting);
    books.unwrap_or_default().demand(balloon)
}

/// Part of the guest's memory that is in use, its balloon left out of both.
pub(in crate::decide) fn memory_use(domain: &DomainModel, history: &History) -> Option<f64> {
    let balloon = domain.balloon?;
    let total = history.domains.get(&domain.uuid)?.memory.books.accounting.total(&balloon)?;
    Some(Ratio::of(demand(domain, &balloon, history)?.as_f64(), total.as_f64())?.0)
}

/// The most that the guest had in use in the window. `None` without fresh statistics.
pub(super) fn working_set(domain: &DomainModel, policy: &BalloonPolicy, history: &History) -> Option<KiB> {
    let now = demand(domain, &fresh(domain, policy)?, history)?;
    let most = history.domains.get(&domain.uuid).and_then(|entry| entry.memory.needs.front());
    Some(most.map_or(now, |(_, most)| now.max(*most)))
}

/// The least memory that the domain should have: its working set and the guard, what it was seen thrashing with, the
/// floor. `None` without fresh statistics.
#[must_use]
pub fn least_memory(domain: &DomainModel, policy: &BalloonPolicy, history: &History) -> Option<KiB> {
    let needs = working_set(domain, policy, history)? + guard(domain, policy);
    let entry = history.domains.get(&domain.uuid);
    let learned = entry.and_then(|entry| Some((entry.memory.learned?, entry.memory.fresh_at?)));
    let learned = learned.map_or(KiB(0), |((then, memory), now)| {
        memory - unlearned(domain.memory_maximum, now.saturating_sub(then))
    });
    Some(needs.max(learned).max(floor(domain, policy)).min(domain.memory_maximum))
}

fn unlearned(maximum: KiB, since: Duration) -> KiB {
    maximum.part(UNLEARN_PER_HOUR * since.as_secs_f64() / 3600.0)
}
