//! The format of recordings: a header, then one line of JSON for each turn of the fast loop, then an end. With the state
//! of the daemon in the header, a replay makes the very decisions that the daemon made.

mod replay;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::decide::History;
use kvmpilot_core::ledger::LedgerEntry;
use kvmpilot_core::model::GuestReading;
use kvmpilot_core::order::Proposal;
use kvmpilot_core::policy::Policy;
use kvmpilot_core::sample::{FilesSample, FlowReading, Sample};
use serde::{Deserialize, Serialize};

use crate::daemon::insides::{FlowReadings, Insides, Readings};
use kvmpilot_core::windows::{Decided, Due, Moment, Windows};

pub use replay::{ReplayError, Replayed, replay, replay_by};

/// Longest line, in bytes: a thousand domains with their guests, with room to spare.
pub const LONGEST_LINE: usize = 64 << 20;

/// Version of the format. A reader refuses any other.
pub const FORMAT: u32 = 1;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// The first.
    Header(Box<Header>),
    /// One turn of the fast loop.
    Turn(Box<Recorded>),
    /// The last, unless the recording was cut short.
    End {
        /// Why it ended.
        reason: EndReason,
    },
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// It is as long as it was to be.
    Time,
    /// A person had enough.
    Person,
    /// The client did not read fast enough.
    TooSlow,
    /// The daemon stops, or takes no more recordings.
    Daemon,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Time => "it is as long as it was to be",
            Self::Person => "it was ended by hand",
            Self::TooSlow => "its lines were not taken fast enough",
            Self::Daemon => "kvmpilotd stops, or serves as many recordings as it can",
        })
    }
}

/// Where and when, and what the daemon knew before the first turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of kvmpilotd.
    pub version: String,
    /// Name of the host.
    pub host: String,
    /// Its kernel's release.
    pub kernel: String,
    /// Start of the recording, on the daemon's monotonic clock.
    pub at: Duration,
    /// Start of the recording, milliseconds since 1970.
    pub started_unix_ms: u64,
    /// What the administrator wanted.
    pub policy: Policy,
    /// The state that decisions depend on.
    pub state: State,
}

/// The state that decisions depend on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// What decisions remember.
    pub history: History,
    /// Windows under way.
    pub windows: Windows,
    /// What the guests told last.
    pub insides: Insides,
}

/// One turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// When, on the daemon's monotonic clock.
    pub at: Duration,
    /// When, seconds since 1970.
    pub unix_s: u64,
    /// What came of earlier decisions since the last line, and what else they depend on.
    pub events: Vec<Event>,
    /// What was read.
    pub sample: Arc<Sample>,
    /// The paces that decided.
    pub due: Due,
}

/// Something that changes the state between two turns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The configuration was read again.
    Policy {
        /// The new one.
        policy: Box<Policy>,
    },
    /// A change was carried out and read back.
    Applied {
        /// Its number.
        #[serde(default)]
        order: u64,
        /// The change.
        proposal: Box<Proposal>,
        /// When, on the daemon's monotonic clock.
        at: Duration,
    },
    /// A change had no clear outcome.
    Unsure {
        /// The change.
        proposal: Box<Proposal>,
        /// The domain's entries in the ledger.
        ledger: Vec<LedgerEntry>,
    },
    /// Everything was put back.
    Restored,
    /// A guest was polled.
    Polled {
        /// Whose.
        domain: Uuid,
        /// What its agent told.
        reading: Arc<GuestReading>,
    },
    /// A guest is gone.
    Gone {
        /// Whose.
        domain: Uuid,
    },
    /// The flows of a domain were read.
    Flows {
        /// Whose.
        domain: Uuid,
        /// What its devices moved.
        reading: Arc<FlowReading>,
    },
    /// The flows of a domain are not watched any more.
    FlowsGone {
        /// Whose.
        domain: Uuid,
    },
    /// Watched files were looked at.
    Files {
        /// As in [`Insides`].
        files: BTreeMap<Uuid, Arc<FilesSample>>,
    },
    /// Other domains than before are being changed, or levels were changed inside guests.
    Changing {
        /// As in [`Insides`].
        busy: Vec<Uuid>,
        /// As in [`Insides`].
        levelled: BTreeMap<Uuid, Duration>,
    },
}

