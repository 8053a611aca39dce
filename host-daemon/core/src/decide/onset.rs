//! The onset of trouble, seen by the fast loop: a domain that talks and begins to wait for CPU does not wait for the next tick
//! as well, and what it and its neighbours did in the last fast windows counts for their classes.

use serde::{Deserialize, Serialize};

use super::class::{burns, class_of, talks};
use super::history::History;
use super::running;
use crate::model::Model;
use crate::policy::{Class, Policy};

/// Fast windows in a row that count as much as as many ticks.
const ENOUGH: u32 = 3;
/// Fast windows in a row with waiting until a tick is called for: one alone may be a single bad moment.
const WAITS: u32 = 2;
/// Fast windows in a row without a word that end a conversation.
const PAUSE: u32 = 10;
/// What it waits must be so many times what the last tick saw. A busy server waits a few percent for the host's own threads.
const TIMES: f64 = 2.0;
/// pcpus that a domain must want for its waiting to mean something in so short a window.
const WANTS: f64 = 0.05;

/// What the last fast windows of a domain were like: how many in a row until now.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Onset {
    talks: u32,
    /// Windows in a row in which it did not talk.
    silent: u32,
    burns: u32,
    waits: u32,
    /// Wait ratio that the last tick saw: calling for another one because of that would change nothing.
    waited: f64,
}

impl Onset {
    /// Whether it is plain by now that it talks.
    pub(super) const fn talks(&self) -> bool {
        self.talks >= ENOUGH
    }

    /// Whether it burned CPU in silence in the last fast window.
    pub(super) const fn begins_to_burn(&self) -> bool {
        self.burns > 0
    }

    /// Whether it is plain by now that it burns CPU in silence.
    pub(super) const fn burns(&self) -> bool {
        self.burns >= ENOUGH
    }
}

/// Looks at one fast window.
pub(super) fn note(model: &Model, policy: &Policy, history: &mut History) {
    for domain in running(model) {
        let is_latency = class_of(domain, policy, history) == Class::Latency;
        let Some(entry) = history.domains.get_mut(&domain.uuid) else { continue };
        let onset = &mut entry.onset;
        let count = |counted: u32, now: bool| if now { counted.saturating_add(1) } else { 0 };
        // Clients pause; that is no reason to forget that they are there.
        onset.silent = count(onset.silent, !talks(domain));
        onset.talks = match onset.silent {
            0 => onset.talks.saturating_add(1),
            1..PAUSE => onset.talks,
            _ => 0,
        };
        onset.burns = count(onset.burns, burns(domain));
        let too_long = policy.weight.latency_target * (1.0 + policy.weight.dead_band);
        let news = too_long.max(onset.waited * TIMES);
        let waits = domain.wait_ratio().is_some_and(|wait| wait.0 > news)
            && domain.cpu_demand().is_some_and(|demand| demand >= WANTS);
        onset.waits = count(onset.waits, waits && (is_latency || onset.talks()));
    }
}

/// A tick has looked at all of it.
pub(super) fn ticked(model: &Model, history: &mut History) {
    for domain in running(model) {
        if let Some(entry) = history.domains.get_mut(&domain.uuid) {
            entry.onset.waits = 0;
            entry.onset.waited = domain.wait_ratio().map_or(0.0, |wait| wait.0);
        }
    }
}

