//! Why the agent could not be used, by class: the daemon answers each class differently.

use std::time::Duration;

/// Why a command did not get a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No channel, no agent on it, the domain gone, or libvirt away; in words.
    #[error("{0}")]
    NotConnected(String),
    /// No reply in time.
    #[error("no reply in time")]
    TimedOut,
    /// The agent replied with an error; in its own words, which are the guest's.
    #[error("{0}")]
    Refused(String),
}

/// Why the agent gateway has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// There is nobody to talk to.
    #[error("guest agent not reachable: {0}")]
    NotConnected(String),
    /// The agent, or the program that it ran, took too long.
    #[error("guest agent: {what} took longer than {:.1} s", .after.as_secs_f64())]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        after: Duration,
    },
    /// The guest's administrator switched the command off.
    #[error(
        "guest agent: {0} is switched off in the guest (see block-rpcs and allow-rpcs in qemu-ga.conf there)"
    )]
    Forbidden(&'static str),
    /// A backup or a snapshot has frozen the guest's file systems: a program that writes would hang.
    #[error("guest agent: the guest's file systems are frozen; it is left alone until they are thawed")]
    Frozen,
    /// The agent refused the command.
    #[error("guest agent: {command} refused: {message}")]
    Refused {
        /// The command.
        command: &'static str,
        /// The guest's words, made printable and bounded.
        message: String,
    },
    /// The reply is not what the protocol says.
    #[error("guest agent: malformed reply: {what}")]
    Malformed {
        /// What is wrong with it.
        what: String,
    },
    /// The reply or the output is larger than we read.
    #[error("guest agent: reply larger than {limit} bytes")]
    Oversized {
        /// The limit.
        limit: usize,
    },
    /// The reply or the output stops before its end.
    #[error("guest agent: reply cut short")]
    Truncated,
    /// The program in the guest failed.
    #[error("guest agent: program failed in the guest: {}", .message)]
    ExitStatus {
        /// Exit code, unless a signal ended it.
        code: Option<i64>,
        /// Signal, unless it exited.
        signal: Option<i64>,
        /// Exit code or signal and the start of its standard error, made printable.
        message: String,
    },
}
