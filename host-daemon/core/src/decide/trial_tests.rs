//! Trials on models made up here: what is judged together, what is kept, what is undone, and what is no evidence.

use uuid::Uuid;

use super::placement_tests::row;
use super::tests::{carry_out, contended, domain, host, set_load};
use super::*;
use crate::model::{Model, StealModel};
use crate::order::{Metric, OrderState, Prediction};
use crate::policy::{ClassSetting, DomainPolicy, Wishes};

const WEB: Uuid = Uuid::from_u128(1);

/// What does not help is undone and rests; what is tried again later rests twice as long.
#[test]
fn a_weight_that_does_not_help_is_undone_and_rests() {
    let (mut model, _) = contended();
    let policy = Policy::default();
    let mut history = History::default();
    let mut orders = Vec::new();
    let mut verdicts = Vec::new();
    for step in 0..(3600 / 5) {
        model.at += Duration::from_secs(5);
        let decision = tick(&model, &policy, &mut history);
        carry_out(&decision.proposals, &mut model, &mut history);
        let of_web = |proposal: &&Proposal| proposal.domain == WEB;
        orders.extend(decision.proposals.iter().filter(of_web).map(|proposal| (step * 5, proposal.clone())));
        verdicts.extend(decision.verdicts);
    }
    let seen: Vec<_> = orders.iter().map(|(at, order)| (*at, order.reason.rule.as_str())).collect();
    let rules: Vec<_> = seen.iter().map(|(_, rule)| *rule).collect();
    assert_eq!(
        rules[..4],
        ["weight.protect", "trial.rollback", "weight.protect", "trial.rollback"],
        "{seen:?}"
    );
    assert_eq!(seen[1].0 - seen[0].0, 15, "three whole windows: {seen:?}");
    assert!((900..920).contains(&(seen[2].0 - seen[1].0)), "15 min: {seen:?}");
    assert!(rules.len() == 4 || (1800..1820).contains(&(seen[4].0 - seen[3].0)), "30 min: {seen:?}");
    assert_eq!(orders[1].1.undoes, [1]);
    assert!(orders[1].1.reason.summary.contains("was measured"), "{}", orders[1].1.reason.summary);
    assert!(verdicts.iter().all(|verdict| !verdict.trial.kept && verdict.trial.windows == 3), "{verdicts:?}");
    assert_eq!(model.domains[0].cpu_shares, Some(1024));
    let mut again = weight_of_web();
    assert!(history.trials.rests(&again, model.at).is_some());
    again.reason.rule = "weight.relax".to_owned();
    assert_eq!(history.trials.rests(&again, model.at), None, "the way back is open");
}

/// Ticks every 5 s until there is a verdict; `world` says what each change brings.
fn until_verdict(
    model: &mut Model,
    policy: &Policy,
    history: &mut History,
    mut world: impl FnMut(&mut Model),
) -> Decision {
    for _ in 0..30 {
        model.at += Duration::from_secs(5);
        let decision = tick(model, policy, history);
        carry_out(&decision.proposals, model, history);
        world(model);
        if !decision.verdicts.is_empty() {
            return decision;
        }
    }
    panic!("no verdict in 150 s");
}

/// The classes are known from the start, so that the first tick decides.
fn classes(classes: &[ClassSetting]) -> Policy {
    let entry = |(n, class): (usize, &ClassSetting)| DomainPolicy {
        name: format!("d{}", n + 1),
        wishes: Wishes { class: Some(*class), ..Wishes::default() },
    };
    Policy { domains: classes.iter().enumerate().map(entry).collect(), ..Policy::default() }
}

const LATENCY_AND_BATCH: [ClassSetting; 2] = [ClassSetting::Latency, ClassSetting::Batch];

#[test]
fn the_weight_that_protects_and_the_one_that_yields_have_one_verdict() {
    for (wait, kept) in [(0.03, true), (0.55, false)] {
        let (mut model, _) = contended();
        let policy = classes(&LATENCY_AND_BATCH);
        let mut history = History::default();
        let decision = until_verdict(&mut model, &policy, &mut history, |model| {
            if model.domains[0].cpu_shares > Some(1024) {
                set_load(&mut model.domains[0], 0.9 - wait, wait);
            }
        });
        let verdict = &decision.verdicts[0];
        assert_eq!((decision.verdicts.len(), verdict.orders.len()), (1, 2), "{verdict:?}");
        assert_eq!((verdict.trial.kept, verdict.trial.windows), (kept, 3), "{verdict:?}");
        let undone: Vec<_> = decision.proposals.iter().map(|proposal| proposal.action.to_text()).collect();
        assert_eq!(undone, if kept { vec![] } else { vec!["1024", "1024"] }, "{:?}", decision.proposals);
        assert_eq!(verdict.state, if kept { OrderState::Kept } else { OrderState::Verified });
    }
}

