//! Scenarios and properties of the deciders, on models made up here and advanced as if every change was carried out.

mod ladder;
mod rules;

use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::CpuSet;
use crate::model::{
    Application, BalloonModel, DomainModel, GuestModel, InterfaceModel, Model, ProcessModel, ThreadModel,
    VcpuModel,
};
use crate::order::{Action, TaskGroup};
use crate::policy::{Class, ClassSetting, DomainPolicy, Level, Wishes};
use crate::sample::{IothreadSample, Job, ProcessKey, ProcessSample, SchedPolicy, ThreadRole, ThreadSource};
use crate::topology::{NumaNode, Pcpu, Topology};
use crate::units::KiB;

pub(super) fn thread(number: u32, run: f64, wait: f64) -> ThreadModel {
    ThreadModel {
        tid: 100 + number,
        role: ThreadRole::Vcpu(number),
        comm: format!("CPU {number}/KVM").into(),
        source: ThreadSource::Probe,
        pcpu: Some(0),
        run: Some(run),
        wait: Some(wait),
        runq_wait_p50: None,
        runq_wait_p99: None,
        run_total: Duration::ZERO,
        wait_total: Duration::ZERO,
        waits: None,
        preempted_per_s: None,
        blocked_per_s: None,
        migrations_per_s: None,
    }
}

/// A domain of which each vcpu runs and waits the given parts of the time, answering `packets` a second.
pub(super) fn domain(id: u128, vcpus: u32, run: f64, wait: f64, packets: f64, pcpus: u32) -> DomainModel {
    let threads: Vec<_> = (0..vcpus).map(|number| thread(number, run, wait)).collect();
    DomainModel {
        uuid: Uuid::from_u128(id),
        name: format!("d{id}"),
        state: DomainState::Running,
        accel: "kvm".into(),
        incarnation: Some("1:1".into()),
        vcpus: threads
            .iter()
            .zip(0..)
            .map(|(thread, number)| VcpuModel {
                number,
                pin: Some(CpuSet::first(pcpus)),
                thread: Some(thread.clone()),
            })
            .collect(),
        threads,
        emulator_pin: Some(CpuSet::first(pcpus)),
        iothreads: vec![IothreadSample { number: 1, pin: Some(CpuSet::first(pcpus)) }],
        cpu_shares: Some(1024),
        placement_refusal: None,
        weight_refusal: None,
        memory_node: None,
        memory_maximum: KiB::from_mib(1024),
        balloon: None,
        metadata: None,
        balloon_refusal: None,
        os: None,
        agent_connected: None,
        job_active: false,
        job: None,
        quarantine: None,
        disks: Vec::new(),
        interfaces: vec![InterfaceModel {
            device: "vnet0".into(),
            received_bytes_per_s: Some(packets * 100.0),
            sent_bytes_per_s: Some(packets * 100.0),
            received_packets_per_s: Some(packets),
            sent_packets_per_s: Some(packets),
        }],
        detail: None,
        guest: None,
        flows: None,
        files: None,
    }
}

pub(super) fn balloon_of(current_mib: u64, demand_mib: u64) -> BalloonModel {
    let current = KiB::from_mib(current_mib);
    let demand = KiB::from_mib(demand_mib).min(current);
    BalloonModel {
        current,
        inflated: KiB::from_mib(1024) - current,
        usable: Some(current - demand),
        available: Some(current),
        unused: None,
        demand: Some(demand),
        swapped_in: Some(KiB(0)),
        major_faults_per_s: Some(0.0),
        age: Some(Duration::from_secs(1)),
        ..BalloonModel::default()
    }
}

fn process(pid: u32, name: &str, nice: i8, policy: SchedPolicy) -> ProcessModel {
    let sample = ProcessSample {
        key: ProcessKey { pid, start_ticks: 7 },
        parent: 1,
        name: name.into(),
        command: name.into(),
        state: 'R',
        threads: 1,
        nice,
        policy,
        ..ProcessSample::default()
    };
    ProcessModel {
        sample,
        cpu: Some(0.5),
        waits: None,
        connections: vec![],
        listeners: vec![],
        traffic: None,
    }
}

fn application(pid: u32, name: &str, nice: i8, communicating: bool) -> Application {
    Application {
        name: name.into(),
        processes: vec![process(pid, name, nice, SchedPolicy::Other)],
        conversations: if communicating { vec!["serves 10.0.0.1 on port 80".into()] } else { vec![] },
        ..Application::default()
    }
}

