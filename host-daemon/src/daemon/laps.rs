//! Where the time of a turn went, for the log when it took too long: the next one is late then, and somebody has to find out why.

use std::time::Duration;

use tokio::time::Instant;

/// A turn of 500 domains takes some 10 ms.
const LONG: Duration = Duration::from_secs(1);

/// The parts of one turn.
#[derive(Debug)]
pub(super) struct Laps {
    what: &'static str,
    began: Instant,
    last: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Laps {
    pub(super) fn of(what: &'static str) -> Self {
        let now = Instant::now();
        Self { what, began: now, last: now, laps: Vec::with_capacity(8) }
    }

    /// What was done since the last one.
    pub(super) fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.laps.push((name, now - std::mem::replace(&mut self.last, now)));
    }
}

impl Drop for Laps {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        if took > LONG {
            let laps: Vec<String> =
                self.laps.iter().map(|(name, took)| format!("{name} {} ms", took.as_millis())).collect();
            tracing::warn!(what = self.what, ?took, laps = laps.join(", "), "the loop was held up");
        }
    }
}
