//! The flows of the domains, read in the background by a thread of its own: loading probes takes milliseconds, and a full
//! table has a thousand entries. The fast loop only says what there is to watch.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::sample::{DomainState, FlowReading, ProgramSample, Sample};
use tokio::time::Instant;

use crate::probes::flows::{DomainNetwork, FlowProbes, Hook};

/// Pause between two looks for new devices and full tables.
const TURN: Duration = Duration::from_secs(1);
/// The same while a table fills: it is emptied before its kernel has to throw flows out unread, up to a thousand
/// connections a second with tables of the default size.
const SHORT_TURN: Duration = Duration::from_millis(250);
/// Time between two readings of every table: the window of all rates.
const PERIOD: Duration = Duration::from_secs(5);
/// A table with so many flows is read each turn, because short connections fill it. Part of its size: 1 / this.
const BUSY: usize = 8;

/// The flows of all domains.
#[derive(Debug)]
pub struct Flows {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// One domain's flows.
#[derive(Clone, Debug)]
pub struct FlowState {
    /// The reading before the last.
    pub previous: Option<Arc<FlowReading>>,
    /// The last reading.
    pub latest: Arc<FlowReading>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: BTreeMap<Uuid, DomainNetwork>,
    enabled: bool,
    stop: bool,
    domains: BTreeMap<Uuid, FlowState>,
    programs: Vec<ProgramSample>,
    hook: Hook,
    trouble: Vec<String>,
}

impl Flows {
    /// Starts to watch with these probes. `began` is the start of the daemon's monotonic clock; tables have `capacity`
    /// entries.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(probes: FlowProbes, capacity: u32, began: Instant) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.lock().enabled = true;
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        let worker =
            Worker { probes, shared: Arc::clone(&shared), began, busy: capacity / BUSY, enabled: true };
        let thread = std::thread::Builder::new().name("flows".to_owned()).spawn(move || worker.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Says which domains and devices there are. Returns at once; what is new is watched within a turn.
    pub fn follow(&self, sample: &Sample) {
        let watched = |state| matches!(state, DomainState::Running | DomainState::Paused);
        let wanted: BTreeMap<Uuid, DomainNetwork> = sample
            .domains
            .iter()
            .filter(|domain| watched(domain.state))
            .map(|domain| {
                let taps = domain.interfaces.iter().map(|tap| tap.device.clone()).collect();
                let processes = domain.qemu_pid.filter(|_| domain.user_networking).into_iter().collect();
                (domain.uuid, DomainNetwork { taps, processes })
            })
            .collect();
        let mut state = self.shared.lock();
        if state.wanted != wanted {
            state.wanted = wanted;
            self.shared.changed.notify_one();
        }
    }

    /// Detaches everything, or begins anew: for whoever has to save.
    pub fn set_enabled(&self, enabled: bool) {
        self.shared.lock().enabled = enabled;
        self.shared.changed.notify_one();
    }

    /// All domains that are watched and were read.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<Uuid, FlowState> {
        self.shared.lock().domains.clone()
    }

    /// The programs, all their instances together.
    #[must_use]
    pub fn programs(&self) -> Vec<ProgramSample> {
        self.shared.lock().programs.clone()
    }

    /// Whether flows are watched, and how or why not.
    #[must_use]
    pub fn report(&self) -> (bool, String) {
        let state = self.shared.lock();
        if !state.enabled {
            return (false, "detached, to save CPU time".to_owned());
        }
        let how = match state.hook {
            Hook::Unknown => "no device has come yet",
            Hook::Tcx => "attached by tcx links",
            Hook::Clsact => "attached by filters of clsact qdiscs",
        };
        let domains = state.domains.len();
        (true, format!("flows of {domains} domains are watched; {how}"))
    }

    /// What could not be attached or read, in words.
    #[must_use]
    pub fn trouble(&self) -> Vec<String> {
        self.shared.lock().trouble.clone()
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that watches flows ended early");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker {
    probes: FlowProbes,
    shared: Arc<Shared>,
    began: Instant,
    busy: usize,
    enabled: bool,
}

impl Worker {
    fn run(mut self) {
        let mut due = Duration::ZERO;
        let mut wanted = BTreeMap::new();
        let mut pause = TURN;
        loop {
            let state = self.shared.lock();
            let idle =
                |state: &mut State| !state.stop && state.wanted == wanted && state.enabled == self.enabled;
            let waited = self.shared.changed.wait_timeout_while(state, pause, idle);
            let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.stop {
                return;
            }
            wanted.clone_from(&state.wanted);
            let enabled = state.enabled;
            drop(state);
            if enabled != self.enabled {
                self.probes.set_enabled(enabled);
                self.enabled = enabled;
            }
            due = self.turn(&wanted, due);
            let fills = self.probes.domains().any(|(_, flows)| flows >= self.busy);
            pause = if fills { SHORT_TURN } else { TURN };
        }
    }

    /// Attaches, reads what is due and, once a period, publishes all of it. Returns when that is due next.
    fn turn(&mut self, wanted: &BTreeMap<Uuid, DomainNetwork>, due: Duration) -> Duration {
        let now = self.began.elapsed();
        for error in self.probes.follow(wanted, now) {
            tracing::warn!(error = error.words(), "not all flows are seen");
        }
        let all = now >= due;
        let mut trouble = self.probes.trouble();
        let domains: Vec<(Uuid, usize)> = self.probes.domains().collect();
        for (uuid, flows) in domains {
            if (all || flows >= self.busy)
                && let Err(error) = self.probes.read(uuid, now)
            {
                trouble.push(error.words());
            }
        }
        if all && let Err(error) = self.probes.read_sockets(now) {
            trouble.push(error.words());
        }
        let (hook, programs) = (self.probes.hook(), self.probes.programs());
        let fresh = |(uuid, _)| {
            let sample = self.probes.sample(uuid, now)?;
            Some((uuid, Arc::new(FlowReading { at: now, sample })))
        };
        let fresh: Vec<_> = if all { self.probes.domains().filter_map(fresh).collect() } else { Vec::new() };
        // The fast loop waits for this lock, and on a busy host for as long as this thread waits for a pcpu with it: nothing is
        // asked or computed under it.
        let mut state = self.shared.lock();
        (state.trouble, state.hook, state.programs) = (trouble, hook, programs);
        if !all {
            return due;
        }
        let mut before = std::mem::take(&mut state.domains);
        state.domains.extend(fresh.into_iter().map(|(uuid, latest)| {
            let previous = before.remove(&uuid).map(|before| before.latest);
            (uuid, FlowState { previous, latest })
        }));
        now + PERIOD
    }
}
