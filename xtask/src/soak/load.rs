//! A client from outside that keeps one server busy, and is sent from one to the next.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use kvmpilot_tests::{HttpLoad, Lab};

const CONNECTIONS: u32 = 4;
/// After so long it looks whether it is to go elsewhere.
const STRETCH_S: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Load {
    target: Mutex<Option<String>>,
    over: AtomicBool,
    requests: AtomicU64,
}

#[derive(Debug)]
pub(super) struct EndOfLoad<'a>(&'a Load);

impl Drop for EndOfLoad<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Load {
    /// Asks whoever is the target, until it is over. A server that is off or starved is part of a soak.
    pub(super) fn run(&self, lab: &Lab) {
        while !self.over.load(Ordering::Relaxed) {
            let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let answered = target.and_then(|guest| {
                lab.http_load(&HttpLoad { guest, connections: CONNECTIONS, seconds: STRETCH_S }).ok()
            });
            match answered {
                Some(report) => {
                    self.requests.fetch_add(report.requests, Ordering::Relaxed);
                }
                None => thread::sleep(Duration::from_millis(500)),
            }
        }
    }

    pub(super) fn move_to(&self, guest: Option<String>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = guest;
    }

    /// Ends it when this is dropped, however that comes about.
    pub(super) const fn until_dropped(&self) -> EndOfLoad<'_> {
        EndOfLoad(self)
    }

    /// Requests that were answered.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}
