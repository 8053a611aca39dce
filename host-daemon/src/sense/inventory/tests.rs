//! What libvirt's hook tells, against libvirt's test driver: its domain never sends an event, as if all of them were lost.

use kvmpilot_core::Uuid;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::hook::Turn;
use crate::libvirt::{Options, Status};

const PATIENCE: Duration = Duration::from_secs(20);
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
    (Inventory::start(libvirt, Duration::from_secs(3600), hook), calls)
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
