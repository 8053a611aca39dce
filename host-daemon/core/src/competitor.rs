//! [`COMPETITORS`]: daemons that work on the same values as kvmpilot, or beside it.

use crate::policy::Actuator;

/// A daemon, by the name of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Competitor {
    /// Name of the process, as the kernel has it.
    pub name: &'static str,
    /// What it does, after "which".
    pub does: &'static str,
    /// The means of ours that work on the same values. None: it gets along with kvmpilot.
    pub fights: &'static [Actuator],
}

/// All that are known.
pub const COMPETITORS: [Competitor; 6] = [
    Competitor {
        name: "numad",
        does: "moves QEMU's threads and memory between NUMA nodes",
        fights: &[Actuator::Placement],
    },
    Competitor {
        name: "ksmtuned",
        does: "changes KSM with the memory pressure that balloons change too",
        fights: &[Actuator::Balloon],
    },
    Competitor {
        name: "momd",
        does: "changes balloons and CPU quotas",
        fights: &[Actuator::Balloon, Actuator::Weight],
    },
    Competitor { name: "pvestatd", does: "changes balloons", fights: &[Actuator::Balloon] },
    Competitor {
        name: "tuned",
        does: "sets kernel parameters; see that its profile leaves the CPU affinity and cgroups of guests alone",
        fights: &[],
    },
    Competitor {
        name: "irqbalance",
        does: "moves interrupts between pcpus, which is none of kvmpilot's business",
        fights: &[],
    },
];

/// The one of this name.
#[must_use]
pub fn competitor(name: &str) -> Option<&'static Competitor> {
    COMPETITORS.iter().find(|competitor| competitor.name == name)
}
