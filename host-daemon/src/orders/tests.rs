//! Tests of the book, on a store of their own.

use kvmpilot_core::order::Action;

use kvmpilot_core::model::DomainModel;
use kvmpilot_core::sample::{DomainSample, VcpuSample};

use super::*;
use crate::store::Limits;

fn proposal(from: u64, to: u64) -> Proposal {
    Proposal {
        domain: Uuid::from_u128(1),
        domain_name: "web".into(),
        action: Action::SetCpuShares { from, to },
        reason: Reason::default(),
        release: false,
        undoes: Vec::new(),
    }
}

fn book() -> (tempfile::TempDir, OrderBook) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Limits::default()).unwrap();
    (directory, OrderBook::open(store, 0).unwrap())
}

fn policy(mode: Mode) -> impl Fn(&Proposal) -> Mode + Copy {
    move |_| mode
}

const S: Duration = Duration::from_secs(1);

#[test]
fn recommend_waits_for_a_person_and_keeps_one_order_for_a_target() {
    let (_directory, mut book) = book();
    let recommend = policy(Mode::Recommend);
    assert!(book.admit(vec![proposal(1024, 8192)], recommend, S, 1).unwrap().is_empty());
    assert!(book.admit(vec![proposal(1024, 4096)], recommend, 2 * S, 2).unwrap().is_empty());
    let orders = book.store.orders(&OrderFilter::default()).unwrap();
    assert_eq!(orders.len(), 1, "the same start is the same order");
    assert!(book.admit(vec![proposal(2048, 4096)], recommend, 3 * S, 3).unwrap().is_empty());
    assert_eq!(book.read(1).unwrap().state, OrderState::Expired);
    assert_eq!(book.approve(2, &0.into(), 4).unwrap().state, OrderState::Approved);
    assert!(matches!(book.approve(2, &0.into(), 5), Err(CommandError::WrongState { id: 2, .. })));
    assert!(matches!(book.approve(9, &0.into(), 5), Err(CommandError::NoSuchOrder(9))));
}

#[test]
fn an_order_that_could_not_be_written_down_is_proposed_anew() {
    let (directory, mut book) = book();
    let recommend = policy(Mode::Recommend);
    let other = rusqlite::Connection::open(directory.path().join("kvmpilot.db")).unwrap();
    other.execute_batch("begin immediate").unwrap();
    assert!(book.admit(vec![proposal(1024, 8192)], recommend, S, 1).unwrap().is_empty());
    book.store.settle().unwrap();
    other.execute_batch("rollback").unwrap();
    book.store.check();
    assert!(book.admit(vec![proposal(1024, 8192)], recommend, 2 * S, 2).unwrap().is_empty());
    let orders = book.store.orders(&OrderFilter::default()).unwrap();
    assert_eq!(orders.iter().map(|order| order.id).collect::<Vec<_>>(), [2]);
    assert_eq!(book.approve(2, &0.into(), 3).unwrap().state, OrderState::Approved);
}

#[test]
fn observe_writes_nothing_and_auto_goes_ahead() {
    let (_directory, mut book) = book();
    assert!(book.admit(vec![proposal(1, 2)], policy(Mode::Observe), S, 1).unwrap().is_empty());
    assert!(book.store.orders(&OrderFilter::default()).unwrap().is_empty());
    assert_eq!(book.admit(vec![proposal(1, 2)], policy(Mode::Auto), S, 1).unwrap().len(), 1);
    let release = Proposal { release: true, ..proposal(2, 1) };
    let back = book.admit(vec![release], policy(Mode::Observe), S, 1).unwrap();
    assert_eq!(back.len(), 1, "what is held goes back in mode observe, too");
}

#[test]
fn what_a_person_refused_rests_and_longer_each_time() {
    let (_directory, mut book) = book();
    let recommend = policy(Mode::Recommend);
    book.admit(vec![proposal(1024, 8192)], recommend, S, 1).unwrap();
    book.reject(1, &0.into(), S, 2).unwrap();
    for (at, orders) in [(PAUSE, 1), (PAUSE + 2 * S, 2)] {
        book.admit(vec![proposal(1024, 8192)], recommend, at, 3).unwrap();
        assert_eq!(book.store.orders(&OrderFilter::default()).unwrap().len(), orders);
    }
    book.reject(2, &0.into(), PAUSE + 2 * S, 4).unwrap();
    book.admit(vec![proposal(1024, 8192)], recommend, PAUSE * 2 + 3 * S, 5).unwrap();
    assert_eq!(book.store.orders(&OrderFilter::default()).unwrap().len(), 2, "the second pause is longer");
}

#[test]
fn an_undo_is_the_change_the_other_way_round() {
    let (_directory, mut book) = book();
    let order = book.admit(vec![proposal(1024, 8192)], policy(Mode::Auto), S, 1).unwrap().remove(0);
    assert!(book.undo(order.id, S).is_err(), "not carried out yet");
    book.settle(order.id, &Outcome::verified("done".into(), true), 2);
    let undo = book.undo(order.id, S).unwrap();
    assert_eq!(undo.action, Action::SetCpuShares { from: 8192, to: 1024 });
    assert!(book.admit(vec![proposal(1024, 8192)], policy(Mode::Auto), 2 * S, 3).unwrap().is_empty());
}

