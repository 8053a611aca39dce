//! One sample of the whole host: kernel, probes and inventory put together, in the fast loop. No libvirt call and no
//! agent call happens here.

use std::collections::BTreeMap;
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::sample::{
    DomainSample, DomainState, InterfaceSample, OwnSample, Sample, ThreadSample, ThreadSource,
};
use kvmpilot_core::topology::Topology;
use tokio::time::Instant;

use super::InventoryEntry;
use crate::kernel::{Kernel, ThreadInfo};
use crate::probes::{Probes, ThreadCounters, ThreadKey};

/// Time after which pcpus are looked for again: hot-plug is rare, and sysfs has a dozen files for each pcpu.
const TOPOLOGY_AGE: Duration = Duration::from_secs(10);
/// Time after which QEMU processes are looked for again where one is missing.
const QEMU_AGE: Duration = Duration::from_secs(1);

/// Reads the host.
#[derive(Debug)]
pub struct HostSense {
    kernel: Kernel,
    probes: Option<Probes>,
    qemus: BTreeMap<Uuid, (u32, u64)>,
    looked_for_qemus: Option<Instant>,
    topology: Topology,
    looked_at_topology: Option<Instant>,
}

impl HostSense {
    /// Reads with these probes, or without (tier 0).
    #[must_use]
    pub const fn new(kernel: Kernel, probes: Option<Probes>) -> Self {
        Self {
            kernel,
            probes,
            qemus: BTreeMap::new(),
            looked_for_qemus: None,
            topology: Topology { pcpus: Vec::new() },
            looked_at_topology: None,
        }
    }

    /// One sample, and what could not be read for it. `changed_at` tells when we changed a domain last: allocations
    /// that libvirt told before are not in the sample, because they are no longer true.
    pub fn sample(
        &mut self,
        inventory: &BTreeMap<Uuid, InventoryEntry>,
        changed_at: impl Fn(Uuid) -> Option<Instant>,
    ) -> (Sample, Vec<String>) {
        let mut unread = Vec::new();
        let mut note =
            |troubles: Vec<crate::kernel::Unread>| unread.extend(troubles.iter().map(ToString::to_string));
        let (host, trouble) = self.kernel.host();
        note(trouble);
        let now = Instant::now();
        if self.looked_at_topology.is_none_or(|at| now - at >= TOPOLOGY_AGE) {
            let (topology, trouble) = self.kernel.topology();
            note(trouble);
            if let Some(probes) = &mut self.probes {
                probes.set_topology(&topology);
            }
            self.topology = topology;
            self.looked_at_topology = Some(now);
        }
        let (taps, trouble) = self.kernel.interfaces();
        note(trouble);
        note(self.find_qemus(inventory, now));

        let mut threads = BTreeMap::new();
        for (uuid, (pid, _)) in &self.qemus {
            let (found, trouble) = self.kernel.threads(*pid);
            note(trouble);
            threads.insert(*uuid, found);
        }
        self.follow(&threads, &mut unread);

        let domains = inventory.iter().filter_map(|(uuid, entry)| {
            let mut domain = entry.domain.clone()?;
            let stale =
                changed_at(*uuid).is_some_and(|changed| entry.read_at.is_none_or(|read| read <= changed));
            if stale || entry.failures > 0 {
                forget_allocation(&mut domain);
            }
            domain.qemu_pid = self.qemus.get(uuid).map(|(pid, _)| *pid);
            domain.threads = threads
                .remove(uuid)
                .unwrap_or_default()
                .into_iter()
                .filter_map(|info| self.read(info))
                .collect();
            for tap in &mut domain.interfaces {
                fill(tap, &taps);
            }
            Some(domain)
        });
        let domains = domains.collect();
        (Sample { host, topology: self.topology.clone(), domains, own: OwnSample::default() }, unread)
    }

