//! What a rule does when its condition holds.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::finding::Severity;
use crate::policy::{Actuator, Class};

/// What a rule looks at, once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Domains.
    Domain,
    /// Applications inside the guests.
    Process,
}

/// A change that a rule can ask for. How much of it, and what it may never exceed, is the decider's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// One level up the ladder.
    Raise,
    /// One level down the ladder.
    Lower,
    /// One level back to the original.
    Decay,
    /// The domain's weight rises to what its measurement calls for.
    Protect,
    /// The domain's weight may be lowered for those that wait for its CPU.
    Yield,
    /// The domain's weight goes back one step.
    Relax,
    /// Batch domains leave pcpus to the domain.
    Separate,
    /// The domain, which has just come, leaves pcpus to those for whom they are kept free.
    Arrive,
    /// The domain's pins go back.
    ReleasePins,
    /// One step of idle memory is taken.
    Reclaim,
    /// Memory is given back, besides the conditions of safety that are built in.
    ReleaseMemory,
    /// A proposal of more vcpus.
    MoreVcpus,
    /// A proposal of a larger maximum of memory.
    MoreMemory,
    /// A proposal of another host.
    Move,
}

/// What a rule forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Veto {
    /// One means.
    One(Actuator),
    /// All of them.
    All,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Asks for a change.
    Propose(Means),
    /// Forbids changes; what goes back to safety or to an original is never forbidden.
    Veto(Veto),
    /// The application is neither raised nor lowered.
    Protect,
    /// The domain's class, unless the configuration or the domain's metadata name one.
    Class(Class),
    /// CPU is scarce for the guest: what process rules see as `domain.cpu.scarce`.
    Scarce,
    /// Reports a condition.
    Finding {
        /// Name of the finding.
        name: String,
        /// How much it matters.
        severity: Severity,
        /// One sentence; `{name}` stands for the domain's name.
        summary: String,
    },
}

impl Means {
    /// All, with the key and the word that stand for each in `then`, and the rule's built-in name.
    pub const ALL: [(Self, &'static str, &'static str, &'static str); 14] = [
        (Self::Raise, "raise", "process", "ladder.raise"),
        (Self::Lower, "lower", "process", "ladder.lower"),
        (Self::Decay, "decay", "process", "ladder.decay"),
        (Self::Protect, "weight", "protect", "weight.protect"),
        (Self::Yield, "weight", "yield", "weight.yield"),
        (Self::Relax, "weight", "relax", "weight.relax"),
        (Self::Separate, "cpuset", "separate", "placement.separate"),
        (Self::Arrive, "cpuset", "newcomer", "placement.newcomer"),
        (Self::ReleasePins, "cpuset", "release", "placement.release"),
        (Self::Reclaim, "balloon", "reclaim", "balloon.reclaim"),
        (Self::ReleaseMemory, "balloon", "release", "balloon.release"),
        (Self::MoreVcpus, "order", "more_vcpus", "advice.more_vcpus"),
        (Self::MoreMemory, "order", "more_memory", "advice.more_memory"),
        (Self::Move, "order", "move", "advice.move_away"),
    ];

    /// Key and word in `then`.
    #[must_use]
    pub fn words(self) -> (&'static str, &'static str) {
        Self::ALL.iter().find(|(means, ..)| *means == self).map_or(("", ""), |(_, key, word, _)| (key, word))
    }

    /// What it is about: domains, or applications.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::Raise | Self::Lower | Self::Decay => Scope::Process,
            _ => Scope::Domain,
        }
    }
}

impl Veto {
    /// Whether it forbids what this actuator does.
    #[must_use]
    pub fn covers(self, actuator: Actuator) -> bool {
        match self {
            Self::One(one) => one == actuator,
            Self::All => true,
        }
    }
}

impl Then {
    /// What it can only be about, if so.
    #[must_use]
    pub const fn scope(&self) -> Option<Scope> {
        match self {
            Self::Propose(means) => Some(means.scope()),
            Self::Protect => Some(Scope::Process),
            Self::Class(_) | Self::Scarce => Some(Scope::Domain),
            Self::Veto(_) | Self::Finding { .. } => None,
        }
    }
}

impl fmt::Display for Veto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(actuator) => f.write_str(actuator.as_str()),
            Self::All => f.write_str("all"),
        }
    }
}

/// As written in a rule file.
impl fmt::Display for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Propose(means) => {
                let (key, word) = means.words();
                write!(f, "{key} = \"{word}\"")
            }
            Self::Veto(veto) => write!(f, "veto = \"{veto}\""),
            Self::Protect => f.write_str("protect = \"process\""),
            Self::Class(class) => write!(f, "class = \"{class}\""),
            Self::Scarce => f.write_str("scarce = \"cpu\""),
            Self::Finding { name, .. } => write!(f, "finding = \"{name}\""),
        }
    }
}

impl Scope {
    /// As written in a rule file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::Process => "process",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
