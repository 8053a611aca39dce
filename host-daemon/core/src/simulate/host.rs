//! The toy host: a machine, the domains on it, and one second of them.

use std::sync::Arc;

use uuid::Uuid;

use super::balance::Machine;
use super::memory::Memory;
use super::queue::{FINE, Group, Pace, Pcpu, Vcpu};
use super::random::Random;
use super::scenario::{DomainSpec, HostSpec, Scenario};
use crate::CpuSet;
use crate::order::Action;
use crate::topology::{Pcpu as PcpuFacts, Topology};

/// Speed of a thread while its SMT sibling works.
const SMT_SPEED: f64 = 0.65;
/// Speed on another node than the memory's.
const REMOTE_SPEED: f64 = 0.85;
/// Speed of a guest that swaps.
const THRASHING: f64 = 0.5;
/// Work that waits in a guest that serves others, and in another one, at most, in seconds of each vcpu.
const LONGEST_BACKLOG: (f64, f64) = (5.0, 0.5);
/// Part of a pcpu from which on a vcpu never sleeps.
const SPINS: f64 = 0.999;
pub(super) const NS: f64 = 1e9;
/// Where the scenario is not coarse, in ns: load balancing, work that comes at a time, the kernel's tick (`HZ=250`), and its
/// slice on one pcpu, which is longer by itself for each doubling up to 8 pcpus (`sched_tunable_scaling`).
const STEP: f64 = 1e6;
const CHUNK: f64 = 2e6;
const TICK: f64 = 4e6;
const SLICE: f64 = 0.7e6;
/// Steps between two rounds of the periodic balancing.
const BALANCE_STEPS: u64 = 100;

/// The toy host.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) second: u64,
    pub(super) topology: Topology,
    pub(super) memory_mib: u64,
    pub(super) machine: Machine,
    pub(super) domains: Vec<Domain>,
    seed: u64,
    wakers: Random,
    coarse: f64,
    steps: u64,
    /// ns since the beginning.
    now: f64,
}

/// One domain, running or not.
#[derive(Clone, Debug)]
pub(super) struct Domain {
    pub(super) spec: DomainSpec,
    pub(super) uuid: Uuid,
    pub(super) name: Arc<str>,
    pub(super) shares: u64,
    pub(super) pins: Vec<CpuSet>,
    pub(super) emulator_pin: CpuSet,
    /// Index of its first vcpu.
    pub(super) first: usize,
    pub(super) memory: Memory,
    pub(super) packets: f64,
    pub(super) was_there: bool,
    seed: u64,
    /// When work comes next to each vcpu.
    arrivals: Vec<(f64, Random)>,
    before: Second,
    /// In the last second.
    pub(super) last: Second,
}

/// Seconds of work done, of running and of waiting.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Second {
    pub(super) work: f64,
    pub(super) run: f64,
    pub(super) wait: f64,
}