#[test]
fn what_helps_one_and_harms_its_equal_more_is_undone() {
    let (mut model, _) = contended();
    model.domains.push(domain(3, 2, 0.5, 0.005, 0.0, 2));
    let policy = classes(&[ClassSetting::Latency, ClassSetting::Batch, ClassSetting::Latency]);
    let mut history = History::default();
    // The first tick shows who waited how long before.
    model.domains[0].state = DomainState::Paused;
    let _ = tick(&model, &policy, &mut history);
    model.domains[0].state = DomainState::Running;
    model.at += Duration::from_secs(5);
    let decision = until_verdict(&mut model, &policy, &mut history, |model| {
        set_load(&mut model.domains[0], 0.6, 0.3);
        set_load(&mut model.domains[2], 0.3, 0.6);
        // Its own protection is not what this is about.
        model.domains[2].cpu_shares = None;
    });
    let trial = &decision.verdicts[0].trial;
    assert!(!trial.kept && trial.verdict.contains("d3 waits"), "{trial:?}");
}

#[test]
fn without_load_there_is_no_verdict_against_a_change_and_no_pause() {
    let (mut model, _) = contended();
    let policy = classes(&LATENCY_AND_BATCH);
    let mut history = History::default();
    let mut verdicts = Vec::new();
    for step in 0..20 {
        model.at += Duration::from_secs(5);
        let decision = tick(&model, &policy, &mut history);
        // Carried out, and then nobody wants anything: not even the relax step has anything to do with the verdict.
        if step == 0 {
            carry_out(&decision.proposals, &mut model, &mut history);
            set_load(&mut model.domains[0], 0.0, 0.0);
        }
        verdicts.extend(decision.verdicts);
    }
    assert_eq!(verdicts.len(), 1);
    assert!(verdicts[0].trial.kept && verdicts[0].trial.measured.is_none(), "{verdicts:?}");
    assert_eq!(history.trials.rests(&weight_of_web(), model.at), None);
}

/// A weight of a domain, from and to, and what it promises `of` in parts of a hundred.
fn weight(model: &Model, on: usize, change: (u64, u64), of: usize, promise: (u32, u32)) -> Proposal {
    let (on, of) = (&model.domains[on], &model.domains[of]);
    let prediction = Prediction {
        metric: Metric::WaitRatio,
        of: of.uuid,
        of_name: of.name.clone(),
        before: f64::from(promise.0) / 100.0,
        expected: f64::from(promise.1) / 100.0,
    };
    let reason = Reason { prediction: Some(prediction), ..Reason::default() };
    propose(on, Action::SetCpuShares { from: change.0, to: change.1 }, reason, false)
}

/// The verdicts on these orders after windows in which the domains waited these parts of a hundred.
fn judged(model: &mut Model, orders: &[Proposal], waits: &[u32]) -> Vec<Verdict> {
    let mut history = History::default();
    for (number, order) in (1..).zip(orders) {
        history.applied(number, order, model.at);
    }
    for (domain, wait) in model.domains.iter_mut().zip(waits) {
        let wait = f64::from(*wait) / 100.0;
        set_load(domain, 0.5 * (1.0 - wait), 0.5 * wait);
    }
    let mut verdicts = Vec::new();
    for _ in 0..3 {
        model.at += model.elapsed;
        let policy = classes(&LATENCY_AND_BATCH);
        verdicts.extend(trial::judge(model, trial::Pace::Tick, &policy, &mut history).verdicts);
    }
    verdicts
}

