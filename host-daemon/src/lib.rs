//! The daemon's rooms; see ARCHITECTURE.md.

pub mod api;
pub mod cli;
pub mod config;
pub mod store;
