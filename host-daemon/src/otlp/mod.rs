//! Pushes what `/metrics` shows and each change of a work order's state to an OpenTelemetry collector: OTLP over HTTP, JSON.
//!
//! It looks at what the daemon has published and at the store, in tasks of its own: nothing here is waited for, and a collector
//! that is slow or gone costs the daemon a bounded queue whose oldest entries are dropped and counted.

mod json;
mod logs;
mod metrics;
mod queue;
mod send;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use kvmpilot_core::units::doubled;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::api::views::{OtlpSignalView, OtlpView, Views};
use crate::clock::unix_ms;
use crate::config::{Endpoint, OtlpConfig};
use crate::store::{Seen, Store};
use queue::{Queue, Request, Signal};
use send::{Failed, Target};

/// First pause after a collector did not answer; doubles each time.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Order events in one request.
const MOST_EVENTS: u32 = 500;

/// The running push. Dropping it ends it.
#[derive(Debug)]
pub struct Otlp {
    endpoint: Endpoint,
    queue: Arc<Queue>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Otlp {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Otlp {
    /// Starts to push, if the configuration names a collector. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(config: &OtlpConfig, views: watch::Receiver<Arc<Views>>, store: Store) -> Option<Self> {
        let endpoint = config.endpoint.clone()?;
        let queue = Arc::new(Queue::new(config.queue_bytes));
        let target = Target::new(endpoint.clone(), config);
        let fill = tokio::spawn(fill(Arc::clone(&queue), config.period, views, store));
        let empty = tokio::spawn(empty(Arc::clone(&queue), target));
        Some(Self { endpoint, queue, tasks: [fill, empty] })
    }

    /// How it goes.
    #[must_use]
    pub fn report(&self) -> OtlpView {
        let books = self.queue.books();
        let signal = |signal: Signal| OtlpSignalView {
            signal: signal.as_str().to_owned(),
            sent: books.sent[signal as usize],
            dropped: books.dropped[signal as usize],
        };
        OtlpView {
            endpoint: self.endpoint.to_string(),
            queued_bytes: u64::try_from(books.bytes).unwrap_or(u64::MAX),
            failed_attempts: books.failed,
            signals: vec![signal(Signal::Metrics), signal(Signal::Logs)],
            message: books.trouble,
        }
    }
}

/// Puts into the queue what there is to say, once a period.
async fn fill(queue: Arc<Queue>, period: Duration, views: watch::Receiver<Arc<Views>>, store: Store) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen::default();
    loop {
        ticks.tick().await;
        let views = Arc::clone(&views.borrow());
        let (store, queue) = (store.clone(), Arc::clone(&queue));
        // Thousands of series take milliseconds, and the store reads a file.
        let filled = spawn_blocking(move || {
            for body in metrics::encode(&views, unix_ms()) {
                queue.push(Request::new(Signal::Metrics, body));
            }
            let events = store.order_news(&mut seen, MOST_EVENTS);
            if !events.is_empty() {
                queue.push(Request::new(Signal::Logs, logs::encode(&views, &events)));
            }
            seen
        });
        seen = filled.await.unwrap_or(seen);
    }
}

/// Sends what is in the queue, one after the other, and keeps it while the collector cannot take it.
async fn empty(queue: Arc<Queue>, target: Target) {
    let mut failures = 0_u32;
    loop {
        let request = queue.take().await;
        match target.send(&request).await {
            Ok(()) => {
                if failures > 0 {
                    tracing::info!(collector = %target, "the collector answers again");
                }
                failures = 0;
                queue.sent(request.signal);
            }
            Err(Failed::Refused(why)) => {
                tracing::warn!(collector = %target, why, "the collector refused what it was sent");
                failures = 0;
                queue.refused(request.signal, why);
            }
            Err(Failed::Later(why)) => {
                if failures == 0 {
                    tracing::warn!(collector = %target, why, "the collector cannot be reached; it is tried again");
                }
                queue.put_back(request, why);
                sleep(doubled(PAUSE, failures, LONGEST_PAUSE)).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}
