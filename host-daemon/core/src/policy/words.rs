//! The small vocabularies: mode, class, level, actuator.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far kvmpilot may go.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Looks and reports.
    Observe,
    /// Writes work orders that wait for approval.
    #[default]
    Recommend,
    /// Carries its work orders out.
    Auto,
}

/// What a domain is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Somebody waits for its answers.
    Latency,
    /// Neither of the others.
    #[default]
    Standard,
    /// Uses whatever is left.
    Batch,
}

impl Class {
    /// Whether it has to give way to another one.
    #[must_use]
    pub const fn yields_to(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Batch, Self::Standard | Self::Latency) | (Self::Standard, Self::Latency)
        )
    }
}

/// A domain's class as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassSetting {
    /// Inferred from what the domain does.
    #[default]
    Auto,
    /// Always latency.
    Latency,
    /// Always standard.
    Standard,
    /// Always batch.
    Batch,
}

/// The means that kvmpilot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Actuator {
    /// Priority of processes inside the guest.
    Ladder,
    /// CPU weight of the domain.
    Weight,
    /// cpusets and pins.
    Placement,
    /// Memory balloon.
    Balloon,
    /// What this host cannot do alone: more vcpus, a larger maximum of memory, another host. Never more than recommended.
    Resize,
}

/// The ladder: five priority levels of a guest process, lowest first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// nice +10.
    Low,
    /// nice +5.
    BelowNormal,
    /// nice 0.
    #[default]
    Normal,
    /// nice -5.
    AboveNormal,
    /// nice -10.
    High,
}

impl Level {
    const LADDER: [Self; 5] = [Self::Low, Self::BelowNormal, Self::Normal, Self::AboveNormal, Self::High];

    /// The nice value that stands for the level.
    #[must_use]
    pub const fn nice(self) -> i8 {
        match self {
            Self::Low => 10,
            Self::BelowNormal => 5,
            Self::Normal => 0,
            Self::AboveNormal => -5,
            Self::High => -10,
        }
    }

    /// The level nearest to a nice value.
    #[must_use]
    pub const fn of_nice(nice: i8) -> Self {
        match nice {
            8.. => Self::Low,
            3..=7 => Self::BelowNormal,
            -2..=2 => Self::Normal,
            -7..=-3 => Self::AboveNormal,
            _ => Self::High,
        }
    }

    /// All five, lowest first.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::LADDER.into_iter()
    }

    /// `CPUWeight` of the level as a percentage of the unit's own, which is `normal`. The kernel gives processes of the
    /// level's nice value the same part (`sched_prio_to_weight`: 110, 335, 1024, 3121, 9548). With 25 to 400, as we had it
    /// first, eight hogs at the bottom still kept a third of the vcpus from a server at the top.
    #[must_use]
    pub const fn unit_weight_percent(self) -> i32 {
        match self {
            Self::Low => 11,
            Self::BelowNormal => 33,
            Self::Normal => 100,
            Self::AboveNormal => 305,
            Self::High => 932,
        }
    }

    /// One step up, or the same at the top.
    #[must_use]
    pub fn up(self) -> Self {
        Self::LADDER.into_iter().find(|level| *level > self).unwrap_or(self)
    }

    /// One step down, or the same at the bottom.
    #[must_use]
    pub fn down(self) -> Self {
        Self::LADDER.into_iter().rev().find(|level| *level < self).unwrap_or(self)
    }

    /// One step towards `goal`.
    #[must_use]
    pub fn towards(self, goal: Self) -> Self {
        match self.cmp(&goal) {
            std::cmp::Ordering::Less => self.up(),
            std::cmp::Ordering::Equal => self,
            std::cmp::Ordering::Greater => self.down(),
        }
    }

    /// The level's name as configured and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::BelowNormal => "below_normal",
            Self::Normal => "normal",
            Self::AboveNormal => "above_normal",
            Self::High => "high",
        }
    }
}

impl Mode {
    /// The mode's name as configured and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Recommend => "recommend",
            Self::Auto => "auto",
        }
    }
}

impl Class {
    /// The class' name as configured and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Standard => "standard",
            Self::Batch => "batch",
        }
    }
}

impl Actuator {
    /// The option of the configuration that sets its mode.
    #[must_use]
    pub const fn option(self) -> &'static str {
        match self {
            Self::Ladder => "modes.ladder",
            Self::Weight => "modes.weight",
            Self::Placement => "modes.placement",
            Self::Balloon => "modes.balloon",
            Self::Resize => "modes.resize",
        }
    }

    /// The setting of a domain that sets its mode there.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Ladder => "mode.ladder",
            Self::Weight => "mode.weight",
            Self::Placement => "mode.placement",
            Self::Balloon => "mode.balloon",
            Self::Resize => "mode.resize",
        }
    }

    /// All of them, in the order of means: reversible and cheap first.
    pub const ALL: [Self; 5] = [Self::Ladder, Self::Weight, Self::Placement, Self::Balloon, Self::Resize];

    /// The actuator's name as configured and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ladder => "ladder",
            Self::Weight => "weight",
            Self::Placement => "placement",
            Self::Balloon => "balloon",
            Self::Resize => "resize",
        }
    }
}

macro_rules! display_by_name {
    ($($word:ty),*) => {$(
        impl fmt::Display for $word {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    )*};
}
display_by_name!(Mode, Class, Level, Actuator);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_single_and_stay_on_the_ladder() {
        assert_eq!(Level::High.up(), Level::High);
        assert_eq!(Level::Low.down(), Level::Low);
        assert_eq!(Level::Normal.up(), Level::AboveNormal);
        assert_eq!(Level::High.towards(Level::Low), Level::AboveNormal);
        for level in Level::LADDER {
            assert_eq!(Level::of_nice(level.nice()), level);
        }
    }
}
