//! The windows of the three paces: each keeps the sample that it began with.

use std::sync::Arc;
use std::time::Duration;

use kvmpilot_core::model::Model;
use kvmpilot_core::sample::Sample;

/// One window for each pace of the daemon.
#[derive(Debug, Default)]
pub(super) struct Windows {
    pub(super) release: Window,
    pub(super) tick: Window,
    pub(super) cycle: Window,
}

/// From one sample to a later one.
#[derive(Debug, Default)]
pub(super) struct Window(Option<(Arc<Sample>, Duration)>);

impl Window {
    /// The model of the window if it is `period` long by now; a new one begins then. The first call begins the first.
    pub(super) fn close(
        &mut self,
        sample: &Arc<Sample>,
        now: Duration,
        period: Duration,
        wall_unix_s: u64,
    ) -> Option<Model> {
        /// A window may close a little early, else a 5 s window of 1 s turns that come 1 ms early lasts 6 s.
        const EARLY: Duration = Duration::from_millis(100);
        let Some((begin, at)) = &self.0 else {
            self.0 = Some((Arc::clone(sample), now));
            return None;
        };
        let elapsed = now.saturating_sub(*at);
        if elapsed.is_zero() || elapsed + EARLY < period {
            return None;
        }
        let model = Model::new(begin, sample, now, elapsed, wall_unix_s);
        self.0 = Some((Arc::clone(sample), now));
        Some(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_closes_when_it_is_long_enough() {
        let sample = Arc::new(Sample::default());
        let mut window = Window::default();
        let mut close = |ms: u64| {
            let model = window.close(&sample, Duration::from_millis(ms), Duration::from_secs(5), 0);
            model.map(|model| model.elapsed.as_millis())
        };
        assert_eq!(
            [close(0), close(1000), close(4950), close(5000), close(9900)],
            [None, None, Some(4950), None, Some(4950)]
        );
    }
}