pub(super) fn host(pcpus: u32, domains: Vec<DomainModel>) -> Model {
    let pcpus = (0..pcpus)
        .map(|id| Pcpu { id, core: Some(id), socket: Some(0), llc: Some(0), node: Some(0), capacity: None })
        .collect();
    Model { topology: Topology { pcpus, ..Topology::default() }, domains, ..Model::default() }
}

/// Two sockets with two nodes each, each with a cache and four cores of two threads; 16 is added for the second thread.
pub(super) fn numa_host() -> Topology {
    let pcpu = |id: u32| {
        let core = id % 16;
        let node = Some(core / 4);
        Pcpu {
            id,
            core: Some(core % 8),
            socket: Some(core / 8),
            llc: Some(core / 4 * 4),
            node,
            capacity: None,
        }
    };
    let distances = |node: u32| {
        (0..4)
            .map(|other| [10, 12, 21][usize::from(other != node) + usize::from(other / 2 != node / 2)])
            .collect()
    };
    let nodes = (0..4).map(|id| NumaNode { id, distances: distances(id) }).collect();
    Topology { pcpus: (0..32).map(pcpu).collect(), nodes, ..Topology::default() }
}

/// Carries the proposals out on the model, as `act` and the world would.
pub(super) fn carry_out(proposals: &[Proposal], model: &mut Model, history: &mut History) {
    for proposal in proposals {
        let at = model.at;
        let domain = model.domains.iter_mut().find(|domain| domain.uuid == proposal.domain).unwrap();
        match &proposal.action {
            Action::SetCpuShares { from, to } => {
                assert_eq!(domain.cpu_shares, Some(*from));
                domain.cpu_shares = Some(*to);
            }
            Action::PinVcpu { vcpu, from, to } => {
                let vcpu = domain.vcpus.iter_mut().find(|other| other.number == *vcpu).unwrap();
                assert_eq!(vcpu.pin.as_ref(), Some(from));
                vcpu.pin = Some(to.clone());
            }
            Action::PinEmulator { to, .. } => domain.emulator_pin = Some(to.clone()),
            Action::PinIothread { iothread, to, .. } => {
                let found = domain.iothreads.iter_mut().find(|other| other.number == *iothread);
                found.unwrap().pin = Some(to.clone());
            }
            Action::MoreVcpus { .. } | Action::MoreMemory { .. } | Action::MoveAway { .. } => {}
            Action::SetBalloon { from, to } => {
                let balloon = domain.balloon.as_mut().unwrap();
                assert_eq!(balloon.current, *from);
                *balloon = balloon_of(to.0 / 1024, balloon.demand.unwrap().0 / 1024);
                balloon.current = *to;
            }
            Action::SetLevel { application, processes, groups, .. } => {
                let guest = domain.guest.as_mut().unwrap();
                let application =
                    guest.applications.iter_mut().find(|other| other.name == *application).unwrap();
                for step in processes {
                    let process =
                        application.processes.iter_mut().find(|other| other.sample.key == step.key).unwrap();
                    assert_eq!(process.sample.nice, step.nice_from);
                    process.sample.nice = step.nice_to;
                }
                for step in groups {
                    match &step.group {
                        TaskGroup::Unit { .. } => {
                            let weight = &mut application.unit.as_mut().unwrap().weight;
                            assert_eq!(Some(i32::from(*weight)), step.from.number());
                            *weight = u16::try_from(step.to.number().unwrap()).unwrap();
                        }
                        TaskGroup::Autogroup { id } => {
                            let group = application.autogroups.iter_mut().find(|group| group.id == *id);
                            group.unwrap().nice = i8::try_from(step.to.number().unwrap()).unwrap();
                        }
                        TaskGroup::Threads { key } => {
                            let processes = application.processes.iter_mut();
                            let process =
                                processes.map(|process| &mut process.sample).find(|of| of.key == *key);
                            process.unwrap().affinity = Some(step.to.to_string());
                        }
                    }
                }
            }
        }
        history.applied(1, proposal, at);
    }
}

type Decide = fn(&Model, &Policy, &mut History) -> Decision;

