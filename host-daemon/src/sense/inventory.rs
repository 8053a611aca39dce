//! What libvirt knows of the domains, kept fresh in the background, each domain on its own: one that hangs keeps its
//! old reading, is asked less and less often, and delays nobody.
//!
//! Events say what changes, and the kernel's signs what has no event (`sense/signs.rs`). A sweep is one call, however many
//! domains there are: it confirms what is known, and finds what differs from it. What is behind an event, a sign or a
//! difference is read whole; the rest now and then (`due.rs`).

mod due;
mod entry;
mod hints;
mod keeper;
mod later;
mod reading;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::sample::BalloonSample;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::hook::HookCall;
use crate::libvirt::Libvirt;
pub use entry::InventoryEntry;
use keeper::Keeper;

/// Reports that may wait for the loop; it looks at all balloons by itself soon enough.
const REPORTS: usize = 64;
/// Longest time between two sweeps, each third of which has the list: without that word a domain is in quarantine after 30 s.
const SWEEP: Duration = Duration::from_secs(5);
/// The domains as libvirt last told.
#[derive(Debug)]
pub struct Inventory {
    /// What the guests with lean balloons report, as soon as it is known.
    pub reports: mpsc::Receiver<BalloonReport>,
    /// A domain has come or gone since this was asked last.
    pub comings: Arc<Notify>,
    entries: Arc<Mutex<Entries>>,
    watched: Arc<Mutex<Watched>>,
    requests: mpsc::UnboundedSender<Request>,
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

/// Domains whose balloons matter.
#[derive(Debug, Default)]
struct Watched {
    /// Looked at twice a second.
    lean: BTreeSet<Uuid>,
    /// Looked at in each sweep.
    often: BTreeSet<Uuid>,
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Refresh(Uuid),
    Sign { domain: Uuid, balloon: bool },
}

impl Inventory {
    /// Starts to read. The list is read each third `period`, and a domain at once when it is not there as it is known, or when an
    /// event of libvirt's or its hook says so. A priority cycle takes `cycle`.
    #[must_use]
    pub fn start(
        libvirt: Libvirt,
        period: Duration,
        cycle: Duration,
        hook: mpsc::Receiver<HookCall>,
    ) -> Self {
        let entries = Arc::new(Mutex::new(Entries::new()));
        let watched = Arc::default();
        let comings = Arc::<Notify>::default();
        let (sender, requests) = mpsc::unbounded_channel();
        let (reporter, reports) = mpsc::channel(REPORTS);
        let keeper = Keeper::new(
            libvirt,
            Arc::clone(&entries),
            Arc::clone(&watched),
            reporter,
            Arc::clone(&comings),
            cycle,
        );
        let task = tokio::spawn(keeper.run(requests, hook, period.min(SWEEP)));
        Self { reports, comings, entries, watched, requests: sender, task }
    }

    /// All active domains.
    #[must_use]
    pub fn snapshot(&self) -> Entries {
        lock(&self.entries).clone()
    }

    /// Says whose balloons matter: those that are `lean` are looked at twice a second, those that are to be looked at
    /// `often` in each sweep, and the rest before each priority cycle.
    pub fn watch_balloons(&self, lean: BTreeSet<Uuid>, often: BTreeSet<Uuid>) {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = Watched { lean, often };
    }

    /// Asks for a new reading of one domain, now.
    pub fn refresh(&self, domain: Uuid) {
        // The keeper ends with the daemon only.
        let _ = self.requests.send(Request::Refresh(domain));
    }

    /// Asks for a new reading of a domain that shows signs of not being as it is known; `balloon`: also of its QEMU. At most
    /// one each 5 s comes of it.
    pub fn suspect(&self, domain: Uuid, balloon: bool) {
        let _ = self.requests.send(Request::Sign { domain, balloon });
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
