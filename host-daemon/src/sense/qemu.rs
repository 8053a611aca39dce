//! The QEMU processes of the domains and their threads, followed from cycle to cycle: what did not change is not looked
//! at again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::sample::{DetailSample, DomainState, NodeMemorySample};
use tokio::time::Instant;

use super::inventory::{Entries, InventoryEntry};
use super::signs::{Sign, Signs};
use super::thread::Followed;
use crate::kernel::{Detail, Hierarchies, Kernel, Process, QemuProcess, Shared};
use crate::probes::ThreadKey;

/// Time after which QEMU processes are looked for again where one is missing.
const QEMU_AGE: Duration = Duration::from_secs(1);
/// Time after which the ids of a process' threads are compared again although nothing says that they changed.
const LIST_AGE: Duration = Duration::from_secs(10);
/// Time after which the NUMA nodes of a domain's memory are looked at again: pages move slowly.
const MEMORY_AGE: Duration = Duration::from_secs(60);
/// QEMUs are found in crowds when the daemon starts; their looks are spread over so many parts of [`LIST_AGE`].
const SPREAD: u32 = 16;

/// All QEMU processes that are followed.
#[derive(Debug, Default)]
pub(super) struct Qemus {
    by_domain: BTreeMap<Uuid, Qemu>,
    looked_for: Option<Instant>,
    /// Domains of which no process was there then.
    missed: BTreeSet<Uuid>,
}

/// One QEMU process.
#[derive(Debug)]
pub(super) struct Qemu {
    pub(super) pid: u32,
    start_ticks: u64,
    /// `None` where the kernel or our limit of open files denies it: then `/proc` is asked each time.
    held: Option<Process>,
    /// In rising order of tid.
    pub(super) threads: Vec<Followed>,
    /// When the ids of the threads are compared again.
    due: Instant,
    /// The threads must be listed now. A thread is named only after its birth, so one change means two listings.
    pub(super) listings: u8,
    /// Files for the detailed reading; closed with the process.
    detail: Detail,
    /// Where its memory was at the last look.
    memory_by_node: Vec<NodeMemorySample>,
    /// When that is looked at again.
    memory_due: Instant,
    /// What tells that libvirt's word about it may be old.
    signs: Signs,
}

impl Qemus {
    /// The QEMU of a domain.
    pub(super) fn get_mut(&mut self, domain: Uuid) -> Option<&mut Qemu> {
        self.by_domain.get_mut(&domain)
    }

    /// All threads, with their domains.
    pub(super) fn keys(&self) -> BTreeMap<ThreadKey, Uuid> {
        let of = |(domain, qemu): (&Uuid, &Qemu)| {
            let domain = *domain;
            qemu.threads.iter().map(move |thread| (thread.key(), domain)).collect::<Vec<_>>()
        };
        self.by_domain.iter().flat_map(of).collect()
    }

    /// Forgets processes that ended, looks for missing ones now and then, and lists the threads of those whose threads
    /// changed. Whether any thread came or went, and what could not be read.
    pub(super) fn refresh(
        &mut self,
        kernel: &Kernel,
        inventory: &Entries,
        counting: bool,
        now: Instant,
    ) -> (bool, Vec<crate::kernel::Unread>) {
        let before = self.by_domain.len();
        self.forget(kernel, inventory);
        let mut changed = self.by_domain.len() != before;
        let mut unread = self.find(kernel, inventory, now);
        for qemu in self.by_domain.values_mut() {
            if qemu.is_due(kernel, counting, now) {
                let (mut threads, trouble) = kernel.threads(qemu.pid);
                unread.extend(trouble);
                let kthreads = kernel.vhost_kthreads(qemu.pid, &threads);
                threads.extend(kthreads);
                changed |= qemu.take(threads, now);
            }
        }
        (changed, unread)
    }

    fn forget(&mut self, kernel: &Kernel, inventory: &Entries) {
        let held = || self.by_domain.values().filter_map(|qemu| qemu.held.as_ref());
        let mut ended = match Process::ended(held()) {
            Ok(ended) => ended.into_iter(),
            // Then nothing is held any more, and each is asked for.
            Err(error) => {
                tracing::warn!(%error, "QEMU processes cannot be polled");
                self.by_domain.values_mut().for_each(|qemu| qemu.held = None);
                Vec::new().into_iter()
            }
        };
        self.by_domain.retain(|uuid, qemu| {
            let lives = match &qemu.held {
                Some(_) => ended.next() == Some(false),
                None => is_there(kernel, qemu.pid, qemu.start_ticks),
            };
            lives && inventory.contains_key(uuid)
        });
    }

