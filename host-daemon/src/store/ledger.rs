//! The ledger: the original of every value that is not at its original now.

use kvmpilot_core::Uuid;
use kvmpilot_core::ledger::{LedgerEntry, LedgerTarget};
use rusqlite::params;

use super::sql::Json;
use super::{Store, StoreError};

impl Store {
    /// Writes the entry for its domain and target, in place of an older one. It is on disk when this returns.
    ///
    /// # Errors
    /// When it could not be written: the change must then not be made.
    pub fn ledger_put(&self, entry: &LedgerEntry) -> Result<(), StoreError> {
        self.ledger_put_all(vec![entry.clone()])
    }

    /// Writes several entries, all of them or none, with one wait for the disk.
    ///
    /// # Errors
    /// When they could not be written: none of the changes must then be made.
    pub fn ledger_put_all(&self, entries: Vec<LedgerEntry>) -> Result<(), StoreError> {
        self.write(move |connection| {
            let transaction = connection.transaction()?;
            for entry in &entries {
                transaction
                    .prepare_cached(
                        "insert into ledger (domain, target, entry) values (?1, ?2, ?3)
                         on conflict do update set entry = excluded.entry",
                    )?
                    .execute(params![entry.domain.as_bytes(), key(&entry.target), Json(entry)])?;
            }
            transaction.commit()
        })
    }

    /// Removes the entry for a domain's target, if there is one.
    ///
    /// # Errors
    /// When the file could not be written.
    pub fn ledger_remove(&self, domain: Uuid, target: &LedgerTarget) -> Result<(), StoreError> {
        let key = key(target);
        self.write(move |connection| {
            connection
                .prepare_cached("delete from ledger where domain = ?1 and target = ?2")?
                .execute(params![domain.as_bytes(), key])
                .map(drop)
        })
    }

    /// All entries, by domain.
    ///
    /// # Errors
    /// When the file could not be read or an entry is not understood: nothing is left out silently.
    pub fn ledger(&self) -> Result<Vec<LedgerEntry>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("select entry from ledger order by domain, target")?
                .query_map([], |row| row.get(0).map(|Json(entry)| entry))?
                .collect()
        })
    }
}

/// Names a target within its domain. A process can change its name, so that does not count.
fn key(target: &LedgerTarget) -> String {
    match target {
        LedgerTarget::CpuShares => "cpu_shares".to_owned(),
        LedgerTarget::VcpuPin { vcpu } => format!("vcpu_pin/{vcpu}"),
        LedgerTarget::EmulatorPin => "emulator_pin".to_owned(),
        LedgerTarget::IothreadPin { iothread } => format!("iothread_pin/{iothread}"),
        LedgerTarget::Balloon => "balloon".to_owned(),
        LedgerTarget::Nice { key, .. } => format!("nice/{}/{}", key.pid, key.start_ticks),
        LedgerTarget::UnitWeight { unit } => format!("unit_weight/{unit}"),
        LedgerTarget::Autogroup { id } => format!("autogroup/{id}"),
        LedgerTarget::Affinity { key } => format!("affinity/{}/{}", key.pid, key.start_ticks),
    }
}
