//! Against libvirt's test driver: its domains never send an event, as if all of them were lost.

use kvmpilot_core::Uuid;
use kvmpilot_core::sample::Job;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::hook::Turn;
use crate::libvirt::{Options, Status};

const PATIENCE: Duration = Duration::from_secs(20);
/// A priority cycle.
const CYCLE: Duration = Duration::from_secs(300);
const ID: Uuid = Uuid::from_u128(0x0b2f_9d0e_1d55_4d0e_8f0e_6a6f_5a3c_2b22);

/// Only the hook makes it read anything: the sweep comes once, at the start.
async fn inventory(directory: &std::path::Path) -> (Inventory, mpsc::Sender<HookCall>) {
    let host = directory.join("host.xml");
    let text = format!(
        "<node><domain type='test'><name>late</name><uuid>{ID}</uuid><memory>131072</memory>\
         <os><type>hvm</type></os></domain></node>"
    );
    std::fs::write(&host, text).unwrap();
    let libvirt = Libvirt::start(&format!("test://{}", host.display()), Options::default());
    let mut status = libvirt.status_changes();
    timeout(PATIENCE, status.wait_for(Status::is_up)).await.unwrap().unwrap();
    let (calls, hook) = mpsc::channel(8);
    (Inventory::start(libvirt, Duration::from_secs(3600), CYCLE, hook), calls)
}

async fn read_after(inventory: &Inventory, at: Instant) -> bool {
    let is_read =
        || inventory.snapshot().get(&ID).is_some_and(|entry| entry.read_at.is_some_and(|read| read >= at));
    let wait = async {
        while !is_read() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), wait).await.is_ok()
}

#[tokio::test]
async fn a_guest_of_which_only_the_hook_told_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let (inventory, calls) = inventory(directory.path()).await;
    assert!(read_after(&inventory, began).await, "not even by the first sweep");
    timeout(PATIENCE, inventory.comings.notified()).await.expect("the loop is told");
    // The sweep may be done twice: at the start, and for the connection.
    sleep(Duration::from_millis(500)).await;
    for turn in [Turn::Here, Turn::Gone] {
        let at = Instant::now();
        let call = |name: &str, turn| HookCall { name: name.to_owned(), turn, at };
        calls.send(call("late", Turn::Coming)).await.unwrap();
        calls.send(call("nobody", turn)).await.unwrap();
        calls.send(call("late", turn)).await.unwrap();
        assert!(read_after(&inventory, at).await, "{turn:?}");
        let took = at.elapsed();
        assert!(took >= Duration::from_millis(400), "{turn:?}: the event got no time: {took:?}");
    }
    let at = Instant::now();
    calls.send(HookCall { name: "late".to_owned(), turn: Turn::Coming, at }).await.unwrap();
    sleep(Duration::from_millis(800)).await;
    let read = inventory.snapshot()[&ID].read_at.unwrap();
    assert!(read < at, "a guest that libvirt still holds was asked for");
}

/// A host with so many domains, each started long ago as far as its inventory knows after [`settle`].
async fn crowd(directory: &std::path::Path, count: u128, period: Duration) -> (Libvirt, Inventory) {
    let domain = |n: u128| {
        let uuid = Uuid::from_u128(n);
        format!(
            "<domain type='test'><name>d{n}</name><uuid>{uuid}</uuid><memory>131072</memory><os><type>hvm</type></os></domain>"
        )
    };
    let host = directory.join("host.xml");
    let domains: String = (1..=count).map(domain).collect();
    std::fs::write(&host, format!("<node>{domains}</node>")).unwrap();
    let libvirt = Libvirt::start(&format!("test://{}", host.display()), Options::default());
    let mut status = libvirt.status_changes();
    timeout(PATIENCE, status.wait_for(Status::is_up)).await.unwrap().unwrap();
    let (_, hook) = mpsc::channel(1);
    (libvirt.clone(), Inventory::start(libvirt, period, CYCLE, hook))
}

