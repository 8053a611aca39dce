//! The ladder's means: units where the guest has them, autogroups, what others set, and means without effect.

use super::*;
use crate::decide::EffectVerdict;
use crate::model::UnitModel;
use crate::order::LadderMeans;
use crate::sample::Autogroup;

const HTTPD: &str = "httpd.service";
const HOG: &str = "hog.service";

fn unit(pid: u32, name: &str, communicating: bool) -> Application {
    let unit = UnitModel { weight: 100, cpu: Some(1.0), waits: Some(0.5) };
    Application { name: name.into(), unit: Some(unit), ..application(pid, "process", 0, communicating) }
}

/// A server and a hog on two vcpus, one application each.
fn guest(applications: Vec<Application>) -> Model {
    let mut web = domain(1, 2, 0.5, 0.0, 100.0, 2);
    web.guest = Some(GuestModel {
        window: Some(Duration::from_secs(5)),
        vcpus_online: Some(2),
        runnable: Some(5),
        busy: Some(crate::units::Ratio(1.0)),
        applications,
        ..GuestModel::default()
    });
    host(2, vec![web])
}

fn app<'a>(model: &'a mut Model, name: &str) -> &'a mut Application {
    let guest = model.domains[0].guest.as_mut().unwrap();
    guest.applications.iter_mut().find(|application| application.name == name).unwrap()
}

fn weight(model: &mut Model, name: &str) -> u16 {
    app(model, name).unit.as_ref().unwrap().weight
}

fn weights(model: &mut Model) -> [u16; 2] {
    [HTTPD, HOG].map(|name| weight(model, name))
}

fn of_means(history: &History, means: LadderMeans) -> MeansHistory {
    history.domains[&Uuid::from_u128(1)].ladder.means[&means].clone()
}

/// The hog gets what its weight leaves it.
fn share_out(model: &mut Model) {
    let [server, hog] = weights(model).map(f64::from);
    app(model, HTTPD).unit.as_mut().unwrap().cpu = Some(2.0 * server / (server + hog));
    app(model, HOG).unit.as_mut().unwrap().cpu = Some(2.0 * hog / (server + hog));
}

#[test]
fn units_get_weights_and_their_processes_keep_their_nice_values() {
    let mut model = guest(vec![unit(10, HTTPD, true), unit(11, HOG, false)]);
    app(&mut model, HOG).unit.as_mut().unwrap().weight = 300;
    let (policy, mut history) = (Policy::default(), History::default());
    for expected in [[305, 99], [932, 33], [932, 33]] {
        advance(&mut model, &policy, &mut history);
        assert_eq!(weights(&mut model), expected);
        share_out(&mut model);
    }
    assert_eq!(app(&mut model, HTTPD).processes[0].sample.nice, 0);
    let measured = of_means(&history, LadderMeans::UnitWeight);
    assert_eq!(measured.last.unwrap().verdict, EffectVerdict::Effective);
    model.domains[0].guest.as_mut().unwrap().runnable = Some(1);
    for expected in [[305, 99], [100, 300]] {
        advance(&mut model, &policy, &mut history);
        assert_eq!(weights(&mut model), expected);
    }
    assert!(advance(&mut model, &policy, &mut history).is_empty());
}

/// What it was before is not forgotten while it is away: the weight that it comes back with is ours.
#[test]
fn a_unit_that_is_started_anew_goes_back_to_what_it_was() {
    let mut model = guest(vec![unit(10, HTTPD, true), unit(11, HOG, false)]);
    let (policy, mut history) = (Policy::default(), History::default());
    advance(&mut model, &policy, &mut history);
    let inside = |model: &mut Model, count: u32| {
        let guest = model.domains[0].guest.as_mut().unwrap();
        guest.runnable = Some(count);
        std::mem::take(&mut guest.applications)
    };
    let all = inside(&mut model, 1);
    model.domains[0].guest.as_mut().unwrap().applications = vec![all[1].clone()];
    advance(&mut model, &policy, &mut history);
    model.domains[0].guest.as_mut().unwrap().applications = all;
    app(&mut model, HOG).unit.as_mut().unwrap().weight = 100;
    advance(&mut model, &policy, &mut history);
    assert_eq!(weights(&mut model), [100, 100]);
}

#[test]
fn a_value_that_somebody_else_set_is_left_alone() {
    let mut model = guest(vec![unit(10, HTTPD, true), application(11, "hog", 0, false)]);
    let (policy, mut history) = (Policy::default(), History::default());
    advance(&mut model, &policy, &mut history);
    app(&mut model, HTTPD).unit.as_mut().unwrap().weight = 1234;
    app(&mut model, "hog").processes[0].sample.nice = 7;
    for _ in 0..3 {
        assert!(advance(&mut model, &policy, &mut history).is_empty());
    }
}

