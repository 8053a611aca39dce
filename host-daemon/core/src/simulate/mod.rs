//! A deterministic toy host, so that policies can be tried out for hours within seconds: the same `decide` as the daemon's,
//! over samples made here. No clock, no randomness but a seeded one.
//!
//! What it has: a weighted fair queue on each pcpu (generalised processor sharing: who is runnable gets a part by weight),
//! a load balancer inside cpusets, the slow-down by SMT siblings, remote memory and cold caches, balloons that move slowly,
//! guests that swap when they have less than their working set, loads that change, domains that come and go. What it has
//! not: I/O, locks inside guests, interrupts.

mod drive;
mod host;
mod load;
mod memory;
mod report;
mod scenario;
mod share;

pub use drive::run;
pub use report::{ClassFigures, DomainFigures, Missed, Report};
pub use scenario::{DomainSpec, Event, Expect, HostSpec, Scenario};

pub use load::Load;