impl Host {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let topology = topology(&scenario.host);
        let coarse = f64::from(scenario.coarse.max(1));
        let pcpus = machine_pcpus(&topology);
        let doublings = u32::try_from(pcpus.len()).unwrap_or(8).clamp(1, 8).ilog2();
        let slice = SLICE * f64::from(1 + doublings) * coarse;
        let online = topology.online();
        let mut machine = Machine { pcpus, vcpus: Vec::new(), groups: Vec::new(), slice };
        let mut domains = Vec::new();
        for spec in &scenario.domain {
            for number in 0..spec.count {
                let name = if spec.count > 1 { format!("{}{number}", spec.name) } else { spec.name.clone() };
                domains.push(Domain::new(spec, &name, domains.len(), scenario, &online, &mut machine));
            }
        }
        let (memory_mib, seed) = (scenario.host.memory_mib, scenario.seed);
        let wakers = Random::new(!seed);
        Self { second: 0, topology, memory_mib, machine, domains, seed, wakers, coarse, steps: 0, now: 0.0 }
    }

    pub(super) fn is_there(&self, domain: &Domain) -> bool {
        let DomainSpec { from_s, until_s, .. } = domain.spec;
        self.second >= from_s && until_s.is_none_or(|until| self.second < until)
    }

    /// A second begins: domains come and go, loads change.
    pub(super) fn begin(&mut self) {
        self.second += 1;
        for at in 0..self.domains.len() {
            let there = self.is_there(&self.domains[at]);
            let (second, seed, now, chunk) = (self.second, self.seed, self.now, CHUNK * self.coarse);
            let domain = &mut self.domains[at];
            let vcpus = domain.first..domain.first + domain.arrivals.len();
            if domain.was_there && !there {
                vcpus.clone().for_each(|vcpu| self.machine.remove(vcpu));
            }
            domain.was_there = there;
            let part = if there {
                (domain.spec.cpu.at(second, seed ^ domain.seed) / f64::from(domain.spec.vcpus))
                    .clamp(0.0, 1.0)
            } else {
                0.0
            };
            for ((next, random), vcpu) in domain.arrivals.iter_mut().zip(vcpus) {
                let work = &mut self.machine.vcpus[vcpu].work;
                if part >= SPINS {
                    *next = f64::INFINITY;
                    *work = f64::INFINITY;
                    if !self.machine.vcpus[vcpu].runnable {
                        self.machine.wake(vcpu, now, None);
                    }
                } else {
                    if work.is_infinite() {
                        // It ends as soon as it is looked at.
                        *work = 1.0;
                    }
                    // Without memory, so that the rate may change at any time.
                    *next = now + random.exponential(chunk / part);
                }
            }
        }
    }

    /// Runs for a part of a second.
    pub(super) fn advance(&mut self, part: f64) {
        let step = STEP * self.coarse;
        let (slice, tick) = (self.machine.slice, TICK * self.coarse);
        let pace = Pace { slice, tick, smt_speed: SMT_SPEED, remote_speed: REMOTE_SPEED };
        let steps = super::memory::count(part * NS / step);
        for _ in 0..steps {
            let end = self.now + step;
            self.arrive(end);
            let looks = self.steps.is_multiple_of(BALANCE_STEPS);
            if looks {
                #[expect(clippy::cast_precision_loss, reason = "a hundred")]
                self.machine.balance(step * BALANCE_STEPS as f64);
            }
            self.machine.fill_idle(looks);
            let turn = usize::try_from(self.steps % (1 << 20)).unwrap_or(0);
            self.machine.run(self.now, end, turn, pace);
            self.steps += 1;
            self.now = end;
        }
    }

    /// Work that comes until `end`.
    fn arrive(&mut self, end: f64) {
        let chunk = CHUNK * self.coarse;
        for domain in self.domains.iter_mut().filter(|domain| domain.was_there) {
            let serves = domain.spec.packets > 0.0;
            let most = NS * if serves { LONGEST_BACKLOG.0 } else { LONGEST_BACKLOG.1 };
            for (n, (next, random)) in domain.arrivals.iter_mut().enumerate() {
                if *next >= end {
                    continue;
                }
                let (first, vcpu) = (*next, domain.first + n);
                let part = (domain.spec.cpu.at(self.second, self.seed ^ domain.seed)
                    / f64::from(domain.spec.vcpus))
                .clamp(0.0, 1.0);
                while *next < end {
                    let work = &mut self.machine.vcpus[vcpu].work;
                    *work = (*work + chunk).min(most);
                    *next += random.exponential(chunk / part);
                }
                if !self.machine.vcpus[vcpu].runnable {
                    // Packets come in on any pcpu.
                    let waker = usize::try_from(self.wakers.next() >> 32).ok().filter(|_| serves);
                    self.machine.wake(vcpu, first, waker);
                }
            }
        }
    }

    /// The second is over: memory moves, and what came of the second is counted.
    pub(super) fn end(&mut self) {
        for (domain, group) in self.domains.iter_mut().zip(&mut self.machine.groups) {
            let sum = Second { work: group.done / NS, run: group.ran / NS, wait: group.waited / NS };
            let before = std::mem::replace(&mut domain.before, sum);
            domain.last = Second {
                work: sum.work - before.work,
                run: sum.run - before.run,
                wait: sum.wait - before.wait,
            };
            if !domain.was_there {
                continue;
            }
            if domain.last.work > 0.0 {
                domain.packets += domain.spec.packets;
            }
            let maximum = domain.memory.maximum;
            let load = domain.spec.memory.as_ref();
            let set = load.map_or(maximum / 4.0, |load| load.at(self.second, self.seed ^ domain.seed));
            domain.memory.step(set, &domain.spec);
            group.speed = if domain.memory.short() > 0.0 { THRASHING } else { 1.0 };
            if domain.spec.stats_period_s > 0 && self.second.is_multiple_of(domain.spec.stats_period_s) {
                domain.memory.report(self.second);
            }
        }
    }

    /// Carries a change out, as `act` does: unless what is live is not what the decision saw. Says whether it did.
    pub(super) fn apply(&mut self, uuid: Uuid, action: &Action) -> bool {
        let Some(at) = self.domains.iter().position(|domain| domain.uuid == uuid && domain.was_there) else {
            return false;
        };
        let domain = &mut self.domains[at];
        match action {
            Action::SetCpuShares { from, to } if domain.shares == *from => {
                domain.shares = *to;
                self.machine.groups[at].shares = shares(*to);
            }
            Action::PinVcpu { vcpu, from, to } => {
                let number = usize::try_from(*vcpu).unwrap_or(usize::MAX);
                let Some(pin) = domain.pins.get_mut(number).filter(|pin| **pin == *from) else {
                    return false;
                };
                *pin = to.clone();
                self.machine.confine(domain.first + number, indices(to), self.now);
            }
            Action::PinEmulator { from, to } if domain.emulator_pin == *from => {
                domain.emulator_pin = to.clone();
            }
            Action::SetBalloon { from, to } if domain.memory.current_kib() == from.0 => {
                domain.memory.target = to.as_f64() / 1024.0;
            }
            // No iothreads, no processes, and nobody who would do the rest.
            _ => return false,
        }
        true
    }
}