#[test]
fn an_autogroup_that_is_an_applications_alone_goes_with_it() {
    let grouped = |pid, name: &str, id, communicating| {
        let mut application = application(pid, name, 0, communicating);
        application.autogroups = vec![Autogroup { id, nice: 0 }];
        application
    };
    let mut model = guest(vec![grouped(10, "httpd", 7, true), grouped(11, "hog", 8, false)]);
    let (policy, mut history) = (Policy::default(), History::default());
    let nices = |model: &mut Model| ["httpd", "hog"].map(|name| app(model, name).autogroups[0].nice);
    for expected in [[-5, 5], [-10, 10]] {
        advance(&mut model, &policy, &mut history);
        assert_eq!(nices(&mut model), expected);
        assert_eq!(app(&mut model, "hog").processes[0].sample.nice, expected[1]);
    }
    model.domains[0].guest.as_mut().unwrap().runnable = Some(1);
    for expected in [[-5, 5], [0, 0]] {
        advance(&mut model, &policy, &mut history);
        assert_eq!(nices(&mut model), expected);
    }
}

/// A third application that comes later takes the third step that is measured.
#[test]
fn a_means_without_effect_goes_back_step_by_step_and_the_next_one_follows() {
    let mut model = guest(vec![unit(10, HTTPD, true), unit(11, HOG, false)]);
    let (policy, mut history) = (Policy::default(), History::default());
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for _ in 0..12 {
        model.at += Duration::from_secs(60);
        model.domains[0].guest.as_mut().unwrap().at = model.at;
        let decision = cycle(&model, &policy, &mut history);
        carry_out(&decision.proposals, &mut model, &mut history);
        findings.extend(decision.findings.into_iter().filter(|finding| finding.name == "ladder_void"));

        seen.push((weights(&mut model), app(&mut model, HOG).processes[0].sample.nice));
        if seen.len() == 3 {
            model.domains[0].guest.as_mut().unwrap().applications.push(unit(12, "backup.service", false));
        }
    }
    assert_eq!(seen[..2], [([305, 33], 0), ([932, 11], 0)]);
    assert!(of_means(&history, LadderMeans::UnitWeight).rests_until.is_some(), "{seen:?}");
    assert!(findings[0].summary.contains("CPUWeight of units changes nobody's share"), "{findings:?}");
    assert_eq!(seen.last().unwrap(), &([100, 100], 10), "{seen:?}");
    let mut back: Vec<_> = seen.iter().map(|(weights, _)| weights[1]).collect();
    back.dedup();
    assert_eq!(back, [33, 11, 33, 100], "one level at a time");
}

#[test]
fn who_does_not_wait_proves_nothing() {
    let mut model = guest(vec![unit(10, HTTPD, true), unit(11, HOG, false)]);
    app(&mut model, HTTPD).unit.as_mut().unwrap().waits = Some(0.01);
    let (policy, mut history) = (Policy::default(), History::default());
    for _ in 0..3 {
        advance(&mut model, &policy, &mut history);
    }
    let measured = of_means(&history, LadderMeans::UnitWeight);
    assert_eq!((measured.last.unwrap().verdict, measured.strikes), (EffectVerdict::Unclear, 0));
}

/// The load went elsewhere meanwhile: that is no proof against the means, and none for it.
#[test]
fn shares_that_go_the_other_way_prove_nothing() {
    let mut model = guest(vec![unit(10, HTTPD, true), unit(11, HOG, false)]);
    let (policy, mut history) = (Policy::default(), History::default());
    advance(&mut model, &policy, &mut history);
    app(&mut model, HTTPD).unit.as_mut().unwrap().cpu = Some(0.5);
    app(&mut model, HOG).unit.as_mut().unwrap().cpu = Some(1.5);
    advance(&mut model, &policy, &mut history);
    let measured = of_means(&history, LadderMeans::UnitWeight);
    assert_eq!((measured.last.unwrap().verdict, measured.strikes), (EffectVerdict::Unclear, 0));
}

