//! The task behind the inventory: hears events, requests and hints, sweeps, and starts what reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::sample::{BalloonSample, Job};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::due::{self, Due, Sweep};
use super::entry::InventoryEntry;
use super::hints::{Hints, Settled};
use super::later::Later;
use super::reading::{Told, is_hang, is_the_domains, read};
use super::{BalloonReport, Entries, Request, Watched, lock};
use crate::hook::HookCall;
use crate::libvirt::{ActiveDomain, DomainEvent, Error, ErrorKind, Glance, Libvirt};

/// Between two looks at the balloon of a domain that has less memory than it began with: guests report each second at best,
/// and must get it back within two.
const BALLOON_LOOK: Duration = Duration::from_millis(500);
/// What was tuned is read after so long: a change of ours is read anyway as soon as it is made, and several of somebody else
/// come together.
const TUNED: Duration = Duration::from_millis(300);
/// The list is read in each third sweep, unless something is the matter: at 60 domains it was a third of what libvirtd had to
/// do for us.
const LIST: u32 = 3;
/// Least time between two readings of a domain for no better reason than a sign.
const SIGNS: Duration = Duration::from_secs(5);

struct Reading {
    uuid: Uuid,
    began: Instant,
    result: Result<Told, Error>,
}

struct Look {
    uuid: Uuid,
    began: Instant,
    saw: Result<Saw, Error>,
}

enum Saw {
    Balloon(BalloonSample),
    Glance { job: Option<Job>, balloon: Option<BalloonSample> },
}

/// Keeps the entries. One task owns it; whatever waits for libvirt runs beside it.
pub(super) struct Keeper {
    libvirt: Libvirt,
    entries: Arc<Mutex<Entries>>,
    watched: Arc<Mutex<Watched>>,
    /// When it began: the turns of the domains are counted from there.
    began: Instant,
    /// Time between two glances at a domain.
    glance: Duration,
    /// Events may have been lost, and not everything has been read since.
    resync: bool,
    /// The list has been read. Whoever is in the first one may have been there for long.
    swept: bool,
    /// Sweeps since the list was read.
    unlisted: u32,
    /// Domains whose balloon is being looked at.
    looking: BTreeSet<Uuid>,
    reporter: mpsc::Sender<BalloonReport>,
    /// Domains that are being read.
    reading: BTreeSet<Uuid>,
    /// Domains that changed while they were being read, and whether their balloons are wanted again.
    again: BTreeMap<Uuid, bool>,
    later: Later,
    comings: Arc<Notify>,
    hints: Hints,
}

impl Keeper {
    /// Knows nothing yet. A priority cycle takes `cycle`.
    pub(super) fn new(
        libvirt: Libvirt,
        entries: Arc<Mutex<Entries>>,
        watched: Arc<Mutex<Watched>>,
        reporter: mpsc::Sender<BalloonReport>,
        comings: Arc<Notify>,
        cycle: Duration,
    ) -> Self {
        Self {
            libvirt,
            entries,
            watched,
            began: Instant::now(),
            glance: due::glance_of(cycle),
            resync: false,
            swept: false,
            unlisted: LIST,
            looking: BTreeSet::new(),
            reporter,
            reading: BTreeSet::new(),
            again: BTreeMap::new(),
            later: Later::default(),
            comings,
            hints: Hints::default(),
        }
    }

