//! Units that must not be mixed up: [`KiB`] and [`Ratio`]. Times are `std::time::Duration`.
//!
//! Gateways keep the source's unit as a name suffix (`_kib`, `_ns`, `_usec`); these types start with the model.

use std::fmt;
use std::ops::{Add, Sub};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An amount of memory in KiB, the unit of libvirt's memory calls.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct KiB(pub u64);

impl KiB {
    /// `mib` MiB.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1024))
    }

    /// A size as people write it: a whole number and `KiB`, `MiB` or `GiB`. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim_start() {
            "KiB" => 1,
            "MiB" => 1 << 10,
            "GiB" => 1 << 20,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(factor).map(Self)
    }

    /// The size as [`Self::parse`] reads it, in the largest unit that gives a whole number.
    #[must_use]
    pub fn written(self) -> String {
        match self.0 {
            kib if kib != 0 && kib.is_multiple_of(1 << 20) => format!("{}GiB", kib >> 20),
            kib if kib != 0 && kib.is_multiple_of(1 << 10) => format!("{}MiB", kib >> 10),
            kib => format!("{kib}KiB"),
        }
    }

    /// This amount less `other`, never below zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The `ratio` part of this amount, rounded down; negative and non-finite ratios give zero.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, and negative or NaN input has been mapped to zero"
    )]
    pub fn part(self, ratio: f64) -> Self {
        if ratio.is_finite() && ratio > 0.0 { Self((self.as_f64() * ratio) as u64) } else { Self(0) }
    }

    /// So many times this amount, rounded down; negative and non-finite numbers give zero.
    #[must_use]
    pub fn times(self, number: f64) -> Self {
        self.part(number)
    }

    /// As a float, for ratios. Exact up to 2^53 KiB.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "2^53 KiB is 8 ZiB")]
    pub fn as_f64(self) -> f64 {
        self.0 as f64
    }
}

impl Add for KiB {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for KiB {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.saturating_sub(other)
    }
}

impl fmt::Display for KiB {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 10 * 1024 { write!(f, "{} MiB", self.0 / 1024) } else { write!(f, "{} KiB", self.0) }
    }
}

/// A share of something, 0.0 to 1.0 unless its user says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Ratio(pub f64);

impl Ratio {
    /// `part / whole`, or `None` where `whole` is zero or the result is not a number.
    #[must_use]
    pub fn of(part: f64, whole: f64) -> Option<Self> {
        let ratio = part / whole;
        (whole > 0.0 && ratio.is_finite()).then_some(Self(ratio))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} %", self.0 * 100.0)
    }
}

/// A second since 1970 as people write it in a log: `2026-11-25 12:40:05 UTC`.
#[must_use]
pub fn utc(unix_s: u64) -> String {
    let (mut days, second) = (unix_s / 86_400, unix_s % 86_400);
    let mut year = 1970_u64;
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Beyond the year 9999 nobody reads a log.
    while days >= 365 + u64::from(leap(year)) && year < 9999 {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let day = days + 1;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_of_memory_never_overflows() {
        assert_eq!(KiB(1000).part(0.01), KiB(10));
        assert_eq!(KiB(1000).part(-1.0), KiB(0));
        assert_eq!(KiB(1000).part(f64::NAN), KiB(0));
        assert_eq!(KiB(u64::MAX).part(2.0), KiB(u64::MAX));
    }

    #[test]
    fn seconds_are_written_as_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_764_074_405), "2025-11-25 12:40:05 UTC");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, kib) in [("0KiB", 0), ("7KiB", 7), ("512MiB", 512 << 10), ("3GiB", 3 << 20)] {
            assert_eq!(KiB::parse(text), Some(KiB(kib)));
            assert_eq!(KiB(kib).written(), text);
        }
        for bad in
            ["", "12", "MiB", "1.5GiB", "-1MiB", "12MB", "99999999999999999999GiB", "18446744073709551615GiB"]
        {
            assert_eq!(KiB::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ratio_of_nothing_is_unknown() {
        assert_eq!(Ratio::of(1.0, 0.0), None);
        assert_eq!(Ratio::of(1.0, 4.0), Some(Ratio(0.25)));
    }
}
