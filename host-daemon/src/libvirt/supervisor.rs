//! The thread that keeps one connection for events, tells the others when it breaks, and makes a new one.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use virt::connect::Connect;

use super::error::ErrorKind;
use super::events::{self, DomainEvent, Registration};
use super::session::Link;
use super::status::{Status, version};

/// How often a connection is looked at that says nothing. The close callback is faster; this is for drivers without one.
const CHECK: Duration = Duration::from_secs(5);

/// What wakes the supervisor.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    /// The connection of this epoch closed, for libvirt's `virConnectCloseReason`.
    Closed { epoch: u64, reason: i32 },
    /// The gateway goes.
    Stop,
}

/// Waits between attempts to connect: doubling from the first to the last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub(super) first: Duration,
    pub(super) last: Duration,
}

/// Runs until told to stop.
pub(super) fn run(link: &Link, backoff: Backoff, ear: &Receiver<Signal>, mouth: &Sender<Signal>) {
    let mut wait = backoff.first;
    loop {
        link.status.send_replace(Status::connecting(&link.uri));
        let (reason, old) = match connect(link, mouth) {
            Ok((connection, registration, up)) => {
                tracing::info!(status = %up, "libvirt");
                link.cache.forget_all();
                link.status.send_replace(up);
                // Nobody listening is fine.
                let _ = link.events.send(DomainEvent::Resync);
                wait = backoff.first;
                let Some(reason) = watch(link, &connection, ear) else { return };
                link.epoch.fetch_add(1, Ordering::SeqCst);
                (reason, Some((connection, registration)))
            }
            Err(error) => (error.to_string(), None),
        };
        let retry_at = Instant::now() + wait;
        let down = Status::down(reason, retry_at);
        tracing::warn!(status = %down, "libvirt");
        link.status.send_replace(down);
        drop(old);
        loop {
            match ear.recv_timeout(retry_at.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => break,
                Ok(Signal::Closed { .. }) => {}
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        wait = (wait * 2).min(backoff.last);
    }
}

fn connect(link: &Link, mouth: &Sender<Signal>) -> Result<(Connect, Registration, Status), ErrorKind> {
    events::start_loop()?;
    let connection = link.connect()?;
    let registration = Registration::new(&connection, &link.sink(mouth.clone()))?;
    let up = Status::Up {
        uri: connection.uri()?,
        libvirt_version: version(connection.lib_version()?),
        hypervisor_version: version(connection.hyp_version()?),
    };
    Ok((connection, registration, up))
}

/// Returns why the connection broke, or `None` when told to stop.
fn watch(link: &Link, connection: &Connect, ear: &Receiver<Signal>) -> Option<String> {
    let current = link.epoch.load(Ordering::SeqCst);
    loop {
        match ear.recv_timeout(CHECK) {
            Ok(Signal::Closed { epoch, .. }) if epoch != current => {}
            Ok(Signal::Closed { reason, .. }) => return Some(close_reason(reason).to_owned()),
            Err(RecvTimeoutError::Timeout) if connection.is_alive().unwrap_or(false) => {}
            Err(RecvTimeoutError::Timeout) => return Some("connection closed".to_owned()),
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// `virConnectCloseReason` in words.
fn close_reason(reason: i32) -> &'static str {
    match reason {
        1 => "connection closed by libvirtd",
        2 => "libvirtd did not answer its keepalive for 25 s",
        3 => "connection closed by us",
        _ => "connection closed after an error",
    }
}
