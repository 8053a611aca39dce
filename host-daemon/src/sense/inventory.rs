//! What libvirt knows of the domains, kept fresh in the background, each domain on its own: one that hangs keeps its
//! old reading, is asked less and less often, and delays nobody.

mod entry;
mod hints;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::sample::{BalloonSample, DiskSample, DomainSample, DomainState};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::hook::HookCall;
use crate::libvirt::{ActiveDomain, DomainEvent, ErrorKind, Libvirt};
pub use entry::InventoryEntry;
use entry::answers;
use hints::{Hints, Settled};

/// Between two looks at the balloon of a domain that has less memory than it began with: guests report each second at best,
/// and must get it back within two.
const BALLOON_LOOK: Duration = Duration::from_millis(500);
/// Reports that may wait for the loop; it looks at all balloons by itself soon enough.
const REPORTS: usize = 64;
/// Between two readings of a domain's disks: QEMU has to be asked twice for each.
const DISKS: Duration = Duration::from_secs(60);

/// The domains as libvirt last told.
#[derive(Debug)]
pub struct Inventory {
    /// What the guests with lean balloons report, as soon as it is known.
    pub reports: mpsc::Receiver<BalloonReport>,
    /// A domain has come or gone since this was asked last.
    pub comings: Arc<Notify>,
    entries: Arc<Mutex<Entries>>,
    lean: Arc<Mutex<BTreeSet<Uuid>>>,
    refresh: mpsc::UnboundedSender<Uuid>,
    task: JoinHandle<()>,
}

/// Domains by uuid. What did not change since the last look is shared with it.
pub type Entries = BTreeMap<Uuid, Arc<InventoryEntry>>;

/// A guest has reported anew.
#[derive(Clone, Copy, Debug)]
pub struct BalloonReport {
    /// What it had reported before.
    pub before: BalloonSample,
    /// What it reports now.
    pub now: BalloonSample,
}

struct Reading {
    uuid: Uuid,
    began: Instant,
    result: Result<Told, crate::libvirt::Error>,
}

/// What libvirt told of a domain.
struct Told {
    domain: DomainSample,
    /// What it did not tell, in words.
    trouble: Vec<String>,
    /// A call hangs, which says that QEMU does.
    hangs: bool,
    disks_read_at: Option<Instant>,
}

struct Look {
    uuid: Uuid,
    began: Instant,
    balloon: Option<BalloonSample>,
}

impl Inventory {
    /// Starts to read; everything is read again each `period`, and a domain at once when an event of libvirt's or its hook
    /// says so.
    #[must_use]
    pub fn start(libvirt: Libvirt, period: Duration, hook: mpsc::Receiver<HookCall>) -> Self {
        let entries = Arc::new(Mutex::new(Entries::new()));
        let lean = Arc::default();
        let comings = Arc::<Notify>::default();
        let (refresh, requests) = mpsc::unbounded_channel();
        let (reporter, reports) = mpsc::channel(REPORTS);
        let keeper = Keeper {
            libvirt,
            entries: Arc::clone(&entries),
            lean: Arc::clone(&lean),
            looking: BTreeSet::new(),
            reporter,
            reading: BTreeSet::new(),
            again: BTreeSet::new(),
            comings: Arc::clone(&comings),
            hints: Hints::default(),
        };
        let task = tokio::spawn(keeper.run(requests, hook, period));
        Self { reports, comings, entries, lean, refresh, task }
    }

    /// All active domains.
    #[must_use]
    pub fn snapshot(&self) -> Entries {
        lock(&self.entries).clone()
    }

    /// Says which domains have lean balloons: only those are looked at more often than the rest.
    pub fn watch_balloons(&self, lean: BTreeSet<Uuid>) {
        *self.lean.lock().unwrap_or_else(PoisonError::into_inner) = lean;
    }

    /// Asks for a new reading of one domain, now.
    pub fn refresh(&self, domain: Uuid) {
        // The keeper ends with the daemon only.
        let _ = self.refresh.send(domain);
    }
}

