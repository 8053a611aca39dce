//! What others change, and who else is at work.

use std::time::Duration;

use uuid::Uuid;

use super::tests::{advance, balloon_of, carry_out, contended, protect};
use super::*;
use crate::CpuSet;
use crate::ledger::{LedgerEntry, LedgerTarget, Value};
use crate::policy::{Actuator, Mode};
use crate::units::KiB;

const BATCH: Uuid = Uuid::from_u128(2);

fn drifts(decision: &Decision) -> Vec<&Finding> {
    decision.findings.iter().filter(|finding| finding.name == "drift").collect()
}

/// Somebody else sets the weight of the batch domain, after kvmpilot did.
fn changed_by_others(policy: &Policy) -> (Model, History) {
    let (mut model, _) = contended();
    let mut history = History::default();
    protect(&mut model, policy, &mut history);
    assert_eq!(model.domains[1].cpu_shares, Some(128));
    model.domains[1].cpu_shares = Some(3000);
    model.wall_unix_s = 1_764_074_405;
    (model, history)
}

#[test]
fn an_outside_change_is_reported_with_both_values_and_respected() {
    let policy = Policy::default();
    let (mut model, mut history) = changed_by_others(&policy);
    // The fast loop sees it first; that must not swallow it.
    model.at += Duration::from_secs(1);
    let _ = release(&model, &policy, &mut history);
    for _ in 0..6 {
        model.at += Duration::from_secs(5);
        let decision = tick(&model, &policy, &mut history);
        let found = drifts(&decision);
        let [drift] = found.as_slice() else { panic!("{:?}", decision.findings) };
        for part in ["cpu_shares to 3000", "had set 128", "1024 again"] {
            assert!(drift.summary.contains(part), "{part}: {}", drift.summary);
        }
        assert!(drift.evidence.contains(&("found".to_owned(), "2025-11-25 12:40:05 UTC".to_owned())));
        assert!(decision.proposals.iter().all(|proposal| proposal.domain != BATCH), "{decision:?}");
        carry_out(&decision.proposals, &mut model, &mut history);
        model.domains[0].vcpus.iter_mut().for_each(|vcpu| {
            vcpu.thread.as_mut().unwrap().wait = Some(0.5);
        });
    }
    assert_eq!(model.domains[1].cpu_shares, Some(3000));

    // Handed back: it is kvmpilot's again.
    model.domains[1].cpu_shares = Some(1024);
    let mut rules = Vec::new();
    for _ in 0..3 {
        rules.extend(
            advance(&mut model, &policy, &mut history).into_iter().filter(|order| order.domain == BATCH),
        );
    }
    assert!(rules.iter().any(|order| order.reason.rule == "weight.yield"), "{rules:?}");
}

#[test]
fn an_enforced_value_is_put_back_once_and_then_rests() {
    let mut policy = Policy::default();
    policy.guard.enforce = true;
    let (mut model, mut history) = changed_by_others(&policy);
    let mut put_back = Vec::new();
    for step in 0..(40 * 12) {
        model.at += Duration::from_secs(5);
        let decision = tick(&model, &policy, &mut history);
        let ours = decision.proposals.iter().filter(|order| order.reason.rule == "drift.enforce");
        put_back.extend(ours.map(|_| step * 5));
        assert_eq!(drifts(&decision).len(), 1);
        carry_out(&decision.proposals, &mut model, &mut history);
        // Somebody sets it again each time.
        model.domains[1].cpu_shares = Some(3000);
    }
    assert_eq!(put_back[0], 0);
    let pauses: Vec<_> = put_back.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.iter().all(|pause| *pause >= 600), "each pause is 10 min at least: {pauses:?}");
    assert!(
        pauses.windows(2).all(|pair| pair[1] >= pair[0]),
        "and none is shorter than the one before: {pauses:?}"
    );
    assert!(put_back.len() <= 4, "{put_back:?}");
}

#[test]
fn an_enforced_pin_goes_back_to_ours() {
    let mut policy = Policy::default();
    policy.guard.enforce = true;
    let (mut model, mut history) = changed_by_others(&policy);
    model.domains[1].cpu_shares = Some(128);
    let ours = model.domains[1].vcpus[0].pin.clone();
    assert_eq!(ours, Some(CpuSet::from_iter([1])));
    // Pins rest for a minute after each change.
    model.at += Duration::from_secs(60);
    model.domains[1].vcpus[0].pin = Some(CpuSet::first(2));
    model.domains[1].iothreads[0].pin = Some(CpuSet::first(2));
    let decision = tick(&model, &policy, &mut history);
    let orders: Vec<_> = decision.proposals.iter().map(|order| order.action.target()).collect();
    assert!(
        orders.contains(&"vcpu 0 pin".to_owned()) && orders.contains(&"iothread 1 pin".to_owned()),
        "{orders:?}"
    );
    carry_out(&decision.proposals, &mut model, &mut history);
    assert_eq!(model.domains[1].vcpus[0].pin, ours);
}

