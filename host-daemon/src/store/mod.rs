//! What must survive the daemon: the ledger, work orders, and a history of samples, processes, connections and findings.
//!
//! One SQLite file in WAL mode, one thread that writes, read connections beside it. Every write is on disk when its
//! call returns, because a change to a domain follows the ledger entry that makes it reversible. Calls block: async
//! callers use `spawn_blocking`. What the fast loop writes down of orders does not block (`..._soon`): the one thread keeps the
//! sequence, so it is on disk before the ledger entry that follows it. There is no clock in here: times are arguments.

mod database;
mod error;
mod events;
mod health;
mod history;
mod ledger;
#[cfg(test)]
mod migration_tests;
mod orders;
mod prune;
mod rows;
mod services;
mod sql;
#[cfg(test)]
mod tests;
mod tokens;
mod writer;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rusqlite::Connection;

pub use error::StoreError;
pub use events::{Seen, StoredOrderEvent};
use health::{Health, SpareDirectory};
pub use history::HistoryRange;
use orders::OrderMoves;
pub use orders::{OrderCounts, OrderFilter};
pub use rows::{ConnectionRow, CycleRecord, Dated, DomainRow, ProcessRow};
pub use services::Lesson;
pub use tokens::{Digest, TokenRow};
use writer::Writer;

/// Name of the database in the state directory.
const FILE: &str = "kvmpilot.db";

/// How much history is kept. The ledger and open orders stay whatever these say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows older than this, measured from the newest record, are deleted.
    pub retention: Duration,
    /// Above this many bytes in use the oldest rows are deleted.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { retention: Duration::from_secs(7 * 24 * 3600), max_bytes: 512 << 20 }
    }
}

/// The database of one state directory. Clones share it; the last one to go waits for the writer and closes it.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    current: RwLock<Arc<Inner>>,
    health: Arc<Health>,
    moves: Arc<OrderMoves>,
    /// The real database, whether it can be used or not.
    file: PathBuf,
    limits: Limits,
}

/// One open database.
#[derive(Debug)]
struct Inner {
    // Field order is drop order: the writer ends before the lock goes.
    writer: Writer,
    readers: Mutex<Vec<Connection>>,
    /// Number of the next order: nobody else writes, so it can be given out before it is on disk.
    next_order: AtomicU64,
    file: PathBuf,
    /// Device and inode of the file that was opened.
    identity: (u64, u64),
    _lock: File,
    spare: Option<SpareDirectory>,
}

impl Inner {
    fn open(directory: &Path, limits: Limits) -> Result<Self, StoreError> {
        let file = directory.join(FILE);
        let lock = database::prepare(directory, &file)?;
        let connection = database::open(&file)?;
        let found =
            std::fs::metadata(&file).map_err(|source| StoreError::File { file: file.clone(), source })?;
        let identity = (found.dev(), found.ino());
        let next_order = orders::next(&connection).map_err(|error| StoreError::from_sqlite(&file, error))?;
        let writer = Writer::start(connection, &file, limits)?;
        let next_order = AtomicU64::new(next_order);
        Ok(Self { writer, readers: Mutex::default(), next_order, file, identity, _lock: lock, spare: None })
    }
}

impl Store {
    /// Opens `kvmpilot.db` in `directory`, both made if missing, and brings it to this version's schema.
    ///
    /// # Errors
    /// When another process has it open, when it is corrupt or of a newer version, or on any failure of the file
    /// system. Each error names the file and the way out; nothing is ever recreated over an unreadable file.
    pub fn open(directory: &Path, limits: Limits) -> Result<Self, StoreError> {
        Ok(Self::of(directory, limits, Inner::open(directory, limits)?))
    }

    /// Whether there is a database in `directory`, which [`Store::open`] would otherwise make.
    ///
    /// # Errors
    /// When the directory may not be looked into.
    pub fn exists(directory: &Path) -> Result<bool, StoreError> {
        let file = directory.join(FILE);
        file.try_exists().map_err(|source| StoreError::File { file, source })
    }

    /// The database file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.shared.file
    }

    /// Changes how much history is kept, from the next record on.
    ///
    /// # Errors
    /// When the writer has ended.
    pub fn set_limits(&self, limits: Limits) -> Result<(), StoreError> {
        self.run(move |state| {
            state.limits = limits;
            Ok(())
        })
    }

    fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(move |state| job(&mut state.connection))
    }

    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut writer::State) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let result = self.current().writer.run(job);
        self.shared.health.note(&result);
        result
    }

    /// As [`Self::run`], but does not wait: what comes of it is in the log and in [`Self::trouble`]. `what` it is, for both.
    fn write_soon(
        &self,
        what: &'static str,
        job: impl FnOnce(&mut writer::State) -> rusqlite::Result<()> + Send + 'static,
        failed: impl FnOnce() + Send + 'static,
    ) -> Result<(), StoreError> {
        let inner = self.current();
        let (health, file) = (Arc::clone(&self.shared.health), inner.file.clone());
        let result = inner.writer.post(move |state| {
            if let Err(error) = job(state) {
                let error = StoreError::from_sqlite(&file, error);
                tracing::error!(%error, what, "not written down");
                health.note::<()>(&Err(error));
                failed();
            }
        });
        self.shared.health.note(&result);
        result
    }

    /// Waits until everything that was given to be written is.
    ///
    /// # Errors
    /// When the writer has ended.
    pub fn settle(&self) -> Result<(), StoreError> {
        self.current().writer.settle()
    }

    fn current(&self) -> Arc<Inner> {
        Arc::clone(&self.shared.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs a query on a read connection, which goes back to the pool afterwards.
    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        // Four is what the API's readers can use on a busy host; more are opened when needed and then dropped.
        const POOL: usize = 4;
        let inner = self.current();
        let pool = || inner.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let pooled = pool().pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => database::open_reader(&inner.file)?,
        };
        let result = query(&connection).map_err(|error| StoreError::from_sqlite(&inner.file, error));
        let mut pool = pool();
        if pool.len() < POOL {
            pool.push(connection);
        }
        result
    }
}
