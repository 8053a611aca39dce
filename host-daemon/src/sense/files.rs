//! Watched files of the guests, looked at in the background: right after the guest's first answer, and then now and then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::sample::FilesSample;
use kvmpilot_core::units::doubled;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::guest_channel::GuestChannel;

/// Looks under way at the same time. Fewer than polls, which are what decisions need.
const SIDE_BY_SIDE: usize = 2;
/// Longest pause between two tries of a guest that does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The watched files of the guests.
#[derive(Debug)]
pub struct WatchedFiles {
    channel: GuestChannel,
    began: Instant,
    states: Arc<Mutex<BTreeMap<Uuid, State>>>,
    permits: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    paths: Vec<String>,
    latest: Option<Arc<FilesSample>>,
    due: Duration,
    failures: u32,
    looking: bool,
}

impl WatchedFiles {
    /// Knows nothing yet. `began` is the start of the daemon's monotonic clock.
    #[must_use]
    pub fn new(channel: GuestChannel, began: Instant) -> Self {
        Self { channel, began, states: Arc::default(), permits: Arc::new(Semaphore::new(SIDE_BY_SIDE)) }
    }

    /// What was found last.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<Uuid, Arc<FilesSample>> {
        self.lock().iter().filter_map(|(uuid, state)| Some((*uuid, state.latest.clone()?))).collect()
    }

    /// Starts looks into those guests that are due. `wanted` are the paths of each guest that answers; the others are
    /// forgotten. Returns at once.
    pub fn look(&self, wanted: BTreeMap<Uuid, Vec<String>>, period: Duration) {
        let now = self.began.elapsed();
        let mut states = self.lock();
        states.retain(|uuid, _| wanted.contains_key(uuid));
        for (uuid, paths) in wanted {
            let state = states.entry(uuid).or_default();
            if state.paths != paths {
                (state.due, state.paths) = (now, paths);
            }
            if state.looking || state.due > now {
                continue;
            }
            state.looking = true;
            self.start(uuid, state.paths.clone(), period);
        }
    }

    fn start(&self, uuid: Uuid, paths: Vec<String>, period: Duration) {
        let agent = self.channel.agent(uuid);
        let (states, permits, began) = (Arc::clone(&self.states), Arc::clone(&self.permits), self.began);
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire().await;
            let result = agent.files(&paths).await;
            let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(state) = states.get_mut(&uuid) else { return };
            state.looking = false;
            let sample = match result {
                Ok(files) => {
                    state.failures = 0;
                    FilesSample { files, trouble: None }
                }
                Err(error) => {
                    state.failures = state.failures.saturating_add(1);
                    FilesSample { files: Vec::new(), trouble: Some(error.to_string()) }
                }
            };
            if state.paths == paths {
                let pause = doubled(period, state.failures, LONGEST_PAUSE.max(period));
                state.due = began.elapsed() + pause;
            }
            state.latest = Some(Arc::new(sample));
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
