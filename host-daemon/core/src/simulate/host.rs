//! The toy host: pcpus, domains, and one second of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::memory::{Memory, count};
use super::scenario::{DomainSpec, HostSpec, Scenario};
use super::share::{Claim, share};
use crate::CpuSet;
use crate::order::Action;
use crate::sample::{
    DomainSample, DomainState, HostSample, InterfaceSample, MemorySample, PcpuSample, Runner, Sample,
    StolenSample, ThreadRole, ThreadSample, ThreadSource, VcpuSample,
};
use crate::topology::{Pcpu, Topology};

/// Part that a busy SMT sibling takes of a thread's speed.
const SMT_SLOWS: f64 = 0.35;
/// Speed on another node than the memory's.
const REMOTE: f64 = 0.85;
/// Seconds of work lost by a move to another pcpu, and by one to another last-level cache.
const MOVE_COSTS: (f64, f64) = (0.0005, 0.002);
/// Wake-ups a second of a vcpu that sleeps now and then.
const WAKE_UPS: f64 = 100.0;
/// The scheduler's slice, in seconds.
const SLICE: f64 = 0.003;
/// Speed of a guest that swaps.
const THRASHING: f64 = 0.5;
/// Work that waits in a guest that serves others, at most, in seconds of all its vcpus.
const LONGEST_BACKLOG: f64 = 5.0;
/// Buckets of a histogram of waits.
const BUCKETS: usize = 64;
const NS: f64 = 1e9;

/// The toy host.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) second: u64,
    topology: Topology,
    siblings: Vec<Vec<usize>>,
    memory_mib: u64,
    seed: u64,
    busy_ns: Vec<f64>,
    pub(super) domains: Vec<Domain>,
}

/// One domain, running or not.
#[derive(Clone, Debug)]
pub(super) struct Domain {
    pub(super) spec: DomainSpec,
    pub(super) uuid: Uuid,
    pub(super) name: Arc<str>,
    seed: u64,
    node: u32,
    shares: u64,
    emulator_pin: CpuSet,
    vcpus: Vec<Vcpu>,
    pub(super) memory: Memory,
    backlog: f64,
    packets: f64,
    /// In the last second: seconds of work done, of waiting, of running, and how many waits there were.
    pub(super) last: Second,
}

/// What a domain did in one second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Second {
    pub(super) work: f64,
    pub(super) run: f64,
    pub(super) wait: f64,
    pub(super) waits: f64,
}

/// A vcpu that wants to run.
#[derive(Clone, Copy, Debug)]
struct Want {
    domain: usize,
    vcpu: usize,
    weight: f64,
    /// Part of a second.
    part: f64,
}

#[derive(Clone, Debug)]
struct Vcpu {
    pin: CpuSet,
    allowed: Vec<usize>,
    pcpu: usize,
    run_ns: f64,
    wait_ns: f64,
    histogram: [f64; BUCKETS],
    stolen: BTreeMap<Runner, f64>,
}

