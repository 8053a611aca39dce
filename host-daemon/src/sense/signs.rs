//! Signs that a domain is not as libvirt told it last, from the kernel, for what has no event of libvirt's: vcpus and iothreads
//! that are plugged, jobs that begin or end, a weight that somebody writes into the cgroup, and a QEMU that is stopped.
//!
//! They cost two small reads per domain each five seconds, and nothing where no thread came or went. A deadlock inside QEMU shows
//! no sign here: its main thread sleeps as always.

use std::time::Duration;

use kvmpilot_core::sample::ThreadRole;
use tokio::time::Instant;

use super::inventory::InventoryEntry;
use crate::kernel::{Hierarchies, Kernel, MainThread, Vitals};

/// Between two looks at the files of one domain.
const LOOK: Duration = Duration::from_secs(5);
/// Looks after which files that were not there are looked for again: a domain gets its cgroups while it starts, and an
/// administrator may move it.
const AGAIN: u32 = 12;
/// Looks at a domain that has just come, in each of which they are.
const YOUNG: u32 = 6;
/// Beginnings of the names that QEMU (5.2 to 10) gives to threads that work on a migration, a save, a dump or a snapshot in
/// the background: since 9.1 all of them are `mig/...` (`migration/migration.h`), but for `dump_thread`.
const JOBS: [&str; 10] = [
    "mig/",
    "live_migration",
    "migration",
    "bg_snapshot",
    "dump_thread",
    "return path",
    "multifd",
    "postcopy/",
    "fault-",
    "COLO",
];

/// What was noticed of one domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A vcpu or an iothread came or went, or a job's thread.
    Threads,
    /// Its weight is another one.
    Weight,
    /// QEMU's main thread does not run, although nobody asked libvirt for it.
    Stopped,
}

/// What is remembered of one QEMU.
#[derive(Debug)]
pub(super) struct Signs {
    threads: Option<Vec<Kind>>,
    threads_changed: bool,
    files: Option<Vitals>,
    due: Instant,
    looks: u32,
    weights: Option<Vec<u64>>,
    main: Option<MainThread>,
}

/// A thread that libvirt has a word about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Vcpu(u32),
    Iothread(u32),
    Job(String),
}

impl Signs {
    /// Nothing is known yet. Processes with different ids are looked at in different seconds.
    pub(super) fn new(pid: u32, now: Instant) -> Self {
        Self {
            threads: None,
            threads_changed: false,
            files: None,
            due: now + Duration::from_secs(u64::from(pid) % LOOK.as_secs()),
            looks: 0,
            weights: None,
            main: None,
        }
    }

