//! What rules do to decisions: the shipped ones are what was built in before there were rules, and without a rule nothing
//! of its kind is done.

use super::*;
use crate::policy::{ClassSetting, Wishes};
use crate::rules::{Means, RuleSet, read};

/// The shipped rules with these over them.
fn with(text: &str) -> Policy {
    Policy { rules: RuleSet::with_files(vec![read(text, "own").unwrap()]).unwrap(), ..Policy::default() }
}

fn rule(name: &str, when: &str, then: &str) -> String {
    format!("[[rule]]\nname = '{name}'\nwhen = '''{when}'''\nthen = {{ {then} }}\n")
}

fn of_class(name: &str, class: ClassSetting) -> DomainPolicy {
    DomainPolicy { name: name.into(), wishes: Wishes { class: Some(class), ..Wishes::default() } }
}

/// Weights help the server somewhat, a cpuset helps it well.
fn respond(model: &mut Model) {
    if model.domains[1].vcpus[0].pin != Some(CpuSet::first(2)) {
        set_load(&mut model.domains[0], 0.7, 0.015);
    } else if model.domains[0].cpu_shares > Some(1024) {
        set_load(&mut model.domains[0], 0.6, 0.2);
    }
}

/// The rules that asked for what is done in eight steps.
fn asked(policy: &Policy) -> (Vec<String>, Vec<Finding>, History) {
    let (mut model, _) = contended();
    let mut history = History::default();
    let (mut rules, mut findings) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        model.at += Duration::from_secs(5);
        for decide in [release, tick, cycle] {
            let decision = decide(&model, policy, &mut history);
            carry_out(&decision.proposals, &mut model, &mut history);
            rules.extend(decision.proposals.into_iter().map(|proposal| proposal.reason.rule));
            findings.extend(decision.findings);
        }
        respond(&mut model);
    }
    (rules, findings, history)
}

#[test]
fn without_its_rule_nothing_of_a_kind_is_done() {
    let all = asked(&Policy::default()).0;
    for name in ["weight.protect", "weight.yield", "placement.separate"] {
        assert!(all.iter().any(|rule| rule == name), "{name}: {all:?}");
        let off = asked(&with(&format!("[[rule]]\nname = '{name}'\nenabled = false\n"))).0;
        assert!(off.iter().all(|rule| rule != name), "{name}: {off:?}");
    }
}

#[test]
fn another_condition_changes_when_it_is_done_and_the_order_names_the_rule() {
    let never = asked(&with(&rule("weight.protect", "domain.name == 'other'", "weight = 'protect'"))).0;
    assert!(!never.iter().any(|rule| rule == "weight.protect"), "{never:?}");
    let own = format!(
        "[[rule]]\nname = 'weight.protect'\nenabled = false\n{}",
        rule("mine", "domain.name == 'd1'", "weight = 'protect'")
    );
    let (rules, _, history) = asked(&with(&own));
    assert!(rules.iter().any(|rule| rule == "mine"), "{rules:?}");
    assert!(history.rules["mine"].held_total >= 8 && history.rules["mine"].asked == 2, "{:?}", history.rules);
}

#[test]
fn a_veto_forbids_and_one_that_cannot_be_evaluated_forbids_as_well() {
    for when in ["domain.name == 'd1'", "domain.guest.load1 > 1000", "domain.vcpus[64].wait > 2"] {
        let (rules, findings, _) = asked(&with(&rule("keep", when, "veto = 'weight'")));
        let on_others = when.contains("d1");
        assert!(!rules.iter().any(|rule| rule == "weight.protect"), "{when}: {rules:?}");
        assert!(on_others || !rules.iter().any(|rule| rule.starts_with("weight.")), "{when}: {rules:?}");
        let failed = findings.iter().any(|finding| finding.name == "rule_failed");
        assert_eq!(failed, when.contains("[64]"), "{when}");
    }
}

#[test]
fn a_rule_that_cannot_be_evaluated_proposes_nothing_and_is_told() {
    let (rules, findings, history) =
        asked(&with(&rule("weight.protect", "domain.vcpus[64].wait >= 0", "weight = 'protect'")));
    assert!(!rules.iter().any(|rule| rule == "weight.protect"), "{rules:?}");
    let told = findings.iter().find(|finding| finding.name == "rule_failed").unwrap();
    assert!(told.summary.contains("weight.protect") && told.domain.is_none(), "{told:?}");
    assert!(history.rules["weight.protect"].failed_total >= 16, "{:?}", history.rules["weight.protect"]);
}

