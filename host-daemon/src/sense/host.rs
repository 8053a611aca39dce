//! One sample of the whole host: kernel, probes and inventory put together, in the fast loop. No libvirt call and no
//! agent call happens here.

use std::collections::BTreeMap;
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::competitor::COMPETITORS;
use kvmpilot_core::sample::{DomainSample, InterfaceSample, ProgramSample, Sample};
use kvmpilot_core::topology::Topology;
use tokio::time::Instant;

use super::inventory::{Entries, InventoryEntry};
use super::own::Meter;
use super::qemu::Qemus;
use super::signs::Sign;
use super::thread::Depth;
use crate::kernel::{Hierarchies, Kernel, Shared};
use crate::probes::Probes;

/// Time after which pcpus are looked for again: hot-plug is rare, and sysfs has a dozen files for each pcpu.
const TOPOLOGY_AGE: Duration = Duration::from_secs(10);
/// Time after which other daemons are looked for again: it means a look at each process of the host.
const COMPETITORS_AGE: Duration = Duration::from_secs(30);
/// Time after which the mounts of cgroups are looked at again, where they are needed.
const MOUNTS_AGE: Duration = Duration::from_secs(60);
/// One thread of so many is checked in each cycle against the kernel's file, even if the probe says that it sleeps:
/// kernels have been seen that do not trace each switch.
const CHECK_ONE_OF: usize = 10;

/// Reads the host.
#[derive(Debug)]
pub struct HostSense {
    kernel: Kernel,
    probes: Option<Probes>,
    qemus: Qemus,
    /// Threads that the probes could not take last time, in words: they are tried again.
    unwatched: Vec<String>,
    topology: Topology,
    looked_at_topology: Option<Instant>,
    competitors: Vec<String>,
    looked_for_competitors: Option<Instant>,
    cycles: usize,
    meter: Meter,
    /// What the detailed readings of all QEMUs have in common.
    shared: Shared,
    /// Where cgroups are mounted, and since when that is known.
    hierarchies: Option<(Hierarchies, Instant)>,
    /// Signs that were seen and not taken yet.
    signs: Vec<(Uuid, Sign)>,
}

/// How much a sample holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cadence {
    /// Totals only, for the fast loop.
    Fast,
    /// Everything: histograms and what else costs time to read.
    Detail,
}

impl Cadence {
    /// Everything if a window that needs `detail` ends.
    #[must_use]
    pub const fn of(detail: bool) -> Self {
        if detail { Self::Detail } else { Self::Fast }
    }
}

impl HostSense {
    /// Reads with these probes, or without (tier 0).
    #[must_use]
    pub fn new(kernel: Kernel, probes: Option<Probes>) -> Self {
        Self {
            kernel,
            probes,
            qemus: Qemus::default(),
            unwatched: Vec::new(),
            topology: Topology::default(),
            looked_at_topology: None,
            competitors: Vec::new(),
            looked_for_competitors: None,
            cycles: 0,
            meter: Meter::default(),
            shared: Shared::default(),
            hierarchies: None,
            signs: Vec::new(),
        }
    }

    /// One sample, and what could not be read for it. `changed_at` tells when we changed a domain last: allocations
    /// that libvirt told before are not in the sample, because they are no longer true.
    pub fn sample(
        &mut self,
        inventory: &Entries,
        changed_at: impl Fn(Uuid) -> Option<Instant>,
        cadence: Cadence,
    ) -> (Sample, Vec<String>) {
        let mut unread = Vec::new();
        let mut note =
            |troubles: Vec<crate::kernel::Unread>| unread.extend(troubles.iter().map(ToString::to_string));
        let (mut host, trouble) = self.kernel.host();
        note(trouble);
        let now = Instant::now();
        if self.looked_for_competitors.is_none_or(|at| now - at >= COMPETITORS_AGE) {
            self.competitors = self.kernel.running(&COMPETITORS.map(|competitor| competitor.name));
            self.looked_for_competitors = Some(now);
        }
        host.competitors.clone_from(&self.competitors);
        host.sched_ext = self.kernel.sched_ext();
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
        // Births are counted for threads that are watched, and some are not where the table is full.
        let counting = self.probes.is_some() && self.unwatched.is_empty();
        let (changed, trouble) = self.qemus.refresh(&self.kernel, inventory, counting, now);
        note(trouble);
        self.watch(changed);
        unread.extend_from_slice(&self.unwatched);

        self.cycles = self.cycles.wrapping_add(1);
        let mut turn = self.cycles;
        let mut domains = Vec::with_capacity(inventory.len());
        for (uuid, entry) in inventory {
            let changed = changed_at(*uuid);
            domains.extend(self.domain(*uuid, entry, changed, &taps, cadence, &mut turn));
        }
        let own = self.meter.sample(&self.kernel, self.probes.as_mut(), now);
        (Sample { host, topology: self.topology.clone(), domains, own }, unread)
    }

