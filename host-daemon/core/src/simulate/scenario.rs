//! [`Scenario`]: a host, its domains, what they do, and what must come of it.

use serde::{Deserialize, Serialize};

use super::load::Load;
use crate::CpuSet;
use crate::policy::{ClassSetting, Mode};

/// What is simulated. Times are seconds since the beginning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One line: what it is about.
    pub about: String,
    /// How long it is, in hours.
    pub hours: f64,
    /// Seed of the loads that have something random.
    #[serde(default)]
    pub seed: u64,
    /// Seconds between two priority cycles. Default 300, as in the daemon.
    #[serde(default = "cycle_s")]
    pub cycle_s: u64,
    /// Mode of all actuators. Default `auto`.
    #[serde(default = "auto")]
    pub mode: Mode,
    /// Seconds at the beginning that do not count: classes are being found out, weights are being set.
    #[serde(default)]
    pub settle_s: u64,
    /// How coarse time is. 1 (the default): the kernel's slices and ticks, work in pieces of 2 ms. 10 is for days and large
    /// hosts: all of these are ten times as long, and so are the waits.
    #[serde(default = "one")]
    pub coarse: u32,
    /// Seconds of the windows in which a domain's work is compared with and without kvmpilot. Default 60.
    #[serde(default = "window_s")]
    pub window_s: u64,
    /// The host.
    pub host: HostSpec,
    /// Its domains.
    pub domain: Vec<DomainSpec>,
    /// Bounds that the report is checked against.
    #[serde(default)]
    pub expect: Expect,
}

const fn cycle_s() -> u64 {
    300
}

const fn window_s() -> u64 {
    60
}

const fn auto() -> Mode {
    Mode::Auto
}

/// The host: `sockets * llcs * cores * threads` pcpus; each socket is a NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// Sockets, each a NUMA node. Default 1.
    #[serde(default = "one")]
    pub sockets: u32,
    /// Last-level caches of a socket. Default 1.
    #[serde(default = "one")]
    pub llcs: u32,
    /// Cores of a last-level cache.
    pub cores: u32,
    /// Threads of a core. Default 1.
    #[serde(default = "one")]
    pub threads: u32,
    /// Memory, in MiB. Default: plenty.
    #[serde(default = "plenty")]
    pub memory_mib: u64,
}

const fn one() -> u32 {
    1
}

const fn plenty() -> u64 {
    1 << 30
}

/// Some domains that are alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainSpec {
    /// Name; with `count`, a number is added.
    pub name: String,
    /// How many of them. Default 1.
    #[serde(default = "one")]
    pub count: u32,
    /// vcpus of each.
    pub vcpus: u32,
    /// Configured class. Default `auto`: found out.
    #[serde(default)]
    pub class: ClassSetting,
    /// Memory of each, in MiB. Default 2048.
    #[serde(default = "memory_mib")]
    pub memory_mib: u64,
    /// Configured CPU weight. Default 1024.
    #[serde(default = "cpu_shares")]
    pub cpu_shares: u64,
    /// pcpus that its administrator pinned it to, like "0-3". Default all.
    pub pin: Option<CpuSet>,
    /// Node that its memory is on. Default: they take turns.
    pub node: Option<u32>,
    /// pcpus that it wants, over time.
    pub cpu: Load,
    /// Packets a second that it answers while it has work. Default none.
    #[serde(default)]
    pub packets: f64,
    /// Working set over time, in MiB. Default: a quarter of its memory.
    pub memory: Option<Load>,
    /// MiB a second by which its working set grows at most. Default 100.
    #[serde(default = "growth_mib_per_s")]
    pub growth_mib_per_s: u64,
    /// Seconds between two reports of its memory. Default 1; 0 for never.
    #[serde(default = "stats_period_s")]
    pub stats_period_s: u64,
    /// MiB a second that its balloon moves. Default 200.
    #[serde(default = "balloon_mib_per_s")]
    pub balloon_mib_per_s: u64,
    /// When it starts. Default 0.
    #[serde(default)]
    pub from_s: u64,
    /// When it ends. Default never.
    pub until_s: Option<u64>,
}

const fn memory_mib() -> u64 {
    2048
}

const fn cpu_shares() -> u64 {
    1024
}

const fn growth_mib_per_s() -> u64 {
    100
}

const fn stats_period_s() -> u64 {
    1
}

const fn balloon_mib_per_s() -> u64 {
    200
}

/// Bounds; what is not given is not checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Actions at most, after the beginning that does not count.
    pub most_actions: Option<u64>,
    /// Actions at least.
    pub least_actions: Option<u64>,
    /// Seconds after a step of a load in which weights may go on to change.
    pub answered_within_s: Option<u64>,
    /// Times that a value may be back within two minutes at where it had been, for each target.
    pub oscillations: Option<u64>,
    /// Seconds after the first step of a load in which latency domains must be back at their target for good.
    pub converges_within_s: Option<u64>,
    /// wait / (wait + run) of latency domains, at most.
    pub latency_wait_ratio: Option<f64>,
    /// p99 of the waits of latency domains against without kvmpilot, at most.
    pub latency_p99_ratio: Option<f64>,
    /// Work of all domains against without kvmpilot, at least.
    pub work_ratio: Option<f64>,
    /// Part of the windows in which a domain does at least 95 % of what it does without kvmpilot, at least.
    pub unharmed_ratio: Option<f64>,
    /// Part of the domains' memory that is given to the host in the mean, at least.
    pub reclaimed_ratio: Option<f64>,
    /// Seconds in which a guest had less than its working set, at most, over all domains.
    pub short_s: Option<u64>,
    /// Seconds between pressure and the release that answers it, at most.
    pub release_s: Option<u64>,
    /// Times that a balloon turned round from taking to giving back, each domain and hour, at most.
    pub turns_per_hour: Option<f64>,
}