impl Host {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let topology = topology(&scenario.host);
        let online = topology.online();
        let siblings = (0..)
            .zip(&topology.pcpus)
            .map(|(own, pcpu): (usize, _)| {
                topology
                    .siblings(pcpu.id)
                    .iter()
                    .filter_map(|id| usize::try_from(id).ok())
                    .filter(|id| *id != own)
                    .collect()
            })
            .collect();
        let mut domains = Vec::new();
        for spec in &scenario.domain {
            for number in 0..spec.count {
                let name = if spec.count > 1 { format!("{}{number}", spec.name) } else { spec.name.clone() };
                let id = u32::try_from(domains.len()).unwrap_or(u32::MAX);
                let node = spec.node.unwrap_or(id % scenario.host.sockets.max(1));
                domains.push(Domain::new(spec, &name, id, node, &online));
            }
        }
        let busy_ns = vec![0.0; topology.pcpus.len()];
        let (memory_mib, seed) = (scenario.host.memory_mib, scenario.seed);
        Self { second: 0, topology, siblings, memory_mib, seed, busy_ns, domains }
    }

    pub(super) fn is_there(&self, domain: &Domain) -> bool {
        let DomainSpec { from_s, until_s, .. } = domain.spec;
        self.second >= from_s && until_s.is_none_or(|until| self.second < until)
    }

    /// One second.
    pub(super) fn step(&mut self) {
        self.second += 1;
        let (second, seed) = (self.second, self.seed);
        let mut wants: Vec<Want> = Vec::new();
        for at in 0..self.domains.len() {
            let there = self.is_there(&self.domains[at]);
            let domain = &mut self.domains[at];
            domain.last = Second::default();
            if !there {
                continue;
            }
            let vcpus = f64::from(domain.spec.vcpus);
            let arrived = domain.spec.cpu.at(second, seed ^ domain.seed);
            domain.backlog += arrived;
            let demand = if domain.spec.packets > 0.0 { domain.backlog } else { arrived }.min(vcpus);
            let part = demand / vcpus;
            if part <= 0.0 {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "weights are below 2^18")]
            let weight = domain.shares as f64 / vcpus;
            wants.extend((0..domain.vcpus.len()).map(|vcpu| Want { domain: at, vcpu, weight, part }));
        }
        self.balance(&mut wants);
        self.run(&wants);
        for at in 0..self.domains.len() {
            let there = self.is_there(&self.domains[at]);
            let domain = &mut self.domains[at];
            if !there {
                continue;
            }
            let vcpus = f64::from(domain.spec.vcpus);
            domain.backlog = (domain.backlog - domain.last.run).clamp(0.0, LONGEST_BACKLOG * vcpus);
            if domain.spec.packets > 0.0 && domain.last.run > 0.0 {
                domain.packets += domain.spec.packets;
            }
            let maximum = domain.memory.maximum;
            let set =
                domain.spec.memory.as_ref().map_or(maximum / 4.0, |load| load.at(second, seed ^ domain.seed));
            #[expect(clippy::cast_precision_loss, reason = "a rate of a balloon")]
            domain.memory.step(set, domain.spec.balloon_mib_per_s as f64);
            if domain.memory.short() > 0.0 {
                domain.last.work *= THRASHING;
            }
            if domain.spec.stats_period_s > 0 && second.is_multiple_of(domain.spec.stats_period_s) {
                domain.memory.report(second);
            }
        }
    }

    /// Spreads those who want something over the pcpus that they may use, by the time that they want: a pcpu that runs out
    /// of work pulls some, whatever the weights are. Who has few places goes first, then who weighs most; nobody moves for
    /// less than a quarter of what it wants.
    fn balance(&mut self, wants: &mut [Want]) {
        wants.sort_by(|a, b| {
            let few = |want: &Want| self.domains[want.domain].vcpus[want.vcpu].allowed.len();
            let heavy = |want: &Want| want.weight * want.part;
            few(a)
                .cmp(&few(b))
                .then(heavy(b).total_cmp(&heavy(a)))
                .then((a.domain, a.vcpu).cmp(&(b.domain, b.vcpu)))
        });
        let mut load = vec![(0.0_f64, 0.0_f64); self.busy_ns.len()];
        for Want { domain, vcpu, weight, part } in wants.iter() {
            let vcpu = &mut self.domains[*domain].vcpus[*vcpu];
            let by_load = |a: &usize, b: &usize| {
                let (a, b) = (load[*a], load[*b]);
                a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
            };
            let Some(least) = vcpu.allowed.iter().copied().min_by(by_load) else { continue };
            let stays = vcpu.allowed.binary_search(&vcpu.pcpu).is_ok()
                && load[vcpu.pcpu].0 <= load[least].0 + part / 4.0;
            let to = if stays { vcpu.pcpu } else { least };
            if to != vcpu.pcpu {
                let llc = |pcpu: usize| self.topology.pcpus.get(pcpu).and_then(|pcpu| pcpu.llc);
                let cost = if llc(to) == llc(vcpu.pcpu) { MOVE_COSTS.0 } else { MOVE_COSTS.1 };
                vcpu.pcpu = to;
                self.domains[*domain].last.work -= cost;
            }
            load[to].0 += part;
            load[to].1 += weight * part;
        }
    }

    fn run(&mut self, wants: &[Want]) {
        let mut queues: Vec<Vec<(usize, usize, Claim)>> = vec![Vec::new(); self.busy_ns.len()];
        for Want { domain, vcpu, weight, part } in wants {
            let claim = Claim { weight: *weight, wanted: *part };
            queues[self.domains[*domain].vcpus[*vcpu].pcpu].push((*domain, *vcpu, claim));
        }
        let got: Vec<_> = queues
            .iter()
            .map(|queue| share(&queue.iter().map(|(_, _, claim)| *claim).collect::<Vec<_>>()))
            .collect();
        let busy: Vec<f64> = got.iter().map(|got| got.iter().map(|got| got.run).sum()).collect();
        for (pcpu, (queue, got)) in queues.iter().zip(&got).enumerate() {
            self.busy_ns[pcpu] += busy[pcpu] * NS;
            let beside = self.siblings[pcpu].iter().map(|sibling| busy[*sibling]).fold(0.0, f64::max);
            let node = self.topology.pcpus.get(pcpu).and_then(|pcpu| pcpu.node);
            for (n, (at, number, claim)) in queue.iter().enumerate() {
                let (run, wait) = (got[n].run, got[n].wait);
                let others = busy[pcpu] - run;
                let by: Vec<(Runner, f64)> = queue
                    .iter()
                    .zip(got)
                    .enumerate()
                    .filter(|(other, _)| *other != n && others > 0.0)
                    .map(|(_, ((other, ..), got))| {
                        (Runner::Domain(self.domains[*other].uuid), wait * got.run / others)
                    })
                    .collect();
                let domain = &mut self.domains[*at];
                let speed = (1.0 - SMT_SLOWS * beside) * if node == Some(domain.node) { 1.0 } else { REMOTE };
                let waits = if claim.wanted < 1.0 { WAKE_UPS } else { (run / SLICE).max(1.0) };
                domain.last.work += run * speed;
                domain.last.run += run;
                domain.last.wait += wait;
                domain.last.waits += waits;
                domain.vcpus[*number].count(run, wait, waits, by);
            }
        }
    }

    /// Carries a change out.
    pub(super) fn apply(&mut self, uuid: Uuid, action: &Action) {
        let Some(domain) = self.domains.iter_mut().find(|domain| domain.uuid == uuid) else { return };
        match action {
            Action::SetCpuShares { to, .. } => domain.shares = *to,
            Action::PinVcpu { vcpu, to, .. } => {
                let vcpu = usize::try_from(*vcpu).ok().and_then(|at| domain.vcpus.get_mut(at));
                if let Some(vcpu) = vcpu {
                    vcpu.allowed = indices(to);
                    vcpu.pin = to.clone();
                }
            }
            Action::PinEmulator { to, .. } => domain.emulator_pin = to.clone(),
            Action::SetBalloon { to, .. } => domain.memory.target = to.as_f64() / 1024.0,
            // No iothreads, no processes, and nobody who would do the rest.
            Action::PinIothread { .. }
            | Action::SetLevel { .. }
            | Action::MoreVcpus { .. }
            | Action::MoreMemory { .. }
            | Action::MoveAway { .. } => {}
        }
    }

    /// What the daemon would read now.
    pub(super) fn sample(&self) -> Sample {
        let there: Vec<&Domain> = self.domains.iter().filter(|domain| self.is_there(domain)).collect();
        let used: f64 = there.iter().map(|domain| domain.memory.current).sum();
        #[expect(clippy::cast_precision_loss, reason = "2^53 is more than any time or memory here")]
        let (second, total) = (self.second as f64, self.memory_mib as f64);
        let memory = MemorySample {
            total_kib: super::memory::kib(total),
            available_kib: super::memory::kib((total - used).max(0.0)),
        };
        let pcpus = self.topology.pcpus.iter().zip(&self.busy_ns).map(|(pcpu, busy)| PcpuSample {
            id: pcpu.id,
            busy_ns: count(*busy),
            idle_ns: count((second * NS - busy).max(0.0)),
        });
        Sample {
            host: HostSample { memory: Some(memory), pcpus: pcpus.collect(), ..HostSample::default() },
            topology: self.topology.clone(),
            domains: there.into_iter().map(Domain::sample).collect(),
            ..Sample::default()
        }
    }
}