    /// Takes note of its threads, which were listed anew: what each is for, and its name.
    pub(super) fn note_threads<'a>(&mut self, threads: impl Iterator<Item = (ThreadRole, &'a str)>) {
        let kind = |(role, comm): (ThreadRole, &str)| match role {
            ThreadRole::Vcpu(number) => Some(Kind::Vcpu(number)),
            ThreadRole::Iothread(number) => Some(Kind::Iothread(number)),
            ThreadRole::Worker if JOBS.iter().any(|job| comm.starts_with(job)) => {
                Some(Kind::Job(comm.to_owned()))
            }
            _ => None,
        };
        let mut now: Vec<Kind> = threads.filter_map(kind).collect();
        now.sort_unstable();
        self.threads_changed |= self.threads.as_ref().is_some_and(|before| *before != now);
        self.threads = Some(now);
    }

    /// What is to be said of the domain, if anything is. `hierarchies` are asked for only when files are opened.
    pub(super) fn look(
        &mut self,
        kernel: &Kernel,
        pid: u32,
        entry: &InventoryEntry,
        hierarchies: impl FnOnce() -> Option<Hierarchies>,
        now: Instant,
    ) -> Option<Sign> {
        let threads = std::mem::take(&mut self.threads_changed).then_some(Sign::Threads);
        if now < self.due {
            return threads;
        }
        self.due = now + LOOK;
        self.looks = self.looks.saturating_add(1);
        let lacking = self.files.as_ref().is_none_or(|files| !files.has_weights());
        if lacking && (self.looks <= YOUNG || self.looks.is_multiple_of(AGAIN)) {
            self.files = hierarchies().and_then(|hierarchies| kernel.vitals(pid, &hierarchies).ok());
        }
        let Some(files) = &self.files else { return threads };
        let (main, weights) = (files.main_thread(), files.weights());
        if weights.is_err() {
            // Its cgroup has gone; the next look finds the new one.
            (self.files, self.looks) = (None, 0);
        }
        // Whoever is known not to answer is asked at its own pace.
        let stopped = entry.failures == 0 && main.is_ok_and(|main| self.has_stopped(main));
        let shares = entry.domain.as_ref().and_then(|domain| domain.cpu_shares);
        let weight = weights.is_ok_and(|weights| self.is_reweighted(weights, shares));
        if stopped {
            return Some(Sign::Stopped);
        }
        threads.or_else(|| weight.then_some(Sign::Weight))
    }

    /// Stopped by a signal or a debugger; or waiting for a device at two looks in a row, without having run between them.
    fn has_stopped(&mut self, now: MainThread) -> bool {
        let before = self.main.replace(now);
        matches!(now.state, 'T' | 't') || now.state == 'D' && before == Some(now)
    }

    /// Whether a file says something else than at the last look, and than libvirt has told since. libvirt's `cpu_shares` is what
    /// the file says, on cgroup v1 and on v2.
    fn is_reweighted(&mut self, now: Vec<u64>, shares: Option<u64>) -> bool {
        let before = self.weights.replace(now);
        let (Some(before), Some(now)) = (before, &self.weights) else { return false };
        before.len() != now.len()
            || before.iter().zip(now).any(|(before, now)| before != now && Some(*now) != shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs() -> Signs {
        Signs::new(1, Instant::now())
    }

    #[test]
    fn threads_count_by_what_they_are_for() {
        use ThreadRole::{Emulator, Iothread, Vcpu, Vhost, Worker};
        let base = [(Emulator, "qemu-system-x86"), (Vcpu(0), "CPU 0/KVM"), (Worker, "worker")];
        let sees = |more: &[(ThreadRole, &str)]| {
            let mut signs = signs();
            signs.note_threads(base.into_iter());
            assert!(!signs.threads_changed, "there is nothing to compare with");
            signs.note_threads(base.into_iter().chain(more.iter().copied()));
            let came = std::mem::take(&mut signs.threads_changed);
            signs.note_threads(base.into_iter());
            assert_eq!(signs.threads_changed, came, "it goes as it came: {more:?}");
            came
        };
        for job in [
            "live_migration",
            "mig/src/main",
            "mig/src/send_0",
            "mig/snapshot",
            "bg_snapshot",
            "dump_thread",
            "multifdsend_1",
            "return path",
            "postcopy/listen",
        ] {
            assert!(sees(&[(Worker, job)]), "{job}");
        }
        assert!(sees(&[(Vcpu(1), "CPU 1/KVM")]) && sees(&[(Iothread(2), "IO iothread2")]));
        for pool in ["worker", "vnc_worker", "qemu-system-x86", "call_rcu", "SPICE Worker", "IO mon_iothread"]
        {
            assert!(!sees(&[(Worker, pool)]), "{pool}");
        }
        assert!(!sees(&[(Vhost, "vhost-77")]));
    }

    #[test]
    fn a_weight_counts_that_libvirt_has_not_told() {
        let mut signs = signs();
        let mut sees = |files: &[u64], shares| signs.is_reweighted(files.to_vec(), Some(shares));
        assert!(!sees(&[100, 100], 100), "there is nothing to compare with");
        assert!(!sees(&[100, 200], 200), "a change that was read already");
        assert!(sees(&[100, 300], 200), "somebody's echo");
        assert!(!sees(&[100, 300], 200), "said already");
        assert!(sees(&[100, 100], 300), "put back by systemd");
        assert!(sees(&[50, 100], 100) && !sees(&[50, 100], 100));
        assert!(sees(&[100], 100), "its group has moved");
    }

    #[test]
    fn a_main_thread_that_is_stopped_or_waits_for_long_is_a_sign() {
        let mut signs = signs();
        let mut sees = |state, ticks| signs.has_stopped(MainThread { state, ticks });
        assert!(!sees('S', 10) && !sees('S', 10) && !sees('R', 11));
        assert!(!sees('D', 11), "anybody waits for a disk now and then");
        assert!(!sees('D', 12), "it has run between");
        assert!(sees('D', 12));
        assert!(sees('T', 12) && sees('t', 12) && !sees('S', 12));
    }
}