#[test]
fn a_competitor_is_named_and_its_means_only_recommended() {
    let (mut model, _) = contended();
    let mut policy = Policy::default();
    let mut history = History::default();
    model.host.competitors = vec!["irqbalance".to_owned(), "numad".to_owned()];
    model.at += Duration::from_secs(5);
    let decision = tick(&model, &policy, &mut history);
    let named: Vec<_> = decision.findings.iter().filter(|finding| finding.name == "competitor").collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0].summary.contains("numad") && named[0].summary.contains("only recommends"));
    assert_eq!(history.most(Actuator::Placement, &policy), Mode::Recommend);
    assert_eq!(history.most(Actuator::Weight, &policy), Mode::Auto);
    policy.guard.yield_to_competitors = false;
    assert_eq!(history.most(Actuator::Placement, &policy), Mode::Auto);
}

#[test]
fn weights_rest_under_a_scheduler_that_was_loaded() {
    let (mut model, _) = contended();
    let policy = Policy::default();
    let mut history = History::default();
    model.host.sched_ext = Some("lavd".to_owned());
    for _ in 0..8 {
        model.at += Duration::from_secs(5);
        let decision = tick(&model, &policy, &mut history);
        assert!(decision.proposals.is_empty(), "{:?}", decision.proposals);
        assert!(decision.held.iter().all(|(_, why)| why.contains("lavd")));
        assert!(decision.findings.iter().any(|finding| finding.summary.contains("lavd")));
    }
}

#[test]
fn what_an_administrator_tuned_in_the_xml_is_left_alone_with_the_reason() {
    let policy = Policy::default();
    let (mut model, _) = contended();
    let mut history = History::default();
    let why = Some("it runs in real time (vcpusched fifo)".to_owned());
    model.domains[1].weight_refusal.clone_from(&why);
    model.domains[1].placement_refusal = why;
    let mut held = Vec::new();
    for _ in 0..8 {
        model.at += Duration::from_secs(5);
        for decide in [tick, cycle] {
            let decision = decide(&model, &policy, &mut history);
            carry_out(&decision.proposals, &mut model, &mut history);
            held.extend(decision.held);
        }
    }
    assert_eq!(model.domains[1].cpu_shares, Some(1024));
    assert_eq!(model.domains[1].vcpus[0].pin, Some(CpuSet::first(2)));
    let of_batch: Vec<_> = held.iter().filter(|(order, _)| order.domain == BATCH).collect();
    assert!(of_batch.iter().any(|(_, why)| why.contains("real time")), "{held:?}");
}

/// It has been sent from 1024 to 800 MiB, and is at 900, when an order fails: one about the weight, or the balloon's own.
#[test]
fn an_order_that_fails_makes_no_balloon_on_its_way_somebody_else_s() {
    let [before, to] = [1024, 800].map(KiB::from_mib);
    let order = |web: &DomainModel, action| propose(web, action, Reason::default(), false);
    for fails in [Action::SetCpuShares { from: 1024, to: 8192 }, Action::SetBalloon { from: before, to }] {
        let (mut model, web) = contended();
        let policy = Policy::default();
        let mut history = History::default();
        model.domains[0].balloon = Some(balloon_of(1024, 300));
        let _ = tick(&model, &policy, &mut history);
        history.applied(1, &order(&web, Action::SetBalloon { from: before, to }), model.at);
        let entry = LedgerEntry {
            domain: web.uuid,
            domain_name: web.name.clone(),
            incarnation: "1:1".into(),
            target: LedgerTarget::Balloon,
            original: Value::Memory(before),
            applied: None,
            intended: Value::Memory(to),
        };
        history.unsure(&order(&web, fails.clone()), &[entry]);
        // It goes on, and stops beside its target.
        for mib in [950, 900, 850, 801, 801, 801, 801, 801] {
            model.at += Duration::from_secs(5);
            model.domains[0].balloon = Some(balloon_of(mib, 300));
            let decision = tick(&model, &policy, &mut history);
            assert_eq!(drifts(&decision), Vec::<&Finding>::new(), "{fails:?}: {mib} MiB");
            let balloon = &history.domains[&web.uuid].balloon;
            assert_eq!((balloon.original, balloon.ours), (Some(before), Some(to)), "{fails:?}: {mib} MiB");
        }
        assert!(history.lean().any(|domain| domain == web.uuid));
    }
}