/// A unit that somebody protected is part of moves without it, so not as a unit; nor does a group that it is part of.
#[test]
fn a_protected_process_within_an_application_is_not_touched() {
    let mut model = guest(vec![unit(10, HTTPD, true), application(11, "hog", 0, false)]);
    let group = Some(Autogroup { id: 7, nice: 0 });
    for (name, root) in [(HTTPD, 10), ("hog", 11)] {
        let application = app(&mut model, name);
        application.processes.push(process(root + 10, "sshd", 0, SchedPolicy::Other));
        application.processes.push(process(root + 20, "chrt", 0, SchedPolicy::RealTime));
        application.processes[1].sample.autogroup = group;
        application.autogroups = group.into_iter().collect();
    }
    let (policy, mut history) = (Policy::default(), History::default());
    for _ in 0..3 {
        advance(&mut model, &policy, &mut history);
    }
    assert_eq!(weight(&mut model, HTTPD), 100);
    for (name, nice) in [(HTTPD, -10), ("hog", 10)] {
        let application = app(&mut model, name);
        let nices: Vec<i8> = application.processes.iter().map(|process| process.sample.nice).collect();
        assert_eq!((nices, application.autogroups[0].nice), (vec![nice, 0, 0], 0), "{name}");
    }
}

/// Two steps are one trial, against the answers that there were before the first: more in between promises nothing, and
/// half of them may be due to clients that left. What failed goes back at once, to where the first step began.
#[test]
fn steps_of_levels_are_judged_together_and_go_back_together() {
    for (packets, kept, weights_then) in [(60.0, true, [932, 11]), (20.0, false, [100, 100])] {
        let mut model = guest(vec![unit(10, HTTPD, true), unit(11, HOG, false)]);
        let (policy, mut history) = (Policy::default(), History::default());
        let mut verdicts = Vec::new();
        for seen in [100.0, 400.0, packets, packets, packets, packets] {
            let tap = &mut model.domains[0].interfaces[0];
            (tap.received_packets_per_s, tap.sent_packets_per_s) = (Some(seen), Some(seen));
            model.at += Duration::from_secs(60);
            model.elapsed = Duration::from_secs(60);
            model.domains[0].guest.as_mut().unwrap().at = model.at;
            let decision = cycle(&model, &policy, &mut history);
            carry_out(&decision.proposals, &mut model, &mut history);
            verdicts.extend(decision.verdicts);
        }
        assert_eq!(verdicts.len(), 1, "{verdicts:#?}");
        assert_eq!((verdicts[0].trial.kept, verdicts[0].orders.len()), (kept, 4), "{verdicts:#?}");
        assert_eq!(weights(&mut model), weights_then);
    }
}

fn vcpus(model: &mut Model, name: &str) -> [Option<String>; 2] {
    [10, 11].map(|pid| {
        let processes = &app(model, name).processes;
        let of = processes.iter().find(|process| process.sample.key.pid == pid);
        of.and_then(|process| process.sample.affinity.clone())
    })
}

/// What is at the bottom runs on the upper half of the vcpus, and everywhere again once it is not: where that is wanted, where
/// the guest can do it, and where nobody has given it vcpus of its own.
#[test]
fn what_is_at_the_bottom_leaves_vcpus_to_the_others() {
    for (wanted, able, expected) in [(true, true, "2-3"), (false, true, "0-3"), (true, false, "0-3")] {
        let mut hog = application(10, "hog", 0, false);
        hog.processes.push(process(11, "hog", 0, SchedPolicy::Other));
        for (process, list) in hog.processes.iter_mut().zip(["0-3", "1"]) {
            process.sample.affinity = Some(list.to_owned());
        }
        let mut model = guest(vec![application(20, "httpd", 0, true), hog]);
        let inside = model.domains[0].guest.as_mut().unwrap();
        (inside.vcpus_online, inside.sets_affinity) = (Some(4), able);
        let mut policy = Policy::default();
        policy.ladder.affinity = wanted;
        let mut history = History::default();
        for at_level in ["0-3", expected, expected] {
            advance(&mut model, &policy, &mut history);
            assert_eq!(vcpus(&mut model, "hog"), [at_level, "1"].map(|list| Some(list.to_owned())));
        }
        // A worker of ours has our vcpus and none of its own; one with its own keeps them.
        let mut worker = process(11, "hog", 10, SchedPolicy::Other);
        worker.sample.key.start_ticks = 99;
        worker.sample.affinity = Some(expected.to_owned());
        app(&mut model, "hog").processes[1] = worker;
        advance(&mut model, &policy, &mut history);
        assert_eq!(vcpus(&mut model, "hog"), [expected, expected].map(|list| Some(list.to_owned())));
        // Switched off, it goes back where the level stays.
        policy.ladder.affinity = false;
        advance(&mut model, &policy, &mut history);
        assert_eq!(vcpus(&mut model, "hog")[0].as_deref(), Some("0-3"));
    }
}
