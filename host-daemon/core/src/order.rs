//! [`WorkOrder`]: one change, from proposal to verdict, with everything needed to explain, apply and undo it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::CpuSet;
use crate::policy::{Actuator, Level};
use crate::sample::ProcessKey;
use crate::units::KiB;

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

impl Action {
    /// The means that this action uses.
    #[must_use]
    pub const fn actuator(&self) -> Actuator {
        match self {
            Self::SetCpuShares { .. } => Actuator::Weight,
            Self::PinVcpu { .. } | Self::PinEmulator { .. } => Actuator::Placement,
            Self::SetBalloon { .. } => Actuator::Balloon,
            Self::SetLevel { .. } => Actuator::Ladder,
        }
    }

    /// What the action changes inside its domain: two orders with the same target compete.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::SetCpuShares { .. } => "cpu_shares".to_owned(),
            Self::PinVcpu { vcpu, .. } => format!("vcpu {vcpu} pin"),
            Self::PinEmulator { .. } => "emulator pin".to_owned(),
            Self::SetBalloon { .. } => "balloon".to_owned(),
            Self::SetLevel { application, .. } => format!("level of {application}"),
        }
    }

    /// The value before, as text.
    #[must_use]
    pub fn from_text(&self) -> String {
        match self {
            Self::SetCpuShares { from, .. } => from.to_string(),
            Self::PinVcpu { from, .. } | Self::PinEmulator { from, .. } => from.to_string(),
            Self::SetBalloon { from, .. } => from.to_string(),
            Self::SetLevel { from, .. } => from.to_string(),
        }
    }

    /// The value wanted, as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::SetCpuShares { to, .. } => to.to_string(),
            Self::PinVcpu { to, .. } | Self::PinEmulator { to, .. } => to.to_string(),
            Self::SetBalloon { to, .. } => to.to_string(),
            Self::SetLevel { to, .. } => to.to_string(),
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
    /// What the change should bring, in words.
    pub expected: String,
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
    /// Carried out, and the new value was read back.
    Verified,
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
    /// Whether nothing more will happen to the order by itself.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Verified | Self::Rejected | Self::Expired | Self::Failed | Self::RolledBack)
    }

    /// The state's name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Approved => "approved",
            Self::Applied => "applied",
            Self::Verified => "verified",
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
}
