//! What the API asks of the daemon, and how the daemon answers. The API itself changes nothing.

use std::sync::Arc;
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::asker::Asker;
use kvmpilot_core::model::WatchWhat;
use kvmpilot_core::order::OrderState;
use tokio::sync::{mpsc, oneshot};

use super::ask::Ask;
use super::record::RecordingRequest;
use super::views::{CommandReply, Views};
use crate::store::Store;
use crate::watch;

/// What the API needs of the daemon.
#[derive(Clone, Debug)]
pub struct ApiContext {
    /// What to show; the daemon sends a new one every tick.
    pub views: tokio::sync::watch::Receiver<Arc<Views>>,
    /// Where commands go.
    pub commands: mpsc::Sender<CommandRequest>,
    /// Where watches are asked for.
    pub watches: mpsc::Sender<WatchRequest>,
    /// Where those go who want to record.
    pub recorders: mpsc::Sender<RecordingRequest>,
    /// Where questions and wishes about one domain go.
    pub asks: mpsc::Sender<Ask>,
    /// Work orders and history.
    pub store: Store,
}

/// Something that a person wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Carry out the proposed order of this number.
    Approve(u64),
    /// Do not carry out the proposed order of this number.
    Reject(u64),
    /// Undo the order of this number.
    Rollback(u64),
    /// Put every original value back and change nothing more.
    Restore,
}

/// A command on its way to the daemon.
#[derive(Debug)]
pub struct CommandRequest {
    /// What.
    pub command: Command,
    /// Who asks.
    pub by: Asker,
    /// Where the answer goes. The asker may be gone by then.
    pub reply: oneshot::Sender<Result<CommandReply, CommandError>>,
}

/// A watch that somebody asks for, on its way to the daemon.
#[derive(Debug)]
pub struct WatchRequest {
    /// The domain.
    pub domain: Uuid,
    /// What to measure.
    pub what: WatchWhat,
    /// For how long.
    pub length: Duration,
    /// Who asks.
    pub by: Asker,
    /// Where the answer goes. Once its other end is gone, the watch ends.
    pub reply: watch::Reply,
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such order.
    #[error("there is no work order {0}; `kvmpilot orders` lists them")]
    NoSuchOrder(u64),
    /// The order's state does not allow it.
    #[error("work order {id} is {state}; {allowed}")]
    WrongState {
        /// The order.
        id: u64,
        /// Its state.
        state: OrderState,
        /// Which orders the command is for, as a clause: "only proposed orders can be approved".
        allowed: &'static str,
    },
    /// libvirt knows no such domain.
    #[error(
        "there is no domain \"{0}\"; `kvmpilot domains` lists those that run, `virsh list --all` all of them"
    )]
    NoSuchDomain(String),
    /// What was asked for is wrong; the text says what.
    #[error("{0}")]
    Bad(String),
    /// It was tried and did not work, or is refused; the text says why and what to do.
    #[error("{0}")]
    Failed(String),
}
