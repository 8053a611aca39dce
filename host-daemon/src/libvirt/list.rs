//! The list of active domains: one call, however many there are.
//!
//! `virConnectGetAllDomainStats` with nothing but `VIR_DOMAIN_STATS_STATE` brings the identity of each domain with its state,
//! takes no job and asks no QEMU (libvirt's `qemuDomainGetStatsWorkers` says which statistics do): a QEMU that hangs, and a
//! job that runs, delay it no more than they delay the plain list.

use std::collections::HashMap;

use kvmpilot_core::sample::DomainState;
use uuid::Uuid;
use virt::domain::Domain;
use virt::sys;

use super::error::{Error, ErrorKind};
use super::session::Session;
use super::{Libvirt, ffi};

/// A domain that is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveDomain {
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// State; `None` where this libvirt tells it only domain by domain.
    pub state: Option<DomainState>,
    /// libvirt's number of this run of the domain.
    pub id: Option<u32>,
}

impl Libvirt {
    /// The active domains.
    ///
    /// # Errors
    /// When libvirt cannot be asked.
    pub async fn domains(&self) -> Result<Vec<ActiveDomain>, Error> {
        let link = std::sync::Arc::clone(&self.0.link);
        self.read("list of domains", None, move |session| {
            let domains = list(session)?;
            let names: HashMap<_, _> =
                domains.iter().map(|domain| (domain.uuid, domain.name.clone())).collect();
            link.cache.set_names(names);
            Ok(domains)
        })
        .await
    }
}

fn list(session: &Session) -> Result<Vec<ActiveDomain>, ErrorKind> {
    match ffi::states(&session.connection) {
        Ok(listed) => Ok(listed
            .into_iter()
            .map(|listed| ActiveDomain {
                uuid: listed.uuid,
                name: listed.name,
                state: listed.state.map(state),
                id: listed.id,
            })
            .collect()),
        // Drivers other than QEMU's need not have it.
        Err(ErrorKind::Unsupported(_)) => plain(session),
        Err(error) => Err(error),
    }
}

/// Identity only: all that `Domain` has of its own.
pub(super) fn plain(session: &Session) -> Result<Vec<ActiveDomain>, ErrorKind> {
    let domains = session.connection.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE)?;
    let active = |domain: &Domain| -> Result<ActiveDomain, ErrorKind> {
        Ok(ActiveDomain { uuid: domain.uuid()?, name: domain.name()?, state: None, id: domain.id() })
    };
    domains.iter().map(active).collect()
}

/// libvirt's `virDomainState`.
fn state(number: i32) -> DomainState {
    match u32::try_from(number) {
        Ok(sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED) => DomainState::Running,
        Ok(sys::VIR_DOMAIN_PAUSED) => DomainState::Paused,
        Ok(sys::VIR_DOMAIN_SHUTDOWN) => DomainState::ShuttingDown,
        Ok(sys::VIR_DOMAIN_SHUTOFF) => DomainState::ShutOff,
        Ok(sys::VIR_DOMAIN_CRASHED) => DomainState::Crashed,
        Ok(sys::VIR_DOMAIN_PMSUSPENDED) => DomainState::Suspended,
        _ => DomainState::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_by_libvirts_numbers() {
        assert_eq!([0, 1, 2, 3, 7, 99].map(state), {
            use DomainState::{Paused, Running, Suspended, Unknown};
            [Unknown, Running, Running, Paused, Suspended, Unknown]
        });
    }
}
