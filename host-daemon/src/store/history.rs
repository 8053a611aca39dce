//! The history: one record a cycle goes in, rows of one domain come out.

use kvmpilot_core::Uuid;
use kvmpilot_core::finding::Finding;
use kvmpilot_core::sample::ProcessKey;
use rusqlite::{Row, Transaction, params};

use super::sql::{Json, Word, clamp};
use super::{ConnectionRow, CycleRecord, Dated, DomainRow, ProcessRow, Store, StoreError};

/// Which part of the history to read: newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRange {
    /// From this time on, in milliseconds since 1970.
    pub from_unix_ms: u64,
    /// Up to and including this time.
    pub to_unix_ms: u64,
    /// At most so many rows.
    pub limit: u32,
}

impl Store {
    /// Writes what one cycle leaves behind, all of it or nothing.
    ///
    /// # Errors
    /// When the file could not be written. Decisions do not depend on it, so that the daemon goes on.
    pub fn record(&self, record: CycleRecord) -> Result<(), StoreError> {
        self.run(move |state| {
            let transaction = state.connection.transaction()?;
            insert(&transaction, &record)?;
            transaction.commit()?;
            state.note_time(record.unix_ms);
            state.prune = true;
            Ok(())
        })
    }

    /// Samples of one domain.
    ///
    /// # Errors
    /// When the file could not be read.
    pub fn domain_history(
        &self,
        domain: Uuid,
        range: HistoryRange,
    ) -> Result<Vec<Dated<DomainRow>>, StoreError> {
        self.select("domain_sample", domain, range, domain_row)
    }

    /// Processes of one domain's guest.
    ///
    /// # Errors
    /// When the file could not be read.
    pub fn process_history(
        &self,
        domain: Uuid,
        range: HistoryRange,
    ) -> Result<Vec<Dated<ProcessRow>>, StoreError> {
        self.select("guest_process", domain, range, process_row)
    }

    /// Connections and listening sockets of one domain's guest.
    ///
    /// # Errors
    /// When the file could not be read.
    pub fn connection_history(
        &self,
        domain: Uuid,
        range: HistoryRange,
    ) -> Result<Vec<Dated<ConnectionRow>>, StoreError> {
        self.select("guest_connection", domain, range, connection_row)
    }

    /// Findings about one domain, or about the host.
    ///
    /// # Errors
    /// When the file could not be read.
    pub fn finding_history(
        &self,
        domain: Option<Uuid>,
        range: HistoryRange,
    ) -> Result<Vec<Dated<Finding>>, StoreError> {
        self.select("finding", domain, range, finding_row)
    }

    fn select<T>(
        &self,
        table: &str,
        domain: impl Into<Option<Uuid>>,
        range: HistoryRange,
        from_row: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<Dated<T>>, StoreError> {
        let domain = domain.into().map(Uuid::into_bytes);
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "select * from {table} where domain is ?1 and unix_ms between ?2 and ?3
                     order by unix_ms desc, id desc limit ?4"
                ))?
                .query_map(
                    params![domain, clamp(range.from_unix_ms), clamp(range.to_unix_ms), range.limit],
                    |row| Ok(Dated { unix_ms: row.get("unix_ms")?, row: from_row(row)? }),
                )?
                .collect()
        })
    }
}

