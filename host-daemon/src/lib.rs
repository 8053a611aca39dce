//! kvmpilot's rooms. What each may know of the others is written in ARCHITECTURE.md.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod kernel;
pub mod libvirt;
pub mod probes;
pub mod store;
