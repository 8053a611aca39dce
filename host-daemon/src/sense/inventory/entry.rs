//! What is known of one domain, how old that is, and for how long one that does not answer is left alone.

use std::time::Duration;

use kvmpilot_core::sample::{DomainSample, Job};
use kvmpilot_core::units::doubled;
use tokio::time::Instant;

/// First pause after a domain could not be read; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A reading older than this is not decided on. Domains are read each 5 s by default.
const TOO_OLD: Duration = Duration::from_secs(30);

/// One domain.
#[derive(Clone, Debug)]
pub struct InventoryEntry {
    /// As read; threads and counters are still empty. `None` before the first success.
    pub domain: Option<DomainSample>,
    /// libvirt's name.
    pub name: String,
    /// When the reading began: changes made later are not in it.
    pub read_at: Option<Instant>,
    /// The same of its balloon, which is read more often where it is lean.
    pub balloon_read_at: Option<Instant>,
    /// The same of its disks, which are read more rarely.
    pub(super) disks_read_at: Option<Instant>,
    /// What could not be read, in words; empty if all went well.
    pub trouble: Vec<String>,
    /// Readings in a row that failed.
    pub failures: u32,
    pub(super) retry_at: Option<Instant>,
    /// A call for it hung, and had not returned when it was given up.
    pub(super) hung: bool,
}

impl InventoryEntry {
    pub(super) fn new(name: &str) -> Self {
        let name = name.to_owned();
        Self {
            domain: None,
            name,
            read_at: None,
            balloon_read_at: None,
            disks_read_at: None,
            trouble: Vec::new(),
            failures: 0,
            retry_at: None,
            hung: false,
        }
    }

    /// A domain as read at a time that began at `began`, with what could not be read of it.
    #[must_use]
    pub fn read(domain: DomainSample, began: Instant, trouble: Vec<String>) -> Self {
        let name = domain.name.clone();
        Self {
            domain: Some(domain),
            name,
            read_at: Some(began),
            balloon_read_at: Some(began),
            disks_read_at: None,
            trouble,
            failures: 0,
            retry_at: None,
            hung: false,
        }
    }

    /// Whether its QEMU can be expected to answer: it did the last time, and no job keeps it from doing so.
    pub(super) fn answers(&self) -> bool {
        self.failures == 0 && self.domain.as_ref().is_some_and(|domain| answers(domain.job))
    }

    /// It is left alone for a while, longer each time.
    pub(super) fn fail(&mut self, hung: bool) {
        let pause = doubled(FIRST_PAUSE, self.failures, LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(Instant::now() + pause);
        self.hung = hung;
    }

    /// Why nothing may be decided on it, in words: it could not be read, or only long ago.
    #[must_use]
    pub fn quarantine(&self, now: Instant) -> Option<String> {
        let trouble = || self.trouble.join("; ");
        if self.failures > 0 {
            return Some(trouble());
        }
        let age = now.saturating_duration_since(self.read_at?);
        let why = if self.trouble.is_empty() { "libvirt tells nothing".to_owned() } else { trouble() };
        (age > TOO_OLD).then(|| format!("{why}; the last reading is {} s old", age.as_secs()))
    }
}

/// While a job runs, a call to QEMU may have to wait for the job's end.
pub(super) const fn answers(job: Option<Job>) -> bool {
    matches!(job, None | Some(Job::Backup))
}
