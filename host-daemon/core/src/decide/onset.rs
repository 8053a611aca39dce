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
/// pcpus that a domain must want for its waiting to mean something in so short a window.
const WANTS: f64 = 0.05;

/// What the last fast windows of a domain were like: how many in a row until now.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Onset {
    talks: u32,
    burns: u32,
    waits: u32,
    /// The last tick has seen it wait: calling for another one would change nothing.
    known: bool,
}

impl Onset {
    /// Whether it is plain by now that it talks.
    pub(super) const fn talks(&self) -> bool {
        self.talks >= ENOUGH
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
        onset.talks = count(onset.talks, talks(domain));
        onset.burns = count(onset.burns, burns(domain));
        let too_long = policy.weight.latency_target * (1.0 + policy.weight.dead_band);
        let waits = domain.wait_ratio().is_some_and(|wait| wait.0 > too_long)
            && domain.cpu_demand().is_some_and(|demand| demand >= WANTS);
        onset.waits = count(onset.waits, waits && (is_latency || onset.talks()));
    }
}

/// A tick has looked at all of it.
pub(super) fn ticked(model: &Model, policy: &Policy, history: &mut History) {
    for domain in running(model) {
        if let Some(entry) = history.domains.get_mut(&domain.uuid) {
            entry.onset.waits = 0;
            entry.onset.known = domain.wait_ratio().is_some_and(|wait| wait.0 > policy.weight.latency_target);
        }
    }
}

impl History {
    /// Whether a domain that talks has begun to wait since the last tick, so that the next one should come at once.
    #[must_use]
    pub fn calls_for_tick(&self) -> bool {
        self.domains.values().any(|domain| domain.onset.waits >= WAITS && !domain.onset.known)
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
        // It has helped; the next time is another onset.
        set_load(&mut model.domains[0], 0.8, 0.0);
        second(&mut model, &policy, &mut history);
        let _ = tick(&model, &policy, &mut history);
        set_load(&mut model.domains[0], 0.3, 0.6);
        assert!(!second(&mut model, &policy, &mut history));
        assert!(second(&mut model, &policy, &mut history));
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