#[test]
fn steps_on_one_value_are_compared_with_what_was_before_the_first() {
    for (measured, kept) in [(38, true), (46, false)] {
        let (mut model, _) = contended();
        let steps =
            [weight(&model, 0, (1024, 2048), 0, (50, 30)), weight(&model, 0, (2048, 4096), 0, (40, 20))];
        let verdicts = judged(&mut model, &steps, &[measured, 0]);
        assert_eq!(verdicts.len(), 1, "{verdicts:?}");
        assert_eq!((verdicts[0].orders.as_slice(), verdicts[0].trial.kept), ([1, 2].as_slice(), kept));
    }
}

#[test]
fn a_small_step_for_somebody_else_does_not_decide_on_a_large_one() {
    let (mut model, _) = contended();
    model.domains.push(domain(3, 2, 0.5, 0.01, 0.0, 2));
    let steps = [weight(&model, 1, (1024, 141), 0, (60, 10)), weight(&model, 1, (141, 128), 2, (8, 2))];
    let verdicts = judged(&mut model, &steps, &[15, 0, 12]);
    assert_eq!(verdicts.len(), 1, "{verdicts:?}");
    assert_eq!((verdicts[0].orders.as_slice(), verdicts[0].trial.kept), ([1, 2].as_slice(), true));
}

#[test]
fn what_cannot_be_told_from_noise_is_not_undone() {
    for (measured, kept) in [(3, true), (6, false)] {
        let (mut model, _) = contended();
        let step = weight(&model, 0, (1024, 1100), 0, (3, 2));
        let verdicts = judged(&mut model, &[step], &[measured, 0]);
        assert_eq!(verdicts[0].trial.kept, kept, "{verdicts:?}");
    }
}

/// What equals take of that which the batch domain gave up makes the weight useless. What they take beyond it is their
/// load, which has grown, and no evidence.
#[test]
fn load_of_equals_that_grew_is_no_evidence_against_a_change() {
    for (other, run, wait, kept) in [(3, 0.2, 0.75, true), (3, 0.4, 0.55, false), (2, 0.2, 0.75, false)] {
        let (mut model, _) = contended();
        model.domains.push(domain(3, 2, 0.5, 0.01, 0.0, 2));
        let policy = classes(&[ClassSetting::Latency, ClassSetting::Batch, ClassSetting::Latency]);
        let mut history = History::default();
        model.steal = StealModel { domains: vec![row(1, &[(2, 1000)])] };
        let decision = until_verdict(&mut model, &policy, &mut history, |model| {
            if model.domains[0].cpu_shares > Some(1024) {
                set_load(&mut model.domains[0], run, wait);
                model.steal = StealModel { domains: vec![row(1, &[(other, 900), (2, 100)])] };
            }
        });
        assert_eq!(decision.verdicts[0].trial.kept, kept, "{:?}", decision.verdicts);
    }
}

/// Windows beside a change that is undone now say nothing: three new ones are asked for.
#[test]
fn what_is_undone_beside_a_trial_begins_its_count_again() {
    let (mut model, _) = contended();
    model.domains.push(domain(3, 2, 0.5, 0.3, 0.0, 2));
    let policy = classes(&[ClassSetting::Latency, ClassSetting::Batch, ClassSetting::Latency]);
    let mut history = History::default();
    let failing = weight(&model, 2, (1024, 8192), 2, (50, 5));
    history.applied(1, &weight(&model, 0, (1024, 8192), 0, (50, 5)), model.at);
    history.applied(2, &failing, model.at);
    let undo = Proposal {
        action: failing.action.clone().reversed().unwrap(),
        reason: Reason::default(),
        release: true,
        undoes: vec![2],
        ..failing
    };
    let mut verdicts_after = Vec::new();
    for window in 1..=5 {
        model.at += model.elapsed;
        set_load(&mut model.domains[0], 0.9, 0.1);
        let verdicts = trial::judge(&model, trial::Pace::Tick, &policy, &mut history).verdicts;
        verdicts_after.extend(verdicts.iter().filter(|verdict| verdict.orders == [1]).map(|_| window));
        if window == 2 {
            history.applied(3, &undo, model.at);
        }
    }
    assert_eq!(verdicts_after, [5], "two windows before, and three after");
}

