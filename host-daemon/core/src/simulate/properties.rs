//! What holds whatever the host, its domains and their loads are like: hosts made up by `proptest`, run on the toy host with
//! the daemon's own loops, each order looked at before it is carried out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::host::Host;
use super::{DomainSpec, HostSpec, Load, Scenario};
use crate::decide::{self, History};
use crate::model::Model;
use crate::order::{Action, Proposal};
use crate::policy::{ClassSetting, DomainPolicy, Mode, Policy, Wishes};
use crate::sample::Sample;
use crate::units::KiB;
use crate::windows::{Decided, Moment, Windows};
use crate::{CpuSet, Uuid};

fn any_load(most: f64) -> impl Strategy<Value = Load> {
    let level = 0.0..=most;
    prop_oneof![
        level.clone().prop_map(|level| Load::Steady { level }),
        (level.clone(), level.clone(), 5_u64..200)
            .prop_map(|(low, high, at)| Load::Steps { steps: vec![(0, low), (at, high)] }),
        (level.clone(), level.clone(), 4_u64..120).prop_map(|(low, high, period_s)| Load::Square {
            period_s,
            low,
            high
        }),
        (level.clone(), level, 20_u64..100).prop_map(|(low, high, every_s)| Load::Bursts {
            low,
            high,
            every_s,
            length_s: every_s / 3
        }),
    ]
}

prop_compose! {
    fn any_domain(pcpus: u32)(vcpus in 1_u32..5)(
        vcpus in Just(vcpus),
        cpu in any_load(f64::from(vcpus)),
        memory in any_load(1800.0),
        packets in prop_oneof![Just(0.0), 1.0..500.0],
        class in prop_oneof![Just("auto"), Just("latency"), Just("standard"), Just("batch")],
        shares in 2_u64..10_000,
        pin in prop::option::of(prop::collection::btree_set(0..pcpus, 1..=pcpus as usize)),
        stats_period_s in prop_oneof![Just(0_u64), Just(1), Just(5), Just(40)],
        from_s in prop_oneof![Just(0_u64), 1_u64..100],
    ) -> DomainSpec {
        let pin = pin.map(|pin| pin.into_iter().collect::<CpuSet>().to_string());
        let mut spec: DomainSpec = serde_json::from_value(serde_json::json!({
            "name": "d", "vcpus": vcpus, "class": class, "cpu_shares": shares, "pin": pin, "packets": packets,
            "cpu": { "shape": "steady", "level": 0.0 }, "stats_period_s": stats_period_s, "from_s": from_s,
        })).unwrap();
        (spec.cpu, spec.memory) = (cpu, Some(memory));
        spec
    }
}

/// One run under watch.
struct Watch {
    policy: Policy,
    history: History,
    originals: BTreeMap<Uuid, (u64, Vec<CpuSet>)>,
    pinned: BTreeMap<(Uuid, u32), Duration>,
    /// Neither threads nor a balloon of this domain are seen, by turns.
    blind: usize,
    refused: usize,
    orders: u64,
}

impl Watch {
    fn sample(&self, host: &Host, detail: bool) -> Sample {
        let mut sample = host.sample(detail);
        let now_blind = host.second / 20 % 2 == 1;
        if let Some(domain) = sample.domains.get_mut(self.blind).filter(|_| now_blind) {
            domain.threads.clear();
            domain.balloon = None;
        }
        if let Some(domain) = sample.domains.get_mut(self.refused) {
            domain.balloon_refusal = Some("a device".to_owned());
        }
        sample
    }

    /// The same model again gives an empty plan.
    fn again(&mut self, decided: &Decided) {
        let Self { policy, history, .. } = self;
        let same = |model: &Model,
                    decide: fn(&Model, &Policy, &mut History) -> decide::Decision,
                    history: &mut History| { decide(model, policy, history).proposals };
        for (pace, decide) in [
            (&decided.release, decide::release as fn(&Model, &Policy, &mut History) -> decide::Decision),
            (&decided.tick, decide::tick),
            (&decided.cycle, decide::cycle),
        ] {
            if let Some((model, _)) = pace {
                assert_eq!(same(model, decide, history), []);
            }
        }
        if let Some((model, _)) = &decided.arrival {
            assert!(decide::arrival(model, policy, history).is_none());
        }
    }

