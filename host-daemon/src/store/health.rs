//! Whether the store can be relied on. A change to a domain needs its ledger entry on disk first, so what is wrong here
//! keeps the daemon from changing anything; looking goes on, on a spare database if need be.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::orders::OrderMoves;
use super::{FILE, Inner, Limits, Shared, Store, StoreError};

/// A spare lives as long as the daemon at most, and shows the last hours.
const SPARE_BYTES: u64 = 32 << 20;
/// Free space that there must be for a change: a ledger entry has less than 1 KiB.
const RESERVE: u64 = 1 << 20;
/// Names tried for the spare's directory. They are taken only by daemons that were killed.
const SPARE_NAMES: u32 = 100;

/// What is known of the store's health.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Why it cannot be relied on, in words.
    trouble: Mutex<Option<String>>,
    /// Writes that failed.
    failures: AtomicU64,
    /// Orders that could not be written down.
    lost: Mutex<Vec<u64>>,
}

impl Health {
    /// Takes note of what came of a write.
    pub(super) fn note<T>(&self, result: &Result<T, StoreError>) {
        match result {
            // A write that failed says more than one that went well: only `Store::check` gives the all-clear.
            Ok(_) | Err(StoreError::NoSuchOrder(_)) => {}
            Err(error) => {
                self.failures.fetch_add(1, Ordering::SeqCst);
                self.set(Some(error));
            }
        }
    }

    /// An order that somebody may know could not be written down.
    pub(super) fn lose(&self, order: u64) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(order);
    }

    fn set(&self, error: Option<&StoreError>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = error.map(ToString::to_string);
    }

    fn get(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A directory that goes with its database.
#[derive(Debug)]
pub(super) struct SpareDirectory(PathBuf);

impl Drop for SpareDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(directory = %self.0.display(), %error, "the spare database could not be removed");
        }
    }
}

impl Store {
    /// As [`Store::open`]; but where the file cannot be used, the store begins with an empty spare database elsewhere and
    /// says so in [`Store::trouble`], and [`Store::check`] goes over to the real one as soon as it can be used.
    ///
    /// # Errors
    /// When another kvmpilot has the file, or there is no place for a spare either.
    pub fn open_or_spare(directory: &Path, limits: Limits) -> Result<Self, StoreError> {
        let error = match Self::open_sound(directory, limits) {
            Ok(inner) => return Ok(Self::of(directory, limits, inner)),
            Err(error @ StoreError::InUse(_)) => return Err(error),
            Err(error) => error,
        };
        let spare = spare_directory()?;
        // The real one has its own limits when its time comes.
        let small = Limits { max_bytes: limits.max_bytes.min(SPARE_BYTES), ..limits };
        let inner = Inner::open(&spare.0, small)?;
        let store = Self::of(directory, limits, Inner { spare: Some(spare), ..inner });
        store.shared.health.set(Some(&error));
        Ok(store)
    }

    /// Opens the real database and makes sure that nothing in its ledger is beyond us.
    fn open_sound(directory: &Path, limits: Limits) -> Result<Inner, StoreError> {
        let inner = Inner::open(directory, limits)?;
        Self::of(directory, limits, inner).into_sound()
    }

    fn into_sound(self) -> Result<Inner, StoreError> {
        self.ledger()?;
        let file = self.shared.file.clone();
        let current = Arc::into_inner(self.shared).map(|shared| shared.current.into_inner());
        let current = current.map(|current| current.unwrap_or_else(PoisonError::into_inner));
        current.and_then(Arc::into_inner).ok_or(StoreError::Stopped(file))
    }

    pub(super) fn of(directory: &Path, limits: Limits, inner: Inner) -> Self {
        let shared = Shared {
            current: std::sync::RwLock::new(Arc::new(inner)),
            health: Arc::default(),
            moves: Arc::<OrderMoves>::default(),
            file: directory.join(FILE),
            limits,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Why the store cannot be relied on, in words. Nothing may be changed on a domain then.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.health.get()
    }

    /// Orders that were given out since the last call and could not be written down after all.
    pub(crate) fn take_lost(&self) -> Vec<u64> {
        std::mem::take(&mut self.shared.health.lost.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this is a spare database: what the real one has in its ledger is not known.
    #[must_use]
    pub fn is_spare(&self) -> bool {
        self.current().spare.is_some()
    }

    /// Looks whether the writer answers and the file is there and can be written, and updates [`Store::trouble`]. Where this is a
    /// spare database and the real one can be used, that takes its place: everything read before is void then.
    /// Blocks for as long as the disk or another program does.
    pub fn check(&self) {
        if self.is_spare() {
            let directory = self.shared.file.parent().unwrap_or_else(|| Path::new("/"));
            match Self::open_sound(directory, self.shared.limits) {
                Ok(inner) => {
                    *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(inner);
                    self.shared.health.set(None);
                    // The spare numbered its orders anew: those that it lost have namesakes here.
                    drop(self.take_lost());
                }
                Err(error) => self.shared.health.set(Some(&error)),
            }
            return;
        }
        let health = &self.shared.health;
        let failures = health.failures.load(Ordering::SeqCst);
        let in_trouble = self.trouble().is_some();
        let checked = self.is_there().and_then(|()| self.has_room()).and_then(|()| {
            let inner = self.current();
            let moves = Arc::clone(&self.shared.moves);
            // All is well until a write fails; then only a write that succeeds says that it is well again.
            inner.writer.run(move |state| {
                if in_trouble {
                    let version: i64 =
                        state.connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
                    state.connection.pragma_update(None, "user_version", version)?;
                    return state.catch_up(&moves);
                }
                state.connection.execute_batch("begin immediate; rollback")
            })
        });
        // A write that has failed meanwhile knows better; the next look tells.
        if checked.is_err() || health.failures.load(Ordering::SeqCst) == failures {
            health.set(checked.err().as_ref());
        }
    }

    /// What is changed must be written down, now and when it goes back: that is not begun on the last bytes.
    fn has_room(&self) -> Result<(), StoreError> {
        let file = &self.shared.file;
        let told = nix::sys::statvfs::statvfs(file.parent().unwrap_or(file));
        let told = told.map_err(|error| StoreError::File { file: file.clone(), source: error.into() })?;
        let free = told.blocks_available().saturating_mul(told.fragment_size());
        if free < RESERVE { Err(StoreError::Full(file.clone())) } else { Ok(()) }
    }

    /// A file that was deleted or replaced can still be written, but nobody will find it again.
    fn is_there(&self) -> Result<(), StoreError> {
        let file = &self.shared.file;
        let gone = || StoreError::Gone(file.clone());
        let now = std::fs::metadata(file).map_err(|_| gone())?;
        if self.current().identity == (now.dev(), now.ino()) { Ok(()) } else { Err(gone()) }
    }
}

/// Makes a directory that was not there before, so that nobody else's is used.
fn spare_directory() -> Result<SpareDirectory, StoreError> {
    let name = |number| std::env::temp_dir().join(format!("kvmpilotd-{}-{number}", std::process::id()));
    let mut result = Err(StoreError::Stopped(name(0)));
    for path in (0..SPARE_NAMES).map(name) {
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(SpareDirectory(path)),
            Err(source) => result = Err(StoreError::File { file: path, source }),
        }
    }
    result
}
