//! Advice for people: when it is given, when it is not, and when it has come true.

use super::advice::came_true;
use super::tests::{balloon_of, domain, host, set_load};
use super::*;
use crate::model::{HostModel, Model};
use crate::policy::{Actuator, ClassSetting, DomainPolicy, Wishes};
use crate::units::KiB;

fn policy(class: ClassSetting) -> Policy {
    let wishes = Wishes { class: Some(class), ..Wishes::default() };
    let all = DomainPolicy { name: "*".into(), wishes };
    Policy { domains: vec![all], ..Policy::default() }
}

/// What is advised in each of these cycles.
fn advised(model: &mut Model, policy: &Policy, history: &mut History, cycles: usize) -> Vec<Vec<Action>> {
    let mut all = Vec::new();
    for _ in 0..cycles {
        model.at += Duration::from_secs(300);
        let _ = tick(model, policy, history);
        let decision = cycle(model, policy, history);
        let resize = |proposal: &Proposal| proposal.action.actuator() == Actuator::Resize;
        all.push(decision.proposals.into_iter().filter(resize).map(|proposal| proposal.action).collect());
    }
    all
}

#[test]
fn a_domain_that_uses_all_its_vcpus_and_never_waits_should_have_more() {
    let mut model = host(8, vec![domain(1, 2, 0.98, 0.01, 50.0, 8)]);
    let mut history = History::default();
    let seen = advised(&mut model, &policy(ClassSetting::Standard), &mut history, 4);
    let more = vec![Action::MoreVcpus { from: 2, to: 3 }];
    assert_eq!(seen, [vec![], vec![], more.clone(), more.clone()], "after three cycles");
    assert_eq!(came_true(&more[0], Some(&domain(1, 2, 0.0, 0.0, 0.0, 8))), None);
    assert_eq!(came_true(&more[0], Some(&domain(1, 3, 0.0, 0.0, 0.0, 8))).unwrap(), "it has 3 vcpus now");
    assert_eq!(came_true(&more[0], None), None);

    // One easier cycle and the count begins again.
    set_load(&mut model.domains[0], 0.5, 0.0);
    assert_eq!(advised(&mut model, &policy(ClassSetting::Standard), &mut history, 1), [vec![]]);
}

#[test]
fn who_waits_or_takes_whatever_is_left_needs_no_more_vcpus() {
    for (class, run, wait, pcpus) in [
        (ClassSetting::Standard, 0.6, 0.4, 8),
        (ClassSetting::Batch, 0.99, 0.0, 8),
        // As many as the host has.
        (ClassSetting::Standard, 0.99, 0.0, 2),
    ] {
        let mut model = host(pcpus, vec![domain(1, 2, run, wait, 50.0, pcpus)]);
        let seen = advised(&mut model, &policy(class), &mut History::default(), 5);
        assert!(seen.iter().flatten().all(|action| !matches!(action, Action::MoreVcpus { .. })), "{seen:?}");
    }
}

#[test]
fn a_guest_that_needs_all_of_its_maximum_should_have_a_larger_one() {
    let mut model = host(2, vec![domain(1, 1, 0.1, 0.0, 0.0, 2)]);
    model.domains[0].balloon = Some(balloon_of(1024, 980));
    let mut history = History::default();
    let seen = advised(&mut model, &policy(ClassSetting::Auto), &mut history, 3);
    let more = Action::MoreMemory { from: KiB::from_mib(1024), to: KiB::from_mib(1536) };
    assert_eq!(seen, [vec![], vec![], vec![more.clone()]]);
    let mut larger = domain(1, 1, 0.1, 0.0, 0.0, 2);
    assert_eq!(came_true(&more, Some(&larger)), None);
    larger.memory_maximum = KiB::from_mib(2048);
    assert!(
        came_true(&more, Some(&larger)).unwrap().contains("2048 MiB"),
        "{:?}",
        came_true(&more, Some(&larger))
    );

    // A balloon that has something left to give back, or statistics that nobody has renewed, say nothing.
    for (current, age) in [(1000, 1), (1024, 60)] {
        let mut model = host(2, vec![domain(1, 1, 0.1, 0.0, 0.0, 2)]);
        let mut balloon = balloon_of(current, 980);
        balloon.age = Some(Duration::from_secs(age));
        model.domains[0].balloon = Some(balloon);
        let seen = advised(&mut model, &policy(ClassSetting::Auto), &mut History::default(), 4);
        assert!(seen.iter().flatten().next().is_none(), "{current} {age}: {seen:?}");
    }
}

#[test]
fn of_more_than_the_host_can_carry_the_neediest_goes_one_at_a_time() {
    let mut model = host(
        2,
        vec![
            domain(1, 2, 0.5, 0.3, 50.0, 2),
            domain(2, 2, 0.3, 0.7, 50.0, 2),
            domain(3, 1, 0.1, 0.0, 0.0, 2),
        ],
    );
    let seen = advised(&mut model, &policy(ClassSetting::Latency), &mut History::default(), 3);
    assert_eq!(seen[..2], [vec![], vec![]]);
    let [Action::MoveAway { pcpus_percent: 200, memory }] = seen[2].as_slice() else { panic!("{seen:?}") };
    assert_eq!(*memory, KiB::from_mib(1024));
    assert_eq!(came_true(&seen[2][0], Some(&model.domains[1])), None);
    assert!(came_true(&seen[2][0], None).is_some());

    // The same demand of best effort is no reason to move anybody.
    let seen = advised(&mut model, &policy(ClassSetting::Batch), &mut History::default(), 5);
    assert!(seen.iter().flatten().next().is_none(), "{seen:?}");
}

#[test]
fn of_a_host_without_memory_the_largest_goes_unless_a_guest_has_some_to_spare() {
    for (demand, goes) in [(1000, true), (100, false)] {
        let mut model = host(2, vec![domain(1, 1, 0.1, 0.0, 0.0, 2), domain(2, 1, 0.1, 0.0, 0.0, 2)]);
        for (domain, memory) in model.domains.iter_mut().zip([2048, 1024]) {
            domain.memory_maximum = KiB::from_mib(memory);
            domain.balloon = Some(balloon_of(memory, demand * memory / 1024));
        }
        model.host = HostModel {
            memory_total: Some(KiB::from_mib(4096)),
            memory_available: Some(KiB::from_mib(100)),
            ..HostModel::default()
        };
        let seen = advised(&mut model, &policy(ClassSetting::Auto), &mut History::default(), 3);
        let away = seen[2].iter().any(|action| matches!(action, Action::MoveAway { .. }));
        assert_eq!(away, goes, "{seen:?}");
    }
}
