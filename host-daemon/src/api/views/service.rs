//! Services: all of them, one with its history, and one that was learned.

use kvmpilot_core::service::{ServiceStatus, Transition};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// All services. Reasons and names of processes in it come from guests: bounded and printable, but not to be trusted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServicesView {
    /// In the order of the configuration.
    pub services: Vec<ServiceStatus>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceView {
    /// The service as it is now.
    pub service: ServiceStatus,
    /// Its last transitions, newest first.
    pub transitions: Vec<Transition>,
}

/// What to learn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LearnAsk {
    /// Name of the service.
    pub name: String,
    /// Names or UUIDs of the domains.
    pub from: Vec<String>,
}

/// What was learned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LearnedView {
    /// Name of the service.
    pub name: String,
    /// Components that it has.
    pub components: usize,
    /// Connections that it has.
    pub connections: usize,
    /// The configuration, as TOML.
    pub toml: String,
    /// What to know about it.
    pub notes: Vec<String>,
}
