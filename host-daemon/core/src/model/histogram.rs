//! Quantiles of log2 histograms.

use std::time::Duration;

/// The `q` quantile (0 to 1) of waits counted in log2 buckets, as the upper bound of the bucket that holds it;
/// `None` without counts. Bucket `n` counts waits below `2^(n+1)` ns, so the result is at most twice the truth.
#[must_use]
pub fn quantile(counts: &[u64], q: f64) -> Option<Duration> {
    let total: u64 = counts.iter().fold(0, |sum, count| sum.saturating_add(*count));
    #[expect(clippy::cast_precision_loss, reason = "ranks above 2^53 do not occur")]
    let rank = total as f64 * q.clamp(0.0, 1.0);
    let mut seen = 0_u64;
    for (bucket, count) in counts.iter().enumerate() {
        seen = seen.saturating_add(*count);
        #[expect(clippy::cast_precision_loss, reason = "ranks above 2^53 do not occur")]
        if *count > 0 && seen as f64 >= rank {
            let shift = u32::try_from(bucket).unwrap_or(u32::MAX).saturating_add(1);
            return Some(Duration::from_nanos(1_u64.checked_shl(shift).unwrap_or(u64::MAX)));
        }
    }
    None
}

/// [`quantile`] of KVM's histograms of halts, whose bucket `n` counts what is below `2^n` ns.
#[must_use]
pub(super) fn halt_quantile(counts: &[u64], q: f64) -> Option<Duration> {
    quantile(counts, q).map(|bound| bound / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_bucket_of_the_rank() {
        let mut counts = vec![0; 40];
        counts[10] = 99;
        counts[20] = 1;
        assert_eq!(quantile(&counts, 0.5), Some(Duration::from_nanos(1 << 11)));
        assert_eq!(quantile(&counts, 0.99), Some(Duration::from_nanos(1 << 11)));
        assert_eq!(quantile(&counts, 1.0), Some(Duration::from_nanos(1 << 21)));
        assert_eq!(quantile(&[0; 40], 0.5), None);
    }
}
