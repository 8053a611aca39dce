//! The one thread that writes: runs jobs in order, and prunes in small bites while none waits.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::{Connection, ErrorCode};

use super::orders::{OrderMoves, Step};
use super::prune;
use super::{Limits, StoreError};

type Job = Box<dyn FnOnce(&mut State) + Send>;

/// What jobs work on.
#[derive(Debug)]
pub(super) struct State {
    pub(super) connection: Connection,
    pub(super) limits: Limits,
    /// Time of the newest record, which age is measured from; a step of the clock into the future does not count.
    pub(super) newest_unix_ms: u64,
    /// Whether there may be something to prune.
    pub(super) prune: bool,
    /// Steps of orders that could not be written down yet, oldest first.
    late: VecDeque<Step>,
}

/// Jobs that may wait. One tick of 500 domains brings fewer, and a disk that takes so long is a reason to change nothing.
const QUEUE: usize = 1024;
/// Steps of orders that are kept while the file cannot be written. Nothing is carried out then, so that there are few more.
const LATE: usize = 4096;

/// Records come every few minutes: a longer way into the future is a step of the clock.
const CLOCK_STEP_MS: u64 = 24 * 3600 * 1000;

impl State {
    /// Takes note of a record's time. A wrong clock must not make everything look old.
    pub(super) const fn note_time(&mut self, unix_ms: u64) {
        if self.newest_unix_ms == 0 || unix_ms < self.newest_unix_ms + CLOCK_STEP_MS {
            self.newest_unix_ms = unix_ms;
        }
    }

    /// Writes down a step of an order, after those that are late.
    pub(super) fn step(&mut self, step: Step, moves: &OrderMoves) -> rusqlite::Result<()> {
        if self.late.len() == LATE {
            tracing::error!(step = ?self.late.pop_front(), "never written down: too many are late");
        }
        self.late.push_back(step);
        self.catch_up(moves)
    }

    /// Writes down what is late, up to the first that cannot be yet.
    pub(super) fn catch_up(&mut self, moves: &OrderMoves) -> rusqlite::Result<()> {
        while let Some(step) = self.late.front() {
            let taken = step.take(&self.connection);
            if taken.as_ref().is_err_and(passes) {
                return taken.map(drop);
            }
            let to = step.to;
            self.late.pop_front();
            moves.note(to, taken?);
        }
        Ok(())
    }
}

/// Whether the same may succeed later.
fn passes(error: &rusqlite::Error) -> bool {
    use ErrorCode::{CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, ReadOnly, SystemIoFailure};
    let code = error.sqlite_error_code();
    code.is_some_and(|code| {
        matches!(code, CannotOpen | DatabaseBusy | DatabaseLocked | DiskFull | ReadOnly | SystemIoFailure)
    })
}

/// Handle of the thread. Dropping it lets the thread finish its jobs and waits for it.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    file: PathBuf,
    /// Jobs that nobody waits for and that are not done yet.
    posted: Arc<AtomicUsize>,
}

impl Writer {
    pub(super) fn start(connection: Connection, file: &Path, limits: Limits) -> Result<Self, StoreError> {
        let (jobs, queue) = sync_channel(QUEUE);
        let state = State { connection, limits, newest_unix_ms: 0, prune: false, late: VecDeque::new() };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || work(state, &queue))
            .map_err(|source| StoreError::File { file: file.to_owned(), source })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), file: file.to_owned(), posted: Arc::default() })
    }

    /// Runs `job` on the thread and waits for its result.
    pub(super) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut State) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let stopped = || StoreError::Stopped(self.file.clone());
        let (reply, result) = sync_channel(1);
        let job: Job = Box::new(move |state| {
            // The caller waits below, so the reply always has a taker.
            let _ = reply.send(job(state));
        });
        self.jobs.as_ref().ok_or_else(stopped)?.send(job).map_err(|_| stopped())?;
        result.recv().map_err(|_| stopped())?.map_err(|source| StoreError::from_sqlite(&self.file, source))
    }

    /// Has `job` run after those before it, and does not wait: the fast loop must not be held by a disk.
    pub(super) fn post(&self, job: impl FnOnce(&mut State) + Send + 'static) -> Result<(), StoreError> {
        let jobs = self.jobs.as_ref().ok_or_else(|| StoreError::Stopped(self.file.clone()))?;
        let posted = Arc::clone(&self.posted);
        let counted: Job = Box::new(move |state| {
            job(state);
            posted.fetch_sub(1, Ordering::Release);
        });
        self.posted.fetch_add(1, Ordering::Relaxed);
        jobs.try_send(counted).map_err(|error| {
            self.posted.fetch_sub(1, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => StoreError::Behind(self.file.clone()),
                TrySendError::Disconnected(_) => StoreError::Stopped(self.file.clone()),
            }
        })
    }

    /// Waits for what was posted so far.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        if self.posted.load(Ordering::Acquire) == 0 { Ok(()) } else { self.run(|_| Ok(())) }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(mut state: State, queue: &Receiver<Job>) {
    loop {
        let job =
            if state.prune { queue.try_recv() } else { queue.recv().map_err(|_| TryRecvError::Disconnected) };
        match job {
            Ok(job) => job(&mut state),
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                state.prune = prune::bite(&state).unwrap_or_else(|error| {
                    tracing::warn!(%error, "old history could not be deleted; tried again after the next record");
                    false
                });
            }
        }
    }
}
