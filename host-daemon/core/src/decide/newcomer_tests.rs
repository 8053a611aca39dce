//! Domains that come while pcpus are kept free for others.

use std::time::Duration;

use uuid::Uuid;

use super::placement_tests::row;
use super::tests::{advance, carry_out, domain, host, numa_host, set_load};
use super::*;
use crate::CpuSet;
use crate::model::StealModel;
use crate::policy::{Class, ClassSetting, DomainPolicy, Wishes};
use crate::rules::{RuleSet, read};

const WEB: u128 = 1;
const BATCH: u128 = 2;
const NEW: u128 = 9;

fn policy() -> Policy {
    let class = |name: &str, class| DomainPolicy {
        name: name.into(),
        wishes: Wishes { class: Some(class), ..Wishes::default() },
    };
    let domains = vec![
        class("d1", ClassSetting::Latency),
        class("d2", ClassSetting::Batch),
        class("d7", ClassSetting::Latency),
    ];
    Policy { domains, ..Policy::default() }
}

/// Four nodes; two cores of node 2 (8-9, 24-25) are kept free for a server.
fn separated(policy: &Policy) -> (Model, History) {
    let mut web = domain(WEB, 4, 0.9, 0.09, 100.0, 32);
    web.memory_node = Some(2);
    let batch = domain(BATCH, 8, 0.9, 0.1, 0.0, 32);
    let mut model = Model { topology: numa_host(), ..host(32, vec![web, batch]) };
    model.steal = StealModel { domains: vec![row(WEB, &[(BATCH, 900)])] };
    let mut history = History::default();
    for _ in 0..8 {
        advance(&mut model, policy, &mut history);
        if history.domains[&Uuid::from_u128(BATCH)].is_pinned() {
            set_load(&mut model.domains[0], 0.9, 0.005);
        }
    }
    assert_eq!(history.placement.kept_free().to_string(), "8-9,24-25");
    (model, history)
}

/// A domain of which nothing has been measured.
fn newcomer(id: u128, vcpus: u32, pcpus: &str) -> DomainModel {
    let mut one = domain(id, vcpus, 0.0, 0.0, 0.0, 32);
    one.incarnation = Some(format!("{id}:1"));
    for vcpu in &mut one.vcpus {
        vcpu.pin = Some(pcpus.parse().unwrap());
        if let Some(thread) = &mut vcpu.thread {
            (thread.run, thread.wait) = (None, None);
        }
    }
    one.threads.clear();
    one
}

/// One second later: what is decided about who has come.
fn next(model: &mut Model, policy: &Policy, history: &mut History) -> Option<Decision> {
    model.at += Duration::from_secs(1);
    assert!(release(model, policy, history).proposals.is_empty());
    arrival(model, policy, history)
}

/// What is decided at its first look about one that comes.
fn comes(one: DomainModel, policy: &Policy) -> (Decision, String) {
    let (mut model, mut history) = separated(policy);
    let uuid = one.uuid;
    model.domains.push(one);
    let decision = next(&mut model, policy, &mut history).expect("somebody has come");
    let word = history.domains[&uuid].arrival().unwrap_or_default().to_owned();
    (decision, word)
}

fn pins(decision: &Decision) -> Vec<String> {
    decision.proposals.iter().map(|proposal| proposal.action.to_text()).collect()
}

#[test]
fn who_comes_leaves_what_is_kept_free_at_the_first_look_and_only_once() {
    let policy = policy();
    let (mut model, mut history) = separated(&policy);
    model.domains.push(newcomer(NEW, 2, "0-31"));
    let decision = next(&mut model, &policy, &mut history).expect("somebody has come");
    assert_eq!(pins(&decision), ["0-7,10-23,26-31"; 4], "vcpus, emulator and iothread");
    assert!(decision.proposals.iter().all(|proposal| !proposal.release));
    let reason = &decision.proposals[0].reason;
    assert_eq!(reason.rule, "placement.newcomer");
    assert!(
        reason.summary.contains("d9 has just come") && reason.summary.contains("8-9,24-25 to d1"),
        "{reason:?}"
    );
    carry_out(&decision.proposals, &mut model, &mut history);
    assert_eq!(pins(&next(&mut model, &policy, &mut history).unwrap()), [""; 0], "all of it is in force");
    let word = history.domains[&Uuid::from_u128(NEW)].arrival().unwrap();
    assert!(word.starts_with("it keeps off the pcpus 8-9,24-25"), "{word}");
    assert!(next(&mut model, &policy, &mut history).is_none(), "it is not new any more");
    assert!(history.domains[&Uuid::from_u128(NEW)].is_pinned());

    // It sleeps: nobody needs that it keeps off.
    let mut orders = Vec::new();
    for _ in 0..8 {
        orders.extend(advance(&mut model, &policy, &mut history));
    }
    let back: Vec<_> = orders.iter().filter(|order| order.domain == Uuid::from_u128(NEW)).collect();
    assert_eq!(back.len(), 4, "{back:?}");
    assert!(back.iter().all(|order| order.reason.rule == "placement.release" && order.release), "{back:?}");
    assert!(model.domains[2].vcpus.iter().all(|vcpu| vcpu.pin == Some(CpuSet::first(32))));
}

