//! Whose balloon has to be read often. Reading it asks QEMU, so that nobody does where nothing depends on it.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::host::HostMemory;
use crate::decide::history::History;
use crate::decide::running;
use crate::model::{BalloonModel, DomainModel, Model};
use crate::policy::{Actuator, Mode, Policy};
use crate::rules::Means;

/// Domains whose guests report and whose memory may be decided on soon: all whose balloon may be moved while the host is short of memory or not far
/// from it, and always those that something is about to be taken from without anybody's word. Those that something was
/// taken from are [`History::lean`], and looked at more often than that.
#[must_use]
pub fn often(model: &Model, policy: &Policy, history: &History) -> BTreeSet<Uuid> {
    let near = HostMemory::new(&model.host, &history.host_memory).is_nearly_short(&model.host);
    let matters = |domain: &&DomainModel| {
        let about_to_give = || {
            history.domains.get(&domain.uuid).is_some_and(|entry| {
                entry.states.idle_memory > 0 || entry.asked.wants(Means::Reclaim).is_some()
            })
        };
        // Of a guest that is silent nothing can be decided, however often it is asked.
        let reports = |balloon: BalloonModel| !balloon.is_stale(policy.balloon.stale_after);
        domain.balloon_refusal.is_none()
            && domain.balloon.is_some_and(reports)
            && match policy.of(*domain).mode(Actuator::Balloon).value {
                Mode::Observe => false,
                Mode::Recommend => near,
                Mode::Auto => near || about_to_give(),
            }
    };
    running(model).filter(matters).map(|domain| domain.uuid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::{balloon_of, domain, host};
    use crate::policy::Policy;
    use crate::units::{KiB, Ratio};

    #[test]
    fn balloons_are_read_often_where_something_depends_on_it() {
        let of = |available_percent: u64, pressure: f64, mode: Mode, idle: u32, refused: bool| {
            let mut model = host(2, vec![domain(1, 1, 0.0, 0.0, 0.0, 2)]);
            model.host.memory_total = Some(KiB(100_000));
            model.host.memory_available = Some(KiB(available_percent * 1000));
            model.host.memory_pressure_avg10 = Some(Ratio(pressure));
            model.domains[0].balloon = Some(balloon_of(1024, 100));
            model.domains[0].balloon_refusal = refused.then(|| "VFIO".to_owned());
            let mut policy = Policy::default();
            policy.actuator_modes.retain(|(actuator, _)| *actuator != Actuator::Balloon);
            policy.actuator_modes.push((Actuator::Balloon, mode));
            let mut history = History::default();
            history.domains.entry(model.domains[0].uuid).or_default().states.idle_memory = idle;
            !often(&model, &policy, &history).is_empty()
        };
        for (case, expected) in [
            ((60, 0.0, Mode::Recommend, 3, false), false),
            ((60, 0.0, Mode::Auto, 0, false), false),
            ((60, 0.0, Mode::Auto, 1, false), true),
            ((24, 0.0, Mode::Recommend, 0, false), true),
            ((26, 0.0, Mode::Recommend, 0, false), false),
            ((60, 0.02, Mode::Recommend, 0, false), true),
            ((10, 0.5, Mode::Observe, 3, false), false),
            ((10, 0.5, Mode::Auto, 3, true), false),
        ] {
            let (available, pressure, mode, idle, refused) = case;
            assert_eq!(of(available, pressure, mode, idle, refused), expected, "{case:?}");
        }
        let mut model = host(2, vec![domain(1, 1, 0.0, 0.0, 0.0, 2)]);
        model.host.memory_available = None;
        assert!(often(&model, &Policy::default(), &History::default()).is_empty(), "it has no balloon");
        model.domains[0].balloon = Some(BalloonModel { age: None, ..balloon_of(1024, 100) });
        assert!(often(&model, &Policy::default(), &History::default()).is_empty(), "it never reports");
        model.domains[0].balloon = Some(balloon_of(1024, 100));
        assert_eq!(often(&model, &Policy::default(), &History::default()).len(), 1, "who knows");
    }
}