    /// Keeps the map from domain to QEMU process: forgets processes that ended, looks for missing ones now and then.
    fn find_qemus(
        &mut self,
        inventory: &BTreeMap<Uuid, InventoryEntry>,
        now: Instant,
    ) -> Vec<crate::kernel::Unread> {
        let kernel = &self.kernel;
        self.qemus.retain(|uuid, (pid, start_ticks)| {
            let lives = kernel.thread(*pid, *pid).is_ok_and(|main| main.start_ticks == *start_ticks);
            lives && inventory.contains_key(uuid)
        });
        let is_missing = |(uuid, entry): (&Uuid, &InventoryEntry)| {
            !self.qemus.contains_key(uuid)
                && entry.domain.as_ref().is_some_and(|domain| domain.state != DomainState::ShutOff)
        };
        if !inventory.iter().any(is_missing) || self.looked_for_qemus.is_some_and(|at| now - at < QEMU_AGE) {
            return Vec::new();
        }
        self.looked_for_qemus = Some(now);
        let (found, unread) = self.kernel.qemu_processes();
        for (uuid, pid) in found {
            if let Ok(main) = self.kernel.thread(pid, pid) {
                self.qemus.insert(uuid, (pid, main.start_ticks));
            }
        }
        unread
    }

    /// Lets the probes watch exactly the threads that are there.
    fn follow(&mut self, threads: &BTreeMap<Uuid, Vec<ThreadInfo>>, unread: &mut Vec<String>) {
        let Some(probes) = &mut self.probes else { return };
        let keys: BTreeMap<ThreadKey, Uuid> = threads
            .iter()
            .flat_map(|(domain, threads)| threads.iter().map(|info| (key(info), *domain)))
            .collect();
        unread.extend(probes.follow(&keys).iter().map(ToString::to_string));
    }

    /// A thread's counters. While it is on a pcpu the kernel's file is ahead of the probe by the present run, so it
    /// gives the totals; both read the same accumulators.
    fn read(&self, info: ThreadInfo) -> Option<ThreadSample> {
        let key = key(&info);
        let probes = self.probes.as_ref();
        let counters = probes.and_then(|probes| probes.read(key));
        let (tgid, tid) = (info.tgid, info.tid);
        // Probe first: what runs while we look can then only be ahead, never behind.
        let fresh = info.runnable || counters.as_ref().is_none_or(|counters| counters.running);
        let schedstat = if fresh { Some(self.kernel.schedstat(tgid, tid).ok()?) } else { None };
        let mut sample = info.into_sample(schedstat.unwrap_or_default());
        if let Some(counters) = counters {
            overlay(&mut sample, &counters, schedstat.is_some());
            sample.stolen = probes.and_then(|probes| probes.stolen(key));
        }
        Some(sample)
    }
}

fn key(info: &ThreadInfo) -> ThreadKey {
    ThreadKey { tid: info.tid, start_ticks: info.start_ticks }
}

fn overlay(sample: &mut ThreadSample, counters: &ThreadCounters, has_totals: bool) {
    if !has_totals {
        sample.on_cpu_ns = counters.totals.on_cpu_ns;
        sample.runq_wait_ns = counters.totals.runq_wait_ns;
    }
    sample.source = ThreadSource::Probe;
    sample.runq_wait_max_ns = Some(counters.max_wait_ns);
    sample.runq_wait_histogram = Some(counters.waits.to_vec());
    sample.switches_preempted = Some(counters.preempted);
    sample.switches_blocked = Some(counters.blocked);
    sample.migrations = Some(counters.migrations);
    sample.migrations_llc = counters.migrations_llc;
    sample.migrations_node = counters.migrations_node;
    sample.pcpu = Some(counters.pcpu);
}

/// What we may have changed since it was read.
fn forget_allocation(domain: &mut DomainSample) {
    domain.cpu_shares = None;
    domain.emulator_pin = None;
    domain.balloon = None;
    for vcpu in &mut domain.vcpus {
        vcpu.pin = None;
    }
}

fn fill(tap: &mut InterfaceSample, taps: &BTreeMap<String, InterfaceSample>) {
    if let Some(counters) = taps.get(&tap.device) {
        tap.clone_from(counters);
    }
}
