//! A watch of one domain on demand: the request and its answer.

use kvmpilot_core::model::WatchWhat;
use kvmpilot_core::sample::ThreadRole;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Body of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WatchAsk {
    /// What to measure.
    pub what: WatchWhat,
    /// For how long, 1 to 60.
    pub for_s: u32,
}

/// What a watch found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WatchView {
    /// Name of the domain.
    pub domain: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// What was measured.
    pub what: WatchWhat,
    /// How long it was to be watched.
    pub asked_s: f64,
    /// How long it was watched.
    pub watched_s: f64,
    /// Part of that in which something was counted. All figures are of this time, not scaled up. With attaching and
    /// detaching, something is in the kernel for a tenth of the time at most.
    pub sampled_s: f64,
    /// Windows that make it up. A wait or an exit counts if it lies in one of them from beginning to end, so longer ones
    /// than a window (0.2 s) cannot be seen.
    pub windows: u32,
    /// Why it ended before its time.
    pub ended: Option<String>,
    /// What to know about these figures: above all, why there are none.
    pub message: Option<String>,
    /// There were more threads or reasons than are told apart; some are missing.
    pub incomplete: bool,
    /// If `what` is `wake_latency`.
    pub wake_latency: Option<WakeLatencyView>,
    /// If `what` is `exits`.
    pub exits: Option<ExitsView>,
}

/// How long a domain's threads waited for a pcpu, by the clock. Not `runq_wait`: that is the kernel's own account, which
/// leaves out most of the time from a wake-up to an idle pcpu, and is what the guest sees as steal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WakeLatencyView {
    /// From a wake-up to the pcpu.
    pub woken: LatencyView,
    /// From being put off a pcpu, still wanting to run, to the next one.
    pub preempted: LatencyView,
    /// `woken` by length, shortest first, empty ones left out.
    pub woken_histogram: Vec<LatencyBucketView>,
    /// `preempted` by length.
    pub preempted_histogram: Vec<LatencyBucketView>,
    /// Threads that waited at all: vcpus first, then by what waited longest.
    pub threads: Vec<ThreadLatencyView>,
}

/// Waits of one kind. Quantiles are upper bounds of buckets, at most a quarter too long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LatencyView {
    /// Waits.
    pub count: u64,
    /// Their lengths added up.
    pub total_us: f64,
    /// Mean length.
    pub mean_us: Option<f64>,
    /// Half of them were not longer.
    pub p50_us: Option<f64>,
    /// 90 of 100 were not longer.
    pub p90_us: Option<f64>,
    /// 99 of 100 were not longer.
    pub p99_us: Option<f64>,
    /// The longest.
    pub max_us: Option<f64>,
}

/// Waits of about the same length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LatencyBucketView {
    /// All are shorter; null where there is no bound.
    pub below_us: Option<f64>,
    /// How many.
    pub count: u64,
}

/// One thread's waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ThreadLatencyView {
    /// Kernel thread id.
    pub tid: u32,
    /// What it is for; null if it ended before it could be asked.
    pub role: Option<ThreadRole>,
    /// The kernel's name of it.
    pub name: Option<String>,
    /// After wake-ups.
    pub woken: LatencyView,
    /// After preemptions.
    pub preempted: LatencyView,
}

/// What a domain's vcpus left their guest for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExitsView {
    /// Whose numbers the reasons are: `vmx` or `svm`.
    pub isa: Option<String>,
    /// Exits.
    pub count: u64,
    /// Exits in the same windows by KVM's own counters (`exits` of its statistics); null where they cannot be read.
    pub kvm_count: Option<u64>,
    /// Time on a pcpu of the domain's vcpus in the sampled time, to the scheduler's tick.
    pub vcpus_ran_s: Option<f64>,
    /// The one that took most time first.
    pub reasons: Vec<ExitReasonView>,
    /// vcpus that left or entered their guest.
    pub vcpus: Vec<VcpuExitsView>,
}

/// Exits for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExitReasonView {
    /// The hardware's number.
    pub reason: u32,
    /// Its name.
    pub name: String,
    /// Exits.
    pub count: u64,
    /// A second of sampled time, all vcpus together.
    pub per_s: Option<f64>,
    /// Time from exit to entry, added up. Of `HLT` most of it is sleep.
    pub total_us: f64,
    /// Its share of the time of all vcpus, inside and outside of their guest.
    pub time_ratio: Option<f64>,
    /// Mean time from exit to entry.
    pub mean_us: Option<f64>,
    /// The longest.
    pub max_us: f64,
}

/// Exits of one vcpu.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VcpuExitsView {
    /// Number of the vcpu, where its thread's name tells.
    pub number: Option<u32>,
    /// Kernel thread id.
    pub tid: u32,
    /// Exits.
    pub count: u64,
    /// Time from exits to entries.
    pub outside_us: f64,
    /// Time from entries to exits.
    pub inside_us: f64,
}
