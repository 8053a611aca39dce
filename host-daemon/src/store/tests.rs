//! Tests of the store on real files: what comes back, what survives, what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use kvmpilot_core::finding::{Finding, Severity};
use kvmpilot_core::ledger::{LedgerEntry, LedgerTarget, Value};
use kvmpilot_core::order::{Action, OrderState, Proposal, Reason, Trial};
use kvmpilot_core::policy::{Class, Level};
use kvmpilot_core::sample::{ProcessKey, SchedPolicy, SocketProtocol, SocketState};
use kvmpilot_core::{CpuSet, Uuid};
use tempfile::TempDir;

use super::*;

const WEB: Uuid = Uuid::from_u128(1);
const ALL: HistoryRange = HistoryRange { from_unix_ms: 0, to_unix_ms: u64::MAX, limit: 1_000_000 };

fn store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("state"), Limits::default()).unwrap();
    (directory, store)
}

fn entry(target: LedgerTarget, original: Value) -> LedgerEntry {
    LedgerEntry {
        domain: WEB,
        domain_name: "web".into(),
        incarnation: "42:7".into(),
        target,
        intended: original.clone(),
        original,
        applied: None,
    }
}

fn proposal(domain: Uuid, name: &str) -> Proposal {
    Proposal {
        domain,
        domain_name: name.into(),
        action: Action::PinVcpu { vcpu: 1, from: CpuSet::first(2), to: CpuSet::first(1) },
        reason: Reason {
            rule: "separate".into(),
            summary: "waits".into(),
            inputs: vec![("wait".into(), "30 %".into())],
            expected: "less".into(),
            ..Reason::default()
        },
        release: false,
        undoes: Vec::new(),
    }
}

/// `rows` of each kind, so large that hostile numbers and texts are in it.
fn record(unix_ms: u64, rows: u32) -> CycleRecord {
    let domain =
        DomainRow { domain: WEB, name: "web".into(), memory_maximum_kib: u64::MAX, ..DomainRow::default() };
    let process = |pid| ProcessRow {
        domain: WEB,
        key: ProcessKey { pid, start_ticks: u64::MAX },
        name: "a'); drop table ledger; --\u{1b}[31m".into(),
        command: "x".repeat(200),
        application: "httpd".into(),
        level: Level::AboveNormal,
        communicating: true,
        uid: Some(u32::MAX),
        unit: None,
        nice: -5,
        policy: SchedPolicy::Other,
        affinity: Some("0-1".into()),
        cpu_ratio: Some(f64::NAN),
        rss_kib: 1024,
        threads: 3,
    };
    let connection = |pid| ConnectionRow {
        domain: WEB,
        pid: Some(pid),
        protocol: SocketProtocol::Tcp,
        local: "10.0.0.2:80".into(),
        peer: Some("10.0.0.1:4000".into()),
        state: Some(SocketState::Established),
    };
    let finding = Finding {
        domain: None,
        domain_name: None,
        name: "cpu_over".into(),
        severity: Severity::Warning,
        summary: "too much".into(),
        evidence: vec![("cpu".into(), "99 %".into())],
    };
    CycleRecord {
        unix_ms,
        domains: vec![domain],
        processes: (0..rows).map(process).collect(),
        connections: (0..rows).map(connection).collect(),
        findings: vec![finding],
    }
}

