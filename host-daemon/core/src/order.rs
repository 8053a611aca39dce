//! [`WorkOrder`]: one change, from proposal to verdict, with everything needed to explain, apply and undo it.
//!
//! ```text
//! proposed ─> approved ─> applied ─> verified ─> kept
//!   │  │         │           │          └──────> rolled_back
//!   │  └─> rejected          └─> failed
//!   └─> expired  └─> failed
//! ```
//! Each state is on disk before the next step begins, and the ledger has the original before the value changes. A daemon
//! that dies at any point therefore leaves a ledger that the next one puts back, and no order that is open.

mod group;
mod story;

use std::fmt;

pub use group::{GroupStep, GroupValue, LadderMeans, TaskGroup};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use story::{Section, Story, StoryLine};
use uuid::Uuid;

use crate::CpuSet;
use crate::policy::{Actuator, Level};
use crate::sample::ProcessKey;
use crate::units::{KiB, Ratio};

/// What an order does. Targets are absolute; `from` is the live value that the decision was based on, and an
/// executor that finds another one refuses, because somebody else changed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Action {
    /// Sets the domain's CPU weight.
    SetCpuShares {
        /// `cpu_shares` now.
        from: u64,
        /// `cpu_shares` wanted.
        to: u64,
    },
    /// Sets the pcpus that one vcpu may run on.
    PinVcpu {
        /// Number of the vcpu.
        vcpu: u32,
        /// Pin now.
        from: CpuSet,
        /// Pin wanted, never empty.
        to: CpuSet,
    },
    /// Sets the pcpus that the emulator threads may run on.
    PinEmulator {
        /// Pin now.
        from: CpuSet,
        /// Pin wanted, never empty.
        to: CpuSet,
    },
    /// Sets the pcpus that one iothread may run on.
    PinIothread {
        /// Number of the iothread.
        iothread: u32,
        /// Pin now.
        from: CpuSet,
        /// Pin wanted, never empty.
        to: CpuSet,
    },
    /// Sets the balloon's target.
    SetBalloon {
        /// Memory of the domain now.
        from: KiB,
        /// Memory wanted.
        to: KiB,
    },
    /// Moves the processes of one guest application one step on the ladder.
    SetLevel {
        /// The application.
        application: String,
        /// Whether it was found talking to another node.
        communicating: bool,
        /// Level now.
        from: Level,
        /// Level wanted.
        to: Level,
        /// Its processes, with their nice values now and wanted.
        processes: Vec<ProcessStep>,
        /// Groups of processes that the guest's kernel shares CPU out to, with their weights now and wanted.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        groups: Vec<GroupStep>,
    },
    /// More vcpus: for a person or an orchestrator, never carried out by kvmpilot.
    MoreVcpus {
        /// vcpus now.
        from: u32,
        /// vcpus that its load calls for.
        to: u32,
    },
    /// A larger maximum of memory: for a person or an orchestrator, never carried out by kvmpilot.
    MoreMemory {
        /// Maximum now.
        from: KiB,
        /// Maximum that its load calls for.
        to: KiB,
    },
    /// A move to another host: for a person or an orchestrator, never carried out by kvmpilot.
    MoveAway {
        /// pcpus that it wants, in hundredths.
        pcpus_percent: u32,
        /// Memory that it needs.
        memory: KiB,
    },
}

/// One process of an application that changes level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessStep {
    /// Identity inside the guest.
    pub key: ProcessKey,
    /// Its name.
    pub name: String,
    /// Nice value now.
    pub nice_from: i8,
    /// Nice value wanted.
    pub nice_to: i8,
    /// Nice value before kvmpilot first touched it or the process it inherited from.
    pub nice_original: i8,
}

/// The steps of two orders, one for each thing that they change: from where the first begins to where the last ends.
fn joined<S, K: PartialEq>(
    first: Vec<S>,
    last: Vec<S>,
    key: impl Fn(&S) -> K,
    begin: impl Fn(&mut S, &S),
) -> Vec<S> {
    let mut all = last;
    for step in first {
        match all.iter_mut().find(|later| key(later) == key(&step)) {
            Some(later) => begin(later, &step),
            None => all.push(step),
        }
    }
    all
}

impl Action {
    /// The means that this action uses.
    #[must_use]
    pub const fn actuator(&self) -> Actuator {
        match self {
            Self::SetCpuShares { .. } => Actuator::Weight,
            Self::PinVcpu { .. } | Self::PinEmulator { .. } | Self::PinIothread { .. } => Actuator::Placement,
            Self::SetBalloon { .. } => Actuator::Balloon,
            Self::SetLevel { .. } => Actuator::Ladder,
            Self::MoreVcpus { .. } | Self::MoreMemory { .. } | Self::MoveAway { .. } => Actuator::Resize,
        }
    }

