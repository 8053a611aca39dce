//! [`Wishes`]: what one source says of a domain (a `[[domain]]` entry, or the domain's own XML metadata), and [`KEYS`]: how
//! each of it is written in the metadata and on the command line.

use serde::{Deserialize, Serialize};

use super::{Actuator, ClassSetting, Mode};
use crate::CpuSet;
use crate::units::KiB;

/// What one source says of a domain. What it leaves open is `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wishes {
    /// Class.
    pub class: Option<ClassSetting>,
    /// Mode of all actuators that have none of their own here.
    pub mode: Option<Mode>,
    /// Modes by actuator.
    pub modes: Vec<(Actuator, Mode)>,
    /// Processes that are never lowered or raised there, besides those of other sources.
    pub protected: Vec<String>,
    /// Least memory that the guest keeps.
    pub floor: Option<KiB>,
    /// Limits of its CPU weight.
    pub weight: WeightWishes,
    /// pcpus that kvmpilot may give it.
    pub pcpus: Option<CpuSet>,
    /// Whether values of ours that somebody else changed are set again.
    pub enforce: Option<bool>,
    /// Whether the domain may be paused for a change that cannot be made while it runs.
    pub suspend_for_change: Option<bool>,
}

/// Limits of a domain's CPU weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WeightWishes {
    /// Largest factor between weight and original, up and down: 1 to 64.
    pub max_factor: Option<f64>,
    /// Least weight that kvmpilot may set: 2 to 262144.
    pub min: Option<u64>,
    /// Largest weight that kvmpilot may set: 2 to 262144.
    pub max: Option<u64>,
}

impl Wishes {
    /// The mode that it gives an actuator: its own before that of all.
    #[must_use]
    pub fn mode_of(&self, actuator: Actuator) -> Option<Mode> {
        self.modes.iter().find(|(of, _)| *of == actuator).map(|(_, mode)| *mode).or(self.mode)
    }

    /// Sets the mode of one actuator, or takes it away.
    pub fn set_mode_of(&mut self, actuator: Actuator, mode: Option<Mode>) {
        self.modes.retain(|(of, _)| *of != actuator);
        self.modes.extend(mode.map(|mode| (actuator, mode)));
        self.modes.sort();
    }
}
