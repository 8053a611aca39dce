//! Placement on a host with two sockets, four nodes and two threads a core, and who is left alone.

use std::time::Duration;

use uuid::Uuid;

use super::tests::{advance, domain, host, numa_host, set_load};
use super::*;
use crate::CpuSet;
use crate::model::{DomainSteal, StealModel};
use crate::policy::{Class, ClassSetting, DomainPolicy, Wishes};
use crate::sample::Runner;

const WEB: u128 = 1;
const BATCH: u128 = 2;
const QUIET: u128 = 3;

fn policy() -> Policy {
    let class = |name: &str, class| DomainPolicy {
        name: name.into(),
        wishes: Wishes { class: Some(class), ..Wishes::default() },
    };
    Policy {
        domains: vec![class("d1", ClassSetting::Latency), class("*", ClassSetting::Batch)],
        ..Policy::default()
    }
}

/// A server on node 2 that waits, a batch domain that takes nine tenths of it, and one that takes next to nothing.
fn model() -> Model {
    let mut web = domain(WEB, 4, 0.9, 0.09, 100.0, 32);
    web.memory_node = Some(2);
    let batch = domain(BATCH, 8, 0.9, 0.1, 0.0, 32);
    let quiet = domain(QUIET, 2, 0.2, 0.0, 0.0, 32);
    let mut model = Model { topology: numa_host(), ..host(32, vec![web, batch, quiet]) };
    model.steal = StealModel { domains: vec![row(WEB, &[(BATCH, 900), (QUIET, 20)])] };
    model
}

pub(super) fn row(of: u128, by: &[(u128, u64)]) -> DomainSteal {
    let by = by
        .iter()
        .map(|(by, ms)| (Runner::Domain(Uuid::from_u128(*by)), Duration::from_millis(*ms)))
        .collect();
    DomainSteal { uuid: Uuid::from_u128(of), name: format!("d{of}"), by, vcpus: Vec::new() }
}

/// Turns until three cycles have seen the need, and all pins that follow have kept to the limits. What was separated helps.
fn run(model: &mut Model, policy: &Policy, history: &mut History) -> Vec<Proposal> {
    let mut orders = Vec::new();
    for _ in 0..8 {
        orders.extend(advance(model, policy, history));
        if !pins_of(&orders, BATCH).is_empty() {
            let web = model.domains[0].vcpus[0].thread.as_ref().and_then(|thread| thread.run);
            set_load(&mut model.domains[0], web.unwrap(), 0.005);
        }
    }
    orders
}

fn pins_of(proposals: &[Proposal], id: u128) -> Vec<(String, String)> {
    let of = proposals.iter().filter(|order| order.domain == Uuid::from_u128(id));
    let pins = of.filter(|order| order.action.target().ends_with("pin"));
    pins.map(|order| (order.action.target(), order.action.to_text())).collect()
}

#[test]
fn aggressors_leave_whole_cores_near_the_memory_and_who_takes_little_stays() {
    let (mut model, policy, mut history) = (model(), policy(), History::default());
    let orders = run(&mut model, &policy, &mut history);
    let batch = pins_of(&orders, BATCH);
    assert_eq!(batch.len(), 8 + 1 + 1, "vcpus, emulator and iothread: {batch:?}");
    assert!(batch.iter().all(|(_, to)| to == "0-7,10-23,26-31"), "two cores of node 2: {batch:?}");
    assert_eq!(pins_of(&orders, QUIET), []);
    // Elsewhere a vcpu of the server would share a core with the aggressor.
    let web = pins_of(&orders, WEB);
    assert!(web.len() == 6 && web.iter().all(|(_, to)| to == "8-9,24-25"), "{web:?}");
    for vcpu in &model.domains[0].vcpus {
        for pcpu in vcpu.pin.as_ref().unwrap().iter() {
            let siblings = model.topology.siblings(pcpu);
            assert!(!siblings.overlaps(model.domains[1].vcpus[0].pin.as_ref().unwrap()));
        }
    }
    let separate = orders.iter().find(|order| order.reason.rule == "placement.separate").unwrap();
    let inputs = format!("{:?}", separate.reason.inputs);
    for part in ["part of the waiting of d1", "97.8", "cost of 0.008 s", "near the memory on node"] {
        assert!(inputs.contains(part), "{part}: {inputs}");
    }
    assert!(!separate.reason.alternatives.is_empty() && separate.reason.threshold.contains("5.0"));
}

#[test]
fn once_placed_nothing_moves_for_a_load_that_comes_and_goes() {
    let (mut model, policy, mut history) = (model(), policy(), History::default());
    run(&mut model, &policy, &mut history);
    for step in 0..24 {
        let run = if step % 2 == 0 { 0.95 } else { 0.65 };
        set_load(&mut model.domains[0], run, 0.005);
        let orders = advance(&mut model, &policy, &mut history);
        assert_eq!(pins_of(&orders, BATCH).len() + pins_of(&orders, WEB).len(), 0, "{orders:?}");
    }
    // The load ends: the originals come back.
    set_load(&mut model.domains[0], 0.0, 0.0);
    run(&mut model, &policy, &mut history);
    for domain in &model.domains {
        assert!(domain.vcpus.iter().all(|vcpu| vcpu.pin == Some(CpuSet::first(32))), "{}", domain.name);
        assert_eq!(domain.emulator_pin, Some(CpuSet::first(32)));
    }
}