#[test]
fn one_that_burns_stays_away_and_a_new_life_is_a_new_arrival() {
    let policy = policy();
    let (mut model, mut history) = separated(&policy);
    model.domains.push(newcomer(NEW, 2, "0-31"));
    let decision = next(&mut model, &policy, &mut history).unwrap();
    carry_out(&decision.proposals, &mut model, &mut history);
    model.domains[2] = DomainModel { incarnation: Some("9:1".into()), ..domain(NEW, 2, 0.9, 0.0, 0.0, 32) };
    for vcpu in &mut model.domains[2].vcpus {
        vcpu.pin = Some("0-7,10-23,26-31".parse().unwrap());
    }
    let pinned: Option<CpuSet> = "0-7,10-23,26-31".parse().ok();
    model.domains[2].emulator_pin.clone_from(&pinned);
    model.domains[2].iothreads[0].pin = pinned;
    for _ in 0..8 {
        advance(&mut model, &policy, &mut history);
    }
    assert!(history.domains[&Uuid::from_u128(NEW)].is_pinned(), "it would take the server's CPU");

    // Its next life has its configured pins again.
    model.domains[2] = DomainModel { incarnation: Some("10:1".into()), ..newcomer(NEW, 2, "0-31") };
    let decision = next(&mut model, &policy, &mut history).expect("a new life");
    assert_eq!(pins(&decision).len(), 4);
}

/// As in mode `recommend`, or where the daemon has other work on the domain.
#[test]
fn what_does_not_happen_is_proposed_three_times() {
    let policy = policy();
    let (mut model, mut history) = separated(&policy);
    model.domains.push(newcomer(NEW, 2, "0-31"));
    for _ in 0..3 {
        assert_eq!(pins(&next(&mut model, &policy, &mut history).unwrap()).len(), 4);
    }
    assert_eq!(pins(&next(&mut model, &policy, &mut history).unwrap()), [""; 0]);
    let word = history.domains[&Uuid::from_u128(NEW)].arrival().unwrap();
    assert!(word.starts_with("it was to keep off the pcpus 8-9,24-25"), "{word}");
    assert!(next(&mut model, &policy, &mut history).is_none());
}

#[test]
fn it_stays_inside_its_mask_and_near_its_memory() {
    let policy = policy();
    assert_eq!(pins(&comes(newcomer(NEW, 2, "8-11"), &policy).0)[..2], ["10-11"; 2]);
    let bound = DomainModel { memory_node: Some(2), ..newcomer(NEW, 2, "0-31") };
    assert_eq!(pins(&comes(bound, &policy).0)[..2], ["10-11,26-27"; 2], "the rest of node 2");
    let large = DomainModel { memory_node: Some(2), ..newcomer(NEW, 5, "0-31") };
    assert_eq!(pins(&comes(large, &policy).0)[0], "0-7,10-23,26-31", "node 2 has no five pcpus left");
    let mut own = policy;
    let wishes = Wishes { pcpus: Some("0-3".parse().unwrap()), ..Wishes::default() };
    own.domains.push(DomainPolicy { name: "d9".into(), wishes });
    assert_eq!(pins(&comes(newcomer(NEW, 2, "0-31"), &own).0)[0], "0-3");
}