impl Domain {
    fn new(spec: &DomainSpec, name: &str, id: u32, node: u32, online: &CpuSet) -> Self {
        let vcpu = Vcpu {
            pin: online.clone(),
            allowed: indices(online),
            pcpu: 0,
            run_ns: 0.0,
            wait_ns: 0.0,
            histogram: [0.0; BUCKETS],
            stolen: BTreeMap::new(),
        };
        #[expect(clippy::cast_precision_loss, reason = "memory of a domain")]
        let memory = Memory::new(spec.memory_mib as f64);
        Self {
            spec: spec.clone(),
            uuid: Uuid::from_u128(u128::from(id) + 1),
            name: name.into(),
            seed: u64::from(id) << 32,
            node,
            shares: 1024,
            emulator_pin: online.clone(),
            vcpus: vec![vcpu; usize::try_from(spec.vcpus).unwrap_or(0)],
            memory,
            backlog: 0.0,
            packets: 0.0,
            last: Second::default(),
        }
    }

    fn sample(&self) -> DomainSample {
        // Ids that nobody else has.
        let pid = u32::try_from(self.uuid.as_u128() % (1 << 20)).unwrap_or(0) << 10;
        let thread = |tid, role| ThreadSample {
            tid,
            tgid: pid,
            start_ticks: 1,
            role,
            comm: Arc::clone(&self.name),
            source: ThreadSource::Probe,
            on_cpu_ns: 0,
            runq_wait_ns: 0,
            runq_wait_max_ns: None,
            runq_wait_histogram: None,
            switches_preempted: None,
            switches_blocked: None,
            migrations: None,
            migrations_llc: None,
            migrations_node: None,
            stolen: None,
            pcpu: None,
        };
        let vcpus = (0..).zip(&self.vcpus);
        let of_vcpu = |(number, vcpu): (u32, &Vcpu)| ThreadSample {
            on_cpu_ns: count(vcpu.run_ns),
            runq_wait_ns: count(vcpu.wait_ns),
            runq_wait_histogram: Some(vcpu.histogram.iter().map(|waits| count(*waits)).collect()),
            stolen: Some(
                vcpu.stolen.iter().map(|(by, ns)| StolenSample { by: *by, ns: count(*ns) }).collect(),
            ),
            pcpu: u32::try_from(vcpu.pcpu).ok(),
            ..thread(pid + 1 + number, ThreadRole::Vcpu(number))
        };
        let packets = Some(count(self.packets));
        DomainSample {
            uuid: self.uuid,
            name: self.name.to_string(),
            state: DomainState::Running,
            accel: "kvm".to_owned(),
            qemu_pid: Some(pid),
            vcpus: vcpus
                .clone()
                .map(|(number, vcpu)| VcpuSample { number, pin: Some(vcpu.pin.clone()) })
                .collect(),
            emulator_pin: Some(self.emulator_pin.clone()),
            iothreads: Vec::new(),
            policy: None,
            cpu_shares: Some(self.shares),
            memory_maximum_kib: super::memory::kib(self.memory.maximum),
            balloon: Some(self.memory.sample()),
            balloon_refusal: None,
            agent_connected: None,
            job_active: false,
            interfaces: vec![InterfaceSample {
                device: format!("vnet{}", self.uuid.as_u128()),
                received_bytes: packets.map(|packets| packets * 500),
                sent_bytes: packets.map(|packets| packets * 500),
                received_packets: packets,
                sent_packets: packets,
            }],
            user_networking: false,
            threads: std::iter::once(thread(pid, ThreadRole::Emulator)).chain(vcpus.map(of_vcpu)).collect(),
            detail: None,
        }
    }
}

