//! The API: JSON over HTTP on a unix socket, for the command line now and for more clients later.
//!
//! It reads what the daemon last published ([`ApiContext::views`]) and the store, and passes commands on. It measures
//! nothing, decides nothing and changes nothing.

mod ask;
mod bounds;
mod caller;
mod command;
mod console;
mod events;
mod host;
mod listen;
pub mod metrics;
mod operations;
pub mod present;
mod problem;
mod record;
mod routes;
pub mod schema;
mod serve;
mod tcp;
mod tls;
mod tokens;
mod trend;
pub mod views;

pub use ask::Ask;
pub use command::{ApiContext, Command, CommandError, CommandRequest, WatchRequest};
pub use listen::{ApiError, Listen};
pub use operations::document;
pub use record::RecordingRequest;
pub use serve::{Limits, Server, serve};

/// Version of the API: the `v1` in its paths.
pub const API_VERSION: u32 = 1;
