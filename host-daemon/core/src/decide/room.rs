//! How many pcpus may be kept free for some domains before more of them is lost than the separation is worth.
//!
//! A pcpu that is kept free idles whenever fewer vcpus of its owners run than pcpus were kept. For vcpus that want a pcpu
//! for a part `u` of the time, each on its own, the number of those that run is Poisson-binomial; what `k` pcpus idle is
//! the sum over `j < k` of `(k - j) * P(j run)`. It is lost only if the others would have used it.

use std::time::Duration;

use super::history::History;
use super::running;
use crate::CpuSet;
use crate::model::{DomainModel, Model};

/// pcpus that may idle on a small host for a separation.
const SPARE: f64 = 0.2;
/// The same as a part of a larger host's pcpus: a third of what a protection may cost in all.
const SPARE_PART: f64 = 0.01;
/// What is kept free already may idle by this much more: a guest that is served at last needs less than before.
const STAYS: f64 = 1.5;
/// pcpus that they may be too many by, beside a half, where nobody else wants them.
const MARGIN: usize = 2;
/// Time in which what a domain was seen to want counts only half: a neighbour that rests now comes back.
const FADES: Duration = Duration::from_secs(600);

/// Takes note of what each domain wants in its busiest time.
pub(super) fn note(model: &Model, history: &mut History) {
    let fade = 0.5_f64.powf(model.elapsed.as_secs_f64() / FADES.as_secs_f64());
    for domain in running(model) {
        let Some(entry) = history.domains.get_mut(&domain.uuid) else { continue };
        if let Some(demand) = domain.cpu_demand() {
            entry.busiest = (entry.busiest * fade).max(demand);
        }
    }
}

/// What is kept free at most, and what the others want.
pub(super) struct Room {
    usable: usize,
    others: f64,
}

impl Room {
    /// Of `usable`, where all but `victims` are the others.
    pub(super) fn new(model: &Model, victims: &[&DomainModel], usable: &CpuSet, history: &History) -> Self {
        let is_victim = |domain: &DomainModel| victims.iter().any(|victim| victim.uuid == domain.uuid);
        let busiest = |domain: &DomainModel| history.domains.get(&domain.uuid).map(|entry| entry.busiest);
        let others = running(model).filter(|domain| !is_victim(domain)).filter_map(busiest).sum();
        Self { usable: usable.len(), others }
    }

    /// Whether all that the others want fits beside these pcpus: then nothing is lost by keeping them free.
    pub(super) fn holds(&self, kept: usize) -> bool {
        pcpus(kept) + self.others <= pcpus(self.usable)
    }

    /// pcpus to be kept free for these domains, who have `had` now: what they use where there is room, else as many as
    /// they fill.
    pub(super) fn wanted(&self, victims: &[&DomainModel], had: usize) -> usize {
        let used: f64 = victims.iter().map(|victim| used(victim) * victim.vcpu_count()).sum();
        let all = (0..self.usable).take_while(|kept| pcpus(*kept) < used).count();
        if self.holds(all) {
            // What comes and goes moves nobody.
            let fits = had <= all + all / 2 + MARGIN && self.holds(had);
            return if fits { all.max(had) } else { all };
        }
        let spare = SPARE.max(pcpus(self.usable) * SPARE_PART);
        let run = running_at_once(victims, all.max(had));
        let fills =
            |spare: f64| (1..run.len()).take_while(|kept| idle(&run, *kept) <= spare).last().unwrap_or(0);
        fills(spare).max(fills(spare * STAYS).min(had))
    }
}

/// Part of the time that each of its vcpus runs. What one that is starved wants says little: it is behind with its work.
fn used(domain: &DomainModel) -> f64 {
    domain.cpu_use().map_or(0.0, |used| used.0.clamp(0.0, 1.0))
}

/// Probabilities that 0, 1, .. `most` of these domains' vcpus run at once.
fn running_at_once(domains: &[&DomainModel], most: usize) -> Vec<f64> {
    let mut run = vec![0.0; most + 1];
    run[0] = 1.0;
    for domain in domains {
        let part = used(domain);
        for _ in &domain.vcpus {
            for count in (1..=most).rev() {
                run[count] = run[count] * (1.0 - part) + run[count - 1] * part;
            }
            run[0] *= 1.0 - part;
        }
    }
    run
}

/// Mean number of `kept` pcpus that idle.
fn idle(run: &[f64], kept: usize) -> f64 {
    run.iter().take(kept).enumerate().map(|(running, part)| pcpus(kept - running) * part).sum()
}

#[expect(clippy::cast_precision_loss, reason = "pcpus of a host")]
fn pcpus(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::super::tests::{domain, host};
    use super::*;

    fn room(others: f64, usable: usize) -> Room {
        Room { usable, others }
    }

    /// Two vcpus that run half of the time leave one pcpu idle in a quarter of it: 0.25 pcpus.
    #[test]
    fn what_idles_is_what_probability_says() {
        let half = domain(1, 2, 0.5, 0.4, 0.0, 4);
        let run = running_at_once(&[&half], 2);
        assert!((idle(&run, 1) - 0.25).abs() < 1e-9 && (idle(&run, 2) - 1.0).abs() < 1e-9, "{run:?}");
        assert_eq!(room(8.0, 4).wanted(&[&half], 0), 0, "a quarter of a pcpu is more than a fifth");
        assert_eq!(room(8.0, 4).wanted(&[&half], 1), 1, "but no reason to move back");
        assert_eq!(room(8.0, 32).wanted(&[&half], 0), 1, "there is room for 23 more");
        assert_eq!(room(3.0, 4).wanted(&[&half], 0), 1, "there is room for just that");
    }

    #[test]
    fn who_fills_pcpus_gets_them_and_of_many_most() {
        let busy = domain(1, 2, 0.8, 0.17, 0.0, 4);
        assert_eq!(room(8.0, 2).wanted(&[&busy], 0), 1, "0.04 of one idles, and 0.4 of two");
        let many: Vec<DomainModel> = (1..=50).map(|id| domain(id, 4, 0.5, 0.0, 0.0, 256)).collect();
        let all: Vec<&DomainModel> = many.iter().collect();
        // 100 of 200 run in the mean, with a deviation of 7.
        let wanted = room(900.0, 256).wanted(&all, 0);
        assert!((95..100).contains(&wanted), "{wanted}");
        assert_eq!(room(0.0, 256).wanted(&all, 0), 100);
        for (had, stay) in [(101, 101), (152, 152), (153, 100)] {
            assert_eq!(room(0.0, 256).wanted(&all, had), stay);
        }
    }

    #[test]
    fn a_neighbour_that_rests_is_not_forgotten_at_once() {
        let mut model = host(4, vec![domain(1, 2, 0.9, 0.1, 0.0, 4), domain(2, 2, 0.5, 0.0, 0.0, 4)]);
        let mut history = History::default();
        history.observe(&model, &crate::policy::Policy::default());
        note(&model, &mut history);
        super::super::tests::set_load(&mut model.domains[0], 0.0, 0.0);
        for (seconds, busiest) in [(600, 1.0), (1200, 0.25)] {
            model.elapsed = Duration::from_secs(seconds);
            note(&model, &mut history);
            let found = history.domains[&model.domains[0].uuid].busiest;
            assert!((found - busiest).abs() < 1e-6, "{found}");
        }
    }
}