impl Drop for Inventory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(entries: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Keeper {
    libvirt: Libvirt,
    entries: Arc<Mutex<Entries>>,
    lean: Arc<Mutex<BTreeSet<Uuid>>>,
    /// Domains whose balloon is being looked at.
    looking: BTreeSet<Uuid>,
    reporter: mpsc::Sender<BalloonReport>,
    /// Domains that are being read.
    reading: BTreeSet<Uuid>,
    /// Domains that changed while they were being read.
    again: BTreeSet<Uuid>,
    comings: Arc<Notify>,
    hints: Hints,
}

impl Keeper {
    async fn run(
        mut self,
        mut requests: mpsc::UnboundedReceiver<Uuid>,
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
            let due = self.hints.due();
            tokio::select! {
                _ = look.tick() => self.look(&mut looks),
                Some(call) = hook.recv() => self.hints.take(call),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.follow_hints(&mut readings).await;
                }
                Some(done) = looks.join_next() => match done {
                    Ok(look) => self.report(&look),
                    Err(error) => tracing::error!(%error, "looking at a balloon ended early"),
                },
                _ = sweep.tick() => self.sweep(&mut readings).await,
                event = events.next() => match event {
                    None => return,
                    Some(DomainEvent::Resync) => self.sweep(&mut readings).await,
                    Some(event) => if let Some(domain) = domain_of(event) {
                        self.read(domain, &mut readings);
                    }
                },
                request = requests.recv() => match request {
                    None => return,
                    Some(domain) => self.read(domain, &mut readings),
                },
                Some(done) = readings.join_next() => match done {
                    Ok(reading) => self.take(reading, &mut readings),
                    Err(error) => tracing::error!(%error, "reading a domain ended early"),
                },
            }
        }
    }

    /// Looks at the lean balloons.
    fn look(&mut self, looks: &mut JoinSet<Look>) {
        let lean = self.lean.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for uuid in lean {
            let answers = lock(&self.entries).get(&uuid).is_some_and(|entry| entry.answers());
            if !answers || self.reading.contains(&uuid) || !self.looking.insert(uuid) {
                continue;
            }
            let libvirt = self.libvirt.clone();
            looks.spawn(async move {
                let began = Instant::now();
                Look { uuid, began, balloon: libvirt.read_balloon(uuid).await.ok() }
            });
        }
    }

    /// Takes a look at a balloon in, and reports what is new.
    fn report(&mut self, look: &Look) {
        let Look { uuid, began, balloon } = *look;
        self.looking.remove(&uuid);
        // What is wrong the next whole reading says.
        let Some(now) = balloon else { return };
        let mut entries = lock(&self.entries);
        let Some(entry) = entries.get_mut(&uuid).map(Arc::make_mut) else { return };
        // A whole reading may have been faster.
        if entry.balloon_read_at.is_some_and(|at| at >= began) {
            return;
        }
        let Some(domain) = &mut entry.domain else { return };
        let before = domain.balloon.replace(now);
        entry.balloon_read_at = Some(began);
        if let Some(before) = before.filter(|before| before.last_update_unix_s != now.last_update_unix_s) {
            // A full channel means that the loop has enough reasons already.
            let _ = self.reporter.try_send(BalloonReport { before, now });
        }
    }

    /// Reads the list, forgets what is gone and reads what is there.
    async fn sweep(&mut self, readings: &mut JoinSet<Reading>) {
        let domains: Vec<ActiveDomain> = match self.libvirt.domains().await {
            Ok(domains) => domains,
            Err(error) => {
                tracing::debug!(%error, "the domains keep their old readings");
                return;
            }
        };
        let now = Instant::now();
        let due: Vec<Uuid> = {
            let mut entries = lock(&self.entries);
            let before = entries.len();
            entries.retain(|uuid, _| domains.iter().any(|domain| domain.uuid == *uuid));
            if entries.len() < before {
                self.comings.notify_one();
            }
            for domain in &domains {
                let entry =
                    entries.entry(domain.uuid).or_insert_with(|| Arc::new(InventoryEntry::new(&domain.name)));
                if entry.name != domain.name {
                    Arc::make_mut(entry).name.clone_from(&domain.name);
                }
            }
            // The pause spares a QEMU that hangs. As soon as the call that hung has returned, it may be well again.
            let is_due = |(uuid, entry): &(&Uuid, &Arc<InventoryEntry>)| {
                entry.retry_at.is_none_or(|at| at <= now) || entry.hung && !self.libvirt.is_stuck(**uuid)
            };
            entries.iter().filter(is_due).map(|(uuid, _)| *uuid).collect()
        };
        for uuid in due {
            self.read(uuid, readings);
        }
    }

    /// Sees after what libvirt's hook has told and no event of libvirt's has confirmed.
    async fn follow_hints(&mut self, readings: &mut JoinSet<Reading>) {
        let settled = self.hints.settle(Instant::now(), &lock(&self.entries));
        let Settled { look_for, look_at, everything } = settled;
        if everything {
            return self.sweep(readings).await;
        }
        for uuid in look_at {
            self.read(uuid, readings);
        }
        if look_for.is_empty() {
            return;
        }
        match self.libvirt.domains().await {
            Ok(domains) => {
                for domain in domains.iter().filter(|domain| look_for.contains(&domain.name)) {
                    tracing::debug!(domain = domain.name, "known by libvirt's hook before any event");
                    self.read(domain.uuid, readings);
                }
            }
            Err(error) => tracing::debug!(%error, "what the hook has told is left to the next sweep"),
        }
    }

    fn read(&mut self, uuid: Uuid, readings: &mut JoinSet<Reading>) {
        if !self.reading.insert(uuid) {
            self.again.insert(uuid);
            return;
        }
        let libvirt = self.libvirt.clone();
        let known = lock(&self.entries).get(&uuid).cloned();
        readings.spawn(async move {
            let began = Instant::now();
            Reading { uuid, began, result: read(&libvirt, uuid, known.as_deref()).await }
        });
    }

    fn take(&mut self, reading: Reading, readings: &mut JoinSet<Reading>) {
        let Reading { uuid, began, result } = reading;
        self.reading.remove(&uuid);
        let mut entries = lock(&self.entries);
        match result {
            Ok(Told { domain, trouble, hangs, disks_read_at }) => {
                let mut entry = InventoryEntry::read(domain, began, trouble);
                entry.disks_read_at = disks_read_at;
                if hangs {
                    entry.failures = entries.get(&uuid).map_or(0, |entry| entry.failures);
                    entry.fail(true);
                }
                // A look at its balloon may have been faster.
                let known = entries.get(&uuid).filter(|known| known.balloon_read_at > Some(began));
                if let (Some(known), Some(domain)) = (known, &mut entry.domain) {
                    domain.balloon = known.domain.as_ref().and_then(|known| known.balloon).or(domain.balloon);
                    entry.balloon_read_at = known.balloon_read_at;
                }
                let known = entries.insert(uuid, Arc::new(entry));
                if known.is_none_or(|known| known.domain.is_none()) {
                    self.comings.notify_one();
                }
            }
            Err(error) if error.kind == ErrorKind::DomainGone => {
                if entries.remove(&uuid).is_some() {
                    self.comings.notify_one();
                }
            }
            Err(error) => {
                if let Some(entry) = entries.get_mut(&uuid).map(Arc::make_mut) {
                    entry.trouble = vec![error.to_string()];
                    if is_the_domains(&error.kind) {
                        entry.fail(is_hang(&error.kind));
                    }
                }
            }
        }
        drop(entries);
        if self.again.remove(&uuid) {
            self.read(uuid, readings);
        }
    }
}

