//! What the watchdog is told: that the fast loop turns, and that the store's writer and the threads that wait for it answer.
//! A libvirt or a guest that hangs is no reason to be restarted: that would not help.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvmpilot_core::decide::History;
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::{Instant, sleep};

use super::{Daemon, services};
use crate::clock::unix_ms;
use crate::orders::OrderBook;
use crate::store::Store;

/// Time between two looks at the store.
const BEAT: Duration = Duration::from_secs(5);
/// A store that has not answered for so long hangs.
const SILENT: Duration = Duration::from_secs(30);

/// Looks at the store again and again, in the background.
#[derive(Debug)]
pub(super) struct Pulse {
    answered: Arc<Mutex<Instant>>,
    task: JoinHandle<()>,
}

impl Pulse {
    pub(super) fn start(store: Store) -> Self {
        let answered = Arc::new(Mutex::new(Instant::now()));
        let seen = Arc::clone(&answered);
        let task = tokio::spawn(async move {
            loop {
                let store = store.clone();
                // One look at a time: those that hang do not pile up.
                let checked = tokio::task::spawn_blocking(move || store.check()).await;
                match checked {
                    Ok(()) => *seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now(),
                    Err(error) => tracing::error!(%error, "looking at the store ended early"),
                }
                sleep(BEAT).await;
            }
        });
        Self { answered, task }
    }

    /// For how long the store has not answered, if that is too long.
    pub(super) fn silence(&self) -> Option<Duration> {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        Some(answered.elapsed()).filter(|silence| *silence > SILENT)
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Daemon {
    /// Why nothing may be changed on any domain as far as the store is concerned, in words.
    pub(super) fn store_trouble(&self) -> Option<String> {
        let silent = self.pulse.silence();
        let silent =
            silent.map(|silence| format!("the database has not answered for {} s", silence.as_secs()));
        silent.or_else(|| self.store.trouble())
    }

    /// The real database can be used at last: begins with what it knows as after a start. Until that has been read nothing is put
    /// back or changed: what the spare knew of originals is nothing.
    pub(super) fn follow_store(&mut self) {
        if !self.on_spare || self.store.is_spare() {
            return;
        }
        let opened = block_in_place(|| {
            self.executor.ledger().reload()?;
            OrderBook::open(self.store.clone(), unix_ms())
        });
        match opened {
            Ok(book) => {
                let History { baselines, services, .. } = block_in_place(|| services::learned(&self.store));
                (self.history.baselines, self.history.services) = (baselines, services);
                (self.book, self.recovered, self.on_spare) = (book, false, false);
                tracing::info!("the database can be used");
            }
            Err(error) => tracing::error!(%error, "the database could be used for a moment only"),
        }
    }
}
