//! The faces together: the real command line and raw clients against the real API on a real unix socket, with made-up
//! views and a made-up daemon behind it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cli;
mod fuzz;
mod generate;
mod hostile;
mod json;
mod metrics;
mod policy;
mod progress;
mod record;
mod scale;
mod schema;
mod server;
mod service;
mod simulate;
mod socket;
mod tcp;
mod top;
mod watch;
