//! Numbers as people read them. Unknown ones are a dash.

use jiff::Timestamp;

/// What stands for an unknown value.
pub(super) const UNKNOWN: &str = "-";

fn or_unknown<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), show)
}

/// A share as a percentage: "0.4 %", "37 %".
pub(super) fn ratio(ratio: Option<f64>) -> String {
    percent(ratio.map(|ratio| ratio * 100.0))
}

pub(super) fn percent(percent: Option<f64>) -> String {
    or_unknown(percent, |percent| {
        if percent.abs() < 9.95 { format!("{percent:.1}\u{a0}%") } else { format!("{percent:.0}\u{a0}%") }
    })
}

/// Memory: "900 KiB", "512 MiB", "1.5 GiB".
pub(super) fn memory(kib: Option<u64>) -> String {
    or_unknown(kib, |kib| match kib {
        0..10_240 => format!("{kib}\u{a0}KiB"),
        10_240..10_485_760 => format!("{}\u{a0}MiB", kib / 1024),
        _ => format!("{}.{}\u{a0}GiB", kib >> 20, ((kib & 0xf_ffff) * 10) >> 20),
    })
}

/// Bytes: "950 B", "1.2 MB".
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn bytes(bytes: u64) -> String {
    rate(Some(bytes as f64)).trim_end_matches("/s").to_owned()
}

/// Bytes a second: "950 B/s", "1.2 MB/s".
pub(super) fn rate(bytes_per_s: Option<f64>) -> String {
    or_unknown(bytes_per_s, |rate| {
        let (divisor, unit) = match rate {
            rate if rate < 1e3 => return format!("{rate:.0}\u{a0}B/s"),
            rate if rate < 1e6 => (1e3, "kB/s"),
            rate if rate < 1e9 => (1e6, "MB/s"),
            _ => (1e9, "GB/s"),
        };
        format!("{:.1}\u{a0}{unit}", rate / divisor)
    })
}

/// A number with one digit behind the point.
pub(super) fn number(number: Option<f64>) -> String {
    or_unknown(number, |number| format!("{number:.1}"))
}

/// A plain value.
pub(super) fn plain<T: ToString>(value: Option<T>) -> String {
    or_unknown(value, |value| value.to_string())
}

/// A span of time: "0.4 s", "12 s", "5 min", "3 h", "2 d".
pub(super) fn seconds(seconds: Option<f64>) -> String {
    or_unknown(seconds, |seconds| match seconds {
        s if s < 9.95 => format!("{s:.1}\u{a0}s"),
        s if s < 120.0 => format!("{s:.0}\u{a0}s"),
        s if s < 7200.0 => format!("{:.0}\u{a0}min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0}\u{a0}h", s / 3600.0),
        s => format!("{:.0}\u{a0}d", s / 86_400.0),
    })
}

/// Microseconds: "85 us", "1.2 ms".
pub(super) fn micros(micros: Option<f64>) -> String {
    or_unknown(micros, |us| match us {
        us if us < 1e3 => format!("{us:.0}\u{a0}us"),
        us if us < 1e6 => format!("{:.1}\u{a0}ms", us / 1e3),
        us => format!("{:.1}\u{a0}s", us / 1e6),
    })
}

/// A point in time, in UTC, because a host's log mostly is, too.
pub(super) fn time(unix_ms: u64) -> String {
    i64::try_from(unix_ms)
        .ok()
        .and_then(|unix_ms| Timestamp::from_millisecond(unix_ms).ok())
        .map_or_else(|| UNKNOWN.to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S\u{a0}UTC").to_string())
}

/// "1 domain", "2 domains".
pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

pub(super) const fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// "now", or "now (was before)" where they differ.
pub(super) fn changed(now: &str, before: &str) -> String {
    if now == before { now.to_owned() } else { format!("{now} (was {before})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_size_and_unit() {
        let shown = |text: String| text.replace('\u{a0}', " ");
        assert_eq!(shown(ratio(Some(0.0042))), "0.4 %");
        assert_eq!(shown(ratio(Some(0.371))), "37 %");
        assert_eq!(shown(ratio(None)), "-");
        assert_eq!(shown(memory(Some(10_239))), "10239 KiB");
        assert_eq!(shown(memory(Some(512 << 10))), "512 MiB");
        assert_eq!(shown(memory(Some(3 << 19))), "1536 MiB");
        assert_eq!(shown(memory(Some(25 << 19))), "12.5 GiB");
        assert_eq!(shown(rate(Some(999.4))), "999 B/s");
        assert_eq!(shown(rate(Some(1_230_000.0))), "1.2 MB/s");
        assert_eq!(shown(seconds(Some(0.41))), "0.4 s");
        assert_eq!(shown(seconds(Some(300.0))), "5 min");
        assert_eq!(shown(micros(Some(1234.0))), "1.2 ms");
        assert_eq!(shown(time(0)), "1970-01-01 00:00:00 UTC");
        assert_eq!(shown(time(u64::MAX)), "-");
        assert_eq!(count(1, "domain"), "1 domain");
        assert_eq!(changed("normal", "low"), "normal (was low)");
    }
}