    /// The domains that showed, since this was asked last, that they are not as libvirt told.
    pub fn signs(&mut self) -> Vec<(Uuid, Sign)> {
        std::mem::take(&mut self.signs)
    }

    /// What programs have counted that are not the scheduler probe's: they are in the next sample.
    pub fn note_programs(&mut self, others: Vec<ProgramSample>) {
        self.meter.note(others);
    }

    /// Lets the probes watch exactly the threads that are there.
    fn watch(&mut self, changed: bool) {
        if let Some(probes) = &mut self.probes
            && (changed || !self.unwatched.is_empty())
        {
            self.unwatched = probes.follow(&self.qemus.keys()).iter().map(ToString::to_string).collect();
        }
    }

    fn domain(
        &mut self,
        uuid: Uuid,
        entry: &InventoryEntry,
        changed: Option<Instant>,
        taps: &BTreeMap<String, InterfaceSample>,
        cadence: Cadence,
        turn: &mut usize,
    ) -> Option<DomainSample> {
        let mut domain = entry.domain.clone()?;
        domain.quarantine = entry.quarantine(Instant::now());
        domain.name.clone_from(&entry.name);
        let stale = |read: Option<Instant>| {
            changed.is_some_and(|changed| read.is_none_or(|read| read <= changed)) || entry.failures > 0
        };
        let balloon = domain.balloon.filter(|_| !stale(entry.balloon_read_at));
        if stale(entry.read_at) {
            forget_allocation(&mut domain);
        }
        domain.balloon = balloon;
        for tap in &mut domain.interfaces {
            if let Some(counters) = taps.get(&tap.device) {
                tap.clone_from(counters);
            }
        }
        let Some(qemu) = self.qemus.get_mut(uuid) else { return Some(domain) };
        domain.qemu_pid = Some(qemu.pid);
        domain.threads.reserve_exact(qemu.threads.len());
        for thread in &mut qemu.threads {
            *turn = turn.wrapping_add(1);
            let check = turn.is_multiple_of(CHECK_ONE_OF);
            let depth = Depth { detail: cadence == Cadence::Detail, check };
            match thread.read(&self.kernel, self.probes.as_ref(), depth) {
                Some(sample) => {
                    domain.threads.push(sample);
                    if thread.gave_birth() {
                        qemu.listings = 2;
                    }
                }
                // Gone, or not the one that we know any more.
                None => qemu.listings = 2,
            }
        }
        let now = Instant::now();
        let hierarchies = || mounted(&mut self.hierarchies, &self.kernel, now);
        self.signs.extend(qemu.sign(&self.kernel, entry, hierarchies, now).map(|sign| (uuid, sign)));
        if cadence == Cadence::Detail && self.topology.nodes.len() > 1 {
            domain.memory_by_node = qemu.memory_by_node(&self.kernel, Instant::now());
        }
        if cadence == Cadence::Detail {
            let kvm = domain.accel == "kvm";
            domain.detail = Some(qemu.detail(&self.kernel, kvm, &mut self.shared));
        }
        Some(domain)
    }
}

/// Where cgroups are mounted: what is known, unless that is old.
fn mounted(known: &mut Option<(Hierarchies, Instant)>, kernel: &Kernel, now: Instant) -> Option<Hierarchies> {
    if known.as_ref().is_none_or(|(_, at)| now - *at >= MOUNTS_AGE) {
        *known = kernel.hierarchies().ok().map(|hierarchies| (hierarchies, now));
    }
    known.as_ref().map(|(hierarchies, _)| hierarchies.clone())
}

/// What we may have changed since it was read, but for the balloon, which is read more often.
fn forget_allocation(domain: &mut DomainSample) {
    domain.cpu_shares = None;
    domain.emulator_pin = None;
    for vcpu in &mut domain.vcpus {
        vcpu.pin = None;
    }
    for iothread in &mut domain.iothreads {
        iothread.pin = None;
    }
}
