//! The least weight that a domain keeps which yields to others.
//!
//! The limit of one weight (an eighth of the original) leaves it the 64th part beside one domain that was raised as far as weights go.
//! Several raised ones would leave it the 64th part of what each of them has: in the soak of 2026-11-27 a guest that had yielded to one
//! server had 128 beside four times 8192 some minutes later, and its agent answered no more. So where raised domains
//! want each pcpu k times, the limit is k times as high.

use super::history::{History, Managed};
use super::weight::{as_float, is_lowered, limited, weight_of};
use super::{input, propose, running};
use crate::CpuSet;
use crate::model::{DomainModel, Model};
use crate::order::{Action, Proposal, Reason};
use crate::policy::Policy;

/// How many times raised domains want each pcpu that `domain` may use, in whole numbers; at least once. What one wants is spread over
/// the pcpus that it may use itself; a domain without known pins may use all.
pub(super) fn crowd(domain: &DomainModel, model: &Model, history: &History) -> f64 {
    let all = model.topology.online();
    let pins = |domain: &DomainModel| domain.pins().unwrap_or_else(|| all.clone());
    let own = pins(domain);
    let raised = |other: &&DomainModel| {
        let shares = history.domains.get(&other.uuid).map(|entry| &entry.shares);
        other.uuid != domain.uuid
            && shares.is_some_and(|shares| shares.ours > shares.original && shares.original.is_some())
    };
    let wants = |other: &DomainModel| {
        let theirs = pins(other);
        Some(other.cpu_demand()? * count(&theirs.intersection(&own)) / count(&theirs).max(1.0))
    };
    let wanted: f64 = running(model).filter(raised).filter_map(wants).sum();
    (wanted / count(&own).max(1.0)).floor().max(1.0)
}

fn count(pcpus: &CpuSet) -> f64 {
    u32::try_from(pcpus.len()).map_or(f64::INFINITY, f64::from)
}

/// The least weight of `domain` in such a crowd; never above its original.
pub(super) fn least(domain: &DomainModel, shares: &Managed<u64>, crowd: f64, policy: &Policy) -> u64 {
    let limits = policy.of(domain).weight_limits();
    let original = shares.original.unwrap_or(1024);
    limited(as_float(original) / limits.max_factor * crowd, shares, limits).min(original)
}

/// Gives a domain some of its weight back that has less than half of the least.
pub(super) fn lift(
    domain: &DomainModel,
    model: &Model,
    policy: &Policy,
    history: &History,
) -> Option<Proposal> {
    if !is_lowered(domain, history) {
        return None;
    }
    let (current, shares) = weight_of(domain, history)?;
    let crowd = crowd(domain, model, history);
    let to = least(domain, shares, crowd, policy);
    if to < current * 2 {
        return None;
    }
    let reason = Reason {
        rule: "weight.floor".to_owned(),
        summary: format!(
            "{} yields to domains that want each pcpu {crowd} times, and is not to starve",
            domain.name
        ),
        inputs: vec![
            input("configured weight", shares.original.unwrap_or(current)),
            input("least weight", to),
        ],
        threshold: "less than half of the least weight".to_owned(),
        expected: format!("{} runs, though little", domain.name),
        ..Reason::default()
    };
    let proposal = propose(domain, Action::SetCpuShares { from: current, to }, reason, false);
    // A trial that ends badly gives back all of it; what was lifted before would be no part of it any more.
    (!history.trials.tries(&proposal)).then_some(proposal)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{carry_out, domain, host};
    use super::*;

    /// A burner that yielded, beside so many servers that were raised, on two pcpus.
    fn beside(servers: u128) -> (Model, History) {
        let mut domains: Vec<_> = (1..=servers).map(|id| domain(id, 2, 0.4, 0.6, 100.0, 2)).collect();
        domains.push(domain(99, 2, 0.0, 0.9, 0.0, 2));
        let mut model = host(2, domains);
        model.at = Duration::from_secs(1);
        let mut history = History::default();
        history.observe(&model, &Policy::default());
        for at in 0..model.domains.len() {
            let to = if model.domains[at].uuid.as_u128() == 99 { 128 } else { 8192 };
            let change = Action::SetCpuShares { from: 1024, to };
            let proposal = propose(&model.domains[at], change, Reason::default(), false);
            carry_out(&[proposal], &mut model, &mut history);
        }
        (model, history)
    }

    fn lifted(servers: u128) -> Option<Action> {
        let (model, history) = beside(servers);
        let proposals: Vec<_> =
            model.domains.iter().filter_map(|of| lift(of, &model, &Policy::default(), &history)).collect();
        assert!(proposals.len() < 2, "{proposals:?}");
        proposals.into_iter().next().map(|proposal| proposal.action)
    }

    #[test]
    fn who_yields_to_one_may_yield_to_the_limit_and_gets_more_beside_many() {
        assert_eq!(lifted(1), None);
        assert_eq!(lifted(2), Some(Action::SetCpuShares { from: 128, to: 256 }));
        assert_eq!(lifted(4), Some(Action::SetCpuShares { from: 128, to: 512 }));
        assert_eq!(
            lifted(20),
            Some(Action::SetCpuShares { from: 128, to: 1024 }),
            "its own weight, and no more"
        );
    }

    #[test]
    fn those_on_other_pcpus_are_no_crowd() {
        let (mut model, history) = beside(4);
        model.topology = host(4, Vec::new()).topology;
        let pin = |domain: &mut DomainModel, to: &str| {
            domain.vcpus.iter_mut().for_each(|vcpu| vcpu.pin = Some(to.parse().unwrap()));
        };
        (0..2).for_each(|at| pin(&mut model.domains[at], "2-3"));
        assert_eq!(crowd(&model.domains[4], &model, &history), 2.0, "two of the four");
        pin(&mut model.domains[2], "1-2");
        assert_eq!(crowd(&model.domains[4], &model, &history), 1.0, "one and a half");
        pin(&mut model.domains[4], "3");
        assert_eq!(crowd(&model.domains[4], &model, &history), 2.0, "half of two that want two each");
    }

    #[test]
    fn who_has_more_than_half_of_the_least_is_left_alone() {
        let (mut model, mut history) = beside(4);
        let change = Action::SetCpuShares { from: 128, to: 300 };
        let proposal = propose(&model.domains[4], change, Reason::default(), false);
        carry_out(&[proposal], &mut model, &mut history);
        assert!(lift(&model.domains[4], &model, &Policy::default(), &history).is_none());
    }
}