impl Vcpu {
    fn count(&mut self, run: f64, wait: f64, waits: f64, by: Vec<(Runner, f64)>) {
        self.run_ns += run * NS;
        self.wait_ns += wait * NS;
        let each = count(wait * NS / waits).max(1);
        let bucket = usize::try_from(each.ilog2()).unwrap_or(0).min(BUCKETS - 1);
        self.histogram[bucket] += waits;
        for (runner, part) in by {
            *self.stolen.entry(runner).or_default() += part * NS;
        }
    }
}

fn indices(pcpus: &CpuSet) -> Vec<usize> {
    pcpus.iter().filter_map(|pcpu| usize::try_from(pcpu).ok()).collect()
}

/// Threads of a core are neighbours in number, as `lstopo -p` shows them on most laptops; what it is like does not matter.
fn topology(spec: &HostSpec) -> Topology {
    let of_llc = spec.cores * spec.threads;
    let of_socket = of_llc * spec.llcs;
    let pcpu = |id: u32| Pcpu {
        id,
        core: Some(id % of_socket / spec.threads.max(1)),
        socket: Some(id / of_socket),
        llc: Some(id / of_llc * of_llc),
        node: Some(id / of_socket),
        ..Pcpu::default()
    };
    Topology { pcpus: (0..spec.sockets * of_socket).map(pcpu).collect() }
}
