//! A deterministic toy host, so that policies can be tried out for days within seconds: the same `decide` as the daemon's,
//! over samples made here. No clock, no randomness but a seeded one.
//!
//! What it has: a weighted fair queue on each pcpu (`queue.rs`), wake-ups and load balancing inside cpusets (`balance.rs`), the
//! slow-down by SMT siblings, remote memory and cold caches, balloons that move slowly, guests that swap when they have less
//! than their working set, loads that change, domains that come and go, orders that take a while. What it has not: I/O,
//! locks inside guests, interrupts, agents (so the ladder rests), QEMU's other threads.

mod balance;
mod drive;
mod host;
mod load;
mod memory;
mod observe;
#[cfg(test)]
mod properties;
mod queue;
mod random;
mod record;
mod report;
mod scenario;
#[cfg(test)]
mod tests;

pub use drive::{run, samples};
pub use report::{ClassFigures, DomainFigures, Missed, Report};
pub use scenario::{DomainSpec, Expect, HostSpec, Scenario};

pub use load::Load;
