//! What the guests' agents told, polled in the background: a few at a time, each at its own pace, silent ones less
//! and less often.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::model::GuestReading;
use kvmpilot_core::sample::{GuestSample, GuestSystem};
use kvmpilot_core::units::doubled;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::agent::{Abilities, AgentError};
use crate::guest_channel::GuestChannel;

/// Polls under way at the same time. Each may hold a libvirt connection for the agent's deadline.
const SIDE_BY_SIDE: usize = 4;
/// Longest pause between two tries of an agent that does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What changes rarely is asked for so often, and when an agent comes back.
const SYSTEM_PERIOD: Duration = Duration::from_secs(300);

/// The insides of the guests.
#[derive(Debug)]
pub struct Guests {
    channel: GuestChannel,
    began: Instant,
    states: Arc<Mutex<BTreeMap<Uuid, GuestState>>>,
    permits: Arc<Semaphore>,
}

/// One guest.
#[derive(Clone, Debug, Default)]
pub struct GuestState {
    /// The poll before the last.
    pub previous: Option<Arc<GuestReading>>,
    /// The last good poll.
    pub latest: Option<Arc<GuestReading>>,
    /// Why there is no newer one, in words.
    pub trouble: Option<String>,
    /// What the agent permits, as far as it said.
    pub abilities: Option<Abilities>,
    /// What changes rarely, as told last.
    pub system: Option<Arc<GuestSystem>>,
    system_due: Duration,
    failures: u32,
    /// When it was asked last.
    asked: Option<Duration>,
    due: Duration,
    polling: bool,
    /// Not there at the last look: paused, in a job, or no agent on the channel.
    away: bool,
}

impl Guests {
    /// Knows nothing yet. `began` is the start of the daemon's monotonic clock.
    #[must_use]
    pub fn new(channel: GuestChannel, began: Instant) -> Self {
        Self { channel, began, states: Arc::default(), permits: Arc::new(Semaphore::new(SIDE_BY_SIDE)) }
    }

    /// All guests.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<Uuid, GuestState> {
        self.lock().clone()
    }

    /// Starts polls of those guests in `present` that are due: each with the CPU time of its domain's threads at this
    /// moment. Returns at once. Guests that are not `known` are forgotten; of one that is known and not present, only when
    /// it may be asked again: an agent that comes and goes is not asked more often than one that stays.
    pub fn poll(&self, present: &[(Uuid, Option<u64>)], known: impl Fn(Uuid) -> bool, period: Duration) {
        // An agent that comes back may be another one in another system: what was learned of the old one goes with it.
        self.channel.keep(|uuid| present.iter().any(|(other, _)| *other == uuid));
        let now = self.began.elapsed();
        let mut states = self.lock();
        states.retain(|uuid, _| known(*uuid));
        for (uuid, state) in states.iter_mut() {
            if !present.iter().any(|(other, _)| other == uuid) {
                (state.away, state.latest, state.previous) = (true, None, None);
                (state.system, state.system_due) = (None, Duration::ZERO);
            }
        }
        for (uuid, host_cpu_ns) in present {
            let state = states.entry(*uuid).or_default();
            if std::mem::take(&mut state.away) {
                // What kept it from answering may be over.
                state.due = state.asked.map_or(now, |asked| state.due.min(asked + period));
            }
            if state.polling || state.due > now {
                continue;
            }
            state.polling = true;
            self.start(*uuid, *host_cpu_ns, period);
        }
    }

    fn start(&self, uuid: Uuid, host_cpu_ns: Option<u64>, period: Duration) {
        let agent = self.channel.agent(uuid);
        let states = Arc::clone(&self.states);
        let permits = Arc::clone(&self.permits);
        let began = self.began;
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire().await;
            let at = began.elapsed();
            let result = agent.poll().await;
            let abilities = agent.abilities().await;
            let answers = result.is_ok();
            if !Self::take(&states, uuid, at, |state| {
                state.abilities = abilities;
                state.note(result, (at, host_cpu_ns), period, began, uuid);
                let due = answers && state.system_due <= at;
                state.polling = due;
                due
            }) {
                return;
            }
            // Rarely, and after what decisions wait for.
            let system = agent.system().await;
            Self::take(&states, uuid, at, |state| {
                state.system_due = at + SYSTEM_PERIOD.max(period);
                match system {
                    Ok(system) => state.system = Some(Arc::new(system)),
                    Err(error) => {
                        tracing::info!(domain = %uuid, %error, "the guest's system could not be read");
                        let missing = vec![error.to_string()];
                        state.system.get_or_insert_with(|| {
                            Arc::new(GuestSystem { missing, ..GuestSystem::default() })
                        });
                    }
                }
                false
            });
        });
    }

    /// Puts what was asked `at` that moment into the state of a guest that is still there.
    fn take(
        states: &Mutex<BTreeMap<Uuid, GuestState>>,
        uuid: Uuid,
        at: Duration,
        with: impl FnOnce(&mut GuestState) -> bool,
    ) -> bool {
        let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = states.get_mut(&uuid) else { return false };
        (state.polling, state.asked) = (false, Some(at));
        !state.away && with(state)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, GuestState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GuestState {
    fn note(
        &mut self,
        result: Result<GuestSample, AgentError>,
        (at, host_cpu_ns): (Duration, Option<u64>),
        period: Duration,
        began: Instant,
        uuid: Uuid,
    ) {
        match result {
            Ok(sample) => {
                self.previous = self.latest.replace(Arc::new(GuestReading { at, host_cpu_ns, sample }));
                self.trouble = None;
                self.failures = 0;
                self.due = at + period;
            }
            Err(error @ AgentError::Frozen) => {
                self.due = began.elapsed() + period;
                self.trouble = Some(error.to_string());
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.due = began.elapsed() + doubled(period, self.failures, LONGEST_PAUSE.max(period));
                self.trouble = Some(error.to_string());
                tracing::info!(domain = %uuid, %error, "the guest's agent could not be used");
            }
        }
    }
}