/// One 5 s step: release, arrival, tick and cycle, each carried out.
pub(super) fn advance(model: &mut Model, policy: &Policy, history: &mut History) -> Vec<Proposal> {
    model.at += Duration::from_secs(5);
    for domain in &mut model.domains {
        if let Some(guest) = &mut domain.guest {
            guest.at = model.at;
        }
    }
    let mut all = Vec::new();
    let newcomers: Decide = |model, policy, history| arrival(model, policy, history).unwrap_or_default();
    for decide in [release, newcomers, tick, cycle] {
        let decision = decide(model, policy, history);
        carry_out(&decision.proposals, model, history);
        all.extend(decision.proposals);
        assert!(
            decide(model, policy, history).proposals.is_empty(),
            "the same model again must give nothing"
        );
    }
    all
}

/// A web server that waits beside a CPU burner, on two pcpus.
pub(super) fn contended() -> (Model, DomainModel) {
    let web = domain(1, 2, 0.3, 0.6, 100.0, 2);
    let batch = domain(2, 2, 0.7, 0.3, 0.0, 2);
    (host(2, vec![web.clone(), batch]), web)
}

/// Eight steps in which the weights help somewhat, and a cpuset the rest.
pub(super) fn protect(model: &mut Model, policy: &Policy, history: &mut History) {
    for _ in 0..8 {
        advance(model, policy, history);
        if model.domains[1].vcpus[0].pin != Some(CpuSet::first(2)) {
            set_load(&mut model.domains[0], 0.7, 0.015);
        } else if model.domains[0].cpu_shares > Some(1024) {
            set_load(&mut model.domains[0], 0.6, 0.2);
        }
    }
}

#[test]
fn a_waiting_server_beside_a_silent_burner_gets_weight_then_a_pcpu() {
    let (mut model, _) = contended();
    let policy = Policy::default();
    let mut history = History::default();
    protect(&mut model, &policy, &mut history);
    assert_eq!(history.domains[&Uuid::from_u128(1)].inferred_class(), Class::Latency);
    assert_eq!(history.domains[&Uuid::from_u128(2)].inferred_class(), Class::Batch);
    assert_eq!(model.domains[0].cpu_shares, Some(8192));
    assert_eq!(model.domains[1].cpu_shares, Some(128));
    for vcpu in &model.domains[1].vcpus {
        assert_eq!(vcpu.pin, Some(CpuSet::from_iter([1])), "confined to what is not reserved");
    }
    assert_eq!(model.domains[1].emulator_pin, Some(CpuSet::from_iter([1])));
    for vcpu in &model.domains[0].vcpus {
        assert_eq!(vcpu.pin, Some(CpuSet::first(2)), "the victim keeps all");
    }

    // Starved by its weight it uses next to nothing; it stays confined as long as it wants to run.
    set_load(&mut model.domains[0], 0.5, 0.01);
    set_load(&mut model.domains[1], 0.01, 0.99);
    for _ in 0..20 {
        advance(&mut model, &policy, &mut history);
        assert_eq!(model.domains[1].vcpus[0].pin, Some(CpuSet::from_iter([1])));
    }
}

pub(super) fn set_load(domain: &mut DomainModel, run: f64, wait: f64) {
    for vcpu in &mut domain.vcpus {
        vcpu.thread = Some(thread(vcpu.number, run, wait));
    }
}

#[test]
fn weights_come_back_by_a_quarter_after_calm_and_pins_when_nobody_needs_them() {
    let (mut model, _) = contended();
    let policy = Policy::default();
    let mut history = History::default();
    protect(&mut model, &policy, &mut history);
    set_load(&mut model.domains[0], 0.3, 0.0);
    set_load(&mut model.domains[1], 0.0, 0.0);
    let mut seen = vec![model.domains[0].cpu_shares.unwrap()];
    for _ in 0..40 {
        advance(&mut model, &policy, &mut history);
        seen.push(model.domains[0].cpu_shares.unwrap());
    }
    assert_eq!(seen.last(), Some(&1024));
    assert!(seen.windows(2).all(|pair| pair[1] * 4 >= pair[0] * 3), "{seen:?}");
    assert!(seen[..6].iter().all(|shares| *shares == 8192), "30 s of calm first: {seen:?}");
    assert_eq!(model.domains[1].cpu_shares, Some(1024));
    assert_eq!(model.domains[1].vcpus[0].pin, Some(CpuSet::first(2)));
    assert_eq!(model.domains[1].emulator_pin, Some(CpuSet::first(2)));
    assert!(advance(&mut model, &policy, &mut history).is_empty(), "and then nothing more happens");
}