/// Waits until all are read, and lets them be old.
async fn settle(inventory: &Inventory, count: usize) {
    let all = || inventory.snapshot().values().filter(|entry| entry.read_at.is_some()).count() == count;
    let wait = async {
        while !all() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("all are read");
    // The connection may make for one more round.
    sleep(Duration::from_millis(500)).await;
    for entry in lock(&inventory.entries).values_mut() {
        let entry = Arc::make_mut(entry);
        entry.since = entry.since.checked_sub(Duration::from_secs(61)).unwrap();
    }
}

#[tokio::test]
async fn a_sweep_is_one_call_however_many_domains_have_settled() {
    let period = Duration::from_millis(100);
    for count in [2, 40] {
        let directory = tempfile::tempdir().unwrap();
        let (libvirt, inventory) = crowd(directory.path(), count, period).await;
        settle(&inventory, count.try_into().unwrap()).await;
        sleep(period * 2).await;
        libvirt.made();
        let began = Instant::now();
        sleep(period * 20).await;
        let (made, took) = (libvirt.made(), began.elapsed());
        let sweeps = made.get("list of domains").copied().unwrap_or(0);
        assert!((3..=8).contains(&sweeps), "a list in each third of 20: {made:?}");
        // The turn of some of the many may come in these two seconds: 40 glances in four minutes and 40 readings in 15 are less
        // than one.
        let others: u32 = made.iter().filter(|(call, _)| **call != "list of domains").map(|(_, n)| n).sum();
        assert!(others <= 12, "{count} domains in {took:?}: {made:?}");
        let now = Instant::now();
        for entry in inventory.snapshot().values() {
            assert!(now - entry.confirmed_at.unwrap() < took && entry.read_at.unwrap() < began);
        }
    }
}

#[tokio::test]
async fn a_sign_leads_to_one_reading_in_five_seconds_and_a_refresh_to_one_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (libvirt, inventory) = crowd(directory.path(), 1, Duration::from_secs(3600)).await;
    settle(&inventory, 1).await;
    let id = Uuid::from_u128(1);
    let read_at = || inventory.snapshot()[&id].read_at.unwrap();
    let first = read_at();
    libvirt.made();
    for _ in 0..3 {
        inventory.suspect(id, false);
        sleep(Duration::from_millis(50)).await;
    }
    sleep((first + Duration::from_millis(4500)).saturating_duration_since(Instant::now())).await;
    assert_eq!((libvirt.made().get("reading"), read_at()), (None, first), "it was read a moment ago");
    let wait = async {
        while read_at() == first {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(3), wait).await.expect("the sign is followed");
    assert!(read_at() - first >= Duration::from_secs(5));
    let at = Instant::now();
    inventory.refresh(id);
    let wait = async {
        while read_at() < at {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(1), wait).await.expect("a refresh does not wait");
    inventory.suspect(Uuid::from_u128(99), true);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(libvirt.made().get("reading"), Some(&2));
}

#[test]
fn a_domain_that_libvirt_confirms_is_decided_on_however_old_its_reading_is() {
    let (s, read) = (Duration::from_secs(1), Instant::now());
    let sample = serde_json::from_value(serde_json::json!({
        "uuid": ID, "name": "web", "state": "running", "accel": "kvm", "vcpus": [], "memory_maximum_kib": 1024,
        "job_active": false, "interfaces": [], "threads": [],
    }))
    .unwrap();
    let mut entry = InventoryEntry::read(sample, read, Vec::new());
    let now = read + 290 * s;
    assert!(
        entry.quarantine(now).is_some_and(|why| why.contains("290 s old")),
        "{:?}",
        entry.quarantine(now)
    );
    entry.confirmed_at = Some(now - 30 * s);
    assert_eq!(entry.quarantine(now), None);
    entry.confirmed_at = Some(now - 31 * s);
    assert!(entry.quarantine(now).is_some_and(|why| why.contains("31 s old")));
    entry.confirmed_at = Some(now);
    entry.fail(true);
    assert!(entry.quarantine(now).is_some(), "who does not answer is in quarantine, listed or not");
}

#[test]
fn what_a_look_brings_never_undoes_a_later_one() {
    let (s, began) = (Duration::from_secs(1), Instant::now());
    let kib = |current_kib| BalloonSample { current_kib, ..BalloonSample::default() };
    let domain = |balloon: Option<BalloonSample>| -> kvmpilot_core::sample::DomainSample {
        serde_json::from_value(serde_json::json!({
            "uuid": ID, "name": "web", "state": "running", "accel": "kvm", "vcpus": [], "memory_maximum_kib": 1024,
            "job_active": false, "interfaces": [], "threads": [], "balloon": balloon,
        }))
        .unwrap()
    };
    let mut entry = InventoryEntry::read(domain(Some(kib(1))), began, Vec::new());
    let current = |entry: &InventoryEntry| entry.domain.as_ref().unwrap().balloon.unwrap().current_kib;
    // A look that began later than a reading that ends after it.
    assert_eq!(entry.read_balloon(kib(2), began + 2 * s), Some(Some(kib(1))));
    assert_eq!(entry.balloon_moved_at, Some(began + 2 * s));
    entry.take(domain(Some(kib(3))), began + s, true);
    assert_eq!(current(&entry), 2);
    entry.take(domain(None), began + 3 * s, false);
    assert_eq!((current(&entry), entry.balloon_read_at), (2, Some(began + 2 * s)), "it was not asked for");
    assert_eq!(entry.read_balloon(kib(9), began + s), None);
    entry.read_job(Some(Job::Save), began + 2 * s);
    assert!(!entry.is_restless(), "the reading is newer");
    entry.read_job(Some(Job::Save), began + 4 * s);
    assert!(entry.is_restless() && !entry.answers());
}
