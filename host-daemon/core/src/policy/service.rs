//! Services as configured or learned: named groups of components, the connections between them, files that are watched;
//! and how the normal of a domain is learned.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::matches_pattern;
use crate::model::{Application, DomainModel, ProcessModel};
use crate::sample::SocketProtocol;

/// Services at most.
pub const MAX_SERVICES: usize = 256;
/// Components, and connections, of one service at most.
pub const MAX_COMPONENTS: usize = 64;
/// Watched files of one service, and of one domain, at most.
pub const MAX_FILES: usize = 32;
/// Bytes of a watched file's path at most.
pub const MAX_PATH: usize = 1024;
/// Characters of a name at most.
pub const MAX_NAME: usize = 128;

/// A named group of components.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePolicy {
    /// Its name; unique.
    pub name: String,
    /// File and line that define it.
    pub source: String,
    /// What it is made of.
    pub components: Vec<ComponentPolicy>,
    /// Who talks to whom.
    pub connections: Vec<ConnectionPolicy>,
    /// Configuration files that are watched for changes.
    pub files: Vec<FilePolicy>,
}

/// One part of a service: a domain, and what has to run in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentPolicy {
    /// Its name; unique in the service.
    pub name: String,
    /// Name or UUID of the domain.
    pub domain: String,
    /// Name of a process, or path of its executable, with `*` for any run of characters.
    pub process: Option<String>,
    /// systemd unit, with `*` for any run of characters.
    pub unit: Option<String>,
    /// Port that it listens on.
    pub port: Option<u16>,
    /// Protocol of the port.
    pub protocol: SocketProtocol,
}

/// One component talks to another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionPolicy {
    /// Who opens it: a component's name.
    pub from: String,
    /// Who listens: a component's name.
    pub to: String,
    /// The port there.
    pub port: u16,
    /// Protocol.
    pub protocol: SocketProtocol,
}

/// A file inside a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePolicy {
    /// Component in whose guest it is.
    pub component: String,
    /// Absolute path there.
    pub path: String,
    /// What it should be, as 64 hexadecimal digits; without, what is found first counts.
    pub sha256: Option<String>,
}

impl ServicePolicy {
    /// The component of this name.
    #[must_use]
    pub fn component(&self, name: &str) -> Option<&ComponentPolicy> {
        self.components.iter().find(|component| component.name == name)
    }
}

impl ComponentPolicy {
    /// Whether it is in this domain.
    #[must_use]
    pub fn is_in(&self, domain: &DomainModel) -> bool {
        self.names(&domain.name, domain.uuid)
    }

    /// Whether it is in the domain of this name and UUID.
    #[must_use]
    pub fn names(&self, name: &str, uuid: uuid::Uuid) -> bool {
        self.domain == name || self.domain.eq_ignore_ascii_case(&uuid.to_string())
    }

    /// Whether this process of its domain's guest is one of its own.
    #[must_use]
    pub fn is(&self, process: &ProcessModel) -> bool {
        let sample = &process.sample;
        let named = |pattern: &String| {
            matches_pattern(pattern, &sample.name)
                || sample.executable.as_deref().is_some_and(|path| matches_pattern(pattern, path))
        };
        let of_unit =
            |pattern: &String| sample.unit.as_deref().is_some_and(|unit| matches_pattern(pattern, unit));
        (self.process.is_some() || self.unit.is_some())
            && self.process.as_ref().is_none_or(named)
            && self.unit.as_ref().is_none_or(of_unit)
    }
}

/// The service that an application of a domain's guest belongs to.
#[must_use]
pub fn service_of<'a>(
    services: &'a [ServicePolicy],
    domain: &DomainModel,
    application: &Application,
) -> Option<&'a ServicePolicy> {
    let listens = |component: &ComponentPolicy, process: &ProcessModel| {
        process
            .listeners
            .iter()
            .any(|listener| listener.protocol == component.protocol && Some(listener.port) == component.port)
    };
    let has = |component: &ComponentPolicy, process: &ProcessModel| {
        let by_port = component.process.is_none() && component.unit.is_none();
        component.is(process) || (by_port && listens(component, process))
    };
    let of = |component: &ComponentPolicy| {
        component.is_in(domain) && application.processes.iter().any(|process| has(component, process))
    };
    services.iter().find(|service| service.components.iter().any(of))
}

/// How files of services are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchedPolicy {
    /// Between two looks at the watched files of one guest. Default 5 min.
    pub files: Duration,
}

impl Default for WatchedPolicy {
    fn default() -> Self {
        Self { files: Duration::from_secs(300) }
    }
}

/// How the normal of a domain is learned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselinePolicy {
    /// Whether at all. Default yes.
    pub enabled: bool,
    /// Time of readings before anything is called unusual. Default 1 h.
    pub learn: Duration,
    /// Time over which the past fades. Default 1 day.
    pub memory: Duration,
    /// Deviations from normal before it is unusual. Default 4.
    pub deviations: f64,
}

impl Default for BaselinePolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            learn: Duration::from_secs(3600),
            memory: Duration::from_secs(24 * 3600),
            deviations: 4.0,
        }
    }
}