impl History {
    /// Whether a domain that talks has begun to wait since the last tick, so that the next one should come at once.
    #[must_use]
    pub fn calls_for_tick(&self) -> bool {
        self.domains.values().any(|domain| domain.onset.waits >= WAITS)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{domain, host, set_load};
    use super::super::{release, tick};
    use super::*;
    use crate::order::Action;

    /// One fast window; whether a tick is called for after it.
    fn second(model: &mut Model, policy: &Policy, history: &mut History) -> bool {
        model.at += Duration::from_secs(1);
        let _ = release(model, policy, history);
        history.calls_for_tick()
    }

    #[test]
    fn a_server_that_begins_to_wait_is_helped_at_once() {
        let (policy, mut history) = (Policy::default(), History::default());
        let mut model = host(2, vec![domain(1, 2, 0.8, 0.0, 100.0, 2), domain(2, 2, 0.9, 0.0, 0.0, 2)]);
        for _ in 0..3 {
            assert!(!second(&mut model, &policy, &mut history), "nobody waits");
        }
        // A pause of its clients.
        let talking = std::mem::replace(&mut model.domains[0], domain(1, 2, 0.0, 0.0, 0.0, 2));
        assert!(!second(&mut model, &policy, &mut history));
        model.domains[0] = talking;
        set_load(&mut model.domains[0], 0.3, 0.6);
        set_load(&mut model.domains[1], 0.6, 0.4);
        assert!(!second(&mut model, &policy, &mut history), "one window may be a bad moment");
        assert!(second(&mut model, &policy, &mut history), "the burner waits, too, but for nobody's answer");
        let first = tick(&model, &policy, &mut history).proposals;
        let changed: Vec<u128> = first
            .iter()
            .filter(|order| matches!(order.action, Action::SetCpuShares { .. }))
            .map(|order| order.domain.as_u128())
            .collect();
        assert_eq!(changed, [1, 2], "one is known to talk and the other one to burn: {first:?}");
        for _ in 0..3 {
            assert!(!second(&mut model, &policy, &mut history), "the tick knows, and has its own pace");
        }
        // It has helped, but for what the host takes; the next time is another onset.
        set_load(&mut model.domains[0], 0.8, 0.05);
        second(&mut model, &policy, &mut history);
        let _ = tick(&model, &policy, &mut history);
        set_load(&mut model.domains[0], 0.3, 0.6);
        assert!(!second(&mut model, &policy, &mut history));
        assert!(second(&mut model, &policy, &mut history));
    }

    #[test]
    fn who_has_just_begun_to_burn_is_not_raised() {
        let (policy, mut history) = (Policy::default(), History::default());
        let mut model = host(2, vec![domain(1, 2, 0.8, 0.0, 100.0, 2), domain(2, 2, 0.9, 0.0, 0.0, 2)]);
        model.domains.push(domain(3, 2, 0.0, 0.0, 0.0, 2));
        for _ in 0..3 {
            second(&mut model, &policy, &mut history);
        }
        set_load(&mut model.domains[0], 0.3, 0.6);
        set_load(&mut model.domains[1], 0.6, 0.4);
        set_load(&mut model.domains[2], 0.2, 0.8);
        second(&mut model, &policy, &mut history);
        assert!(second(&mut model, &policy, &mut history));
        let orders = tick(&model, &policy, &mut history).proposals;
        let raised = |order: &&crate::order::Proposal| matches!(order.action, Action::SetCpuShares { from, to } if to > from);
        let raised: Vec<u128> = orders.iter().filter(raised).map(|order| order.domain.as_u128()).collect();
        assert_eq!(raised, [1], "{orders:?}");
    }

    #[test]
    fn who_began_to_burn_just_before_a_tick_is_not_raised() {
        let (policy, mut history) = (Policy::default(), History::default());
        let mut model = host(2, vec![domain(2, 2, 0.9, 0.0, 0.0, 2), domain(3, 2, 0.0, 0.0, 0.0, 2)]);
        for _ in 0..3 {
            second(&mut model, &policy, &mut history);
        }
        let _ = tick(&model, &policy, &mut history);
        set_load(&mut model.domains[1], 0.4, 0.6);
        second(&mut model, &policy, &mut history);
        // One second of the tick's five.
        model.at += Duration::from_secs(1);
        set_load(&mut model.domains[1], 0.08, 0.12);
        let orders = tick(&model, &policy, &mut history).proposals;
        assert!(orders.iter().all(|order| order.domain.as_u128() != 3), "{orders:?}");
    }

    #[test]
    fn who_does_not_talk_calls_for_nothing() {
        let (policy, mut history) = (Policy::default(), History::default());
        let burners = [1, 2, 3].map(|id| domain(id, 2, 0.5, 0.5, 0.0, 2));
        let mut model = host(2, burners.to_vec());
        for _ in 0..6 {
            assert!(!second(&mut model, &policy, &mut history));
        }
    }
}