#[test]
fn pcpus_that_were_set_aside_and_what_administrators_decided_stay_as_they_are() {
    let (mut model, policy, mut history) = (model(), policy(), History::default());
    model.topology.isolated = "8-9,24-25".parse().unwrap();
    // The emulator's pin is its administrator's own, and so is the iothread's.
    model.domains[1].emulator_pin = Some("0-1".parse().unwrap());
    model.domains[1].iothreads[0].pin = Some("8-9".parse().unwrap());
    let orders = run(&mut model, &policy, &mut history);
    let batch = pins_of(&orders, BATCH);
    assert!(batch.len() == 8 && batch.iter().all(|(what, _)| what.starts_with("vcpu")), "{batch:?}");
    assert!(
        batch.iter().all(|(_, to)| to == "0-7,12-23,28-31"),
        "neither the isolated nor the claimed: {batch:?}"
    );
}

#[test]
fn dedicated_and_real_time_domains_are_left_alone_with_the_reason() {
    let (mut model, policy, mut history) = (model(), policy(), History::default());
    for vcpu in &mut model.domains[1].vcpus {
        vcpu.pin = Some(CpuSet::from_iter([8 + vcpu.number]));
    }
    assert_eq!(pins_of(&run(&mut model, &policy, &mut history), BATCH), []);
    let why = placement_refusal(&model.domains[1], &model, &history).unwrap();
    assert!(why.contains("a pcpu of its own (8-15)"), "{why}");

    let (mut model, mut history) = (self::model(), History::default());
    let why = Some("it runs in real time (vcpusched fifo)".to_owned());
    model.domains[1].placement_refusal.clone_from(&why);
    model.domains[1].weight_refusal = why;
    let orders = run(&mut model, &policy, &mut history);
    assert!(orders.iter().all(|order| order.domain != Uuid::from_u128(BATCH)), "{orders:?}");
}

#[test]
fn two_aggressors_of_a_small_host_leave_together() {
    let web = domain(WEB, 2, 0.6, 0.35, 100.0, 2);
    let hogs = [BATCH, QUIET].map(|id| domain(id, 2, 0.4, 0.6, 0.0, 2));
    let [one, two] = hogs;
    let mut model = host(2, vec![web, one, two]);
    model.steal = StealModel { domains: vec![row(WEB, &[(BATCH, 500), (QUIET, 480)])] };
    let (policy, mut history) = (policy(), History::default());
    let orders = run(&mut model, &policy, &mut history);
    for id in [BATCH, QUIET] {
        let pins = pins_of(&orders, id);
        assert!(pins.len() == 4 && pins.iter().all(|(_, to)| to == "1"), "{id}: {pins:?}");
    }
    assert_eq!(pins_of(&orders, WEB), [], "no core runs two pcpus here");
    // It comes to fill less than what is kept for it, and waits all the same: what idles is better shared.
    set_load(&mut model.domains[0], 0.3, 0.1);
    for _ in 0..8 {
        let _ = advance(&mut model, &policy, &mut history);
    }
    for hog in &model.domains[1..] {
        assert_eq!(hog.pins(), Some(CpuSet::first(2)), "{}", hog.name);
    }
    assert_eq!(class_of(&model.domains[0], &policy, &history), Class::Latency);
}

#[test]
fn who_takes_the_place_of_a_confined_aggressor_follows_it() {
    // Each window names the one whose turn it is on the victim's pcpu; the first one took more.
    let web = domain(WEB, 1, 0.8, 0.17, 100.0, 2);
    let [one, two] = [BATCH, QUIET].map(|id| domain(id, 2, 0.5, 0.5, 0.0, 2));
    let mut model = host(2, vec![web, one, two]);
    let (policy, mut history) = (policy(), History::default());
    model.steal = StealModel { domains: vec![row(WEB, &[(BATCH, 900), (QUIET, 20)])] };
    let mut orders = Vec::new();
    while pins_of(&orders, BATCH).is_empty() {
        orders.extend(advance(&mut model, &policy, &mut history));
        assert!(orders.len() < 20, "{orders:?}");
    }
    assert_eq!(pins_of(&orders, QUIET), []);
    set_load(&mut model.domains[0], 0.85, 0.12);
    model.steal = StealModel { domains: vec![row(WEB, &[(QUIET, 900)])] };
    for _ in 0..8 {
        orders.extend(advance(&mut model, &policy, &mut history));
    }
    assert!(!pins_of(&orders, QUIET).is_empty(), "{orders:?}");
}

#[test]
fn memory_that_would_be_left_behind_costs_more_than_a_small_gain() {
    // It waits little, and the only pcpus outside of the claim are away from the aggressor's memory.
    let mut web = domain(WEB, 4, 0.9, 0.03, 100.0, 32);
    let mut batch = domain(BATCH, 4, 0.9, 0.1, 0.0, 32);
    web.memory_node = Some(0);
    batch.memory_node = Some(0);
    for (domain, pins) in [(&mut web, "0-1,16-17"), (&mut batch, "0-1,4-7,16-17")] {
        for vcpu in &mut domain.vcpus {
            vcpu.pin = Some(pins.parse().unwrap());
        }
    }
    let mut model = Model { topology: numa_host(), ..host(32, vec![web, batch]) };
    model.steal = StealModel { domains: vec![row(WEB, &[(BATCH, 900)])] };
    let (policy, mut history) = (policy(), History::default());
    assert_eq!(pins_of(&run(&mut model, &policy, &mut history), BATCH), [], "15 % of 4 pcpus for 0.08");
    model.domains[1].memory_node = Some(1);
    let pins = pins_of(&run(&mut model, &policy, &mut History::default()), BATCH);
    assert!(pins.len() >= 4 && pins.iter().all(|(_, to)| !to.contains("16")), "{pins:?}");
}
