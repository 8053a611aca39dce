//! [`DiskModel`]: one disk and its use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rise;
use crate::sample::{DiskCounters, DiskSample};

/// One disk. Rates are over the time between its last two readings, five minutes; null before the second one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiskModel {
    /// The guest's name for it.
    pub target: String,
    /// Path or name of its image.
    pub source: Option<String>,
    /// Size that the guest sees.
    pub capacity_bytes: u64,
    /// Storage that it takes on the host.
    pub allocation_bytes: u64,
    /// Bytes read a second.
    pub read_bytes_per_s: Option<f64>,
    /// Bytes written a second.
    pub written_bytes_per_s: Option<f64>,
    /// Requests to read a second.
    pub reads_per_s: Option<f64>,
    /// Requests to write a second.
    pub writes_per_s: Option<f64>,
}

impl From<&DiskSample> for DiskModel {
    fn from(sample: &DiskSample) -> Self {
        let rate = |of: fn(&DiskCounters) -> u64| {
            let (before, ms) = sample.before.as_ref()?;
            let rise = rise(of(before), of(sample.counters.as_ref()?))?;
            (*ms > 0).then(|| rise as f64 * 1000.0 / *ms as f64)
        };
        Self {
            target: sample.target.clone(),
            source: sample.source.clone(),
            capacity_bytes: sample.capacity_bytes,
            allocation_bytes: sample.allocation_bytes,
            read_bytes_per_s: rate(|counters| counters.read_bytes),
            written_bytes_per_s: rate(|counters| counters.written_bytes),
            reads_per_s: rate(|counters| counters.reads),
            writes_per_s: rate(|counters| counters.writes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_two_readings_of_one_qemu() {
        let counters = |read_bytes| DiskCounters { read_bytes, written_bytes: 500, reads: 7, writes: 1 };
        let sample = |before| DiskSample { counters: Some(counters(3000)), before, ..DiskSample::default() };
        let rate = |before| DiskModel::from(&sample(before)).read_bytes_per_s;
        assert_eq!(rate(Some((counters(1000), 4000))), Some(500.0));
        assert_eq!(rate(Some((counters(9000), 4000))), None, "another QEMU");
        assert_eq!(rate(Some((counters(1000), 0))), None);
        assert_eq!(rate(None), None);
    }
}
