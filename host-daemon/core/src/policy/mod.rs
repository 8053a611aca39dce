//! What the administrator wants, validated: modes, classes, thresholds, limits. The daemon's `config` room reads the
//! files and makes a [`Policy`] of them; here are only values, their defaults and what they mean.

mod limits;
mod words;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rules::RuleSet;

pub use limits::{
    BalloonPolicy, GuardPolicy, LadderPolicy, OverheadPolicy, PlacementPolicy, StatePolicy, WeightPolicy,
};
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
    /// Class.
    pub class: ClassSetting,
    /// Mode of all actuators for this domain.
    pub mode: Option<Mode>,
    /// Processes that are never lowered or raised there, besides the global list.
    pub protected: Vec<String>,
}

impl Policy {
    /// The entry for a domain, if there is one.
    #[must_use]
    pub fn domain(&self, name: &str) -> Option<&DomainPolicy> {
        self.domains.iter().find(|domain| matches_pattern(&domain.name, name))
    }

    /// The class setting of a domain.
    #[must_use]
    pub fn class(&self, domain: &str) -> ClassSetting {
        self.domain(domain).map_or(ClassSetting::Auto, |domain| domain.class)
    }

    /// The mode of one actuator for one domain: the domain's own, else the actuator's, else the global one; but never
    /// more active than the domain's or the actuator's where both are set.
    #[must_use]
    pub fn mode(&self, domain: &str, actuator: Actuator) -> Mode {
        let by_domain = self.domain(domain).and_then(|domain| domain.mode);
        let by_actuator = self.actuator_modes.iter().find(|(of, _)| *of == actuator).map(|(_, mode)| *mode);
        match (by_domain, by_actuator) {
            (Some(domain), Some(actuator)) => domain.min(actuator),
            (Some(mode), None) | (None, Some(mode)) => mode,
            (None, None) => self.mode,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_like_a_shell_s_star() {
        assert!(matches_pattern("web", "web"));
        assert!(!matches_pattern("web", "web2"));
        assert!(matches_pattern("web*", "web2"));
        assert!(matches_pattern("*-db-*", "a-db-1"));
        assert!(!matches_pattern("*-db-*", "a-dc-1"));
        assert!(matches_pattern("*", ""));
    }

    #[test]
    fn the_more_careful_of_domain_and_actuator_counts() {
        let policy = Policy {
            mode: Mode::Auto,
            actuator_modes: vec![(Actuator::Balloon, Mode::Observe)],
            domains: vec![DomainPolicy {
                name: "db*".into(),
                mode: Some(Mode::Recommend),
                ..DomainPolicy::default()
            }],
            ..Policy::default()
        };
        assert_eq!(policy.mode("web", Actuator::Weight), Mode::Auto);
        assert_eq!(policy.mode("db1", Actuator::Weight), Mode::Recommend);
        assert_eq!(policy.mode("db1", Actuator::Balloon), Mode::Observe);
        assert_eq!(policy.mode("web", Actuator::Balloon), Mode::Observe);
    }
}