#[test]
fn what_nobody_wants_any_more_expires() {
    let (_directory, mut book) = book();
    book.admit(vec![proposal(1024, 8192)], policy(Mode::Recommend), S, 1).unwrap();
    book.expire(|_| true, |_| 3 * S, 4 * S, 2).unwrap();
    assert_eq!(book.read(1).unwrap().state, OrderState::Proposed);
    book.expire(|_| true, |_| 3 * S, 5 * S, 2).unwrap();
    assert_eq!(book.read(1).unwrap().state, OrderState::Expired);
}

fn advice() -> Proposal {
    Proposal { action: Action::MoreVcpus { from: 2, to: 3 }, ..proposal(0, 0) }
}

fn with_vcpus(vcpus: u32) -> Model {
    let vcpus = (0..vcpus).map(|number| VcpuSample { number, pin: None }).collect();
    let sample = DomainSample { vcpus, ..crate::record::tests::domain() };
    Model { domains: vec![DomainModel::new(None, &sample, S, 0)], ..Model::default() }
}

#[test]
fn advice_waits_for_people_whatever_the_mode_and_is_kept_when_it_came_true() {
    let (_directory, mut book) = book();
    assert!(book.admit(vec![advice()], policy(Mode::Auto), S, 1).unwrap().is_empty());
    assert_eq!(book.approve(1, &1000.into(), 2).unwrap().state, OrderState::Approved);
    // Approved it stays the one order for its end, and is followed.
    assert!(book.admit(vec![advice()], policy(Mode::Auto), 2 * S, 3).unwrap().is_empty());
    book.follow_up(&with_vcpus(2), 4).unwrap();
    assert_eq!(book.read(1).unwrap().state, OrderState::Approved);
    assert!(matches!(book.approve(1, &0.into(), 5), Err(CommandError::WrongState { .. })), "approved twice");

    // A restart forgets nothing of it.
    let mut book = OrderBook::open(book.store.clone(), 6).unwrap();
    book.follow_up(&with_vcpus(3), 7).unwrap();
    let order = book.read(1).unwrap();
    assert_eq!((order.state, order.decided_by_uid), (OrderState::Kept, Some(1000)));
    assert!(order.outcome.contains("3 vcpus"), "{}", order.outcome);
    assert!(matches!(book.undo(1, S), Err(CommandError::Failed(_))), "we did not do it");
}

#[test]
fn advice_that_nobody_follows_expires_a_day_after_it_was_approved() {
    let (_directory, mut book) = book();
    book.admit(vec![advice()], policy(Mode::Recommend), S, 1).unwrap();
    book.approve(1, &1000.into(), 2).unwrap();
    let day_ms = 24 * 3600 * 1000;
    book.expire(|_| true, |_| S * 86_400, S, day_ms).unwrap();
    assert_eq!(book.read(1).unwrap().state, OrderState::Approved);
    book.expire(|_| true, |_| S * 86_400, S, day_ms + 3).unwrap();
    let order = book.read(1).unwrap();
    assert_eq!(order.state, OrderState::Expired);
    assert!(order.outcome.contains("within a day"), "{}", order.outcome);
}

#[test]
fn what_a_killed_daemon_left_is_closed_by_what_the_restore_came_to() {
    let value = |outcome| RestoredValue {
        domain: "web".into(),
        target: "cpu_shares".into(),
        original: "1024".into(),
        outcome,
        message: Some("somebody set it to 77".into()),
    };
    let none: &[RestoredValue] = &[];
    for (left, values, closed, says) in [
        (OrderState::Approved, none, OrderState::Failed, "before the order was carried out"),
        (OrderState::Applied, none, OrderState::RolledBack, "put the original back"),
        (OrderState::Applied, &[value(RestoreOutcome::Restored)], OrderState::RolledBack, "while the change"),
        (
            OrderState::Verified,
            &[value(RestoreOutcome::Restored)],
            OrderState::RolledBack,
            "before the trial",
        ),
        (OrderState::Verified, &[value(RestoreOutcome::Drift)], OrderState::Failed, "set it to 77"),
        (OrderState::Kept, &[value(RestoreOutcome::Restored)], OrderState::Kept, ""),
    ] {
        let (_directory, book) = book();
        book.store.order_insert(&proposal(1024, 8192), left, 1).unwrap();
        let mut book = OrderBook::open(book.store.clone(), 2).unwrap();
        book.put_back(values, 3);
        let order = book.read(1).unwrap();
        assert_eq!(order.state, closed, "{left}");
        assert!(order.outcome.contains(says), "{left}: {}", order.outcome);
        assert!(order.state.is_final());
    }
}
