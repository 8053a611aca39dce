//! What follows from two samples: rates, ratios, quantiles, who talks to whom.
//!
//! Each model is built by `X::new(begin, end, elapsed)`. A counter that went backwards, or is missing on one side,
//! gives `None`: missing beats wrong.

mod balloon;
mod detail;
mod disk;
mod domain;
mod exit_reason;
mod flow;
mod guest;
mod histogram;
mod host;
mod own;
mod owner;
mod role;
mod steal;
mod task_group;
mod traffic;
mod watch;

use std::time::Duration;

pub use balloon::{BALLOON_RECENT, BalloonModel, Doubt, is_bad_news};
pub use detail::{DetailModel, GroupPressureModel, VcpuTimeModel};
pub use disk::DiskModel;
pub use domain::{DomainModel, InterfaceModel, ThreadModel, VcpuModel, incarnation, incarnation_of};
pub use exit_reason::{Isa, exit_reason};
pub use flow::{DeviceModel, EndedModel, FlowModel, FlowsModel, TrafficRate};
pub use guest::{Application, GuestModel, GuestReading, ProcessModel};
pub use histogram::quantile;
pub use host::{HostModel, PcpuModel};
pub use own::{OwnModel, ProgramModel};
pub use owner::Owner;
pub use role::{RoleKind, RoleModel};
pub use steal::{DomainSteal, StealModel, VcpuSteal};
pub use task_group::UnitModel;
pub use watch::{ExitModel, ExitReasonModel, LatencyModel, VcpuExitModel, WatchWhat};

use crate::sample::{DomainSample, Sample};
use crate::topology::Topology;

/// Host and domains over one window.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// End of the window, on the daemon's monotonic clock. A decision is made once for each.
    pub at: Duration,
    /// The same on the wall's clock, in seconds since 1970.
    pub wall_unix_s: u64,
    /// Length of the window.
    pub elapsed: Duration,
    /// The host.
    pub host: HostModel,
    /// Its pcpus at the end.
    pub topology: Topology,
    /// The domains at the end.
    pub domains: Vec<DomainModel>,
    /// Who ran while whose vcpus waited.
    pub steal: StealModel,
    /// What the daemon itself costs.
    pub own: OwnModel,
}

impl Model {
    /// Derives the model of the window that ended at `at`. `wall_unix_s` judges the age of balloon statistics.
    #[must_use]
    pub fn new(begin: &Sample, end: &Sample, at: Duration, elapsed: Duration, wall_unix_s: u64) -> Self {
        let domains = end
            .domains
            .iter()
            .enumerate()
            .map(|(n, domain)| {
                // Both are in the same order unless a domain came or went.
                let same = |other: &&DomainSample| other.uuid == domain.uuid;
                let earlier = begin.domains.get(n).filter(same).or_else(|| begin.domains.iter().find(same));
                DomainModel::new(earlier, domain, elapsed, wall_unix_s)
            })
            .collect();
        let host = HostModel::new(&begin.host, &end.host, elapsed);
        let steal = StealModel::new(begin, end);
        let own = OwnModel::new(&begin.own, &end.own, elapsed);
        Self { at, wall_unix_s, elapsed, host, topology: end.topology.clone(), domains, steal, own }
    }
}

/// `end - begin`, or `None` where the counter went backwards.
fn rise(begin: u64, end: u64) -> Option<u64> {
    end.checked_sub(begin)
}

/// Rise of an optional counter.
fn rise_of(begin: Option<u64>, end: Option<u64>) -> Option<u64> {
    rise(begin?, end?)
}

/// `count` per second of `elapsed`.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
fn per_second(count: Option<u64>, elapsed: Duration) -> Option<f64> {
    let rate = count? as f64 / elapsed.as_secs_f64();
    rate.is_finite().then_some(rate)
}

/// `ns` as a part of `elapsed`.
fn part_of(ns: u64, elapsed: Duration) -> Option<f64> {
    per_second(Some(ns), elapsed).map(|per_second| per_second / 1e9)
}