impl Domain {
    fn new(
        spec: &DomainSpec,
        name: &str,
        id: usize,
        scenario: &Scenario,
        online: &CpuSet,
        machine: &mut Machine,
    ) -> Self {
        let number = u32::try_from(id).unwrap_or(u32::MAX);
        let node = spec.node.unwrap_or_else(|| number % scenario.host.sockets.max(1));
        let node = usize::try_from(node).unwrap_or(0);
        let (first, group) = (machine.vcpus.len(), machine.groups.len());
        let home: Vec<usize> =
            (0..machine.pcpus.len()).filter(|pcpu| machine.pcpus[*pcpu].node == node).collect();
        let pin = spec.pin.clone().unwrap_or_else(|| online.clone());
        let vcpus = usize::try_from(spec.vcpus).unwrap_or(0);
        for n in 0..vcpus {
            let allowed = indices(&pin);
            let at = home.get((first + n) % home.len().max(1)).copied().unwrap_or(0);
            let at =
                if allowed.binary_search(&at).is_ok() { at } else { allowed.first().copied().unwrap_or(0) };
            machine.vcpus.push(Vcpu::new(group, allowed, at));
        }
        machine.groups.push(Group {
            shares: shares(spec.cpu_shares),
            runnable: 0,
            node,
            speed: 1.0,
            done: 0.0,
            ran: 0.0,
            waited: 0.0,
            waits: vec![0; FINE],
        });
        let seed = u64::from(number) << 32;
        let arrivals = (0..u64::from(spec.vcpus))
            .map(|vcpu| (f64::INFINITY, Random::new(scenario.seed ^ seed.wrapping_add(vcpu + 1))))
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "memory of a domain")]
        let memory = Memory::new(spec.memory_mib as f64);
        Self {
            spec: spec.clone(),
            uuid: Uuid::from_u128(u128::from(number) + 1),
            name: name.into(),
            shares: spec.cpu_shares,
            pins: vec![pin.clone(); vcpus],
            emulator_pin: pin,
            first,
            memory,
            packets: 0.0,
            was_there: false,
            seed,
            arrivals,
            before: Second::default(),
            last: Second::default(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "weights are below 2^18")]
fn shares(shares: u64) -> f64 {
    shares as f64
}

fn indices(pcpus: &CpuSet) -> Vec<usize> {
    pcpus.iter().filter_map(|pcpu| usize::try_from(pcpu).ok()).collect()
}

fn machine_pcpus(topology: &Topology) -> Vec<Pcpu> {
    let index = |number: Option<u32>| usize::try_from(number.unwrap_or(0)).unwrap_or(0);
    let pcpu = |facts: &PcpuFacts| {
        let sibling = topology.siblings(facts.id).iter().find(|other| *other != facts.id);
        let sibling = sibling.and_then(|other| usize::try_from(other).ok());
        Pcpu::new(index(facts.node), index(facts.llc), sibling)
    };
    topology.pcpus.iter().map(pcpu).collect()
}

/// Threads of a core are neighbours in number, as `lstopo -p` shows them on most laptops; what it is like does not matter.
fn topology(spec: &HostSpec) -> Topology {
    let of_llc = spec.cores * spec.threads;
    let of_socket = of_llc * spec.llcs;
    let pcpu = |id: u32| PcpuFacts {
        id,
        core: Some(id % of_socket / spec.threads.max(1)),
        socket: Some(id / of_socket),
        llc: Some(id / of_llc * of_llc),
        node: Some(id / of_socket),
        capacity: None,
    };
    Topology { pcpus: (0..spec.sockets * of_socket).map(pcpu).collect(), ..Topology::default() }
}