/// Waits until the writer has nothing to prune: a job runs only between two bites.
fn wait_until(store: &Store, what: &str, holds: impl Fn(&Store) -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !holds(store) {
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_ledger_keeps_one_entry_for_each_value_across_restarts() {
    let (directory, store) = store();
    let key = ProcessKey { pid: 7, start_ticks: u64::MAX };
    let nice = |name: &str| LedgerTarget::Nice { key, name: name.into() };
    let shares = entry(LedgerTarget::CpuShares, Value::Shares(1024));
    let pin = entry(LedgerTarget::VcpuPin { vcpu: 1 }, Value::Pin(CpuSet::first(2)));
    for entry in
        [&shares, &pin, &entry(nice("httpd"), Value::Nice(0)), &entry(nice("renamed"), Value::Nice(1))]
    {
        store.ledger_put(entry).unwrap();
    }
    let applied = LedgerEntry { applied: Some(Value::Shares(2048)), ..shares };
    store.ledger_put(&applied).unwrap();
    store.ledger_put_all(vec![pin.clone(), applied.clone()]).unwrap();
    drop(store);

    let store = Store::open(&directory.path().join("state"), Limits::default()).unwrap();
    assert_eq!(store.ledger().unwrap(), [applied, entry(nice("renamed"), Value::Nice(1)), pin.clone()]);
    store.ledger_remove(WEB, &LedgerTarget::CpuShares).unwrap();
    store.ledger_remove(WEB, &nice("renamed again")).unwrap();
    store.ledger_remove(WEB, &LedgerTarget::Balloon).unwrap();
    store.ledger_remove(Uuid::from_u128(2), &pin.target).unwrap();
    assert_eq!(store.ledger().unwrap(), [pin]);
}

#[test]
fn what_was_written_survives_a_process_that_never_closes() {
    let (directory, store) = store();
    store.ledger_put(&entry(LedgerTarget::Balloon, Value::Shares(1))).unwrap();
    // Copies the files as kill -9 leaves them: the connection is open, nothing was checkpointed.
    let copy = directory.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for file in ["kvmpilot.db", "kvmpilot.db-wal"] {
        fs::copy(directory.path().join("state").join(file), copy.join(file)).unwrap();
    }
    assert_eq!(Store::open(&copy, Limits::default()).unwrap().ledger().unwrap().len(), 1);
}

#[test]
fn orders_are_numbered_found_and_moved_on() {
    let (directory, store) = store();
    let db = Uuid::from_u128(2);
    let first = store.order_insert(&proposal(WEB, "web"), OrderState::Proposed, 100).unwrap();
    let second = store.order_insert(&proposal(db, "db"), OrderState::Proposed, 200).unwrap();
    assert_eq!((first.id, second.id), (1, 2));
    assert_eq!(store.order(1).unwrap().as_ref(), Some(&first));

    store.order_update(1, OrderState::Verified, "p99 fell", 300).unwrap();
    let verified = store.order(1).unwrap().unwrap();
    assert_eq!(
        (verified.state, verified.created_unix_ms, verified.changed_unix_ms),
        (OrderState::Verified, 100, 300)
    );
    assert_eq!(verified.outcome, "p99 fell");
    let trial = Trial {
        windows: 3,
        before: 0.5,
        expected: 0.02,
        measured: Some(0.03),
        kept: true,
        verdict: "it helped".into(),
    };
    store.order_judged_soon(1, OrderState::Kept, &trial, 400).unwrap();
    let kept = store.order(1).unwrap().unwrap();
    assert_eq!((kept.trial.as_ref(), &kept.outcome), (Some(&trial), &trial.verdict));
    // It is over once only.
    store.order_judged_soon(1, OrderState::RolledBack, &trial, 401).unwrap();
    assert_eq!(store.order(1).unwrap().unwrap().state, OrderState::Kept);
    assert!(store.order_update(99, OrderState::Kept, "", 400).is_err(), "there is no such order");
    let moves: Vec<_> = store.order_moves().into_iter().filter(|(_, times)| *times > 0).collect();
    assert_eq!(moves, [(OrderState::Proposed, 2), (OrderState::Verified, 1), (OrderState::Kept, 1)]);
    let history: Vec<_> = kept.history.iter().map(|event| (event.state, event.unix_ms)).collect();
    let expected = [(OrderState::Proposed, 100), (OrderState::Verified, 300), (OrderState::Kept, 400)];
    assert_eq!(history, expected);
    assert!(!store.order_apply(1, 450).unwrap(), "applied twice");
    store.order_update(2, OrderState::Approved, "", 450).unwrap();
    assert!(store.order_apply(2, 451).unwrap());
    assert!(!store.order_apply(2, 452).unwrap(), "applied twice");
    store.order_decided(2, OrderState::Rejected, &1000.into(), "rejected by a person", 500).unwrap();
    assert_eq!(store.order(2).unwrap().unwrap().decided_by_uid, Some(1000));
    store.order_update(2, OrderState::Proposed, "", 500).unwrap();
    assert_eq!(verified.proposal, first.proposal);

    let ids = |filter: OrderFilter| -> Vec<u64> {
        store.orders(&filter).unwrap().iter().map(|order| order.id).collect()
    };
    assert_eq!(ids(OrderFilter::default()), [2, 1]);
    assert_eq!(ids(OrderFilter { limit: Some(1), ..OrderFilter::default() }), [2]);
    assert_eq!(ids(OrderFilter { before: Some(2), ..OrderFilter::default() }), [1]);
    assert_eq!(ids(OrderFilter { state: Some(OrderState::Proposed), ..OrderFilter::default() }), [2]);
    assert_eq!(ids(OrderFilter { domain: Some("web".into()), ..OrderFilter::default() }), [1]);
    assert_eq!(ids(OrderFilter { domain: Some(db.to_string()), ..OrderFilter::default() }), [2]);
    assert_eq!(ids(OrderFilter { domain: Some("' or 1".into()), ..OrderFilter::default() }), [] as [u64; 0]);
    assert_eq!(store.order_counts().unwrap(), OrderCounts { proposed: 1, total: 2 });
    assert_eq!(store.order(3).unwrap(), None);
    assert!(matches!(
        store.order_update(u64::MAX, OrderState::Failed, "", 0),
        Err(StoreError::NoSuchOrder(_))
    ));

    drop(store);
    let store = Store::open(&directory.path().join("state"), Limits::default()).unwrap();
    assert_eq!(store.order_insert(&proposal(db, "db"), OrderState::Approved, 1).unwrap().id, 3);
}

#[test]
fn what_the_loop_writes_down_waits_for_nobody_and_what_is_lost_is_known() {
    let (directory, store) = store();
    let other = Connection::open(directory.path().join("state").join("kvmpilot.db")).unwrap();
    // Nobody can write now; a call that waits would not return.
    other.execute_batch("begin immediate").unwrap();
    let first = store.order_insert(&proposal(WEB, "web"), OrderState::Proposed, 100).unwrap();
    store.order_update_soon(first.id, OrderState::Expired, "old", 200).unwrap();
    other.execute_batch("rollback").unwrap();
    assert_eq!(store.order(first.id).unwrap().unwrap().state, OrderState::Expired);
    assert_eq!((store.take_lost(), store.trouble()), (vec![], None));

    other.execute_batch("begin immediate").unwrap();
    let lost = store.order_insert(&proposal(WEB, "web"), OrderState::Approved, 300).unwrap();
    store.order_update_soon(first.id, OrderState::Failed, "late", 300).unwrap();
    store.order_update_soon(first.id, OrderState::RolledBack, "later", 301).unwrap();
    store.settle().unwrap();
    assert!(store.trouble().unwrap().contains("locked"), "{:?}", store.trouble());
    other.execute_batch("rollback").unwrap();
    assert_eq!((store.take_lost(), store.take_lost()), (vec![lost.id], vec![]));
    assert!(!store.order_apply(lost.id, 301).unwrap(), "nobody may carry out what is not written down");
    assert_eq!(store.order(first.id).unwrap().unwrap().state, OrderState::Expired);
    store.check();
    assert_eq!(store.trouble(), None);
    let first = store.order(first.id).unwrap().unwrap();
    assert_eq!((first.state, first.outcome.as_str()), (OrderState::RolledBack, "later"));
    let states: Vec<_> = first.history.iter().map(|event| event.state).collect();
    assert_eq!(states[2..], [OrderState::Failed, OrderState::RolledBack], "none of its steps is left out");
    let next = store.order_insert(&proposal(WEB, "web"), OrderState::Proposed, 400).unwrap();
    assert!(next.id > lost.id && store.order(next.id).unwrap() == Some(next));
}

#[test]
fn history_comes_back_by_domain_and_time() {
    let (_directory, store) = store();
    for unix_ms in [1000, 2000, 3000] {
        store.record(record(unix_ms, 2)).unwrap();
    }
    let range = HistoryRange { from_unix_ms: 1500, to_unix_ms: 3000, limit: 10 };
    let times = |rows: &[Dated<DomainRow>]| rows.iter().map(|row| row.unix_ms).collect::<Vec<_>>();
    let domains = store.domain_history(WEB, range).unwrap();
    assert_eq!(times(&domains), [3000, 2000]);
    let expected = record(0, 2);
    // SQLite's integers end at 2^63-1; a guest's or bug's larger one is cut, not refused.
    assert_eq!(domains[0].row.memory_maximum_kib, u64::MAX >> 1);
    assert_eq!(domains[0].row.class, Class::Standard);
    let processes = store.process_history(WEB, HistoryRange { limit: 1, ..range }).unwrap();
    assert_eq!(processes[0].row.name, expected.processes[0].name);
    assert_eq!(processes[0].row.cpu_ratio, None);
    let connections = store.connection_history(WEB, range).unwrap();
    assert_eq!(connections.len(), 4);
    assert_eq!(connections[1].row, expected.connections[0]);
    assert_eq!(store.finding_history(None, range).unwrap()[0].row, expected.findings[0]);
    assert_eq!(store.finding_history(Some(WEB), ALL).unwrap(), []);
    assert_eq!(store.domain_history(Uuid::nil(), ALL).unwrap(), []);
}

#[test]
fn old_history_goes_and_the_ledger_and_open_orders_stay() {
    let (directory, store) = store();
    store.ledger_put(&entry(LedgerTarget::CpuShares, Value::Shares(1024))).unwrap();
    let day = 24 * 3600 * 1000;
    for state in [OrderState::Proposed, OrderState::Verified, OrderState::Applied] {
        store.order_insert(&proposal(WEB, "web"), state, day).unwrap();
    }
    // More than one bite.
    store.record(record(day, 2500)).unwrap();
    store.record(record(day * 8, 1)).unwrap();
    store.record(record(day, 0)).unwrap();
    assert_eq!(
        store.process_history(WEB, ALL).unwrap().last().unwrap().unix_ms,
        day,
        "a step of the clock made everything look old"
    );
    let state = directory.path().join("state");
    drop(store);
    let store = Store::open(&state, Limits::default()).unwrap();
    store.record(record(day * 8 + 1, 1)).unwrap();
    wait_until(&store, "old rows go", |store| {
        store.process_history(WEB, ALL).unwrap().len() == 2
            && store.domain_history(WEB, ALL).unwrap().len() == 2
            && store.connection_history(WEB, ALL).unwrap().len() == 2
            && store.finding_history(None, ALL).unwrap().len() == 2
            && store.order_counts().unwrap() == OrderCounts { proposed: 1, total: 2 }
    });
    assert_eq!(store.ledger().unwrap().len(), 1);
}

#[test]
fn the_file_stays_below_its_size_and_keeps_the_newest() {
    let (_directory, store) = store();
    let max_bytes = 2 << 20;
    store.set_limits(Limits { max_bytes, ..Limits::default() }).unwrap();
    for cycle in 1..=20 {
        store.record(record(cycle, 1000)).unwrap();
    }
    let size = |store: &Store| fs::metadata(store.file()).unwrap().len();
    wait_until(&store, "pruned", |store| size(store) <= max_bytes);
    let oldest = |rows: &[u64]| *rows.iter().min().unwrap();
    let processes: Vec<u64> =
        store.process_history(WEB, ALL).unwrap().iter().map(|row| row.unix_ms).collect();
    let connections: Vec<u64> =
        store.connection_history(WEB, ALL).unwrap().iter().map(|row| row.unix_ms).collect();
    assert!(processes.contains(&20) && connections.contains(&20), "the newest rows went");
    assert!(oldest(&processes) > 1, "nothing was deleted");
    assert!(oldest(&processes).abs_diff(oldest(&connections)) <= 1, "tables reach back differently far");
}

#[test]
fn a_second_process_is_refused_and_the_files_are_private() {
    let (directory, store) = store();
    let state = directory.path().join("state");
    let error = Store::open(&state, Limits::default()).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    store.record(record(1, 1)).unwrap();
    for file in ["kvmpilot.db", "kvmpilot.db-wal", "kvmpilot.db-shm", "kvmpilot.lock"] {
        assert_eq!(fs::metadata(state.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_damaged_file_is_refused_and_left_alone() {
    let (directory, store) = store();
    for vcpu in 0..500 {
        store.ledger_put(&entry(LedgerTarget::VcpuPin { vcpu }, Value::Shares(1))).unwrap();
    }
    drop(store);
    let state = directory.path().join("state");
    let file = state.join("kvmpilot.db");
    let sound = fs::read(&file).unwrap();
    // Every page but the first in turn: some hold the ledger, and losing one of those must be noticed.
    let noticed = (1..sound.len() / 4096)
        .filter(|page| {
            let mut damaged = sound.clone();
            damaged[page * 4096..(page + 1) * 4096].fill(0x5a);
            fs::write(&file, &damaged).unwrap();
            match Store::open(&state, Limits::default()) {
                Ok(store) => {
                    assert_eq!(store.ledger().unwrap().len(), 500, "page {page} was lost silently");
                    false
                }
                Err(error) => {
                    assert!(matches!(error, StoreError::Corrupt { .. }), "page {page}: {error}");
                    assert!(
                        error.to_string().contains(&format!("sqlite3 {} .recover", file.display())),
                        "{error}"
                    );
                    assert!(fs::read(&file).unwrap() == damaged, "page {page}: the file was written to");
                    true
                }
            }
        })
        .count();
    assert!(noticed > 10, "{noticed} pages noticed");

    fs::write(&file, "this is no database at all, but long enough to have a header of one").unwrap();
    assert!(matches!(Store::open(&state, Limits::default()), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_full_disk_and_an_unusable_directory_are_named() {
    let (directory, store) = store();
    store
        .write(|connection| connection.pragma_update_and_check(None, "max_page_count", 1, |_| Ok(())))
        .unwrap();
    let error = store.record(record(1, 5000)).unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    // All or nothing, and the store works on.
    assert_eq!(store.domain_history(WEB, ALL).unwrap(), []);
    assert_eq!(store.ledger().unwrap(), []);

    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("state"), Limits::default()).unwrap_err();
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
}

#[test]
fn many_threads_write_and_read_at_once() {
    let (_directory, store) = store();
    std::thread::scope(|scope| {
        for thread in 0..8_u32 {
            let store = store.clone();
            scope.spawn(move || {
                for vcpu in 0..20 {
                    let target = LedgerTarget::VcpuPin { vcpu: thread * 100 + vcpu };
                    store.ledger_put(&entry(target.clone(), Value::Shares(1))).unwrap();
                    assert!(store.ledger().unwrap().iter().any(|entry| entry.target == target));
                }
            });
        }
    });
    assert_eq!(store.ledger().unwrap().len(), 160);
}