    /// Runs until the daemon ends.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::UnboundedReceiver<Request>,
        mut hook: mpsc::Receiver<HookCall>,
        period: Duration,
    ) {
        let mut events = self.libvirt.events();
        let mut sweep = interval(period);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(BALLOON_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut readings = JoinSet::new();
        let mut looks = JoinSet::new();
        loop {
            let (hint, later) = (self.hints.due(), self.later.due());
            tokio::select! {
                _ = look.tick() => self.look(&mut looks),
                Some(call) = hook.recv() => self.hints.take(call),
                () = sleep_until(hint.unwrap_or_else(Instant::now)), if hint.is_some() => {
                    self.follow_hints(&mut readings, &mut looks).await;
                }
                () = sleep_until(later.unwrap_or_else(Instant::now)), if later.is_some() => {
                    for (domain, balloon) in self.later.take(Instant::now()) {
                        self.read(domain, balloon, &mut readings);
                    }
                }
                Some(done) = looks.join_next() => match done {
                    Ok(look) => self.report(look, &mut readings),
                    Err(error) => tracing::error!(%error, "looking at a balloon ended early"),
                },
                _ = sweep.tick() => self.sweep(false, &mut readings, &mut looks).await,
                event = events.next() => match event {
                    None => return,
                    Some(DomainEvent::Resync) => {
                        self.resync = true;
                        self.sweep(true, &mut readings, &mut looks).await;
                    }
                    Some(event) => self.follow(event, &mut readings),
                },
                request = requests.recv() => match request {
                    None => return,
                    Some(Request::Refresh(domain)) => self.read(domain, true, &mut readings),
                    Some(Request::Sign { domain, balloon }) => self.follow_sign(domain, balloon),
                },
                Some(done) = readings.join_next() => match done {
                    Ok(reading) => self.take(reading, &mut readings),
                    Err(error) => tracing::error!(%error, "reading a domain ended early"),
                },
            }
        }
    }

    /// Reads what an event is about, as far as it tells of a change.
    fn follow(&mut self, event: DomainEvent, readings: &mut JoinSet<Reading>) {
        match event {
            DomainEvent::Lifecycle { domain, .. } => self.read(domain, true, readings),
            DomainEvent::Agent { domain, .. }
            | DomainEvent::DevicesChanged { domain }
            | DomainEvent::MetadataChanged { domain }
            | DomainEvent::JobCompleted { domain } => self.read(domain, false, readings),
            DomainEvent::Tuned { domain } => self.later.add(domain, Instant::now() + TUNED, false),
            // Balloons move in many small steps; the sweeps see where they end.
            DomainEvent::BalloonChanged { domain, .. } => {
                if let Some(entry) = lock(&self.entries).get_mut(&domain) {
                    Arc::make_mut(entry).balloon_moved_at = Some(Instant::now());
                }
            }
            DomainEvent::Resync => self.resync = true,
        }
    }

    /// Reads a domain soon that may not be as it is known. One that is in trouble is read anyway, at its own pace.
    fn follow_sign(&mut self, domain: Uuid, balloon: bool) {
        let entry = lock(&self.entries).get(&domain).cloned();
        let Some(entry) = entry.filter(|entry| entry.failures == 0) else { return };
        let now = Instant::now();
        self.later.add(domain, entry.read_at.map_or(now, |at| now.max(at + SIGNS)), balloon);
    }

    /// Looks at the lean balloons.
    fn look(&mut self, looks: &mut JoinSet<Look>) {
        let lean = self.watched.lock().unwrap_or_else(PoisonError::into_inner).lean.clone();
        for uuid in lean {
            self.look_at(uuid, false, looks);
        }
    }

    /// Looks at a balloon, or glances at the job too.
    fn look_at(&mut self, uuid: Uuid, glance: bool, looks: &mut JoinSet<Look>) {
        let answers = lock(&self.entries).get(&uuid).is_some_and(|entry| entry.answers());
        if !answers || self.reading.contains(&uuid) || !self.looking.insert(uuid) {
            return;
        }
        let libvirt = self.libvirt.clone();
        looks.spawn(async move {
            let began = Instant::now();
            let saw = if glance {
                let glance = libvirt.glance(uuid).await;
                glance.map(|Glance { job, balloon }| Saw::Glance { job, balloon })
            } else {
                libvirt.read_balloon(uuid).await.map(Saw::Balloon)
            };
            Look { uuid, began, saw }
        });
    }

    /// Takes a look at a balloon in, and reports what is new.
    fn report(&mut self, look: Look, readings: &mut JoinSet<Reading>) {
        let Look { uuid, began, saw } = look;
        self.looking.remove(&uuid);
        let saw = match saw {
            Ok(saw) => saw,
            // Whose trouble it is a whole reading tells, and what follows from it.
            Err(error) => {
                tracing::debug!(%error, "a look at a balloon");
                let known = lock(&self.entries).get(&uuid).is_some_and(|entry| entry.failures == 0);
                if known && (is_hang(&error.kind) || error.kind == ErrorKind::DomainGone) {
                    self.read(uuid, true, readings);
                } else if is_the_domains(&error.kind) {
                    self.follow_sign(uuid, true);
                }
                return;
            }
        };
        let mut entries = lock(&self.entries);
        let Some(entry) = entries.get_mut(&uuid).map(Arc::make_mut) else { return };
        let now = match saw {
            Saw::Balloon(balloon) => Some(balloon),
            Saw::Glance { job, balloon } => {
                entry.read_job(job, began);
                balloon
            }
        };
        let Some(now) = now else { return };
        let Some(Some(before)) = entry.read_balloon(now, began) else { return };
        if before.last_update_unix_s != now.last_update_unix_s {
            // A full channel means that the loop has enough reasons already.
            let _ = self.reporter.try_send(BalloonReport { before, now });
        }
    }

    /// Reads the list where it is time or asked for, forgets what is gone, confirms what is there as known, and sees after the
    /// rest.
    async fn sweep(&mut self, list: bool, readings: &mut JoinSet<Reading>, looks: &mut JoinSet<Look>) {
        let asked = Instant::now();
        self.unlisted += 1;
        let list = list || self.unlisted >= LIST || self.resync || self.is_restless();
        let domains: Vec<ActiveDomain> = if list {
            match self.libvirt.domains().await {
                Ok(domains) => domains,
                Err(error) => {
                    tracing::debug!(%error, "the domains keep their old readings");
                    self.unlisted = LIST;
                    return;
                }
            }
        } else {
            lock(&self.entries).iter().map(|(uuid, entry)| entry.as_known(*uuid)).collect()
        };
        if list {
            self.unlisted = 0;
        }
        let everything = std::mem::take(&mut self.resync);
        let sweep = Sweep { began: self.began, now: Instant::now(), everything, glance: self.glance };
        let since = if std::mem::replace(&mut self.swept, true) {
            sweep.now
        } else {
            sweep.now.checked_sub(due::FRESH).unwrap_or(sweep.now)
        };
        let mut dues = Vec::new();
        {
            let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            let mut entries = lock(&self.entries);
            let before = entries.len();
            entries.retain(|uuid, _| domains.iter().any(|domain| domain.uuid == *uuid));
            if entries.len() < before {
                self.comings.notify_one();
            }
            for domain in &domains {
                let is_new = !entries.contains_key(&domain.uuid);
                let entry = entries
                    .entry(domain.uuid)
                    .or_insert_with(|| Arc::new(InventoryEntry::new(&domain.name, since)));
                let is_stuck = || self.libvirt.is_stuck(domain.uuid);
                let due = sweep.of(domain, entry, watched.often.contains(&domain.uuid), is_stuck);
                let entry = Arc::make_mut(entry);
                if entry.run != domain.id {
                    entry.runs_anew(domain.id, if is_new { since } else { sweep.now });
                }
                if entry.name != domain.name {
                    entry.name.clone_from(&domain.name);
                }
                if due == Due::Whole {
                    dues.push((domain.uuid, due));
                } else {
                    if list {
                        entry.confirmed_at = Some(asked);
                    }
                    dues.extend((due == Due::Glance).then_some((domain.uuid, due)));
                }
            }
        }
        for (uuid, due) in dues {
            match due {
                Due::Whole => self.read(uuid, true, readings),
                Due::Glance => self.look_at(uuid, true, looks),
                Due::Nothing => {}
            }
        }
    }

    /// Whether something is the matter with any of them.
    fn is_restless(&self) -> bool {
        lock(&self.entries).values().any(|entry| entry.domain.is_none() || entry.is_restless())
    }

    /// Sees after what libvirt's hook has told and no event of libvirt's has confirmed.
    async fn follow_hints(&mut self, readings: &mut JoinSet<Reading>, looks: &mut JoinSet<Look>) {
        let settled = self.hints.settle(Instant::now(), &lock(&self.entries));
        let Settled { look_for, look_at, everything } = settled;
        if everything {
            return self.sweep(true, readings, looks).await;
        }
        for uuid in look_at {
            self.read(uuid, true, readings);
        }
        if look_for.is_empty() {
            return;
        }
        match self.libvirt.domains().await {
            Ok(domains) => {
                for domain in domains.iter().filter(|domain| look_for.contains(&domain.name)) {
                    tracing::debug!(domain = domain.name, "known by libvirt's hook before any event");
                    self.read(domain.uuid, true, readings);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "what the hook has told is left to the next sweep");
                self.unlisted = LIST;
            }
        }
    }

    /// Reads a domain whole, with its balloon or with that which is known.
    fn read(&mut self, uuid: Uuid, balloon: bool, readings: &mut JoinSet<Reading>) {
        let balloon = self.later.begun(uuid) || balloon;
        if !self.reading.insert(uuid) {
            *self.again.entry(uuid).or_default() |= balloon;
            return;
        }
        let libvirt = self.libvirt.clone();
        let known = lock(&self.entries).get(&uuid).cloned();
        readings.spawn(async move {
            let began = Instant::now();
            Reading { uuid, began, result: read(&libvirt, uuid, known.as_deref(), balloon).await }
        });
    }

    fn take(&mut self, reading: Reading, readings: &mut JoinSet<Reading>) {
        let Reading { uuid, began, result } = reading;
        self.reading.remove(&uuid);
        let mut entries = lock(&self.entries);
        match result {
            Ok(told) => {
                let new = || Arc::new(InventoryEntry::new(&told.domain.name, began));
                let entry = Arc::make_mut(entries.entry(uuid).or_insert_with(new));
                if entry.domain.is_none() {
                    self.comings.notify_one();
                }
                if entry.run != told.run {
                    entry.runs_anew(told.run, began);
                }
                let failures = entry.failures;
                entry.take(told.domain, began, told.balloon_asked);
                (entry.trouble, entry.troubled) = (told.trouble, told.troubled);
                entry.disks_read_at = told.disks_read_at;
                if told.hangs {
                    entry.failures = failures;
                    entry.fail(true);
                }
            }
            Err(error) if error.kind == ErrorKind::DomainGone => {
                if entries.remove(&uuid).is_some() {
                    self.comings.notify_one();
                }
            }
            Err(error) => {
                if let Some(entry) = entries.get_mut(&uuid).map(Arc::make_mut) {
                    (entry.trouble, entry.troubled) = (vec![error.to_string()], true);
                    if is_the_domains(&error.kind) {
                        entry.fail(is_hang(&error.kind));
                    }
                }
            }
        }
        drop(entries);
        if let Some(balloon) = self.again.remove(&uuid) {
            self.read(uuid, balloon, readings);
        }
    }
}
