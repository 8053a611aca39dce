//! What is shown on standard error while the daemon takes its time.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// Waits for `work`, which takes about `length`, and says once a second how far it is: on one line of a terminal, or
/// just once where there is none.
pub(super) async fn shown<T>(what: &str, length: Duration, work: impl Future<Output = T>) -> T {
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
                let passed = began.elapsed().as_secs();
                if terminal {
                    say(&format!("\r\u{1b}[K{what}: {passed} of {} s, Ctrl-C ends it", length.as_secs()));
                } else if !said {
                    say(&format!("{what} for {} s\n", length.as_secs()));
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
