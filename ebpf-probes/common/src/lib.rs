//! The memory that kvmpilot's probes and its daemon share: `repr(C)` types, their constants, and the formulas
//! that both must agree on. No behaviour of either side lives here.
#![no_std]

pub mod flow;
pub mod pcpu;
pub mod sched;
pub mod watch;
