//! Opening the file: lock, permissions, pragmas, schema, and the check of what must not be lost.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::{M, Migrations};

use super::StoreError;

/// Each entry brings the schema from its index to the next version. Never change one that was released: append.
pub(super) const MIGRATIONS: &[M<'_>] = &[
    M::up(include_str!("schema.sql")),
    M::up(include_str!("orders.sql")),
    M::up(include_str!("services.sql")),
    M::up(include_str!("faces.sql")),
];

/// Outside programs (backup, an administrator's sqlite3) may hold the file for moments. Beyond that nothing is written, and
/// nothing changed, until the file is free.
const BUSY: Duration = Duration::from_secs(1);

/// Makes directory and file, readable by their owner only, and takes the lock that keeps a second daemon out.
pub(super) fn prepare(directory: &Path, file: &Path) -> Result<File, StoreError> {
    let failed = |path: &Path, source| StoreError::File { file: path.to_owned(), source };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| failed(directory, source))?;
    let open = |path: &Path| {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| failed(path, source))
    };
    let lock = open(&file.with_extension("lock"))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => StoreError::InUse(file.to_owned()),
        TryLockError::Error(source) => failed(file, source),
    })?;
    // Closing any descriptor of a file drops this process' POSIX locks on it, so this comes before SQLite's own open.
    open(file)?.set_permissions(Permissions::from_mode(0o600)).map_err(|source| failed(file, source))?;
    Ok(lock)
}

/// Opens the prepared file for writing, and brings it to this version's schema.
pub(super) fn open(file: &Path) -> Result<Connection, StoreError> {
    open_with(file, MIGRATIONS)
}

/// Opens with the schema that these migrations lead to. They are one transaction: if one fails, the file is as it was.
pub(super) fn open_with(file: &Path, migrations: &[M<'_>]) -> Result<Connection, StoreError> {
    refuse_newer(file, migrations.len())?;
    let sqlite = |source| StoreError::from_sqlite(file, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(file, flags).map_err(sqlite)?;
    configure(&connection).map_err(sqlite)?;
    Migrations::from_slice(migrations).to_latest(&mut connection).map_err(|error| match error {
        rusqlite_migration::Error::MigrationDefinition(_) => StoreError::Newer(file.to_owned()),
        rusqlite_migration::Error::RusqliteError { err, .. } => sqlite(err),
        other => StoreError::Corrupt { file: file.to_owned(), detail: other.to_string() },
    })?;
    // The whole file would take seconds at 512 MiB; these two tables are small and are what must not be lost.
    for table in ["ledger", "work_order"] {
        let verdict: String = connection
            .query_row(&format!("pragma quick_check({table})"), [], |row| row.get(0))
            .map_err(sqlite)?;
        if verdict != "ok" {
            let detail = verdict.lines().last().unwrap_or_default().to_owned();
            return Err(StoreError::Corrupt { file: file.to_owned(), detail });
        }
    }
    Ok(connection)
}

/// Looks without writing, so that a file of a newer version stays as that version has left it.
fn refuse_newer(file: &Path, ours: usize) -> Result<(), StoreError> {
    let sqlite = |source| StoreError::from_sqlite(file, source);
    let version: i64 =
        open_reader(file)?.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sqlite)?;
    if usize::try_from(version).is_ok_and(|version| version > ours) {
        return Err(StoreError::Newer(file.to_owned()));
    }
    Ok(())
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    // Has to come before the first table; lets retention give pages back to the file system. Setting it again would
    // write to a file that is not yet known to be sound.
    if connection.pragma_query_value(None, "auto_vacuum", |row| row.get::<_, u32>(0))? != 2 {
        connection.pragma_update(None, "auto_vacuum", "incremental")?;
    }
    connection.pragma_update(None, "journal_mode", "wal")?;
    // In WAL mode only FULL waits for the disk at each commit.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "journal_size_limit", 4 << 20)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)
}

/// Opens the file beside the writer.
pub(super) fn open_reader(file: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(file, flags)
        .and_then(|connection| connection.busy_timeout(BUSY).map(|()| connection))
        .map_err(|source| StoreError::from_sqlite(file, source))
}
