//! Skeleton.
pub mod probes;
