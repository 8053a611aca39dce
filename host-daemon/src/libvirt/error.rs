//! [`Error`]: which call failed on which domain, and why.

use std::time::Duration;

use virt::error::ErrorNumber as Code;

/// A libvirt call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}{}: {kind}", .domain.as_ref().map(|name| format!(" of domain {name}")).unwrap_or_default())]
pub struct Error {
    /// Which of our calls.
    pub call: &'static str,
    /// The domain's name, or its UUID where the name is not known.
    pub domain: Option<String>,
    /// What happened.
    pub kind: ErrorKind,
}

/// Why a libvirt call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// There is no connection; it is being retried in the background.
    #[error("not connected to libvirt: {0}")]
    NotConnected(String),
    /// The domain does not exist or does not run any more.
    #[error("the domain is gone or not running")]
    DomainGone,
    /// The call got no answer in time.
    #[error("no answer within {after:?}{}", if *.started { ", it is still under way" } else { ": all workers were busy" })]
    Deadline {
        /// The deadline.
        after: Duration,
        /// Whether a worker had begun with it: then it may still take effect.
        started: bool,
    },
    /// An earlier call for the same domain is still without an answer; none is made until that one returns.
    #[error("quarantined: an earlier call has been without an answer for {0:?}")]
    Quarantined(Duration),
    /// Too many calls are without an answer; libvirtd itself is probably stuck.
    #[error("{0} libvirt calls are without an answer; is libvirtd stuck? (journalctl -u libvirtd)")]
    Overloaded(usize),
    /// libvirt refused the value.
    #[error("refused: {0}")]
    Invalid(String),
    /// The hypervisor, the domain or this libvirt cannot do it.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The domain has no agent channel.
    #[error("the domain has no guest agent channel (org.qemu.guest_agent.0)")]
    AgentAbsent,
    /// Nothing listens on the agent channel inside the guest.
    #[error("no guest agent is connected; is qemu-guest-agent running in the guest?")]
    AgentDisconnected,
    /// The agent is connected but did not answer in time.
    #[error("the guest agent did not answer in time")]
    AgentTimeout,
    /// The agent refused the command. The text comes from the guest.
    #[error("the guest agent refused: {0}")]
    AgentRefused(String),
    /// Anything else, in libvirt's words.
    #[error("{0}")]
    Other(String),
}

impl From<virt::error::Error> for ErrorKind {
    fn from(error: virt::error::Error) -> Self {
        let message = error.message().to_owned();
        match error.code().unwrap_or(Code::InternalError) {
            Code::NoDomain | Code::OperationInvalid => Self::DomainGone,
            Code::InvalidArg | Code::Overflow => Self::Invalid(message),
            Code::NoSupport
            | Code::OperationUnsupported
            | Code::ConfigUnsupported
            | Code::ArgumentUnsupported => Self::Unsupported(message),
            Code::AgentUnresponsive | Code::AgentUnsynced | Code::AgentCommandTimeout => Self::AgentTimeout,
            Code::AgentCommandFailed => Self::AgentRefused(message),
            Code::NoConnect => Self::NotConnected(message),
            _ => Self::Other(message),
        }
    }
}
