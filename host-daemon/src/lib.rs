//! kvmpilot's rooms. What each may know of the others is written in ARCHITECTURE.md.

pub mod act;
pub mod agent;
pub mod api;
pub mod cli;
mod clock;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod guest_channel;
pub mod hook;
pub mod kernel;
pub mod libvirt;
pub mod orders;
pub mod otlp;
pub mod probes;
pub mod record;
pub mod sense;
pub mod store;
mod users;
pub mod watch;
