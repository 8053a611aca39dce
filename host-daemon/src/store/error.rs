//! [`StoreError`]: what can be wrong with the database file, and the way out.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the store could not do something. The text names the file and the way out.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is damaged or is no database.
    #[error(
        "{} is damaged ({detail}), and with it perhaps the record of original values; kvmpilot does not touch it. \
         Try `sqlite3 {} .recover`; or move it and the -wal and -shm files beside it away to start anew: values that \
         kvmpilot had changed then stay until their domains restart",
        file.display(), file.display()
    )]
    Corrupt {
        /// The database.
        file: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// A newer kvmpilot has written it.
    #[error(
        "{} was written by a newer kvmpilot; install that version again, or move the file away to start anew (after \
         `kvmpilot restore` with the newer version)",
        .0.display()
    )]
    Newer(PathBuf),
    /// Another process works with it.
    #[error(
        "{} is in use by another process; is a second kvmpilotd or a `kvmpilot restore` running? `fuser -v` on the \
         file names it",
        .0.display()
    )]
    InUse(PathBuf),
    /// Another program holds SQLite's lock.
    #[error(
        "{} is locked by another program for too long; nothing is changed until it lets go (`fuser -v` on the file names \
         it)",
        .0.display()
    )]
    Locked(PathBuf),
    /// The file that was opened is not there any more.
    #[error(
        "{} was deleted or replaced while kvmpilotd runs, and with it the record of original values; nothing is changed \
         any more. Restart kvmpilotd: it still knows them, and puts everything back as it stops",
        .0.display()
    )]
    Gone(PathBuf),
    /// No space left.
    #[error(
        "no space left for {}; free some on its file system, or lower store.max_size in the configuration",
        .0.display()
    )]
    Full(PathBuf),
    /// The file system says no.
    #[error("{}: {source}; kvmpilotd needs to read and write it", file.display())]
    File {
        /// The file or directory.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something else.
    #[error("{}: {source}", file.display())]
    Failed {
        /// The database.
        file: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// More waits to be written than may.
    #[error(
        "the disk of {} does not keep up with what is to be written; nothing is changed until it does (`iostat -x` shows \
         how busy it is)",
        .0.display()
    )]
    Behind(PathBuf),
    /// There is no order of this number.
    #[error("there is no work order {0}")]
    NoSuchOrder(u64),
    /// The writer thread is gone, which only a bug can do.
    #[error("the writer of {} has ended; restart kvmpilotd", .0.display())]
    Stopped(PathBuf),
}

impl StoreError {
    /// Sorts SQLite's errors by what an administrator can do about them.
    pub(super) fn from_sqlite(file: &Path, source: rusqlite::Error) -> Self {
        let file = file.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { file, detail: source.to_string() }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked(file),
            Some(ErrorCode::DiskFull) => Self::Full(file),
            _ => Self::Failed { file, source },
        }
    }
}
