//! The wall's clock, in the unit of records and of the API.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since 1970; nothing while the clock is set before that.
pub(crate) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The same in milliseconds.
pub(crate) fn unix_ms() -> u64 {
    u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX)
}