    fn find(&mut self, kernel: &Kernel, inventory: &Entries, now: Instant) -> Vec<crate::kernel::Unread> {
        let is_missing = |(uuid, entry): &(&Uuid, &Arc<InventoryEntry>)| {
            !self.by_domain.contains_key(uuid)
                && entry.domain.as_ref().is_some_and(|domain| domain.state != DomainState::ShutOff)
        };
        let missing: BTreeSet<Uuid> = inventory.iter().filter(is_missing).map(|(uuid, _)| *uuid).collect();
        let looked = self.looked_for.is_some_and(|at| now - at < QEMU_AGE);
        // One that has just come is looked for at once, others now and then.
        if missing.is_empty() || looked && missing.is_subset(&self.missed) {
            self.missed = missing;
            return Vec::new();
        }
        self.looked_for = Some(now);
        let (found, unread) = kernel.qemu_processes();
        for (uuid, pid) in found {
            if inventory.contains_key(&uuid) && !self.by_domain.contains_key(&uuid) {
                self.by_domain.extend(Qemu::follow(kernel, pid, now).map(|qemu| (uuid, qemu)));
            }
        }
        self.missed = missing;
        unread
    }
}

fn is_there(kernel: &Kernel, pid: u32, start_ticks: u64) -> bool {
    kernel.thread(pid, pid).is_ok_and(|main| main.start_ticks == start_ticks)
}

impl Qemu {
    fn follow(kernel: &Kernel, pid: u32, now: Instant) -> Option<Self> {
        let start_ticks = kernel.thread(pid, pid).ok()?.start_ticks;
        let held = match kernel.hold(pid) {
            // The pid may have gone to another process in between.
            Ok(held) => Some(held).filter(|_| is_there(kernel, pid, start_ticks)),
            Err(error) => {
                tracing::debug!(pid, %error, "a QEMU process cannot be held");
                None
            }
        };
        Some(Self {
            pid,
            start_ticks,
            held,
            threads: Vec::new(),
            due: now,
            listings: 2,
            detail: Detail::default(),
            memory_by_node: Vec::new(),
            memory_due: now,
            signs: Signs::new(pid, now),
        })
    }

    /// Whether the threads must be listed. Births are counted by the probe if it is `counting`, and ends are noticed when a
    /// thread is read; otherwise the kernel tells the number of threads.
    fn is_due(&mut self, kernel: &Kernel, counting: bool, now: Instant) -> bool {
        if self.listings > 0 {
            return true;
        }
        let own = || self.threads.iter().filter(|thread| thread.is_of(self.pid));
        let count = || self.held.as_ref().and_then(|held| held.thread_count().ok());
        if !counting && count().is_none_or(|count| count != own().count()) {
            self.listings = 2;
        } else if now >= self.due {
            // With ends noticed, as many threads are the same threads.
            let same = count().map_or_else(
                || kernel.has_threads(self.pid, own().map(|thread| thread.key().tid)),
                |count| count == own().count(),
            );
            // A vhost worker that is no thread of QEMU comes without any sign.
            if !same || kernel.vhost_is_apart() {
                self.listings = 2;
            }
            self.postpone(now);
        }
        self.listings > 0
    }

    /// Takes over a new list. What is known of a thread that is still there stays. Whether any came or went.
    fn take(&mut self, listed: Vec<crate::kernel::ThreadInfo>, now: Instant) -> bool {
        self.listings -= 1;
        self.postpone(now);
        let mut known: BTreeMap<ThreadKey, Followed> =
            std::mem::take(&mut self.threads).into_iter().map(|thread| (thread.key(), thread)).collect();
        let mut changed = false;
        for info in listed {
            let new = Followed::new(info);
            match known.remove(&new.key()) {
                Some(old) => self.threads.push(old.renamed(new)),
                None => {
                    changed = true;
                    self.threads.push(new);
                }
            }
        }
        self.signs.note_threads(self.threads.iter().map(Followed::purpose));
        if changed {
            // Births of a new thread are counted only from now on.
            self.listings = self.listings.max(1);
        }
        changed || !known.is_empty()
    }

    /// Whether it shows that it is not as `entry` says.
    pub(super) fn sign(
        &mut self,
        kernel: &Kernel,
        entry: &InventoryEntry,
        hierarchies: impl FnOnce() -> Option<Hierarchies>,
        now: Instant,
    ) -> Option<Sign> {
        self.signs.look(kernel, self.pid, entry, hierarchies, now)
    }

    /// Where its vcpus' time goes.
    pub(super) fn detail(&mut self, kernel: &Kernel, kvm: bool, shared: &mut Shared) -> DetailSample {
        let vcpus: Vec<_> = self.threads.iter().filter_map(Followed::vcpu).collect();
        let asleep: Vec<_> = self.threads.iter().filter_map(Followed::asleep).collect();
        let process =
            QemuProcess { pid: self.pid, held: self.held.as_ref(), vcpus: &vcpus, kvm, asleep: &asleep };
        self.detail.read(kernel, process, shared)
    }

    /// On which NUMA nodes its memory is, looked at now and then. Unknown where the kernel does not tell.
    pub(super) fn memory_by_node(&mut self, kernel: &Kernel, now: Instant) -> Vec<NodeMemorySample> {
        if now >= self.memory_due {
            self.memory_by_node = kernel.memory_by_node(self.pid).unwrap_or_default();
            self.memory_due = now + MEMORY_AGE;
        }
        self.memory_by_node.clone()
    }

    fn postpone(&mut self, now: Instant) {
        self.due = now + LIST_AGE - LIST_AGE / 2 / SPREAD * (self.pid % SPREAD);
    }
}
