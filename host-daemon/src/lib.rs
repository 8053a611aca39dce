//! kvmpilot's rooms. What each may know is written in ARCHITECTURE.md.

pub mod agent;
pub mod libvirt;
