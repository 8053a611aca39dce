//! Who presses whom: the aggressors of a domain that waits, as the steal matrix names them, remembered for as long as
//! weights keep them off. What was seen before the weights changed is what comes back without them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::class::class_of;
use super::history::{DomainHistory, History};
use super::running;
use super::state::waits_too_long;
use super::weight::{TAKES_PART, stolen_from, takes_cpu_of};
use crate::model::{DomainModel, Model};
use crate::policy::{Class, Policy};
use crate::sample::Runner;

/// What [`TAKES_PART`] is for a standard domain, which has a target of its own.
pub(super) const STANDARD_TAKES: f64 = 0.25;
/// Cycles for which a reading counts when no weight of ours is in force.
const FRESH_CYCLES: u32 = 3;

/// What pressed a domain when it last waited too long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Pressed {
    at: Duration,
    /// pcpus that it waited for.
    pub(super) wait_pcpus: f64,
    /// Domains that ran meanwhile, with their parts of the waiting, the largest first.
    by: Vec<(Uuid, f64)>,
}

impl Pressed {
    /// Together with an earlier look: of each domain the most that it took in one. A window of one pcpu's queue names who
    /// shares that pcpu with the victim, and once those are gone it is somebody else's turn.
    fn and(mut self, before: &Self) -> Self {
        let mut took: BTreeMap<Uuid, f64> = BTreeMap::new();
        for look in [before, &self] {
            for (uuid, part) in &look.by {
                let most = took.entry(*uuid).or_default();
                *most = most.max(part * look.wait_pcpus);
            }
        }
        self.wait_pcpus = self.wait_pcpus.max(before.wait_pcpus).max(took.values().sum());
        self.by = took.into_iter().map(|(uuid, pcpus)| (uuid, pcpus / self.wait_pcpus)).collect();
        self.by.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        self
    }
}

/// A domain that presses another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aggressor<'a> {
    pub(super) domain: &'a DomainModel,
    pub(super) class: Class,
    /// Its part of the victim's waiting, 0 to 1; estimated from what it wants where no probe saw it.
    pub(super) part: f64,
}

/// Takes note of who presses the domains that wait too long.
pub(super) fn note(model: &Model, policy: &Policy, history: &mut History) {
    for domain in running(model).filter(|domain| waits_too_long(domain, policy, history)).collect::<Vec<_>>()
    {
        let by: Vec<(Uuid, f64)> = stolen_from(domain, model)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(by, part)| match by {
                Runner::Domain(uuid) if part >= TAKES_PART && uuid != domain.uuid => Some((uuid, part)),
                _ => None,
            })
            .collect();
        let (Some(ratio), Some(demand)) = (domain.wait_ratio(), domain.cpu_demand()) else { continue };
        if by.is_empty() {
            continue;
        }
        let now = Pressed { at: model.at, wait_pcpus: ratio.0 * demand, by };
        let Some(entry) = history.domains.get_mut(&domain.uuid) else { continue };
        // While weights hold them off, they take less: what they took without is what counts.
        let before = entry.pressed.take().filter(|_| is_raised(entry));
        entry.pressed = Some(match before {
            Some(before) => now.and(&before),
            None => now,
        });
    }
}

fn is_raised(entry: &DomainHistory) -> bool {
    entry.shares.ours.zip(entry.shares.original).is_some_and(|(ours, original)| ours > original)
}

/// What pressed a domain, if that still counts.
pub(super) fn pressed<'a>(
    domain: &DomainModel,
    model: &Model,
    policy: &Policy,
    history: &'a History,
) -> Option<&'a Pressed> {
    let entry = history.domains.get(&domain.uuid)?;
    let pressed = entry.pressed.as_ref()?;
    let fresh = model.at.saturating_sub(pressed.at) <= policy.periods.cycle * FRESH_CYCLES;
    (fresh || is_raised(entry)).then_some(pressed)
}

/// The domains of a lower class that press this one, the worst first. Without a matrix (no probe) those batch domains that
/// want CPU on the same pcpus, by what they want.
pub(super) fn aggressors<'a>(
    victim: &DomainModel,
    model: &'a Model,
    policy: &Policy,
    history: &History,
) -> Vec<Aggressor<'a>> {
    let seen = pressed(victim, model, policy, history);
    let is_watched = model.steal.domains.iter().any(|row| row.uuid == victim.uuid);
    if seen.is_none() && is_watched {
        return Vec::new();
    }
    if let Some(pressed) = seen {
        let named = pressed.by.iter().filter_map(|(uuid, part)| {
            let domain = running(model).find(|domain| domain.uuid == *uuid)?;
            let class = class_of(domain, policy, history);
            let least = if class == Class::Batch { TAKES_PART } else { STANDARD_TAKES };
            let takes = *part >= least && takes_cpu_of(domain, victim, policy, history);
            takes.then_some(Aggressor { domain, class, part: *part })
        });
        return named.collect();
    }
    let takes = |domain: &&DomainModel| {
        class_of(domain, policy, history) == Class::Batch && takes_cpu_of(domain, victim, policy, history)
    };
    let all: Vec<&DomainModel> = running(model).filter(takes).collect();
    let wanted: f64 = all.iter().filter_map(|domain| domain.cpu_demand()).sum();
    let part = |domain: &DomainModel| {
        domain.cpu_demand().map_or(0.0, |demand| demand / wanted.max(f64::MIN_POSITIVE))
    };
    all.into_iter().map(|domain| Aggressor { domain, class: Class::Batch, part: part(domain) }).collect()
}
