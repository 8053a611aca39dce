//! Watches of one domain on demand (tier 2): who may have one, and how much they may cost altogether. How one runs is
//! in `run.rs`; what is attached is `probes`' business, what the figures mean is the model's.

mod bill;
mod run;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kvmpilot_core::Uuid;
use kvmpilot_core::model::WatchWhat;
use kvmpilot_core::sample::{ProgramSample, ThreadLatencySample, ThreadRole, VcpuExitSample};
use tokio::sync::{oneshot, watch};

use crate::kernel::Kernel;
use crate::probes::{Watch, WatchKind};
use bill::Bill;
use run::End;

/// The longest watch.
pub const LONGEST: Duration = Duration::from_secs(60);
/// The shortest.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// Watches at a time, on all domains together.
const AT_A_TIME: usize = 4;

/// What somebody wants to know.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The domain.
    pub domain: Uuid,
    /// Its name.
    pub name: String,
    /// Its virtualisation: `kvm`, `qemu` (TCG) or another libvirt type.
    pub accel: String,
    /// What to measure.
    pub what: WatchWhat,
    /// For how long, [`SHORTEST`] to [`LONGEST`].
    pub length: Duration,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was asked.
    pub ask: Ask,
    /// How long it took.
    pub watched: Duration,
    /// Part of it in which something was counted: all figures are of this time.
    pub sampled: Duration,
    /// Windows that make it up.
    pub windows: u32,
    /// Why it ended before its time.
    pub ended: Option<String>,
    /// There were more threads or reasons than are told apart, and some are missing.
    pub overflowed: bool,
    /// Time on a pcpu of the domain's vcpus in the windows, where the kernel tells.
    pub vcpus_ran: Option<Duration>,
    /// Exits in the windows by KVM's own counters, where they can be had; of a watch of exits only.
    pub kvm_exits: Option<u64>,
    /// The module that runs KVM's guests on this host.
    pub back_end: Option<&'static str>,
    /// The domain's threads.
    pub threads: Vec<Thread>,
    /// The figures.
    pub seen: Seen,
}

/// A thread by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Kernel thread id.
    pub tid: u32,
    /// What it is for.
    pub role: ThreadRole,
    /// The kernel's name of it.
    pub comm: String,
}

/// The figures of a watch.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Waits for a pcpu.
    Latencies(Vec<ThreadLatencySample>),
    /// Exits from the guest.
    Exits(Vec<VcpuExitSample>),
}

/// Why there is no watch, or no result of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One is running.
    #[error("domain {0} is being watched already; try again when that is over, in {longest} s at most", longest = LONGEST.as_secs())]
    Busy(String),
    /// Enough are running.
    #[error("{AT_A_TIME} domains are being watched already, and more would take the time of each other; try again in {longest} s", longest = LONGEST.as_secs())]
    Full,
    /// There is nothing to watch.
    #[error("domain {0} does not run")]
    NotRunning(String),
    /// Out of bounds.
    #[error("a watch takes {shortest} to {longest} s", shortest = SHORTEST.as_secs(), longest = LONGEST.as_secs())]
    Length,
    /// kvmpilot costs the host too much at the moment.
    #[error("not now: {0}")]
    Overhead(String),
    /// It cannot be measured on this host.
    #[error("this cannot be measured here: {0}")]
    Unavailable(String),
}

/// Where the answer goes.
pub type Reply = oneshot::Sender<Result<Outcome, Refusal>>;

/// Admits watches and bounds what they cost. Dropping it ends all of them.
#[derive(Debug)]
pub struct Desk {
    kernel: Kernel,
    /// Why no domain may be watched at all.
    off: Option<String>,
    allowed: watch::Sender<Result<(), String>>,
    running: Arc<Mutex<BTreeSet<Uuid>>>,
    stop: Arc<AtomicBool>,
    rest: Arc<Rest>,
    bill: Arc<Bill>,
}

/// When the next window of any watch may open: windows of all domains take turns, so that something is attached for at
/// most a tenth of the time.
#[derive(Debug)]
struct Rest(Mutex<Instant>);

impl Rest {
    /// A window may be open for one part in so many.
    const DUTY: u32 = 10;

    /// Takes the right to open a window of about this length now; else says when to ask again.
    fn take(&self, now: Instant, length: Duration) -> Result<(), Instant> {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now < *next {
            return Err(*next);
        }
        *next = now + length * Self::DUTY;
        Ok(())
    }

    /// The window that began at `begin` was open for so long.
    fn spent(&self, begin: Instant, open: Duration) {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(begin + open * Self::DUTY);
    }
}

impl Desk {
    /// A desk that admits watches, or, with a reason, none.
    #[must_use]
    pub fn new(kernel: Kernel, off: Option<String>) -> Self {
        Self {
            kernel,
            off,
            allowed: watch::Sender::new(Ok(())),
            running: Arc::default(),
            stop: Arc::default(),
            rest: Arc::new(Rest(Mutex::new(Instant::now()))),
            bill: Arc::default(),
        }
    }

    /// Whether the host can afford watches. A reason ends those that run.
    pub fn set_allowed(&self, allowed: Result<(), String>) {
        self.allowed.send_if_modified(|now| {
            let changed = *now != allowed;
            *now = allowed;
            changed
        });
    }