impl State {
    /// Makes a recorded turn again. With `policy` instead of the recorded one, its periods decide when windows end.
    pub fn turn(&mut self, recorded: &Recorded, policy: &mut Policy, fixed: bool) -> Decided {
        for event in &recorded.events {
            self.event(event, policy, fixed);
        }
        let due = if fixed { self.windows.due(recorded.at, policy) } else { recorded.due };
        let moment = Moment { now: recorded.at, wall_unix_s: recorded.unix_s };
        let insides = &self.insides;
        self.windows.decide(&recorded.sample, due, moment, policy, &mut self.history, |model, to_decide| {
            insides.add(model, policy, to_decide)
        })
    }

    fn event(&mut self, event: &Event, policy: &mut Policy, fixed: bool) {
        match event {
            Event::Policy { policy: new } if !fixed => policy.clone_from(new),
            Event::Policy { .. } => {}
            Event::Applied { order, proposal, at } => self.history.applied(*order, proposal, *at),
            Event::Unsure { proposal, ledger } => self.history.unsure(proposal, ledger),
            Event::Restored => self.history.restored(),
            Event::Polled { domain, reading } => {
                let readings = self.insides.readings.entry(*domain).or_default();
                readings.previous = readings.latest.replace(Arc::clone(reading));
            }
            Event::Gone { domain } => {
                self.insides.readings.remove(domain);
            }
            Event::Flows { domain, reading } => {
                let readings = self.insides.flows.entry(*domain).or_default();
                readings.previous = readings.latest.replace(Arc::clone(reading));
            }
            Event::FlowsGone { domain } => {
                self.insides.flows.remove(domain);
            }
            Event::Files { files } => self.insides.files.clone_from(files),
            Event::Changing { busy, levelled } => {
                self.insides.busy = busy.iter().copied().collect();
                self.insides.levelled.clone_from(levelled);
            }
        }
    }
}

/// What turned `before` into `after`, as events. A poll that was overtaken by another one between two turns is lost.
#[must_use]
pub fn changes(before: &Insides, after: &Insides) -> Vec<Event> {
    let gone = before.readings.keys().filter(|domain| !after.readings.contains_key(*domain));
    let mut events: Vec<Event> = gone.map(|domain| Event::Gone { domain: *domain }).collect();
    for (domain, Readings { latest, .. }) in &after.readings {
        let Some(latest) = latest else { continue };
        let known = before.readings.get(domain).and_then(|readings| readings.latest.as_ref());
        if known.is_none_or(|known| known.at != latest.at) {
            events.push(Event::Polled { domain: *domain, reading: Arc::clone(latest) });
        }
    }
    let gone = before.flows.keys().filter(|domain| !after.flows.contains_key(*domain));
    events.extend(gone.map(|domain| Event::FlowsGone { domain: *domain }));
    for (domain, FlowReadings { latest, .. }) in &after.flows {
        let Some(latest) = latest else { continue };
        let known = before.flows.get(domain).and_then(|readings| readings.latest.as_ref());
        if known.is_none_or(|known| known.at != latest.at) {
            events.push(Event::Flows { domain: *domain, reading: Arc::clone(latest) });
        }
    }
    if before.files != after.files {
        events.push(Event::Files { files: after.files.clone() });
    }
    if before.busy != after.busy || before.levelled != after.levelled {
        let busy = after.busy.iter().copied().collect();
        events.push(Event::Changing { busy, levelled: after.levelled.clone() });
    }
    events
}

#[cfg(test)]
pub(crate) mod tests;
