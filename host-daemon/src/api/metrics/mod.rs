//! The metrics: which there are ([`families`]), and how they are read out of what the daemon published last. There is no
//! registry that lives on: series of what is gone are gone. Flows, processes and addresses never become labels.
//!
//! Names follow Prometheus: base units, `_total` for counters. `render.rs` writes them for Prometheus, [`crate::otlp`] pushes
//! the same ones. `docs/metrics.md` lists them.

mod daemon;
mod domain;
mod host;
mod render;
mod vcpu;

#[cfg(test)]
pub(crate) mod tests;

pub(super) use render::metrics;
pub use render::{Format, render};
pub use vcpu::BOUNDS;

use super::views::Views;

/// What all names begin with.
pub const PREFIX: &str = "kvmpilot";

/// Label that all series have: the name of the host.
pub const HOST: &str = "host";

/// Metrics of one name.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Name without [`PREFIX`], with `_total` if it is a counter.
    pub name: &'static str,
    /// What it says, one sentence.
    pub help: &'static str,
    /// What kind of values it has.
    pub kind: Kind,
    /// Names of its labels, beside [`HOST`].
    pub labels: &'static [&'static str],
    read: fn(&Views, &mut Sink<'_>),
}

/// Takes the values of a family's labels, in their order, and what is measured.
pub type Sink<'a> = dyn FnMut(&[&str], Value) + 'a;

/// What kind of values a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// May rise and fall.
    Gauge,
    /// Only rises, until what it counts begins anew.
    Counter,
    /// Counts by size, and a sum; these only rise, likewise.
    Histogram,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Of a gauge or counter.
    Number(f64),
    /// Of a histogram.
    Counts(Counts),
}

/// What a histogram holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counts {
    /// Sum of all that was observed.
    pub sum: f64,
    /// Number of all that was observed.
    pub count: u64,
    /// How much of it was above the bound before and up to [`BOUNDS`] of the same place; the last one is above all bounds.
    pub buckets: [u64; BOUNDS.len() + 1],
}

impl Family {
    /// Passes all series of this family to `sink`. What is not known has none.
    pub fn read(&self, views: &Views, sink: &mut Sink<'_>) {
        (self.read)(views, &mut |labels, value| {
            // No sentinel ever gets out, and neither does what a division by nothing made.
            if !matches!(value, Value::Number(number) if !number.is_finite()) {
                sink(labels, value);
            }
        });
    }
}

/// All metrics that there are.
pub fn families() -> impl Iterator<Item = &'static Family> {
    [daemon::FAMILIES, host::FAMILIES, domain::FAMILIES, vcpu::FAMILIES].into_iter().flatten()
}

type Read = fn(&Views, &mut Sink<'_>);
type Names = &'static [&'static str];

const fn gauge(name: &'static str, help: &'static str, labels: Names, read: Read) -> Family {
    Family { name, help, kind: Kind::Gauge, labels, read }
}

const fn counter(name: &'static str, help: &'static str, labels: Names, read: Read) -> Family {
    Family { name, help, kind: Kind::Counter, labels, read }
}

/// A single series without labels, if its value is known.
fn one(sink: &mut Sink<'_>, value: impl Into<Option<f64>>) {
    some(sink, &[], value);
}

/// A series, if its value is known.
fn some(sink: &mut Sink<'_>, labels: &[&str], value: impl Into<Option<f64>>) {
    if let Some(value) = value.into() {
        sink(labels, Value::Number(value));
    }
}

/// A series for each of a few states, 1 for the one that it is.
fn states(sink: &mut Sink<'_>, labels: &[&str], all: &[&str], is: &str) {
    for state in all {
        sink(&[labels, &[*state]].concat(), Value::Number(truth(*state == is)));
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// Counts as Prometheus has them: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows floats only")]
fn number(count: u64) -> f64 {
    count as f64
}

fn bytes(kib: Option<u64>) -> Option<f64> {
    kib.map(|kib| number(kib) * 1024.0)
}

fn ratio(percent: Option<f64>) -> Option<f64> {
    percent.map(|percent| percent / 100.0)
}
