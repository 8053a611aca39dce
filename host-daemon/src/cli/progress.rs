//! What is shown on standard error while something takes its time: a line of a terminal, which is gone when it is done.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Failure;

/// Waits for `work`, which takes about `length`, and says once a second how far it is: on one line of a terminal, or
/// just once where there is none.
pub(super) async fn shown<T>(what: &str, length: Duration, work: impl Future<Output = T>) -> T {
    let seconds = length.as_secs();
    let once = format!("{what} for {seconds} s\n");
    let line = |passed| format!("{what}: {passed} of {seconds} s, Ctrl-C ends it");
    told(line, Some(&once), work).await
}

/// Waits for `work`, of which nobody knows how long it takes, and says on a terminal how long it has.
pub(super) async fn waiting<T>(what: &str, work: impl Future<Output = T>) -> T {
    told(|passed| format!("{what}: {passed} s"), None, work).await
}

/// The same for what computes.
pub(super) async fn computing<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = waiting(what, tokio::task::spawn_blocking(work)).await;
    done.map_err(|error| Failure::Offline(error.to_string()))?
}

async fn told<T>(line: impl Fn(u64) -> String, once: Option<&str>, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let terminal = stderr().is_terminal();
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // The first tick is at once; what is done within a second needs no progress.
    seconds.tick().await;
    let mut said = false;
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                if terminal && said {
                    say("\r\u{1b}[K");
                }
                return done;
            }
            _ = seconds.tick() => {
                if terminal {
                    say(&format!("\r\u{1b}[K{}", line(began.elapsed().as_secs())));
                } else if let Some(once) = once.filter(|_| !said) {
                    say(once);
                }
                said = true;
            }
        }
    }
}

fn say(text: &str) {
    // Progress that cannot be shown is no reason to stop.
    let _ = stderr().write_all(text.as_bytes());
}
