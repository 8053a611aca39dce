//! The memory that kvmpilot's probes and its daemon share: `repr(C)` types, their constants, and the one
//! formula both must agree on, the histogram's buckets. No behaviour of either side lives here.
#![no_std]

pub mod flow;
pub mod sched;