/// What the kernel gives to domains of one vcpu that all want the same pcpu.
fn share_one_pcpu(model: &mut Model) {
    let weight = |domain: &DomainModel| f64::from(u32::try_from(domain.cpu_shares.unwrap_or(1024)).unwrap());
    let weights: Vec<f64> = model.domains.iter().map(weight).collect();
    let parts: Vec<f64> = weights.iter().map(|weight| weight / weights.iter().sum::<f64>()).collect();
    let thousandths = |part: f64| Duration::from_secs_f64(part).as_millis().try_into().unwrap();
    let taken: Vec<(u128, u64)> = (1..).zip(&parts).map(|(n, part)| (n, thousandths(*part))).collect();
    let by = |n: u128| taken.iter().copied().filter(|(other, _)| *other != n).collect::<Vec<_>>();
    model.steal = StealModel { domains: (1..=5).map(|n| row(n, &by(n))).collect() };
    for (domain, part) in model.domains.iter_mut().zip(parts) {
        set_load(domain, part, 1.0 - part);
    }
}

/// One of four equals is raised a tick after the others: what it would win once these were undone is theirs, not the hog's.
#[test]
fn the_last_of_equals_is_not_kept_at_the_cost_of_the_others() {
    for late in 0..4 {
        let policy = classes(&[
            ClassSetting::Latency,
            ClassSetting::Latency,
            ClassSetting::Latency,
            ClassSetting::Latency,
            ClassSetting::Batch,
        ]);
        let mut model = host(1, (1..=5).map(|n| domain(n, 1, 0.2, 0.8, 0.0, 1)).collect());
        let mut history = History::default();
        let mut kept = Vec::new();
        for step in 0..60 {
            model.at += Duration::from_secs(5);
            share_one_pcpu(&mut model);
            if step < 2 {
                // Its weight has not been read yet.
                model.domains[late].cpu_shares = None;
            } else {
                model.domains[late].cpu_shares.get_or_insert(1024);
            }
            let decision = tick(&model, &policy, &mut history);
            carry_out(&decision.proposals, &mut model, &mut history);
            kept.extend(decision.verdicts.into_iter().filter(|verdict| verdict.trial.kept));
        }
        let weights: Vec<_> = model.domains.iter().map(|domain| domain.cpu_shares).collect();
        assert_eq!(weights, [Some(1024); 5], "{kept:#?}");
    }
}

fn weight_of_web() -> Proposal {
    let (model, web) = contended();
    drop(model);
    propose(&web, Action::SetCpuShares { from: 1024, to: 8192 }, Reason::default(), false)
}

#[test]
fn a_neighbour_that_comes_or_goes_begins_the_count_again() {
    let (mut model, _) = contended();
    let policy = classes(&LATENCY_AND_BATCH);
    let mut history = History::default();
    let mut ticks_to_verdict = 0;
    for step in 0..10 {
        model.at += Duration::from_secs(5);
        if step == 3 {
            model.domains.push(domain(9, 1, 0.1, 0.0, 0.0, 2));
        }
        let decision = tick(&model, &policy, &mut history);
        carry_out(&decision.proposals, &mut model, &mut history);
        if !decision.verdicts.is_empty() {
            ticks_to_verdict = step;
            break;
        }
    }
    // Two windows, one in which a domain came, and three.
    assert_eq!(ticks_to_verdict, 6);
}

/// A server that waits beside a burner, their weights just changed.
fn on_trial() -> (Model, Policy, History) {
    let (mut model, _) = contended();
    let policy = classes(&LATENCY_AND_BATCH);
    let mut history = History::default();
    model.at += Duration::from_secs(5);
    let decision = tick(&model, &policy, &mut history);
    carry_out(&decision.proposals, &mut model, &mut history);
    (model, policy, history)
}

#[test]
fn what_somebody_else_sets_meanwhile_is_theirs_and_not_judged() {
    let (mut model, policy, mut history) = on_trial();
    model.domains[0].cpu_shares = Some(3000);
    model.at += Duration::from_secs(5);
    let verdicts = tick(&model, &policy, &mut history).verdicts;
    assert_eq!(verdicts.len(), 1, "{verdicts:?}");
    assert_eq!(verdicts[0].state, OrderState::RolledBack);
    assert!(verdicts[0].trial.verdict.contains("somebody else"), "{verdicts:?}");
}

