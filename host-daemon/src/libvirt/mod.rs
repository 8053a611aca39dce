//! Gateway to libvirt: inventory, pins, weights, balloons, events, and the wire to the guest agents.
//!
//! The only place that names virt and virt-sys; all its unsafe is in `ffi.rs` and `events.rs`. It reads and sets, it
//! never chooses: what to set is `core`'s business. Processes, threads and tap counters of QEMU are the kernel
//! gateway's; it fills the fields that are left empty here.
//!
//! ```text
//! Libvirt (async, Clone) --> Pool of worker threads, one connection each --> libvirtd
//!    ^ status, events <----- supervisor thread: one connection for events <---'
//! ```

mod agent;
mod balloon;
mod disks;
mod error;
mod events;
mod facts;
mod ffi;
mod list;
mod metadata;
mod pool;
mod read;
mod refusal;
mod session;
mod set;
mod status;
mod supervisor;
#[cfg(test)]
mod tests;
mod tuning;

use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use uuid::Uuid;

pub use balloon::Glance;
pub use error::{Error, ErrorKind};
pub use events::{DomainEvent, Events, Lifecycle};
pub use list::ActiveDomain;
pub use metadata::{OwnWord, Scope};
use pool::{Pool, Refusal};
pub use read::DomainReading;
use session::{Link, Session};
pub use status::Status;
use supervisor::{Backoff, Signal};

/// Deadlines and sizes. The defaults fit a host with 500 domains.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Connections for everything but agent commands.
    pub workers: usize,
    /// Connections for agent commands, apart because a hung agent holds one for seconds.
    pub agent_workers: usize,
    /// Hung calls that are replaced by a new connection. libvirtd serves 20 calls at a time (`max_workers`); if ours
    /// took them all, the administrator's virsh would hang too.
    pub sacrifices: usize,
    /// How long a read may take.
    pub read_deadline: Duration,
    /// How long a change may take.
    pub set_deadline: Duration,
    /// First wait before connecting again; doubles up to `retry_last`.
    pub retry_first: Duration,
    /// Longest wait before connecting again.
    pub retry_last: Duration,
    /// Whether QEMU's monitor may be asked for what libvirt does not tell. libvirt marks such domains as tainted.
    pub qemu_monitor: bool,
    /// Events that a slow reader may be behind before it loses some.
    pub event_backlog: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 4,
            agent_workers: 4,
            sacrifices: 4,
            read_deadline: Duration::from_secs(1),
            set_deadline: Duration::from_secs(3),
            retry_first: Duration::from_secs(1),
            retry_last: Duration::from_secs(30),
            qemu_monitor: false,
            event_backlog: 4096,
        }
    }
}

/// A handle on libvirt. Clones share everything; dropping the last one closes the connections.
#[derive(Clone)]
pub struct Libvirt(Arc<Inner>);

struct Inner {
    link: Arc<Link>,
    options: Options,
    calls: Pool<Session>,
    agents: Pool<Session>,
    supervisor: Mutex<mpsc::Sender<Signal>>,
    /// How often each of our calls was made.
    #[cfg(test)]
    made: Mutex<std::collections::BTreeMap<&'static str, u32>>,
}

impl std::fmt::Debug for Libvirt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Libvirt").field("uri", &self.0.link.uri).field("status", &self.status()).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let supervisor = self.supervisor.get_mut().unwrap_or_else(PoisonError::into_inner);
        // If it is gone already, that is what we want.
        let _ = supervisor.send(Signal::Stop);
    }
}

impl Libvirt {
    /// Starts to connect in the background, and keeps at it for ever. `uri` is like `qemu:///system`.
    #[must_use]
    pub fn start(uri: &str, options: Options) -> Self {
        let link = Arc::new(Link {
            uri: uri.to_owned(),
            status: watch::Sender::new(Status::connecting(uri)),
            epoch: AtomicU64::new(0),
            cache: Arc::default(),
            events: broadcast::Sender::new(options.event_backlog.max(1)),
        });
        let pool = |name, workers| {
            let link = Arc::clone(&link);
            Pool::new(name, workers, options.sacrifices, Box::new(move || Session::open(&link)))
        };
        let (mouth, ear) = mpsc::channel();
        let inner = Inner {
            calls: pool("libvirt-call", options.workers),
            agents: pool("libvirt-agent", options.agent_workers),
            supervisor: Mutex::new(mouth.clone()),
            #[cfg(test)]
            made: Mutex::default(),
            link: Arc::clone(&link),
            options,
        };
        let backoff = Backoff { first: options.retry_first, last: options.retry_last };
        let run = move || supervisor::run(&link, backoff, &ear, &mouth);
        if let Err(error) = std::thread::Builder::new().name("libvirt-watch".to_owned()).spawn(run) {
            let reason = format!("cannot start a thread: {error}");
            inner.link.status.send_replace(Status::down(reason, std::time::Instant::now()));
        }
        Self(Arc::new(inner))
    }

    /// Whether there is a connection now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.link.status.borrow().clone()
    }

    /// The status and its changes.
    #[must_use]
    pub fn status_changes(&self) -> watch::Receiver<Status> {
        self.0.link.status.subscribe()
    }

    /// Whether a call for this domain, which was given up, has not returned yet: its QEMU hangs.
    #[must_use]
    pub fn is_stuck(&self, domain: Uuid) -> bool {
        self.0.calls.is_stuck(domain)
    }

    /// A new reader of events, which gets what happens from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::new(self.0.link.events.subscribe())
    }

    /// The calls that were made since this was asked last.
    #[cfg(test)]
    pub(crate) fn made(&self) -> std::collections::BTreeMap<&'static str, u32> {
        std::mem::take(&mut *self.0.made.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `work` in a worker of `pool`.
    async fn run<T, F>(
        &self,
        pool: &Pool<Session>,
        call: &'static str,
        domain: Option<Uuid>,
        deadline: Duration,
        work: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Session) -> Result<T, ErrorKind> + Send + 'static,
    {
        #[cfg(test)]
        {
            *self.0.made.lock().unwrap_or_else(PoisonError::into_inner).entry(call).or_default() += 1;
        }
        let down = match &*self.0.link.status.borrow() {
            Status::Up { .. } => None,
            down @ Status::Down { .. } => Some(ErrorKind::NotConnected(down.to_string())),
        };
        let result = match down {
            Some(error) => Err(error),
            None => {
                let work = move |session: &Session| work(session).map_err(|error| session.explain(error));
                match pool.call(domain, deadline, work).await {
                    Ok(result) => result,
                    Err(Refusal::Deadline { started }) => {
                        Err(ErrorKind::Deadline { after: deadline, started })
                    }
                    Err(Refusal::Quarantined(stuck)) => Err(ErrorKind::Quarantined(stuck)),
                    Err(Refusal::Overloaded(stuck)) => Err(ErrorKind::Overloaded(stuck)),
                    Err(Refusal::Died) => Err(ErrorKind::Other("the call panicked".to_owned())),
                }
            }
        };
        result.map_err(|kind| Error {
            call,
            domain: domain.map(|domain| self.0.link.cache.name(domain)),
            kind,
        })
    }

    async fn read<T, F>(&self, call: &'static str, domain: Option<Uuid>, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Session) -> Result<T, ErrorKind> + Send + 'static,
    {
        self.run(&self.0.calls, call, domain, self.0.options.read_deadline, work).await
    }
}