#[test]
fn who_stays_says_why() {
    let policy = policy();
    for (one, why) in [
        (newcomer(NEW, 2, "8-9"), "leave it nothing beside 8-9,24-25"),
        (newcomer(NEW, 2, "0-3"), "kept it off the pcpus 8-9,24-25 already"),
        (newcomer(7, 2, "0-31"), "no rule wanted a domain of class latency off"),
        (
            DomainModel { placement_refusal: Some("real time".into()), ..newcomer(NEW, 2, "0-31") },
            "left where it was: real time",
        ),
    ] {
        let (decision, word) = comes(one, &policy);
        assert!(decision.proposals.is_empty() && word.contains(why), "{why}: {word} {decision:?}");
    }
    let (mut model, mut history) = (host(4, vec![newcomer(NEW, 2, "0-3")]), History::default());
    assert!(next(&mut model, &policy, &mut history).unwrap().proposals.is_empty());
    let word = history.domains[&Uuid::from_u128(NEW)].arrival().unwrap();
    assert!(word.contains("no pcpus were kept free for others"), "{word}");
}

#[test]
fn classes_and_vetoes_of_rules_count_from_the_first_look() {
    let with = |text: &str| {
        let mut policy = policy();
        policy.rules = RuleSet::default().with_entries(read(text, "own.toml").unwrap());
        policy
    };
    let veto = with(
        "[[rule]]\nname = \"hands-off\"\nwhen = \"domain.name == 'd9'\"\nthen = { veto = \"placement\" }\n",
    );
    let (decision, word) = comes(newcomer(NEW, 2, "0-31"), &veto);
    assert!(decision.proposals.is_empty() && word.is_empty(), "{word}");
    assert!(decision.held.iter().all(|(_, why)| why == "the rule hands-off forbids it"), "{decision:?}");
    assert_eq!(decision.held.len(), 4);
    let class =
        with("[[rule]]\nname = \"front\"\nwhen = \"domain.name == 'd9'\"\nthen = { class = \"latency\" }\n");
    let (decision, word) = comes(newcomer(NEW, 2, "0-31"), &class);
    assert!(decision.proposals.is_empty() && word.contains("class latency"), "{word} {decision:?}");
    let off = with("[[rule]]\nname = \"placement.newcomer\"\nenabled = false\n");
    assert!(comes(newcomer(NEW, 2, "0-31"), &off).0.proposals.is_empty());
}

#[test]
fn the_guard_s_limits_hold_and_patience_ends() {
    let policy = policy();
    let (mut model, mut history) = separated(&policy);
    // The separation was long ago; eight vcpus may be pinned in ten seconds, or one domain's.
    model.at += Duration::from_secs(60);
    model.domains.extend([newcomer(NEW, 6, "0-31"), newcomer(NEW + 1, 6, "0-31")]);
    let first = next(&mut model, &policy, &mut history).unwrap();
    let vcpus = |decision: &Decision, id: u128| {
        let of = |proposal: &&Proposal| {
            proposal.domain == Uuid::from_u128(id) && matches!(proposal.action, Action::PinVcpu { .. })
        };
        decision.proposals.iter().filter(of).count()
    };
    assert_eq!((vcpus(&first, NEW), vcpus(&first, NEW + 1)), (6, 2), "{:?}", first.held);
    assert!(first.held.iter().all(|(_, why)| why.contains("in the last 10 s")), "{:?}", first.held);
    carry_out(&first.proposals, &mut model, &mut history);
    model.at += Duration::from_secs(10);
    let second = next(&mut model, &policy, &mut history).expect("four vcpus are left");
    assert_eq!((vcpus(&second, NEW), vcpus(&second, NEW + 1)), (0, 4));
    carry_out(&second.proposals, &mut model, &mut history);
    assert_eq!(pins(&next(&mut model, &policy, &mut history).unwrap()), [""; 0]);
    assert!(next(&mut model, &policy, &mut history).is_none());

    // Pins that libvirt does not tell are waited for, but not for ever.
    let mut one = newcomer(NEW + 2, 1, "0-31");
    one.vcpus[0].pin = None;
    model.domains.push(one);
    for second in 0..=30 {
        assert!(next(&mut model, &policy, &mut history).is_some(), "{second}");
        let word = history.domains[&Uuid::from_u128(NEW + 2)].arrival();
        assert_eq!(word, None, "{second}");
    }
    assert!(next(&mut model, &policy, &mut history).is_some_and(|decision| decision.proposals.is_empty()));
    let word = history.domains[&Uuid::from_u128(NEW + 2)].arrival().unwrap();
    assert!(word.contains("not known in its first 30 s"), "{word}");
    assert_eq!(class_of(&model.domains[4], &policy, &history), Class::Standard);
}
