//! What waits to be sent: bounded by its memory. The oldest metrics go first, because newer ones say more; order events go when
//! nothing else is left, because nobody says them again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::body::Bytes;
use tokio::sync::Notify;

/// Kinds of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Metrics,
    Logs,
}

impl Signal {
    /// As in OTLP's paths.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// One request, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) signal: Signal,
    pub(super) body: Bytes,
}

impl Request {
    pub(super) fn new(signal: Signal, body: Vec<u8>) -> Self {
        Self { signal, body: body.into() }
    }
}

/// The queue and what became of all that was in it.
#[derive(Debug)]
pub(super) struct Queue {
    limit: usize,
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Request>,
    books: Books,
}

/// Counts by [`Signal`], since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Books {
    pub(super) bytes: usize,
    pub(super) sent: [u64; 2],
    pub(super) dropped: [u64; 2],
    pub(super) failed: u64,
    /// Why the last attempt failed; `None` if it did not.
    pub(super) trouble: Option<String>,
}

impl State {
    /// Drops the oldest until the rest fits.
    fn bound(&mut self, limit: usize) {
        while self.books.bytes > limit {
            let metrics = self.waiting.iter().position(|request| request.signal == Signal::Metrics);
            let Some(oldest) = self.waiting.remove(metrics.unwrap_or(0)) else { return };
            self.books.bytes -= oldest.body.len();
            self.books.dropped[oldest.signal as usize] += 1;
        }
    }
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), filled: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, request: Request) {
        let mut state = self.state();
        state.books.bytes += request.body.len();
        state.waiting.push_back(request);
        state.bound(self.limit);
        drop(state);
        self.filled.notify_one();
    }

    /// The oldest request, as soon as there is one. It does not count as waiting any more.
    pub(super) async fn take(&self) -> Request {
        loop {
            let request = {
                let mut state = self.state();
                let request = state.waiting.pop_front();
                state.books.bytes -= request.as_ref().map_or(0, |request| request.body.len());
                request
            };
            match request {
                Some(request) => return request,
                None => self.filled.notified().await,
            }
        }
    }

    /// Takes back what could not be sent; it is the oldest again, and goes first if there is no room.
    pub(super) fn put_back(&self, request: Request, why: String) {
        let mut state = self.state();
        state.books.failed += 1;
        state.books.trouble = Some(why);
        state.books.bytes += request.body.len();
        state.waiting.push_front(request);
        state.bound(self.limit);
    }

    pub(super) fn sent(&self, signal: Signal) {
        let mut state = self.state();
        state.books.sent[signal as usize] += 1;
        state.books.trouble = None;
    }

    /// The collector will never take it.
    pub(super) fn refused(&self, signal: Signal, why: String) {
        let mut state = self.state();
        state.books.failed += 1;
        state.books.dropped[signal as usize] += 1;
        state.books.trouble = Some(why);
    }

    pub(super) fn books(&self) -> Books {
        self.state().books.clone()
    }
}
