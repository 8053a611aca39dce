//! Watches on demand: from a request to the desk that admits it.

use kvmpilot_core::sample::DomainState;

use super::Daemon;
use crate::api::WatchRequest;
use crate::watch::{Ask, Refusal};

impl Daemon {
    /// Hands a request to the desk, which answers it when the watch is over.
    pub(super) fn watch(&self, request: WatchRequest) {
        let WatchRequest { domain, what, length, by, reply } = request;
        let Some(known) = self.latest.domains.iter().find(|known| known.uuid == domain) else {
            // Whoever asked may be gone.
            let _ = reply.send(Err(Refusal::NotRunning(domain.to_string())));
            return;
        };
        let name = known.name.clone();
        tracing::info!(domain = name, ?what, ?length, %by, "watch");
        if known.state != DomainState::Running {
            let _ = reply.send(Err(Refusal::NotRunning(name)));
            return;
        }
        self.desk.begin(Ask { domain, name, accel: known.accel.clone(), what, length }, reply);
    }
}