#[test]
fn a_change_without_a_clear_outcome_is_nobody_else_s_drift() {
    use crate::ledger::{LedgerEntry, LedgerTarget, Value};
    for live in [1024, 8192] {
        let (mut model, web) = contended();
        let policy = Policy::default();
        let mut history = History::default();
        for _ in 0..2 {
            advance(&mut model, &policy, &mut history);
        }
        let action = Action::SetCpuShares { from: 1024, to: 8192 };
        let proposal = propose(&web, action, Reason::default(), false);
        let entry = LedgerEntry {
            domain: web.uuid,
            domain_name: web.name.clone(),
            incarnation: "1:1".into(),
            target: LedgerTarget::CpuShares,
            original: Value::Shares(1024),
            applied: None,
            intended: Value::Shares(8192),
        };
        history.unsure(&proposal, &[entry]);
        model.domains[0].cpu_shares = Some(live);
        model.at += Duration::from_secs(5);
        let decision = tick(&model, &policy, &mut history);
        assert!(decision.findings.iter().all(|finding| finding.name != "drift"));
        let shares = &history.domains[&web.uuid].shares;
        assert_eq!((shares.original, shares.ours), (Some(1024), (live != 1024).then_some(live)));
    }
}

#[test]
fn the_ladder_steps_once_a_cycle_and_decays() {
    let mut web = domain(1, 2, 0.5, 0.0, 100.0, 2);
    web.guest = Some(GuestModel {
        window: Some(Duration::from_secs(5)),
        vcpus_online: Some(2),
        runnable: Some(4),
        applications: vec![
            application(10, "httpd", 0, true),
            application(11, "hog", 0, false),
            application(12, "sshd", 0, true),
            application(1, "init", 0, false),
        ],
        ..GuestModel::default()
    });
    let mut model = host(2, vec![web]);
    let policy = Policy::default();
    let mut history = History::default();
    let nices = |model: &Model| -> Vec<i8> {
        let guest = model.domains[0].guest.as_ref().unwrap();
        guest.applications.iter().map(|application| application.processes[0].sample.nice).collect()
    };
    advance(&mut model, &policy, &mut history);
    assert_eq!(nices(&model), [-5, 5, 0, 0]);
    advance(&mut model, &policy, &mut history);
    assert_eq!(nices(&model), [-10, 10, 0, 0]);
    advance(&mut model, &policy, &mut history);
    assert_eq!(nices(&model), [-10, 10, 0, 0]);

    // A worker forked by httpd has its nice value; it goes back to httpd's original with it.
    let guest = model.domains[0].guest.as_mut().unwrap();
    guest.applications[0].processes.push(process(20, "httpd", -10, SchedPolicy::Other));
    guest.runnable = Some(1);
    advance(&mut model, &policy, &mut history);
    assert_eq!(nices(&model), [-5, 5, 0, 0]);
    advance(&mut model, &policy, &mut history);
    assert_eq!(nices(&model), [0, 0, 0, 0]);
    assert_eq!(model.domains[0].guest.as_ref().unwrap().applications[0].processes[1].sample.nice, 0);
    assert!(advance(&mut model, &policy, &mut history).is_empty());
}

#[test]
fn idle_memory_is_taken_in_small_steps_down_to_demand_and_guard_and_given_back_at_once() {
    let mut idle = domain(1, 1, 0.0, 0.0, 0.0, 2);
    idle.balloon = Some(balloon_of(1024, 100));
    let mut model = host(2, vec![idle]);
    let policy = Policy::default();
    let mut history = History::default();
    let mut before = KiB::from_mib(1024);
    for _ in 0..200 {
        advance(&mut model, &policy, &mut history);
        let now = model.domains[0].balloon.unwrap().current;
        assert!(before - now <= KiB::from_mib(1024).part(0.01), "{before} -> {now}");
        before = now;
    }
    assert!(before >= KiB::from_mib(356) && before < KiB::from_mib(368), "{before}");

    let balloon = model.domains[0].balloon.as_mut().unwrap();
    balloon.usable = Some(KiB::from_mib(50));
    advance(&mut model, &policy, &mut history);
    assert!(model.domains[0].balloon.unwrap().current >= KiB::from_mib(356 + 2 * 200));
}