    fn look(&mut self, proposal: &Proposal, sample: &Sample, now: Duration, online: &CpuSet) {
        let domain = sample.domains.iter().find(|domain| domain.uuid == proposal.domain).unwrap();
        let (shares, pins) = &self.originals[&proposal.domain];
        let eighth = |value: u64| value.div_ceil(8).saturating_sub(1);
        match &proposal.action {
            Action::SetCpuShares { to, .. } => {
                assert!((eighth(*shares)..=shares * 8 + 1).contains(to), "{shares} {proposal:?}");
                assert!((2..=10_000).contains(to), "{proposal:?}");
                assert!(
                    !domain.threads.is_empty() || !proposal.reason.rule.contains("protect"),
                    "{proposal:?}"
                );
            }
            Action::PinVcpu { vcpu, to, .. } => {
                let mask = &pins[usize::try_from(*vcpu).unwrap()];
                assert!(!to.is_empty() && to.is_subset(mask) && to.is_subset(online), "{mask} {proposal:?}");
                let last = self.pinned.insert((proposal.domain, *vcpu), now);
                let rested = last.is_none_or(|last| now - last >= self.policy.placement.rest);
                assert!(rested || proposal.release, "pinned twice within a minute: {proposal:?}");
            }
            Action::PinEmulator { to, .. } => assert!(!to.is_empty() && to.is_subset(online)),
            Action::SetBalloon { from, to } => {
                let balloon = domain.balloon.expect("without a balloon nothing is known");
                assert!(*to <= KiB(domain.memory_maximum_kib), "{proposal:?}");
                if to < from {
                    assert!(*to >= self.policy.balloon.floor, "{proposal:?}");
                    assert!(domain.balloon_refusal.is_none(), "{proposal:?}");
                    let told = balloon.last_update_unix_s.expect("a guest that never tells keeps all");
                    assert!(
                        now.as_secs() - told <= self.policy.balloon.stale_after.as_secs(),
                        "{proposal:?}"
                    );
                }
            }
            _ => {}
        }
    }
}

fn live(scenario: &Scenario, policy: Policy, blind: usize, refused: usize) {
    let mut host = Host::new(scenario);
    let online = host.topology.online();
    let originals = host.domains.iter().map(|domain| (domain.uuid, (domain.shares, domain.pins.clone())));
    let originals = originals.collect();
    let (history, pinned) = (History::default(), BTreeMap::new());
    let mut watch = Watch { policy, history, originals, pinned, blind, refused, orders: 0 };
    let mut windows = Windows::default();
    let mut open: Vec<Proposal> = Vec::new();
    for _ in 0..240 {
        host.begin();
        let now = Duration::from_secs(host.second);
        for proposal in open.drain(..) {
            if host.apply(proposal.domain, &proposal.action) {
                watch.orders += 1;
                watch.history.applied(watch.orders, &proposal, now);
            }
        }
        host.advance(1.0);
        host.end();
        let plan = windows.plan(now, &watch.policy, false);
        let sample = Arc::new(watch.sample(&host, plan.detail));
        let moment = Moment { now, wall_unix_s: host.second };
        let decided =
            windows.decide(&sample, plan.due, moment, &watch.policy, &mut watch.history, |model, _| model);
        watch.again(&decided);
        let changes = |pace: &Option<(Model, decide::Decision)>| {
            pace.as_ref().map_or(0, |(_, decision)| {
                decision.proposals.iter().filter(|proposal| !proposal.release).count()
            })
        };
        assert!(changes(&decided.tick) <= watch.policy.guard.max_changes, "more than the budget in one tick");
        assert!(
            changes(&decided.cycle) <= watch.policy.guard.max_changes,
            "more than the budget in one cycle"
        );
        for (_, decision) in
            [decided.release, decided.arrival, decided.tick, decided.cycle].into_iter().flatten()
        {
            for proposal in decision.proposals {
                watch.look(&proposal, &sample, now, &online);
                open.push(proposal);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_the_host_is_like_the_limits_hold(
        (sockets, llcs, cores, threads) in (1_u32..3, 1_u32..3, 1_u32..4, 1_u32..3),
        domains in prop::collection::vec(any_domain(2), 1..8),
        blind in 0_usize..8,
        refused in 0_usize..8,
        allowed in prop::option::of(0_u32..2),
        memory_mib in prop_oneof![Just(1_u64 << 20), Just(4_096)],
    ) {
        let cores = cores.max(if sockets * llcs * threads == 1 { 2 } else { 1 });
        let mut domain = domains;
        domain.iter_mut().zip(1..).for_each(|(spec, n)| spec.name = format!("d{n}"));
        let mut policy = Policy { mode: Mode::Auto, ..Policy::default() };
        policy.periods.cycle = Duration::from_secs(10);
        policy.placement.allowed = allowed.map(|pcpu| CpuSet::from_iter([pcpu]));
        policy.domains = domain
            .iter()
            .filter(|spec| spec.class != ClassSetting::Auto)
            .map(|spec| DomainPolicy {
                name: spec.name.clone(),
                wishes: Wishes { class: Some(spec.class), ..Wishes::default() },
            })
            .collect();
        let scenario = Scenario {
            about: String::new(),
            hours: 1.0,
            seed: 1,
            coarse: 10,
            window_s: 60,
            cycle_s: 10,
            mode: Mode::Auto,
            settle_s: 0,
            host: HostSpec { sockets, llcs, cores, threads, memory_mib },
            domain,
            expect: super::Expect::default(),
        };
        live(&scenario, policy, blind, refused);
    }
}
