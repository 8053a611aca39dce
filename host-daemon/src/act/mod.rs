//! Carries work orders out and puts everything back. Executes, never chooses: the order says what, from where, to where.
//!
//! Each change goes the same way: read the live value and refuse if it is not the one that the order saw; announce
//! the change in the ledger, on disk; make it; read it back; settle the ledger.

mod change;
mod ledger;
mod level;
mod restore;

use kvmpilot_core::order::{Action, OrderState, Proposal};

pub use ledger::Ledger;

use crate::guest_channel::GuestChannel;
use crate::kernel::Kernel;
use crate::libvirt::Libvirt;

/// The hands of the daemon.
#[derive(Debug)]
pub struct Executor {
    libvirt: Libvirt,
    guests: GuestChannel,
    kernel: Kernel,
    ledger: Ledger,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `Verified` or `Failed`.
    pub state: OrderState,
    /// What happened, in words.
    pub text: String,
}

/// Why a change did not happen.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Libvirt(#[from] crate::libvirt::Error),
    #[error(transparent)]
    Agent(#[from] crate::agent::AgentError),
    #[error("nothing was changed, because the ledger cannot be written: {0}")]
    Ledger(#[from] crate::store::StoreError),
    #[error(
        "{what} is {live} now, not {seen} as the order saw it: somebody else changed it, so it is left alone"
    )]
    Moved { what: String, live: String, seen: String },
    #[error("{what} was set to {wanted} but reads {live}")]
    NotTaken { what: String, wanted: String, live: String },
    #[error("libvirt does not tell the value of {0}")]
    Unreadable(String),
}

impl Executor {
    /// Hands for these gateways and this ledger.
    #[must_use]
    pub const fn new(libvirt: Libvirt, guests: GuestChannel, kernel: Kernel, ledger: Ledger) -> Self {
        Self { libvirt, guests, kernel, ledger }
    }

    /// The originals of everything that is changed now.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Carries out one order on the life of the domain that it was made for.
    pub async fn carry_out(&self, proposal: &Proposal, incarnation: &str) -> Outcome {
        let result = match &proposal.action {
            Action::SetLevel { processes, to, .. } => {
                self.set_level(proposal, incarnation, processes, *to).await
            }
            action => self.change_value(proposal, incarnation, action).await,
        };
        match result {
            Ok(text) => Outcome { state: OrderState::Verified, text },
            Err(failure) => Outcome { state: OrderState::Failed, text: failure.to_string() },
        }
    }
}