#[test]
fn nothing_is_taken_on_stale_statistics_or_where_the_balloon_is_refused() {
    for (age, refusal) in [(Some(60), None), (None, None), (Some(1), Some("VFIO device"))] {
        let mut idle = domain(1, 1, 0.0, 0.0, 0.0, 2);
        idle.balloon = Some(BalloonModel { age: age.map(Duration::from_secs), ..balloon_of(1024, 100) });
        idle.balloon_refusal = refusal.map(str::to_owned);
        let mut model = host(2, vec![idle]);
        let mut history = History::default();
        for _ in 0..10 {
            assert!(advance(&mut model, &Policy::default(), &mut history).is_empty());
        }
    }
}

#[test]
fn a_domain_with_a_job_a_paused_one_and_one_in_quarantine_are_left_alone() {
    let (mut model, _) = contended();
    model.domains[1].job_active = true;
    let hung = DomainModel { quarantine: Some("no answer".to_owned()), ..model.domains[1].clone() };
    model.domains.push(DomainModel { uuid: Uuid::from_u128(4), job_active: false, ..hung });
    model.domains.push(DomainModel { state: DomainState::Paused, ..domain(3, 2, 0.9, 0.1, 0.0, 2) });
    let mut history = History::default();
    for _ in 0..8 {
        let proposals = advance(&mut model, &Policy::default(), &mut history);
        assert!(proposals.iter().all(|proposal| proposal.domain == Uuid::from_u128(1)), "{proposals:?}");
    }
}

#[test]
fn memory_goes_back_during_a_backup_and_during_no_other_job() {
    for (job, wanted) in [(Job::Backup, true), (Job::Migration, false)] {
        let (policy, mut history) = (Policy::default(), History::default());
        let mut guest = domain(1, 1, 0.5, 0.0, 0.0, 2);
        guest.balloon = Some(balloon_of(1024, 100));
        let mut model = host(2, vec![guest.clone()]);
        assert!(release(&model, &policy, &mut history).proposals.is_empty());
        let action = Action::SetBalloon { from: KiB::from_mib(1024), to: KiB::from_mib(256) };
        history.applied(1, &propose(&guest, action, Reason::default(), false), model.at);
        model.at += Duration::from_secs(1);
        model.domains[0].balloon = Some(balloon_of(256, 250));
        (model.domains[0].job_active, model.domains[0].job) = (true, Some(job));
        let gives_back = !release(&model, &policy, &mut history).proposals.is_empty();
        assert_eq!(gives_back, wanted, "{job}");
    }
}

