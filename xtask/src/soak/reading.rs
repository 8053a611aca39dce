//! What a life of the daemon uses over time, and whether that grows.

use anyhow::{Result, ensure};
use kvmpilot_tests::Held;
use kvmpilot_tests::bpf::Kind;
use serde::Serialize;

use crate::bench::common::median;
use crate::process;

/// Most memory beyond that of a daemon that has never seen a domain: what less than ten guests may ever need.
const MORE_KIB: u64 = 32 * 1024;
/// Most threads. Those that wait for the disk come and go.
const THREADS: u64 = 64;
/// Most descriptors, for fewer than ten domains.
const DESCRIPTORS: u64 = 512;
/// A life that is shorter than this, in s, says nothing about growth.
const LONG_LIFE: f64 = 900.0;
/// The last third of a long life may use so much more than the one before: charts and history fill up in the first hour.
const GROWTH: f64 = 1.15;
const GROWTH_KIB: f64 = 4096.0;

#[derive(Clone, Debug, Serialize)]
pub(super) struct Reading {
    /// Since the daemon started.
    pub(super) at_s: f64,
    pub(super) descriptors: u64,
    pub(super) threads: u64,
    pub(super) rss_kib: u64,
    /// Its own part of that; the rest is of files, like its program.
    pub(super) anonymous_kib: u64,
    pub(super) programs: u64,
    pub(super) maps: u64,
    pub(super) links: u64,
    pub(super) database_bytes: u64,
    /// Running domains.
    pub(super) domains: u64,
}

impl Reading {
    pub(super) fn take(pid: u32, held: &Held, at_s: f64, database_bytes: u64, domains: u64) -> Result<Self> {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Ok(Self {
            at_s,
            descriptors: count(held.descriptors),
            threads: process::status(pid, "Threads")?,
            rss_kib: process::status(pid, "VmRSS")?,
            anonymous_kib: process::status(pid, "RssAnon")?,
            programs: count(held.of_kind(Kind::Program)),
            maps: count(held.of_kind(Kind::Map)),
            links: count(held.of_kind(Kind::Link)),
            database_bytes,
            domains,
        })
    }

    /// Whether it is within what a daemon may ever use that had so much memory before the first guest.
    pub(super) fn check(&self, alone_kib: u64) -> Result<()> {
        let (rss, most) = (self.rss_kib, alone_kib + MORE_KIB);
        ensure!(rss <= most, "leak: {rss} KiB of memory, {alone_kib} before the first guest, {most} at most");
        ensure!(self.threads <= THREADS, "leak: {} threads, {THREADS} at most", self.threads);
        ensure!(
            self.descriptors <= DESCRIPTORS,
            "leak: {} descriptors, {DESCRIPTORS} at most",
            self.descriptors
        );
        Ok(())
    }
}

/// Whether memory stopped growing in a long life: its last third against the one before.
pub(super) fn check_growth(readings: &[Reading]) -> Result<()> {
    let Some(end) = readings.last().map(|reading| reading.at_s).filter(|end| *end >= LONG_LIFE) else {
        return Ok(());
    };
    let of = |from: f64, to: f64| {
        let within = readings.iter().filter(|reading| (from..=to).contains(&(reading.at_s / end)));
        median(within.filter_map(|reading| u32::try_from(reading.anonymous_kib).ok()).map(f64::from))
    };
    let (before, last) = (of(1.0 / 3.0, 2.0 / 3.0), of(2.0 / 3.0, 1.0));
    let most = before * GROWTH + GROWTH_KIB;
    ensure!(
        last <= most,
        "leak: memory grows: median {before:.0} KiB in the second third of a life of {end:.0} s, {last:.0} in the last, {most:.0} at most"
    );
    Ok(())
}

/// Least, most and last of a figure.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Span {
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) last: u64,
}

impl Span {
    pub(super) fn of(values: impl Iterator<Item = u64> + Clone) -> Self {
        Self {
            min: values.clone().min().unwrap_or(0),
            max: values.clone().max().unwrap_or(0),
            last: values.last().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(anonymous_kib: impl Fn(u64) -> u64) -> Vec<Reading> {
        let reading = |minute: u64| Reading {
            at_s: f64::from(u32::try_from(minute * 60).unwrap()),
            descriptors: 100,
            threads: 20,
            rss_kib: 30_000 + anonymous_kib(minute),
            anonymous_kib: anonymous_kib(minute),
            programs: 1,
            maps: 1,
            links: 1,
            database_bytes: 0,
            domains: 8,
        };
        (0..=60).map(reading).collect()
    }

    #[test]
    fn memory_that_settles_is_no_leak_and_memory_that_grows_is() {
        check_growth(&life(|minute| 20_000 + minute.min(20) * 500)).unwrap();
        let error = check_growth(&life(|minute| 20_000 + minute * 1000)).unwrap_err().to_string();
        assert!(error.contains("memory grows"), "{error}");
        // Too short to tell.
        check_growth(&life(|minute| 20_000 + minute * 1000)[..10]).unwrap();
        let reading = &life(|_| 20_000)[0];
        assert!(reading.check(40_000).is_ok() && reading.check(10_000).is_err());
    }
}
