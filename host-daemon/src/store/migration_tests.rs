//! Tests of upgrades: databases of older and newer versions, and a migration that fails.

use std::fs;
use std::path::{Path, PathBuf};

use kvmpilot_core::Uuid;
use kvmpilot_core::ledger::{LedgerTarget, Value};
use kvmpilot_core::order::{Action, OrderState};
use rusqlite::params;
use rusqlite_migration::{M, Migrations};
use tempfile::TempDir;

use super::database::{MIGRATIONS, open_with, prepare};
use super::*;

/// Rows as released versions have written them. Literal, so that a change of what we read shows up here.
const ENTRY: &str = r#"{"domain":"00000000-0000-0000-0000-000000000001","domain_name":"web","incarnation":"42:7",
    "target":{"kind":"cpu_shares"},"original":{"shares":1024},"applied":{"shares":2048},"intended":{"shares":2048}}"#;
const PROPOSAL: &str = r#"{"domain":"00000000-0000-0000-0000-000000000001","domain_name":"web",
    "action":{"kind":"set_cpu_shares","from":1024,"to":2048},
    "reason":{"rule":"weight.protect","summary":"waits","inputs":[["wait","30 %"]],"expected":"less"},"release":false}"#;
const WEB: Uuid = Uuid::from_u128(1);

/// A state directory with the database that a version with that many migrations has left: one entry in the ledger, one
/// order that waits.
fn left_by(version: usize) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(FILE);
    let lock = prepare(directory.path(), &file).unwrap();
    let connection = open_with(&file, &MIGRATIONS[..version]).unwrap();
    connection
        .execute("insert into ledger values (?1, 'cpu_shares', ?2)", params![WEB.as_bytes(), ENTRY])
        .unwrap();
    connection
        .execute(
            "insert into work_order (id, domain, domain_name, state, created_unix_ms, changed_unix_ms, outcome, proposal)
             values (7, ?1, 'web', 'proposed', 100, 100, '', ?2)",
            params![WEB.as_bytes(), PROPOSAL],
        )
        .unwrap();
    drop(connection);
    drop(lock);
    (directory, file)
}

/// What the file says of itself, read without the store.
fn version_of(file: &Path) -> usize {
    let connection = Connection::open(file).unwrap();
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[test]
fn every_older_database_is_migrated_and_keeps_ledger_and_orders() {
    for version in 1..=MIGRATIONS.len() {
        let (directory, file) = left_by(version);
        assert_eq!(version_of(&file), version);
        let store = Store::open(directory.path(), Limits::default()).unwrap();
        let [entry] = &store.ledger().unwrap()[..] else { panic!("version {version}: not one entry") };
        assert_eq!(entry.target, LedgerTarget::CpuShares, "version {version}");
        assert_eq!((&entry.original, &entry.applied), (&Value::Shares(1024), &Some(Value::Shares(2048))));
        let order = store.order(7).unwrap().unwrap();
        assert_eq!((order.state, order.created_unix_ms), (OrderState::Proposed, 100), "version {version}");
        assert_eq!(order.proposal.action, Action::SetCpuShares { from: 1024, to: 2048 });
        // And it is a database like any other: it takes what this version writes.
        store.order_decided(7, OrderState::Approved, &1000.into(), "", 200).unwrap();
        assert_eq!(store.order_insert(&order.proposal, OrderState::Proposed, 300).unwrap().id, 8);
        store.ledger_remove(WEB, &LedgerTarget::CpuShares).unwrap();
        drop(store);
        assert_eq!(version_of(&file), MIGRATIONS.len());
    }
}

#[test]
fn a_newer_database_is_refused_and_not_touched() {
    let (directory, file) = left_by(MIGRATIONS.len());
    // A newer version may keep its database in another way, which ours must not change back.
    let newer = Connection::open(&file).unwrap();
    newer.pragma_update(None, "journal_mode", "delete").unwrap();
    newer.pragma_update(None, "user_version", MIGRATIONS.len() + 1).unwrap();
    drop(newer);
    let before = fs::read(&file).unwrap();
    let error = Store::open(directory.path(), Limits::default()).unwrap_err();
    assert!(matches!(error, StoreError::Newer(_)), "{error}");
    for word in [&file.display().to_string(), "newer kvmpilot", "kvmpilot restore"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(fs::read(&file).unwrap() == before, "the file was written to");

    // The daemon goes on without it, changes nothing, and says why.
    let store = Store::open_or_spare(directory.path(), Limits::default()).unwrap();
    assert!(store.is_spare() && store.trouble().is_some_and(|trouble| trouble.contains("newer kvmpilot")));
    drop(store);
    assert!(fs::read(&file).unwrap() == before, "the file was written to");
}

#[test]
fn the_real_database_has_its_own_limits_when_it_follows_a_spare_one() {
    let (directory, file) = left_by(MIGRATIONS.len());
    let set_version =
        |version| Connection::open(&file).unwrap().pragma_update(None, "user_version", version).unwrap();
    set_version(MIGRATIONS.len() + 1);
    let store = Store::open_or_spare(directory.path(), Limits::default()).unwrap();
    assert!(store.is_spare());
    set_version(MIGRATIONS.len());
    store.check();
    assert!(!store.is_spare(), "{:?}", store.trouble());
    // With those of the spare all history beyond 32 MiB would be gone.
    assert_eq!(store.shared.limits.max_bytes, Limits::default().max_bytes);
}

#[test]
fn a_migration_that_fails_leaves_the_old_database_as_it_was() {
    let version = MIGRATIONS.len();
    let (directory, file) = left_by(version);
    let works = M::up("alter table ledger add column since integer; delete from work_order;");
    let fails = M::up("create table half (id integer) strict; insert into nowhere values (1);");
    let migrations: Vec<M<'_>> = MIGRATIONS.iter().cloned().chain([works, fails]).collect();
    assert!(Migrations::new(migrations.clone()).validate().is_err(), "it would not fail");
    let error = open_with(&file, &migrations).unwrap_err();
    assert!(error.to_string().contains("nowhere") && error.to_string().contains(FILE), "{error}");

    // Nothing of either step is there, and the old version goes on with it.
    assert_eq!(version_of(&file), version);
    let connection = Connection::open(&file).unwrap();
    let traces: i64 = connection
        .query_row(
            "select count(*) from sqlite_schema where name = 'half' or sql like '%since integer%'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(traces, 0);
    drop(connection);
    let store = Store::open(directory.path(), Limits::default()).unwrap();
    assert_eq!(store.ledger().unwrap().len(), 1);
    assert!(store.order(7).unwrap().is_some());
}