#[test]
fn what_an_earlier_life_was_tried_with_is_not_undone_in_the_next_one() {
    let (mut model, policy, mut history) = on_trial();
    // Two windows of three.
    for _ in 0..2 {
        model.at += Duration::from_secs(5);
        assert_eq!(tick(&model, &policy, &mut history).verdicts, []);
    }
    let shares = model.domains[0].cpu_shares.replace(1024);
    assert_ne!(shares, Some(1024), "there was nothing on trial");
    model.domains[0].incarnation = Some("9:1".into());
    // What its neighbour gave is measured anew, too.
    for step in 0..2 {
        model.at += Duration::from_secs(5);
        let decision = tick(&model, &policy, &mut history);
        let of_web: Vec<_> =
            decision.verdicts.iter().filter(|verdict| verdict.state == OrderState::RolledBack).collect();
        assert_eq!(of_web.len(), usize::from(step == 0), "{decision:?}");
        assert!(of_web.iter().all(|verdict| verdict.trial.verdict.contains("started anew")), "{of_web:?}");
        assert!(decision.proposals.iter().all(|order| order.reason.rule != "trial.rollback"), "{decision:?}");
    }
}

#[test]
fn what_had_hardly_begun_when_the_first_step_was_made_is_no_measure_of_what_it_brought() {
    let (mut model, _) = contended();
    let policy = classes(&LATENCY_AND_BATCH);
    let mut history = History::default();
    // The tick caught the beginning only; then they were there all the time, and what helped was the second step.
    set_load(&mut model.domains[0], 0.9, 0.06);
    let mut steps = 0;
    let decision = until_verdict(&mut model, &policy, &mut history, |model| {
        steps += 1;
        let wait = if steps == 1 { 0.3 } else { 0.09 };
        set_load(&mut model.domains[0], 0.9 - wait, wait);
        // The shape of who takes it is the same all along.
        model.steal = StealModel { domains: vec![row(1, &[(2, 1000)])] };
    });
    let trial = &decision.verdicts[0].trial;
    assert!(trial.kept && trial.before > 0.25, "{trial:?}");
}

#[test]
fn a_domain_that_was_away_is_not_on_trial_when_it_is_back() {
    let (mut model, policy, mut history) = on_trial();
    let web = model.domains.remove(0);
    model.at += Duration::from_secs(1);
    let _ = release(&model, &policy, &mut history);
    let reborn = DomainModel { incarnation: Some("9:1".into()), cpu_shares: Some(1024), ..web };
    model.domains.insert(0, reborn);
    let mut verdicts = Vec::new();
    for _ in 0..2 {
        model.at += Duration::from_secs(5);
        let decision = tick(&model, &policy, &mut history);
        assert!(decision.proposals.iter().all(|order| order.reason.rule != "trial.rollback"), "{decision:?}");
        verdicts.extend(decision.verdicts);
    }
    let [verdict] = &verdicts[..] else { panic!("{verdicts:?}") };
    assert_eq!((verdict.state, &*verdict.trial.verdict), (OrderState::Kept, "the domain has gone"));
}

#[test]
fn priorities_that_cost_a_guest_its_answers_are_undone() {
    for (packets, kept) in [(90.0, true), (20.0, false)] {
        let server = domain(1, 2, 0.5, 0.0, 100.0, 2);
        let action = Action::SetLevel {
            application: "backend".into(),
            communicating: false,
            from: crate::policy::Level::Normal,
            to: crate::policy::Level::BelowNormal,
            processes: Vec::new(),
            groups: vec![],
        };
        let prediction = trial::answers_stay(&server);
        let reason = Reason { prediction, ..Reason::default() };
        let order = propose(&server, action, reason, false);
        let mut model = host(2, vec![server]);
        let mut history = History::default();
        history.applied(7, &order, model.at);
        let mut verdicts = Vec::new();
        let mut undone = Vec::new();
        for _ in 0..3 {
            model.at += Duration::from_secs(300);
            model.elapsed = Duration::from_secs(300);
            model.domains[0] = domain(1, 2, 0.5, 0.0, packets, 2);
            let decision = cycle(&model, &Policy::default(), &mut history);
            verdicts.extend(decision.verdicts);
            undone.extend(decision.proposals);
        }
        assert_eq!(verdicts.len(), 1);
        assert_eq!((verdicts[0].orders.as_slice(), verdicts[0].trial.kept), ([7].as_slice(), kept));
        assert_eq!(undone.iter().any(|proposal| proposal.undoes == [7]), !kept, "{undone:?}");
    }
}