fn insert(transaction: &Transaction<'_>, record: &CycleRecord) -> rusqlite::Result<()> {
    let unix_ms = clamp(record.unix_ms);
    let mut domains = transaction.prepare_cached(
        "insert into domain_sample values
         (null, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?;
    for row in &record.domains {
        domains.execute(params![
            unix_ms,
            row.domain.as_bytes(),
            row.name,
            Word(row.class),
            row.vcpus,
            row.cpu_shares.map(clamp),
            row.memory_current_kib.map(clamp),
            clamp(row.memory_maximum_kib),
            row.memory_usable_kib.map(clamp),
            row.cpu_use_ratio,
            row.wait_ratio,
            row.need,
            row.cpu_state,
            row.memory_state,
            row.received_bytes_per_s,
            row.sent_bytes_per_s,
            row.communicating,
            row.cycles_off_optimum,
        ])?;
    }
    let mut processes = transaction.prepare_cached(
        "insert into guest_process values
         (null, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
    )?;
    for row in &record.processes {
        processes.execute(params![
            unix_ms,
            row.domain.as_bytes(),
            row.key.pid,
            clamp(row.key.start_ticks),
            row.name,
            row.command,
            row.application,
            Word(row.level),
            row.communicating,
            row.uid,
            row.unit,
            row.nice,
            Word(row.policy),
            row.affinity,
            row.cpu_ratio,
            clamp(row.rss_kib),
            row.threads,
        ])?;
    }
    let mut connections = transaction
        .prepare_cached("insert into guest_connection values (null, ?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for row in &record.connections {
        connections.execute(params![
            unix_ms,
            row.domain.as_bytes(),
            row.pid,
            Word(row.protocol),
            row.local,
            row.peer,
            row.state.map(Word),
        ])?;
    }
    let mut findings =
        transaction.prepare_cached("insert into finding values (null, ?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for row in &record.findings {
        findings.execute(params![
            unix_ms,
            row.domain.map(Uuid::into_bytes),
            row.domain_name,
            row.name,
            Word(row.severity),
            row.summary,
            Json(&row.evidence),
        ])?;
    }
    Ok(())
}

fn domain_row(row: &Row<'_>) -> rusqlite::Result<DomainRow> {
    Ok(DomainRow {
        domain: Uuid::from_bytes(row.get("domain")?),
        name: row.get("name")?,
        class: word(row, "class")?,
        vcpus: row.get("vcpus")?,
        cpu_shares: row.get("cpu_shares")?,
        memory_current_kib: row.get("memory_current_kib")?,
        memory_maximum_kib: row.get("memory_maximum_kib")?,
        memory_usable_kib: row.get("memory_usable_kib")?,
        cpu_use_ratio: row.get("cpu_use_ratio")?,
        wait_ratio: row.get("wait_ratio")?,
        need: row.get("need")?,
        cpu_state: row.get("cpu_state")?,
        memory_state: row.get("memory_state")?,
        received_bytes_per_s: row.get("received_bytes_per_s")?,
        sent_bytes_per_s: row.get("sent_bytes_per_s")?,
        communicating: row.get("communicating")?,
        cycles_off_optimum: row.get("cycles_off_optimum")?,
    })
}

fn process_row(row: &Row<'_>) -> rusqlite::Result<ProcessRow> {
    Ok(ProcessRow {
        domain: Uuid::from_bytes(row.get("domain")?),
        key: ProcessKey { pid: row.get("pid")?, start_ticks: row.get("start_ticks")? },
        name: row.get("name")?,
        command: row.get("command")?,
        application: row.get("application")?,
        level: word(row, "level")?,
        communicating: row.get("communicating")?,
        uid: row.get("uid")?,
        unit: row.get("unit")?,
        nice: row.get("nice")?,
        policy: word(row, "policy")?,
        affinity: row.get("affinity")?,
        cpu_ratio: row.get("cpu_ratio")?,
        rss_kib: row.get("rss_kib")?,
        threads: row.get("threads")?,
    })
}

fn connection_row(row: &Row<'_>) -> rusqlite::Result<ConnectionRow> {
    Ok(ConnectionRow {
        domain: Uuid::from_bytes(row.get("domain")?),
        pid: row.get("pid")?,
        protocol: word(row, "protocol")?,
        local: row.get("local")?,
        peer: row.get("peer")?,
        state: row.get::<_, Option<_>>("state")?.map(|Word(state)| state),
    })
}

fn finding_row(row: &Row<'_>) -> rusqlite::Result<Finding> {
    let Json(evidence) = row.get("evidence")?;
    Ok(Finding {
        domain: row.get::<_, Option<_>>("domain")?.map(Uuid::from_bytes),
        domain_name: row.get("domain_name")?,
        name: row.get("name")?,
        severity: word(row, "severity")?,
        summary: row.get("summary")?,
        evidence,
    })
}

fn word<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    row.get(column).map(|Word(value)| value)
}
