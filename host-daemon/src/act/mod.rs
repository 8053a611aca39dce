//! Carries work orders out and puts everything back. Executes, never chooses: the order says what, from where, to where.
//!
//! Each change goes the same way: read the live value and refuse if it is not the one that the order saw (one that is the
//! wanted one already is success); announce the change in the ledger, on disk; claim the order, approved -> applied, which
//! works once; make the change; read it back; settle the ledger.

mod change;
mod crash;
mod group;
mod ledger;
mod level;
mod restore;

use kvmpilot_core::model::incarnation;
use kvmpilot_core::order::{Action, OrderState, WorkOrder};
use kvmpilot_core::sample::Job;

pub(crate) use crash::{crash_point, crash_point_after};
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
    /// Whether we changed anything: not if the value was there already.
    pub changed: bool,
    /// It failed before anything was tried: all is as it was.
    pub untried: bool,
    /// A job of the domain was in the way: what was not tried can be tried again.
    pub in_the_way: bool,
}

impl Outcome {
    /// It was done.
    #[must_use]
    pub const fn verified(text: String, changed: bool) -> Self {
        Self { state: OrderState::Verified, text, changed, untried: false, in_the_way: false }
    }

    /// It could not be done.
    #[must_use]
    pub fn failed(text: String) -> Self {
        Self { state: OrderState::Failed, ..Self::verified(text, false) }
    }

    /// It was refused before anything was tried.
    #[must_use]
    pub fn untried(text: String) -> Self {
        Self { untried: true, ..Self::failed(text) }
    }
}

/// A change that did not fail, in words.
enum Done {
    /// Made, and read back.
    Changed(String),
    /// The value was there already.
    Already(String),
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
    #[error("nothing was changed, because a {0} of the domain runs")]
    Job(Job),
    #[error("this host cannot do it alone: a person or an orchestrator has to")]
    NotOurs,
    #[error("the order is not approved any more, or was carried out already: nothing was changed")]
    NotApproved,
    #[error("nothing was changed, because the domain was started anew since the order was decided on")]
    AnotherLife,
}

impl Failure {
    fn outcome(self) -> Outcome {
        let in_the_way = matches!(self, Self::Job(_));
        let untried = in_the_way
            || matches!(self, Self::Moved { .. } | Self::NotOurs | Self::NotApproved | Self::AnotherLife);
        Outcome { untried, in_the_way, ..Outcome::failed(self.to_string()) }
    }
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

    /// A job may have begun since the order was decided on. A call would wait for its end and come at a bad time.
    async fn check_job(&self, order: &WorkOrder) -> Result<(), Failure> {
        match self.libvirt.job(order.proposal.domain).await? {
            Some(job) if !(job == Job::Backup && order.proposal.release) => Err(Failure::Job(job)),
            _ => Ok(()),
        }
    }

    /// Carries out one order on the life of the domain that it was made for.
    pub async fn carry_out(&self, order: &WorkOrder, incarnation: &str) -> Outcome {
        if let Err(failure) = self.check_job(order).await {
            return failure.outcome();
        }
        let result = match &order.proposal.action {
            Action::SetLevel { processes, groups, to, .. } => {
                self.set_level(order, incarnation, (processes, groups), *to).await
            }
            action => self.change_value(order, incarnation, action).await,
        };
        match result {
            Ok(Done::Changed(text)) => Outcome::verified(text, true),
            Ok(Done::Already(text)) => Outcome::verified(text, false),
            Err(failure) => failure.outcome(),
        }
    }

    /// From here on the change of this order is being made, and by nobody else. Orders of a domain wait for each other: it may
    /// have been started anew meanwhile, and its new life has values of its own.
    async fn claim(&self, order: u64, life: &str) -> Result<(), Failure> {
        let pid = life.split(':').next().and_then(|pid| pid.parse().ok());
        let main = pid.and_then(|pid| self.kernel.thread(pid, pid).ok());
        if main.is_none_or(|main| incarnation(main.tid, main.start_ticks) != life) {
            return Err(Failure::AnotherLife);
        }
        if self.ledger.mark_applied(order).await? { Ok(()) } else { Err(Failure::NotApproved) }
    }
}

#[cfg(test)]
mod ledger_tests;
