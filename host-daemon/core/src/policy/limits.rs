//! Thresholds and limits of the deciders, with their defaults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::KiB;

/// Resource states and the three cycles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatePolicy {
    /// Use of a resource above which it is `over`: 0 to 1, default 0.90.
    pub high: f64,
    /// Use below which it is `under`: 0 to `high`, default 0.75.
    pub low: f64,
    /// Cycles in a row that a domain must be off its optimum before its allocation changes. Default 3.
    pub cycles: u32,
}

impl Default for StatePolicy {
    fn default() -> Self {
        Self { high: 0.90, low: 0.75, cycles: 3 }
    }
}

/// The ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LadderPolicy {
    /// Names (`comm`) of processes that are never lowered or raised, with `*` as wildcard; pid 1, kernel threads and
    /// real-time processes never are, whatever is written here.
    pub protected: Vec<String>,
    /// Processes that one cycle may change in one guest. Default 64.
    pub max_processes: usize,
    /// Whether an application at the lowest level may run on the upper half of its guest's vcpus only. Default no.
    pub affinity: bool,
}

impl Default for LadderPolicy {
    fn default() -> Self {
        // The agent first: a guest whose agent starves cannot be helped any more (arcbox#390).
        const PROTECTED: [&str; 17] = [
            "qemu-ga",
            "init",
            "systemd*",
            "(sd-pam)",
            "dbus-*",
            "sshd*",
            "login",
            "agetty",
            "getty",
            "elogind*",
            "polkitd",
            "udevd",
            "openrc*",
            "runsvdir",
            "s6-*",
            "NetworkManager",
            "chronyd",
        ];
        Self { protected: PROTECTED.map(str::to_owned).to_vec(), max_processes: 64, affinity: false }
    }
}

/// CPU weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightPolicy {
    /// Time between two looks at the weights. Default 5 s.
    pub period: Duration,
    /// Wait ratio that a latency domain should stay under. Default 0.02.
    pub latency_target: f64,
    /// Wait ratio that a standard domain should stay under. Default 0.10.
    pub standard_target: f64,
    /// Part of the target by which a measurement must be off before anything moves. Default 0.20.
    pub dead_band: f64,
    /// Largest factor between a weight and its configured value, up and down. Default 8.
    pub max_factor: f64,
    /// Calm after which weights start to go back. Default 30 s.
    pub relax_after: Duration,
    /// Part by which a weight goes back in one period. Default 0.25.
    pub relax_step: f64,
}

impl Default for WeightPolicy {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(5),
            latency_target: 0.02,
            standard_target: 0.10,
            dead_band: 0.20,
            max_factor: 8.0,
            relax_after: Duration::from_secs(30),
            relax_step: 0.25,
        }
    }
}

/// cpusets and pins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlacementPolicy {
    /// pcpus that kvmpilot may hand out; `None` for all online ones.
    pub allowed: Option<crate::CpuSet>,
    /// Time that a vcpu's pin rests after a change. Default 60 s.
    pub rest: Duration,
}

impl Default for PlacementPolicy {
    fn default() -> Self {
        Self { allowed: None, rest: Duration::from_secs(60) }
    }
}

/// Balloons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonPolicy {
    /// Least memory that a guest keeps, whatever it uses. Default 128 MiB.
    pub floor: KiB,
    /// Least memory that is left usable above the guest's demand. Default 256 MiB, and never less than a tenth of the domain.
    pub guard: KiB,
    /// Window of which the largest demand counts. Default 60 s.
    pub window: Duration,
    /// Thousandths of the domain's memory that one `step_period` may take without host pressure. Default 10 (1 %).
    pub step_permille: u32,
    /// Time for one step. Default 6 s.
    pub step_period: Duration,
    /// Oldest statistics that count. Default 10 s.
    pub stale_after: Duration,
}

impl Default for BalloonPolicy {
    fn default() -> Self {
        Self {
            floor: KiB::from_mib(128),
            guard: KiB::from_mib(256),
            window: Duration::from_secs(60),
            step_permille: 10,
            step_period: Duration::from_secs(6),
            stale_after: Duration::from_secs(10),
        }
    }
}

/// What kvmpilot itself may cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverheadPolicy {
    /// Whether anything is given up when it costs more. Default yes.
    pub enabled: bool,
    /// Part of one pcpu for each hundred vcpus that run, but for one hundred at least. Default 0.01.
    pub budget: f64,
    /// Time well below the budget before something comes back, the last one first. Default 60 s; doubles when it was too
    /// early.
    pub calm: Duration,
}

impl Default for OverheadPolicy {
    fn default() -> Self {
        Self { enabled: true, budget: 0.01, calm: Duration::from_secs(60) }
    }
}

/// Limits over all deciders.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardPolicy {
    /// Changes of domain allocations (weights, pins, balloons) in one cycle. Default 16.
    pub max_changes: usize,
    /// Part of the host's vcpus that may be re-pinned in 10 s, but always eight vcpus, or one domain's. Default 0.05.
    pub max_pin_part: f64,
    /// Pause of a target after it went A, B, A within 120 s; doubles each time. Default 10 min.
    pub oscillation_hold: Duration,
    /// Whether values of ours that somebody else changed are set again, instead of left to them. Default no.
    #[serde(default)]
    pub enforce: bool,
    /// Whether an actuator only recommends while a daemon runs that changes the same values. Default yes.
    #[serde(default = "yes")]
    pub yield_to_competitors: bool,
    /// Whether a domain may be paused for a change that cannot be made while it runs. Default no.
    #[serde(default)]
    pub suspend_for_change: bool,
}

/// For recordings of a time before the option.
const fn yes() -> bool {
    true
}

impl Default for GuardPolicy {
    fn default() -> Self {
        Self {
            max_changes: 16,
            max_pin_part: 0.05,
            oscillation_hold: Duration::from_secs(600),
            enforce: false,
            yield_to_competitors: true,
            suspend_for_change: false,
        }
    }
}
