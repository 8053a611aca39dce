//! Gateway to the inside of guests: what runs there, which sockets it has, and its nice values, through
//! qemu-guest-agent.
//!
//! Knows the agent's protocol and Linux' `/proc`, not how a command gets to the agent: that is a [`Transport`], which
//! the daemon makes from the libvirt gateway. Everything a guest says is hostile: replies are bounded before they are
//! parsed, deadlines cover every wait, text is made printable, and a lie can only concern the liar's own processes.

mod abilities;
mod error;
mod exec;
mod facts;
mod fallback;
mod few;
mod files;
#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod group;
mod linux;
mod mask;
mod net;
mod nice;
mod parse;
mod process;
mod services;
mod system;
#[cfg(test)]
mod tests;
mod text;
mod unit;
mod windows;
mod windows_json;

use std::time::Duration;

pub use abilities::Abilities;
pub use error::{AgentError, TransportError};
pub use group::{GroupChange, GroupResult};
pub use nice::{MOST as MOST_NICE_CHANGES, NiceChange, NiceOutcome, NiceResult};

/// Carries one agent command to the guest and its reply back.
pub trait Transport: Send + Sync {
    /// Sends `command`, a JSON text, and returns the reply as it came.
    fn command(
        &self,
        command: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<String, TransportError>> + Send;
}

/// Bounds on what a guest may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time for a whole poll or change, from the first command to the last reply. The program of an earlier one that has not ended
    /// gets half of it more, before.
    pub total: Duration,
    /// Time for a single agent command.
    pub command: Duration,
    /// Bytes that a program in the guest may print; not more than 3 MB, because libvirt carries at most 4 MiB of base64.
    pub output_bytes: usize,
    /// Processes that are read.
    pub processes: usize,
    /// Sockets that are read, of each of tcp, tcp6, udp and udp6, and in all.
    pub sockets: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(5),
            command: Duration::from_secs(2),
            output_bytes: 2 << 20,
            processes: 4096,
            sockets: 8192,
        }
    }
}

/// What a guest runs, as far as it has to be asked differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Linux, or what can play it.
    Unix,
    /// Windows.
    Windows,
}

/// The agent of one guest. `&mut self` everywhere: one program at a time, so that a slow guest gets no pile of them.
#[derive(Debug)]
pub struct Agent<T> {
    transport: T,
    limits: Limits,
    /// Whether the agent may run programs; asked once per connection of the agent.
    may_exec: bool,
    /// What it permits, as of then.
    abilities: Option<Abilities>,
    /// What it runs on; asked once, too.
    kind: Option<Kind>,
    /// A program whose end was not seen. The agent keeps its output for ever unless it is asked for.
    pending: Option<i64>,
}

impl<T: Transport> Agent<T> {
    /// An agent that has not been asked anything yet.
    pub fn new(transport: T, limits: Limits) -> Self {
        let limits = Limits { output_bytes: limits.output_bytes.min(3_000_000), ..limits };
        Self { transport, limits, may_exec: false, abilities: None, kind: None, pending: None }
    }

    /// What the agent permits; `None` until it was asked for the first time.
    #[must_use]
    pub fn abilities(&self) -> Option<&Abilities> {
        self.abilities.as_ref()
    }
}
