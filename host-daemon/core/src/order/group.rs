//! Groups of processes in a guest: what a level changes beside the nice values of single processes.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::CpuSet;
use crate::sample::ProcessKey;

/// A group of processes in a guest that its kernel shares CPU out to, before their nice values count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TaskGroup {
    /// A systemd unit. Its value is `CPUWeight`, 1 to 10000.
    Unit {
        /// Name of the unit.
        name: String,
    },
    /// An autogroup. Its value is a nice value.
    Autogroup {
        /// Number of the group.
        id: u64,
    },
    /// The threads of one process. Their value is the set of vcpus that they may run on.
    Threads {
        /// The process.
        key: ProcessKey,
    },
}

impl TaskGroup {
    /// Whether it is the threads of one process.
    #[must_use]
    pub const fn is_threads(&self) -> bool {
        matches!(self, Self::Threads { .. })
    }
}

impl fmt::Display for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit { name } => write!(f, "CPUWeight of {name}"),
            Self::Autogroup { id } => write!(f, "nice of autogroup {id}"),
            Self::Threads { key } => write!(f, "vcpus of process {}", key.pid),
        }
    }
}

/// The value of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum GroupValue {
    /// A weight or a nice value.
    Number(i32),
    /// vcpus of the guest.
    Vcpus(CpuSet),
}

impl GroupValue {
    /// The number, if it is one.
    #[must_use]
    pub const fn number(&self) -> Option<i32> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Vcpus(_) => None,
        }
    }
}

impl fmt::Display for GroupValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Vcpus(vcpus) => vcpus.fmt(f),
        }
    }
}

/// One group of an application that changes level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupStep {
    /// The group.
    pub group: TaskGroup,
    /// Value now.
    pub from: GroupValue,
    /// Value wanted.
    pub to: GroupValue,
    /// Value before kvmpilot first touched it.
    pub original: GroupValue,
}

/// How kvmpilot gives an application its level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LadderMeans {
    /// Nice values of its processes and of the autogroups that are its alone.
    #[default]
    Nice,
    /// `CPUWeight` of its systemd unit.
    UnitWeight,
}

impl fmt::Display for LadderMeans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nice => "nice",
            Self::UnitWeight => "CPUWeight of units",
        })
    }
}
