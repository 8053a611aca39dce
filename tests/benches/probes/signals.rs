//! A thread that sends itself signals: two trace events each, one after the other, in one thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

use crate::pingpong::{last_pcpu, settle};

const LENGTH: Duration = Duration::from_millis(100);

static DELIVERED: AtomicU64 = AtomicU64::new(0);

extern "C" fn deliver(_signal: nix::libc::c_int) {
    DELIVERED.fetch_add(1, Relaxed);
}

/// The workload; it runs in the thread that made it.
pub(crate) struct Signals(());

impl Signals {
    pub(crate) fn start() -> Result<Self> {
        let action = SigAction::new(SigHandler::Handler(deliver), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing but add to an atomic.
        unsafe { sigaction(Signal::SIGUSR1, &action) }?;
        settle(last_pcpu()?)?;
        Ok(Self(()))
    }

    #[expect(clippy::unused_self, reason = "that there is one means that the handler is in place")]
    pub(crate) fn ns_per_signal(&self) -> f64 {
        let (begin, before) = (Instant::now(), DELIVERED.load(Relaxed));
        while begin.elapsed() < LENGTH {
            for _ in 0..100 {
                // Cannot fail: the signal exists.
                let _ = raise(Signal::SIGUSR1);
            }
        }
        let delivered = DELIVERED.load(Relaxed) - before;
        let ns = begin.elapsed().as_secs_f64() * 1e9 / delivered as f64;
        // As for the ping-pong: the kernel would stop a real-time thread that never rests.
        std::thread::sleep(LENGTH / 4);
        ns
    }
}
