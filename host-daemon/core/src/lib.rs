//! The pure half of kvmpilot: values, and functions from values to values.
//!
//! Nothing here reads a file, a clock or a socket; nothing waits, nothing fails for missing data. What the gateways
//! read arrives as [`sample`], [`model`] derives rates from two samples, [`policy`] says what the administrator wants
//! and [`decide`] turns all three into [`order`]s. Time is always an argument.

#![forbid(unsafe_code)]

pub mod asker;
pub mod competitor;
pub mod cpuset;
pub mod decide;
pub mod finding;
pub mod ledger;
pub mod model;
pub mod order;
mod pairs;
pub mod policy;
pub mod rules;
pub mod sample;
pub mod service;
pub mod simulate;
pub mod topology;
pub mod units;
pub mod windows;

pub use cpuset::CpuSet;
pub use uuid::Uuid;
