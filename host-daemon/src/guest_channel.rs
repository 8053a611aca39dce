//! The way to a guest's agent: the agent gateway on top of the libvirt gateway, which do not know each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::cpuset::CpuSet;
use kvmpilot_core::sample::{FileSample, GuestSample, GuestSystem, ProcessKey, UnitWeight};
use tokio::sync::Mutex as AsyncMutex;

use crate::agent::{
    Abilities, Agent, AgentError, GroupChange, GroupResult, Limits, NiceChange, NiceOutcome, Transport,
    TransportError,
};
use crate::config::AgentConfig;
use crate::libvirt::{ErrorKind, Libvirt};

/// The agents of all guests. Clones share them.
#[derive(Clone, Debug)]
pub struct GuestChannel {
    libvirt: Libvirt,
    limits: Limits,
    agents: Arc<Mutex<BTreeMap<Uuid, GuestAgent>>>,
}

/// The agent of one guest: one call at a time, the others wait.
#[derive(Clone, Debug)]
pub struct GuestAgent(Arc<AsyncMutex<Agent<Wire>>>);

#[derive(Debug)]
struct Wire {
    libvirt: Libvirt,
    domain: Uuid,
}

impl GuestChannel {
    /// Agents over this libvirt, with the configured bounds.
    #[must_use]
    pub fn new(libvirt: Libvirt, config: &AgentConfig) -> Self {
        let limits = Limits {
            total: config.timeout,
            command: config.timeout,
            output_bytes: usize::try_from(config.max_output_bytes).unwrap_or(usize::MAX),
            ..Limits::default()
        };
        Self { libvirt, limits, agents: Arc::default() }
    }

    /// The agent of a domain.
    #[must_use]
    pub fn agent(&self, domain: Uuid) -> GuestAgent {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let wire = || Wire { libvirt: self.libvirt.clone(), domain };
        let fresh = || GuestAgent(Arc::new(AsyncMutex::new(Agent::new(wire(), self.limits))));
        agents.entry(domain).or_insert_with(fresh).clone()
    }

    /// Forgets the agents of domains that are gone.
    pub fn keep(&self, is_there: impl Fn(Uuid) -> bool) {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).retain(|domain, _| is_there(*domain));
    }
}

impl GuestAgent {
    /// Processes, sockets and load of the guest.
    ///
    /// # Errors
    /// When the agent does not answer as it should.
    pub async fn inventory(&self) -> Result<GuestSample, AgentError> {
        self.0.lock().await.inventory().await
    }

    /// As [`Self::inventory`]; where the agent may not run programs, what it tells without them.
    ///
    /// # Errors
    /// When the agent does not answer as it should.
    pub async fn poll(&self) -> Result<GuestSample, AgentError> {
        self.0.lock().await.poll().await
    }

    /// What changes rarely inside the guest.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn system(&self) -> Result<GuestSystem, AgentError> {
        self.0.lock().await.system().await
    }

    /// What the agent permits; `None` until it was asked for the first time.
    pub async fn abilities(&self) -> Option<Abilities> {
        self.0.lock().await.abilities().cloned()
    }

    /// Hashes of files.
    ///
    /// # Errors
    /// When the agent does not answer as it should.
    pub async fn files(&self, paths: &[String]) -> Result<Vec<FileSample>, AgentError> {
        self.0.lock().await.files(paths).await
    }

    /// Sets nice values and reads them back.
    ///
    /// # Errors
    /// When the agent does not answer as it should. The values may still change after a time-out.
    pub async fn set_nice(&self, changes: &[NiceChange]) -> Result<Vec<NiceOutcome>, AgentError> {
        self.0.lock().await.set_nice(changes).await
    }

    /// `CPUWeight` of units; `None` for those that have none.
    ///
    /// # Errors
    /// When the agent does not answer as it should.
    pub async fn unit_weights(&self, units: &[String]) -> Result<Vec<Option<UnitWeight>>, AgentError> {
        self.0.lock().await.unit_weights(units).await
    }

    /// Sets `CPUWeight` of units at run time and reads it back.
    ///
    /// # Errors
    /// As [`Self::set_nice`].
    pub async fn set_unit_weights(
        &self,
        changes: &[GroupChange<String, UnitWeight>],
    ) -> Result<Vec<GroupResult<UnitWeight>>, AgentError> {
        self.0.lock().await.set_unit_weights(changes).await
    }

    /// Sets nice values of autogroups and reads them back.
    ///
    /// # Errors
    /// As [`Self::set_nice`].
    pub async fn set_autogroups(
        &self,
        changes: &[GroupChange<u64, i8>],
    ) -> Result<Vec<GroupResult<i8>>, AgentError> {
        self.0.lock().await.set_autogroups(changes).await
    }

    /// Sets the vcpus that processes may run on, and reads them back.
    ///
    /// # Errors
    /// As [`Self::set_nice`].
    pub async fn set_affinities(
        &self,
        changes: &[GroupChange<ProcessKey, CpuSet>],
    ) -> Result<Vec<GroupResult<CpuSet>>, AgentError> {
        self.0.lock().await.set_affinities(changes).await
    }
}

impl Transport for Wire {
    async fn command(&self, command: &str, timeout: Duration) -> Result<String, TransportError> {
        self.libvirt.agent_command(self.domain, command, timeout).await.map_err(|error| match error.kind {
            ErrorKind::AgentTimeout | ErrorKind::Deadline { .. } | ErrorKind::Quarantined(_) => {
                TransportError::TimedOut
            }
            ErrorKind::AgentRefused(message) => TransportError::Refused(message),
            _ => TransportError::NotConnected(error.kind.to_string()),
        })
    }
}