    /// The same change the other way round; `None` where kvmpilot does not carry it out.
    #[must_use]
    pub fn reversed(self) -> Option<Self> {
        Some(match self {
            Self::SetCpuShares { from, to } => Self::SetCpuShares { from: to, to: from },
            Self::PinVcpu { vcpu, from, to } => Self::PinVcpu { vcpu, from: to, to: from },
            Self::PinEmulator { from, to } => Self::PinEmulator { from: to, to: from },
            Self::PinIothread { iothread, from, to } => Self::PinIothread { iothread, from: to, to: from },
            Self::SetBalloon { from, to } => Self::SetBalloon { from: to, to: from },
            Self::SetLevel { application, communicating, from, to, mut processes, mut groups } => {
                for process in &mut processes {
                    std::mem::swap(&mut process.nice_from, &mut process.nice_to);
                }
                for group in &mut groups {
                    std::mem::swap(&mut group.from, &mut group.to);
                }
                Self::SetLevel { application, communicating, from: to, to: from, processes, groups }
            }
            Self::MoreVcpus { .. } | Self::MoreMemory { .. } | Self::MoveAway { .. } => return None,
        })
    }

    /// From where this one begins to where `last`, on the same target, ends.
    #[must_use]
    pub fn up_to(self, last: &Self) -> Self {
        match (self, last.clone()) {
            (Self::SetCpuShares { from, .. }, Self::SetCpuShares { to, .. }) => {
                Self::SetCpuShares { from, to }
            }
            (Self::PinVcpu { vcpu, from, .. }, Self::PinVcpu { to, .. }) => Self::PinVcpu { vcpu, from, to },
            (Self::PinEmulator { from, .. }, Self::PinEmulator { to, .. }) => Self::PinEmulator { from, to },
            (Self::PinIothread { iothread, from, .. }, Self::PinIothread { to, .. }) => {
                Self::PinIothread { iothread, from, to }
            }
            (Self::SetBalloon { from, .. }, Self::SetBalloon { to, .. }) => Self::SetBalloon { from, to },
            (
                Self::SetLevel { from, processes, groups, .. },
                Self::SetLevel {
                    application, communicating, to, processes: later, groups: later_groups, ..
                },
            ) => Self::SetLevel {
                application,
                communicating,
                from,
                to,
                processes: joined(
                    processes,
                    later,
                    |step| step.key,
                    |step, first| step.nice_from = first.nice_from,
                ),
                groups: joined(
                    groups,
                    later_groups,
                    |step| step.group.clone(),
                    |step, first| step.from.clone_from(&first.from),
                ),
            },
            (_, last) => last,
        }
    }

    /// What the action changes inside its domain: two orders with the same target compete.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::SetCpuShares { .. } => "cpu_shares".to_owned(),
            Self::PinVcpu { vcpu, .. } => format!("vcpu {vcpu} pin"),
            Self::PinEmulator { .. } => "emulator pin".to_owned(),
            Self::PinIothread { iothread, .. } => format!("iothread {iothread} pin"),
            Self::SetBalloon { .. } => "balloon".to_owned(),
            Self::SetLevel { application, .. } => format!("level of {application}"),
            Self::MoreVcpus { .. } => "vcpus".to_owned(),
            Self::MoreMemory { .. } => "memory maximum".to_owned(),
            Self::MoveAway { .. } => "host".to_owned(),
        }
    }

    /// The value before, as text.
    #[must_use]
    pub fn from_text(&self) -> String {
        match self {
            Self::SetCpuShares { from, .. } => from.to_string(),
            Self::PinVcpu { from, .. } | Self::PinEmulator { from, .. } | Self::PinIothread { from, .. } => {
                from.to_string()
            }
            Self::SetBalloon { from, .. } | Self::MoreMemory { from, .. } => from.to_string(),
            Self::SetLevel { from, .. } => from.to_string(),
            Self::MoreVcpus { from, .. } => from.to_string(),
            Self::MoveAway { .. } => "here".to_owned(),
        }
    }

    /// The value wanted, as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::SetCpuShares { to, .. } => to.to_string(),
            Self::PinVcpu { to, .. } | Self::PinEmulator { to, .. } | Self::PinIothread { to, .. } => {
                to.to_string()
            }
            Self::SetBalloon { to, .. } | Self::MoreMemory { to, .. } => to.to_string(),
            Self::SetLevel { to, .. } => to.to_string(),
            Self::MoreVcpus { to, .. } => to.to_string(),
            Self::MoveAway { pcpus_percent, memory } => {
                format!(
                    "a host with {}.{:02} pcpus and {memory} to spare",
                    pcpus_percent / 100,
                    pcpus_percent % 100
                )
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.target(), self.from_text(), self.to_text())
    }
}