prop_compose! {
    fn any_domain(id: u128, pcpus: u32)(
        vcpus in 1_u32..5,
        run in 0.0_f64..1.0,
        wait in 0.0_f64..1.0,
        packets in prop_oneof![Just(0.0), 0.0_f64..1000.0],
        memory in prop::option::of((64_u64..1024, 0_u64..1024)),
        mask in prop::collection::btree_set(0..pcpus, 1..=pcpus as usize),
        shares in 2_u64..10_000,
        applications in prop::collection::vec((-20_i8..20, any::<bool>(), any::<bool>()), 0..6),
        runnable in 0_u32..10,
        job_active in prop::bool::weighted(0.1),
    ) -> DomainModel {
        let mut domain = domain(id, vcpus, run, wait * (1.0 - run), packets, pcpus);
        let mask: CpuSet = mask.into_iter().collect();
        for vcpu in &mut domain.vcpus {
            vcpu.pin = Some(mask.clone());
        }
        domain.emulator_pin = Some(mask);
        domain.cpu_shares = Some(shares);
        domain.balloon = memory.map(|(current, demand)| balloon_of(current, demand));
        domain.job_active = job_active;
        let applications = applications.into_iter().zip(10..).map(|((nice, communicating, real_time), pid)| {
            let mut application = application(pid, &format!("a{pid}"), nice, communicating);
            if real_time {
                application.processes[0].sample.policy = SchedPolicy::RealTime;
            }
            application
        });
        domain.guest = Some(GuestModel {
 window: Some(Duration::from_secs(5)),
            vcpus_online: Some(vcpus),
            runnable: Some(runnable),
            applications: applications.collect(),
            ..GuestModel::default()
        });
        domain
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_the_limits_hold(
        start in prop::collection::vec(any_domain(0, 4), 1..5),
        later in prop::collection::vec(prop::collection::vec((0.0_f64..1.0, 0.0_f64..1.0, 0.0_f64..50.0, 0_u64..1024, 0_u32..10), 5), 1..30),
    ) {
        let mut domains = start;
        for (domain, id) in domains.iter_mut().zip(1..) {
            domain.uuid = Uuid::from_u128(id);
            domain.name = format!("d{id}");
        }
        let original = domains.clone();
        let mut model = host(4, domains);
        let mut policy = Policy::default();
        policy.balloon.guard = KiB::from_mib(32);
        let wishes = Wishes { class: Some(ClassSetting::Latency), ..Wishes::default() };
        policy.domains.push(DomainPolicy { name: "d1".into(), wishes });
        let mut history = History::default();
        for step in later {
            for (domain, (run, wait, packets, demand, runnable)) in model.domains.iter_mut().zip(step) {
                for vcpu in &mut domain.vcpus {
                    vcpu.thread = Some(thread(vcpu.number, run, wait * (1.0 - run)));
                }
                for tap in &mut domain.interfaces {
                    tap.received_packets_per_s = Some(packets);
                    tap.sent_packets_per_s = Some(packets);
                }
                if let Some(old) = &mut domain.balloon {
                    *old = BalloonModel { current: old.current, ..balloon_of(old.current.0 / 1024, demand) };
                }
                if let Some(guest) = &mut domain.guest {
                    guest.runnable = Some(runnable);
                }
            }
            let before = model.clone();
            let proposals = advance(&mut model, &policy, &mut history);
            for proposal in &proposals {
                let index = original.iter().position(|domain| domain.uuid == proposal.domain).unwrap();
                let (first, last) = (&original[index], &before.domains[index]);
                prop_assert!(!last.job_active);
                match &proposal.action {
                    Action::SetCpuShares { to, .. } => {
                        let original = first.cpu_shares.unwrap();
                        prop_assert!(*to >= (original / 8).min(original) && *to <= original.max(10_000).min(original * 8).max(original));
                        prop_assert!(*to >= 2);
                    }
                    Action::PinVcpu { to, vcpu, .. } => {
                        prop_assert!(!to.is_empty());
                        let mask = first.vcpus.iter().find(|other| other.number == *vcpu).unwrap().pin.clone().unwrap();
                        prop_assert!(to.is_subset(&mask));
                    }
                    Action::PinEmulator { to, .. } => {
                        prop_assert!(!to.is_empty());
                        prop_assert!(to.is_subset(first.emulator_pin.as_ref().unwrap()));
                    }
                    Action::PinIothread { iothread, to, .. } => {
                        prop_assert!(!to.is_empty());
                        let mask = first.iothreads.iter().find(|other| other.number == *iothread).unwrap().pin.clone().unwrap();
                        prop_assert!(to.is_subset(&mask));
                    }
                    Action::MoreVcpus { .. } | Action::MoreMemory { .. } | Action::MoveAway { .. } => {}
                    Action::SetBalloon { from, to } if !proposal.release => {
                        prop_assert!(*to >= policy.balloon.floor);
                        prop_assert!(*from - *to <= last.memory_maximum.part(0.0501));
                    }
                    Action::SetBalloon { to, .. } => {
                        prop_assert!(*to <= first.balloon.unwrap().current);
                    }
                    Action::SetLevel { from, to, processes, communicating, .. } => {
                        let one = *to == *from || *to == from.up() || *to == from.down();
                        prop_assert!(one || !proposal.undoes.is_empty(), "one step at most, unless it undoes some");
                        for step in processes {
                            prop_assert!((-20..=19).contains(&step.nice_to));
                            let guest = last.guest.as_ref().unwrap();
                            let process = guest.applications.iter().flat_map(|a| &a.processes).find(|p| p.sample.key == step.key).unwrap();
                            prop_assert_eq!(process.sample.policy, SchedPolicy::Other);
                        }
                        if !communicating && to > from {
                            prop_assert!(*to <= Level::of_nice(processes[0].nice_original), "only back towards the original");
                        }
                    }
                }
            }
        }
    }
}