#[test]
fn rules_set_classes_and_report() {
    let text = rule("class", "domain.name == 'd2'", "class = 'latency'")
        + &rule(
            "note",
            "vcpu.count == 2",
            "finding = { name = 'two', severity = 'info', summary = '{name} has two' }",
        );
    let (_, findings, history) = asked(&with(&text));
    let burner = domain(2, 2, 0.7, 0.3, 0.0, 2);
    assert_eq!(class_of(&burner, &Policy::default(), &history), Class::Latency);
    let configured = Policy { domains: vec![of_class("d2", ClassSetting::Batch)], ..with(&text) };
    assert_eq!(class_of(&burner, &configured, &history), Class::Batch, "the configuration is stronger");
    assert!(
        findings.iter().any(|finding| finding.name == "two" && finding.summary == "d1 has two"),
        "{findings:?}"
    );
}

#[test]
fn memory_goes_back_whatever_the_rules_say() {
    let mut burner = domain(1, 1, 0.1, 0.0, 0.0, 2);
    burner.balloon = Some(balloon_of(1024, 100));
    let mut model = host(2, vec![burner]);
    let mut history = History::default();
    for _ in 0..40 {
        advance(&mut model, &Policy::default(), &mut history);
    }
    let taken = model.domains[0].balloon.unwrap().current;
    assert!(taken < KiB::from_mib(900), "{taken}");
    let nothing = Policy { rules: serde_json::from_str("[]").unwrap(), ..Policy::default() };
    let used = taken.0 / 1024 - 20;
    let held_back = with(&rule("no", "true", "veto = 'all'"));
    for policy in [nothing, held_back] {
        let (mut model, mut history) = (model.clone(), history.clone());
        model.domains[0].balloon = Some(balloon_of(taken.0 / 1024, used));
        model.at += Duration::from_secs(1);
        let decision = release(&model, &policy, &mut history);
        assert_eq!(decision.proposals.len(), 1, "memory must go back");
    }
    // And a rule can ask for it where nothing is amiss.
    model.at += Duration::from_secs(1);
    let generous = with(&rule("generous", "domain.memory.current < 1024", "balloon = 'release'"));
    let decision = release(&model, &generous, &mut history);
    assert_eq!(decision.proposals[0].reason.rule, "generous");
}

proptest! {
    /// The shipped conditions are what was written in code before.
    #[test]
    fn shipped_conditions_are_the_built_in_ones(
        run in 0.0..1.0_f64, wait in 0.0..1.0_f64, vcpus in 1..4_u32, runnable in prop::option::of(0..6_u32),
        talks in any::<bool>(), class in 0..3_usize,
    ) {
        let mut one = domain(1, vcpus, run, wait * (1.0 - run), 0.0, 2);
        one.guest = Some(GuestModel {
            at: Duration::from_secs(5), window: Some(Duration::from_secs(5)), vcpus_online: Some(vcpus), runnable,
            applications: vec![application(50, "app", 0, talks)], ..GuestModel::default()
        });
        let class = [
            (Class::Latency, ClassSetting::Latency),
            (Class::Standard, ClassSetting::Standard),
            (Class::Batch, ClassSetting::Batch),
        ][class];
        let policy = Policy { domains: vec![of_class("d1", class.1)], ..Policy::default() };
        let mut model = host(2, vec![one.clone()]);
        model.at = Duration::from_secs(5);
        let mut history = History::default();
        let _ = tick(&model, &policy, &mut history);
        let _ = cycle(&model, &policy, &mut history);
        let told = &history.domains[&one.uuid].asked;
        prop_assert_eq!(told.wants(Means::Protect).is_some(), waits_too_long(&one, &policy, &history));
        prop_assert_eq!(told.wants(Means::Yield).is_some(), class.0 == Class::Batch);
        let scarce = runnable.is_some_and(|runnable| runnable > vcpus)
            || (one.cpu_demand().unwrap() >= 0.25 * f64::from(vcpus)
                && (waits_too_long(&one, &policy, &history) || one.cpu_use().unwrap().0 >= policy.state.high));
        prop_assert_eq!(told.scarce().is_some(), scarce);
        let step = match (scarce, talks) {
            (false, _) => Means::Decay,
            (true, true) => Means::Raise,
            (true, false) => Means::Lower,
        };
        prop_assert_eq!(told.step("app"), Some(step));
    }
}