/// Why an order exists, for `kvmpilot why`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// The built-in or written rule that asked for it.
    pub rule: String,
    /// One sentence.
    pub summary: String,
    /// What was measured, name and value with unit.
    pub inputs: Vec<(String, String)>,
    /// The condition that was met, with its limit.
    #[serde(default)]
    pub threshold: String,
    /// What the change should bring, in words.
    pub expected: String,
    /// What the change should bring, in figures: what its trial is judged by. Without one there is no trial.
    #[serde(default)]
    pub prediction: Option<Prediction>,
    /// What else could have been done, and why it was not.
    #[serde(default)]
    pub alternatives: Vec<String>,
}

/// What a trial measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// wait / (wait + run) of the domain's vcpus, 0 to 1.
    WaitRatio,
    /// Memory that the domain has, in MiB.
    MemoryMib,
    /// Packets a second of the domain's devices, in the weaker direction: traffic that is answered.
    AnsweredPackets,
}

impl Metric {
    /// A value of the metric, with its unit.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Self::WaitRatio => Ratio(value).to_string(),
            Self::MemoryMib => format!("{value:.0} MiB"),
            Self::AnsweredPackets => format!("{value:.0} packets/s"),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WaitRatio => "wait ratio",
            Self::MemoryMib => "memory",
            Self::AnsweredPackets => "answered traffic",
        })
    }
}

/// What a change should bring, in figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Prediction {
    /// What is measured.
    pub metric: Metric,
    /// Whose: the domain that the change is for, which need not be the one that is changed.
    pub of: Uuid,
    /// Its name.
    pub of_name: String,
    /// Before the change.
    pub before: f64,
    /// Expected after it.
    pub expected: f64,
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value| self.metric.show(value);
        let Self { metric, of_name, before, expected, .. } = self;
        write!(f, "{metric}, of {of_name}, from {} to {}", show(*before), show(*expected))
    }
}

/// A change that decide wants, before the guard and before it has a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Proposal {
    /// The domain.
    pub domain: Uuid,
    /// Its name at the time.
    pub domain_name: String,
    /// The change.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// Back to a safer or the original state: skips dwell times and budgets.
    pub release: bool,
    /// The orders that it undoes.
    #[serde(default)]
    pub undoes: Vec<u64>,
}

/// Where an order is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderState {
    /// Waits for approval.
    Proposed,
    /// A person or mode `auto` said yes.
    Approved,
    /// Carried out; not yet read back.
    Applied,
    /// Carried out, and the new value was read back. What predicts something is on trial now.
    Verified,
    /// Its trial went well, or it needed none.
    Kept,
    /// A person said no.
    Rejected,
    /// Nobody said yes while it was wanted, or a newer order took its place.
    Expired,
    /// It could not be carried out; `outcome` says why.
    Failed,
    /// The original value is back.
    RolledBack,
}

impl OrderState {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Proposed,
        Self::Approved,
        Self::Applied,
        Self::Verified,
        Self::Kept,
        Self::Rejected,
        Self::Expired,
        Self::Failed,
        Self::RolledBack,
    ];

    /// Whether nothing more will happen to the order by itself.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Kept | Self::Rejected | Self::Expired | Self::Failed | Self::RolledBack)
    }

    /// Whether its change is in force.
    #[must_use]
    pub const fn is_in_force(self) -> bool {
        matches!(self, Self::Verified | Self::Kept)
    }

    /// The state's name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Approved => "approved",
            Self::Applied => "applied",
            Self::Verified => "verified",
            Self::Kept => "kept",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
        }
    }
}

impl fmt::Display for OrderState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One change and its history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkOrder {
    /// Number, rising for ever within one store.
    pub id: u64,
    /// What and why.
    #[serde(flatten)]
    pub proposal: Proposal,
    /// State.
    pub state: OrderState,
    /// When it was proposed, milliseconds since 1970.
    pub created_unix_ms: u64,
    /// When its state changed last, milliseconds since 1970.
    pub changed_unix_ms: u64,
    /// What came of it, in words; empty until something did.
    pub outcome: String,
    /// What its trial measured, once it is over.
    #[serde(default)]
    pub trial: Option<Trial>,
    /// Who approved or rejected it, if a person did: the user id at the socket.
    #[serde(default)]
    pub decided_by_uid: Option<u32>,
    /// The same, if they came over TCP: the name of their token.
    #[serde(default)]
    pub decided_by_token: Option<String>,
    /// The states that it was in, oldest first. Only where a single order is asked for.
    #[serde(default)]
    pub history: Vec<OrderEvent>,
}

/// A state that an order came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrderEvent {
    /// When, milliseconds since 1970.
    pub unix_ms: u64,
    /// The state.
    pub state: OrderState,
    /// What was known then, in words.
    pub outcome: String,
}

/// What a trial measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Trial {
    /// Windows that were measured.
    pub windows: u32,
    /// The metric before the change.
    pub before: f64,
    /// What it was expected to be.
    pub expected: f64,
    /// What it was: the mean over the windows. `None` if there was nothing to measure.
    pub measured: Option<f64>,
    /// Whether the change stays.
    pub kept: bool,
    /// Why, in a sentence.
    pub verdict: String,
}
