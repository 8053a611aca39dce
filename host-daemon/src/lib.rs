//! Skeleton.
pub mod kernel;
pub mod probes;
