//! From the daemon's state to the API's shapes and the store's rows. Pure: no clock, no I/O, no decision.

mod detail;
mod domain;
mod explain;
mod flow;
mod host;
mod means;
mod own;
mod process;
mod record;
mod rules;
mod service;
mod settings;
mod status;
mod steal;
mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::decide::{History, Overhead};
use kvmpilot_core::finding::Finding;
use kvmpilot_core::model::Model;
use kvmpilot_core::order::OrderState;
use kvmpilot_core::policy::Policy;

pub use explain::{Background, LastWishes, explain};
pub use host::vcpus;
pub use record::record;
pub use rules::rules;
pub use service::learned;
pub use watch::watch;

use super::views::{DoctorView, OtlpView, TierView, Views};
use crate::config::DaemonConfig;
use crate::kernel::OwnUse;
use crate::libvirt::Status;
use crate::sense::GuestState;
use crate::store::OrderCounts;

/// What the daemon knows at one moment.
#[derive(Debug)]
#[expect(missing_docs, reason = "each field is named like the view that it fills")]
pub struct Scene<'a> {
    pub policy: &'a Policy,
    pub daemon: &'a DaemonConfig,
    pub host_name: &'a str,
    pub kernel_release: &'a str,
    pub addresses: &'a [String],
    pub model: &'a Model,
    pub history: &'a History,
    pub guests: &'a BTreeMap<Uuid, GuestState>,
    /// On the daemon's monotonic clock.
    pub now: Duration,
    pub libvirt: Status,
    pub tiers: &'a [TierView],
    pub paused: bool,
    pub recovered: bool,
    /// Why the store cannot be relied on.
    pub store_trouble: Option<String>,
    /// What is wrong with the configuration.
    pub problems: Vec<String>,
    /// What could not be read.
    pub unread: &'a [String],
    pub findings: Vec<Finding>,
    pub cycles: u64,
    /// How long ago the last cycle began, and how long it took.
    pub last_cycle: Option<(Duration, Duration)>,
    pub own_use: Option<OwnUse>,
    pub overhead: &'a Overhead,
    pub ledger_entries: usize,
    pub orders: Option<OrderCounts>,
    pub order_moves: Vec<(OrderState, u64)>,
    pub otlp: Option<OtlpView>,
    pub doctor: DoctorView,
}

impl Scene<'_> {
    /// The findings about one domain.
    fn findings_of(&self, domain: Uuid) -> Vec<Finding> {
        self.findings.iter().filter(|finding| finding.domain == Some(domain)).cloned().collect()
    }
}

/// Everything that the API shows.
#[must_use]
pub fn views(scene: &Scene<'_>) -> Views {
    let mut domains: Vec<_> =
        scene.model.domains.iter().map(|domain| domain::detail(domain, scene)).collect();
    domains.sort_by(|a, b| a.row.name.cmp(&b.row.name));
    Views {
        measured_unix_ms: scene.model.wall_unix_s * 1000,
        status: status::status(scene),
        host: host::host(scene),
        domains,
        processes: scene.model.domains.iter().map(|domain| process::processes(domain, scene)).collect(),
        steal: steal::steal(scene),
        flows: scene.model.domains.iter().map(|domain| flow::flows(domain, scene)).collect(),
        rules: rules(&scene.policy.rules, &scene.history.rules),
        services: service::services(scene),
        doctor: scene.doctor.clone(),
    }
}

/// The rate of change that only a person reads: seconds.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
