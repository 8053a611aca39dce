//! Retention: deletes the oldest history, a bite at a time so that no writer waits long.

use rusqlite::Connection;

use super::writer::State;

const HISTORY: [&str; 5] = ["domain_sample", "guest_process", "guest_connection", "finding", "service_event"];

/// Rows that one bite takes of one table: about 10 ms on a slow disk.
const BITE: u64 = 1000;

/// Takes one bite by age, and one by size if the file is too large. Returns whether there may be more to take.
pub(super) fn bite(state: &State) -> rusqlite::Result<bool> {
    let connection = &state.connection;
    let retention = u64::try_from(state.limits.retention.as_millis()).unwrap_or(u64::MAX);
    let cutoff = i64::try_from(state.newest_unix_ms.saturating_sub(retention)).unwrap_or(i64::MAX);
    let mut deleted = 0;
    for table in HISTORY {
        // Looks at the oldest rows only, so that no index on the time is needed.
        deleted += connection.prepare_cached(&format!(
            "delete from {table} where unix_ms < ?1 and id in (select id from {table} order by id limit {BITE})"
        ))?
        .execute([cutoff])?;
    }
    deleted += connection.prepare_cached(&format!(
        "delete from work_order where id in (select id from work_order where changed_unix_ms < ?1 and state in \
         ('verified', 'kept', 'rejected', 'expired', 'failed', 'rolled_back') order by id limit {BITE})"
    ))?
    .execute([cutoff])?;
    // What is still true is written again each cycle, so that this is of what is gone for as long.
    deleted += connection
        .prepare_cached(&format!(
            "delete from learned where (kind, key) in (select kind, key from learned where unix_ms < ?1 limit {BITE})"
        ))?
        .execute([cutoff])?;
    if used_bytes(connection)? > state.limits.max_bytes {
        deleted += shrink(connection)?;
    }
    let mut vacuum = connection.prepare_cached("pragma incremental_vacuum(256)")?;
    let mut pages = vacuum.query([])?;
    while pages.next()?.is_some() {}
    if deleted == 0 {
        // The file itself becomes smaller only now. Passive waits for nobody.
        connection.query_row("pragma wal_checkpoint(passive)", [], |_| Ok(()))?;
    }
    Ok(deleted > 0)
}

/// Deletes the same small part of the oldest rows of every table, so that all reach back equally far.
fn shrink(connection: &Connection) -> rusqlite::Result<usize> {
    let mut spans = Vec::new();
    for table in HISTORY {
        let span: Option<(u64, u64)> = connection
            .prepare_cached(&format!("select min(id), max(id) from {table}"))?
            .query_row([], |row| Ok(row.get::<_, Option<u64>>(0)?.zip(row.get(1)?)))?;
        spans.extend(span.map(|(first, last)| (table, first, last - first + 1)));
    }
    let longest = spans.iter().map(|(_, _, rows)| *rows).max().unwrap_or(0);
    let divisor = longest.div_ceil(BITE).max(10);
    let mut deleted = 0;
    for (table, first, rows) in spans {
        let part = if rows == longest { (rows / divisor).max(1) } else { rows / divisor };
        deleted += connection
            .prepare_cached(&format!("delete from {table} where id < ?1"))?
            .execute([i64::try_from(first + part).unwrap_or(i64::MAX)])?;
    }
    Ok(deleted)
}

/// Bytes of the file that hold something.
fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "select (page_count - freelist_count) * page_size
             from pragma_page_count, pragma_freelist_count, pragma_page_size",
        )?
        .query_row([], |row| row.get(0))
}
