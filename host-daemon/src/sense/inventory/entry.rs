//! What is known of one domain, how old that is, and for how long one that does not answer is left alone.

use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::sample::{BalloonSample, DomainSample, DomainState, Job};
use kvmpilot_core::units::doubled;
use tokio::time::Instant;

use crate::libvirt::ActiveDomain;

/// First pause after a domain could not be read; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What libvirt has not confirmed for so long is not decided on. It does each 15 s by default.
const TOO_OLD: Duration = Duration::from_secs(30);

/// One domain.
#[derive(Clone, Debug)]
pub struct InventoryEntry {
    /// As read; threads and counters are still empty. `None` before the first success.
    pub domain: Option<DomainSample>,
    /// libvirt's name.
    pub name: String,
    /// When the last whole reading began: changes made later are not in it.
    pub read_at: Option<Instant>,
    /// When libvirt was last asked for its list and had the domain in it, as it is known here. Whatever changes has an event,
    /// and a sweep that succeeds means that none was lost.
    pub confirmed_at: Option<Instant>,
    /// When the last reading of its balloon began, which is read more often where that matters.
    pub balloon_read_at: Option<Instant>,
    /// When the balloon was last seen to move.
    pub(super) balloon_moved_at: Option<Instant>,
    /// When its balloon and its job were last asked for, whole readings included.
    pub(super) glanced_at: Option<Instant>,
    /// The same of its disks, which are read more rarely.
    pub(super) disks_read_at: Option<Instant>,
    /// libvirt's number of the run that was read.
    pub(super) run: Option<u32>,
    /// Since when it has been in this run and this state.
    pub(super) since: Instant,
    /// What could not be read, in words; empty if all went well.
    pub trouble: Vec<String>,
    /// Some of the trouble may be gone at the next reading: it is more than what this libvirt never tells.
    pub(super) troubled: bool,
    /// Readings in a row that failed.
    pub failures: u32,
    pub(super) retry_at: Option<Instant>,
    /// A call for it hung, and had not returned when it was given up.
    pub(super) hung: bool,
}

impl InventoryEntry {
    pub(super) fn new(name: &str, now: Instant) -> Self {
        Self {
            domain: None,
            name: name.to_owned(),
            read_at: None,
            confirmed_at: None,
            balloon_read_at: None,
            balloon_moved_at: None,
            glanced_at: None,
            disks_read_at: None,
            run: None,
            since: now,
            trouble: Vec::new(),
            troubled: false,
            failures: 0,
            retry_at: None,
            hung: false,
        }
    }

    /// A domain as read at a time that began at `began`, with what could not be read of it.
    #[must_use]
    pub fn read(domain: DomainSample, began: Instant, trouble: Vec<String>) -> Self {
        let mut entry = Self { trouble, ..Self::new(&domain.name, began) };
        entry.take(domain, began, true);
        entry
    }

    /// It was read, beginning at `began`. The balloon in `domain` is that of this reading if it was asked for, else the one
    /// that is known is kept; so is one that was read later.
    pub(super) fn take(&mut self, mut domain: DomainSample, began: Instant, balloon_asked: bool) {
        let before = self.domain.take();
        if before.as_ref().is_some_and(|before| before.state != domain.state) {
            self.since = began;
        }
        let old = before.as_ref().and_then(|before| before.balloon);
        if moved(old, domain.balloon) {
            self.balloon_moved_at = Some(began);
        }
        if domain.state != DomainState::Running {
            // Its guest reports nothing.
            domain.balloon = None;
            self.balloon_read_at = Some(began);
        } else if !balloon_asked || self.balloon_read_at > Some(began) {
            domain.balloon = old;
        } else {
            self.balloon_read_at = Some(began);
        }
        self.name.clone_from(&domain.name);
        self.domain = Some(domain);
        self.read_at = Some(began);
        self.glanced_at = self.glanced_at.max(Some(began).filter(|_| balloon_asked));
        (self.failures, self.retry_at, self.hung) = (0, None, false);
    }

    /// Its balloon was read, beginning at `began`. Returns what was known before, unless a later reading is known already.
    pub(super) fn read_balloon(
        &mut self,
        now: BalloonSample,
        began: Instant,
    ) -> Option<Option<BalloonSample>> {
        if self.balloon_read_at.is_some_and(|at| at >= began) {
            return None;
        }
        let before = self.domain.as_mut()?.balloon.replace(now);
        self.balloon_read_at = Some(began);
        if moved(before, Some(now)) {
            self.balloon_moved_at = Some(began);
        }
        Some(before)
    }

    /// The job was asked for, beginning at `began`.
    pub(super) fn read_job(&mut self, job: Option<Job>, began: Instant) {
        self.glanced_at = self.glanced_at.max(Some(began));
        if self.read_at.is_some_and(|at| at < began)
            && let Some(domain) = &mut self.domain
        {
            (domain.job_active, domain.job) = (job.is_some(), job);
        }
    }

    /// As a list would show it that has nothing new.
    pub(super) fn as_known(&self, uuid: Uuid) -> ActiveDomain {
        ActiveDomain { uuid, name: self.name.clone(), state: None, id: self.run }
    }

    /// It runs anew, as libvirt's number `run`: what was wrong with the QEMU before is no matter of this one.
    pub(super) fn runs_anew(&mut self, run: Option<u32>, now: Instant) {
        (self.run, self.since) = (run, now);
        (self.retry_at, self.hung) = (None, false);
    }

    /// Whether it is read in each sweep, because something is the matter with it.
    pub(super) fn is_restless(&self) -> bool {
        let in_job = |domain: &DomainSample| domain.job_active || domain.job.is_some();
        self.troubled || self.failures > 0 || self.hung || self.domain.as_ref().is_some_and(in_job)
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

    /// Why nothing may be decided on it, in words: it could not be read, or libvirt has not told of it for too long.
    #[must_use]
    pub fn quarantine(&self, now: Instant) -> Option<String> {
        let trouble = || self.trouble.join("; ");
        if self.failures > 0 {
            return Some(trouble());
        }
        let told_at = Some(self.read_at?).max(self.confirmed_at)?;
        let age = now.saturating_duration_since(told_at);
        let why = if self.trouble.is_empty() { "libvirt tells nothing".to_owned() } else { trouble() };
        (age > TOO_OLD).then(|| format!("{why}; its last word is {} s old", age.as_secs()))
    }
}

fn moved(before: Option<BalloonSample>, now: Option<BalloonSample>) -> bool {
    before.zip(now).is_some_and(|(before, now)| before.current_kib != now.current_kib)
}

/// While a job runs, a call to QEMU may have to wait for the job's end.
pub(super) fn answers(job: Option<Job>) -> bool {
    !job.is_some_and(Job::keeps_qemu_busy)
}