/// Whether it is the domain that is in trouble, and not libvirt as a whole.
const fn is_the_domains(kind: &ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::NotConnected(_) | ErrorKind::Overloaded(_) | ErrorKind::Deadline { started: false, .. }
    )
}

/// Whether the call has not returned, as far as is known.
const fn is_hang(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::Deadline { started: true, .. } | ErrorKind::Quarantined(_))
}

/// One domain with its balloon and its disks. If these cannot be read that is no reason to lose the rest.
async fn read(
    libvirt: &Libvirt,
    uuid: Uuid,
    known: Option<&InventoryEntry>,
) -> Result<Told, crate::libvirt::Error> {
    let reading = libvirt.read_domain(uuid).await?;
    let mut domain = reading.sample;
    let mut trouble: Vec<String> = reading.missing.iter().map(ToString::to_string).collect();
    let mut hangs = false;
    let mut disks_read_at = known.and_then(|known| known.disks_read_at);
    let earlier = known.and_then(|known| known.domain.as_ref()).map(|domain| domain.disks.clone());
    domain.disks = earlier.unwrap_or_default();
    // A paused QEMU answers, but its guest reports nothing new.
    if answers(domain.job) && domain.state == DomainState::Running {
        match libvirt.read_balloon(uuid).await {
            Ok(balloon) => domain.balloon = Some(balloon),
            Err(error) => {
                hangs = is_hang(&error.kind);
                trouble.push(error.to_string());
            }
        }
    }
    if answers(domain.job) && !hangs && disks_read_at.is_none_or(|at| at.elapsed() >= DISKS) {
        let now = Instant::now();
        match libvirt.read_disks(uuid).await {
            Ok(disks) => domain.disks = since(&domain.disks, disks_read_at.map(|at| now - at), disks),
            Err(error) => {
                hangs = is_hang(&error.kind);
                trouble.push(error.to_string());
            }
        }
        // One that cannot be read is asked again as rarely.
        disks_read_at = Some(now);
    }
    Ok(Told { domain, trouble, hangs, disks_read_at })
}

/// Disks as they are now, with what went through them before.
fn since(earlier: &[DiskSample], window: Option<Duration>, mut now: Vec<DiskSample>) -> Vec<DiskSample> {
    for disk in &mut now {
        let before = earlier.iter().find(|other| other.target == disk.target && other.source == disk.source);
        let window = window.and_then(|window| u64::try_from(window.as_millis()).ok());
        disk.before = before.and_then(|before| before.counters).zip(window);
    }
    now
}

const fn domain_of(event: DomainEvent) -> Option<Uuid> {
    match event {
        DomainEvent::Lifecycle { domain, .. }
        | DomainEvent::Tuned { domain }
        | DomainEvent::Agent { domain, .. }
        | DomainEvent::DevicesChanged { domain }
        | DomainEvent::MetadataChanged { domain }
        | DomainEvent::JobCompleted { domain } => Some(domain),
        // Balloons move in many small steps; the sweep sees where they end.
        DomainEvent::BalloonChanged { .. } | DomainEvent::Resync => None,
    }
}
