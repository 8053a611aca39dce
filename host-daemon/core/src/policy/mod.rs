//! What the administrator wants, validated: modes, classes, thresholds, limits. The daemon's `config` room reads the
//! files and makes a [`Policy`] of them; here are only values, their defaults and what they mean.

mod change;
mod domain;
mod keys;
mod limits;
mod metadata;
mod service;
#[cfg(test)]
mod tests;
mod wishes;
mod words;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rules::RuleSet;

pub use change::Change;
pub use domain::{DomainSettings, Setting, Source, Subject, WeightLimits};
pub use keys::{CPU_SHARES, FLOOR, KEYS, Key, MAX_FACTOR, key_names};
pub use limits::{
    BalloonPolicy, GuardPolicy, LadderPolicy, OverheadPolicy, PlacementPolicy, StatePolicy, WeightPolicy,
};
pub use metadata::{Metadata, Problem};
pub use service::{
    BaselinePolicy, ComponentPolicy, ConnectionPolicy, FilePolicy, MAX_COMPONENTS, MAX_FILES, MAX_NAME,
    MAX_PATH, MAX_SERVICES, ServicePolicy, WatchedPolicy, service_of,
};
pub use wishes::{WeightWishes, Wishes};
pub use words::{Actuator, Class, ClassSetting, Level, Mode};

/// Everything that decisions depend on besides the model and the history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Mode of all actuators that have none of their own.
    pub mode: Mode,
    /// Modes by actuator: `ladder`, `weight`, `placement`, `balloon`.
    pub actuator_modes: Vec<(Actuator, Mode)>,
    /// Periods of the loops.
    pub periods: Periods,
    /// Resource thresholds and the three cycles.
    pub state: StatePolicy,
    /// The ladder.
    pub ladder: LadderPolicy,
    /// CPU weights.
    pub weight: WeightPolicy,
    /// cpusets and pins.
    pub placement: PlacementPolicy,
    /// Balloons.
    pub balloon: BalloonPolicy,
    /// Global limits.
    pub guard: GuardPolicy,
    /// What kvmpilot itself may cost.
    #[serde(default)]
    pub overhead: OverheadPolicy,
    /// How the normal of a domain is learned.
    #[serde(default)]
    pub baseline: BaselinePolicy,
    /// How files of services are watched.
    #[serde(default)]
    pub watched: WatchedPolicy,
    /// Services.
    #[serde(default)]
    pub services: Vec<ServicePolicy>,
    /// When what is wanted.
    #[serde(default)]
    pub rules: RuleSet,
    /// Per domain; the first entry whose name matches counts.
    pub domains: Vec<DomainPolicy>,
}

/// Periods of the loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Periods {
    /// The fast loop. Default 1 s.
    pub fast: Duration,
    /// Between two polls of one guest's agent. Default 60 s.
    pub guest: Duration,
    /// The priority cycle. Default 5 min, at least 5 s.
    pub cycle: Duration,
}

impl Default for Periods {
    fn default() -> Self {
        Self { fast: Duration::from_secs(1), guest: Duration::from_secs(60), cycle: Duration::from_secs(300) }
    }
}

/// What is special about some domains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainPolicy {
    /// Domain name, with `*` for any run of characters.
    pub name: String,
    /// What is wanted for them.
    #[serde(flatten)]
    pub wishes: Wishes,
}

/// Whether `name` matches `pattern`, in which `*` stands for any run of characters.
#[must_use]
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(head) else { return false };
    name.char_indices()
        .map(|(at, _)| at)
        .chain([name.len()])
        .any(|at| name.get(at..).is_some_and(|tail| matches_pattern(rest, tail)))
}