    /// What the programs of all watches have cost so far.
    #[must_use]
    pub fn programs(&self) -> Vec<ProgramSample> {
        self.bill.programs()
    }

    /// Begins a watch in the background and answers when it is over. It ends early when nobody waits for the answer any
    /// more, when the domain stops, and when it is not allowed any more. Must be called inside a tokio runtime.
    pub fn begin(&self, ask: Ask, reply: Reply) {
        let answer = match self.admit(&ask) {
            Ok(place) => {
                let (rest, bill) = (Arc::clone(&self.rest), Arc::clone(&self.bill));
                let job = run::Job { kernel: self.kernel.clone(), rest, bill, ask };
                let (allowed, stop) = (self.allowed.subscribe(), Arc::clone(&self.stop));
                tokio::task::spawn_blocking(move || {
                    let end = || {
                        if reply.is_closed() || stop.load(Relaxed) {
                            return Some(End::Gone);
                        }
                        allowed.borrow().as_ref().err().cloned().map(End::Forbidden)
                    };
                    let outcome = run::run(job, &end);
                    drop(place);
                    // Whoever asked may be gone.
                    let _ = reply.send(outcome);
                });
                return;
            }
            Err(refusal) => Err(refusal),
        };
        let _ = reply.send(answer);
    }

    fn admit(&self, ask: &Ask) -> Result<Place, Refusal> {
        if !(SHORTEST..=LONGEST).contains(&ask.length) {
            return Err(Refusal::Length);
        }
        if let Some(reason) = &self.off {
            return Err(Refusal::Unavailable(reason.clone()));
        }
        if let Err(reason) = &*self.allowed.borrow() {
            return Err(Refusal::Overhead(reason.clone()));
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.contains(&ask.domain) {
            return Err(Refusal::Busy(ask.name.clone()));
        }
        if running.len() >= AT_A_TIME {
            return Err(Refusal::Full);
        }
        running.insert(ask.domain);
        Ok(Place { running: Arc::clone(&self.running), domain: ask.domain })
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// One of the places for watches; free again when dropped.
#[derive(Debug)]
struct Place {
    running: Arc<Mutex<BTreeSet<Uuid>>>,
    domain: Uuid,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.domain);
    }
}

/// Tries what a watch needs and attaches nothing.
///
/// # Errors
/// Why no domain can be watched here.
pub fn available(kernel: &Kernel) -> Result<String, String> {
    let on_demand = "on demand, by `kvmpilot domain NAME --watch wake-latency` or `exits`";
    Watch::load(std::process::id(), WatchKind::WakeLatency(None), kernel.is_confidential())
        .map_err(run::chain)?;
    Ok(match run::exit_events(kernel) {
        Ok(_) => on_demand.to_owned(),
        Err(error) => format!("{on_demand}; no exits here: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(domain: u128, seconds: u64) -> Ask {
        Ask {
            domain: Uuid::from_u128(domain),
            name: format!("d{domain}"),
            accel: "kvm".into(),
            what: WatchWhat::Exits,
            length: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn one_watch_a_domain_and_few_at_a_time() {
        let desk = Desk::new(Kernel::default(), None);
        let first = desk.admit(&ask(1, 30)).unwrap();
        assert_eq!(desk.admit(&ask(1, 30)).unwrap_err(), Refusal::Busy("d1".into()));
        let _others: Vec<_> = (2..=4).map(|domain| desk.admit(&ask(domain, 30)).unwrap()).collect();
        assert_eq!(desk.admit(&ask(5, 30)).unwrap_err(), Refusal::Full);
        drop(first);
        assert!(desk.admit(&ask(5, 30)).is_ok());
        for seconds in [0, 61] {
            assert_eq!(desk.admit(&ask(9, seconds)).unwrap_err(), Refusal::Length);
        }
    }

    #[test]
    fn a_reason_keeps_everybody_out() {
        let desk = Desk::new(Kernel::default(), None);
        desk.set_allowed(Err("too dear".into()));
        assert_eq!(desk.admit(&ask(1, 1)).unwrap_err().to_string(), "not now: too dear");
        desk.set_allowed(Ok(()));
        assert!(desk.admit(&ask(1, 1)).is_ok());
        let off = Desk::new(Kernel::default(), Some("no BPF".into()));
        assert_eq!(off.admit(&ask(1, 1)).unwrap_err(), Refusal::Unavailable("no BPF".into()));
    }

    #[test]
    fn windows_of_all_domains_together_are_open_for_a_tenth_of_the_time() {
        let begin = Instant::now();
        let rest = Rest(Mutex::new(begin));
        let ms = Duration::from_millis;
        assert_eq!(rest.take(begin, ms(200)), Ok(()));
        assert_eq!(rest.take(begin + ms(300), ms(200)), Err(begin + ms(2000)));
        rest.spent(begin, ms(230));
        assert_eq!(rest.take(begin + ms(2000), ms(200)), Err(begin + ms(2300)));
        rest.spent(begin, ms(10));
        assert_eq!(rest.take(begin + ms(2299), ms(200)), Err(begin + ms(2300)));
        assert_eq!(rest.take(begin + ms(2300), ms(200)), Ok(()));
    }
}
