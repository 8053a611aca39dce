//! The insides of the guests as decisions take them: what the agents told, and how much of it still counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::model::{FlowsModel, GuestModel, GuestReading, Model};
use kvmpilot_core::policy::Policy;
use kvmpilot_core::sample::{FilesSample, FlowReading};
use serde::{Deserialize, Serialize};

/// Name of the agent's process in a Linux guest.
const AGENT: &str = "qemu-ga";
/// Polls older than so many periods say nothing about now.
const GUEST_PERIODS: u32 = 3;

/// What the agents and the flow probes told, and what has become stale of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Insides {
    /// The last polls of each guest.
    pub readings: BTreeMap<Uuid, Readings>,
    /// The last readings of each domain's flows.
    #[serde(default)]
    pub flows: BTreeMap<Uuid, FlowReadings>,
    /// The watched files of each guest.
    #[serde(default)]
    pub files: BTreeMap<Uuid, Arc<FilesSample>>,
    /// When kvmpilot last changed levels inside a guest, on the daemon's monotonic clock.
    pub levelled: BTreeMap<Uuid, Duration>,
    /// Domains that are being changed at this moment.
    pub busy: BTreeSet<Uuid>,
}

/// The last two polls of one guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    /// The poll before the last.
    pub previous: Option<Arc<GuestReading>>,
    /// The last good poll.
    pub latest: Option<Arc<GuestReading>>,
}

/// The last two readings of one domain's flows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowReadings {
    /// The reading before the last.
    pub previous: Option<Arc<FlowReading>>,
    /// The last reading.
    pub latest: Option<Arc<FlowReading>>,
}

impl Insides {
    /// Adds what the agents and the flow probes told to a model: all of it to show, and to decide on only what is newer than our last step on
    /// the ladder and not too old.
    #[must_use]
    pub fn add(&self, mut model: Model, policy: &Policy, to_decide: bool) -> Model {
        let oldest = model.at.saturating_sub(policy.periods.guest * GUEST_PERIODS);
        for domain in &mut model.domains {
            let readings = self.readings.get(&domain.uuid);
            let levelled = self.levelled.get(&domain.uuid);
            let current = |at: Duration| at >= oldest && levelled.is_none_or(|levelled| at > *levelled);
            let usable = |at: Duration| !to_decide || (current(at) && !self.busy.contains(&domain.uuid));
            let latest = readings.and_then(|readings| readings.latest.as_ref());
            let latest = latest.filter(|latest| usable(latest.at));
            let previous = readings.and_then(|readings| readings.previous.as_deref());
            let mut guest = latest.map(|latest| GuestModel {
                reading: Some(Arc::clone(latest)),
                ..GuestModel::new(previous, latest, AGENT)
            });
            let latest = latest.map(Arc::as_ref);
            let flows = self.flows.get(&domain.uuid);
            domain.flows = flows.and_then(|flows| {
                // Who owns a flow is not known where the agent does not tell.
                let guest = latest.zip(guest.as_ref()).filter(|(_, guest)| guest.unread.is_none());
                Some(FlowsModel::new(flows.previous.as_deref(), flows.latest.as_deref()?, guest))
            });
            if let (Some(guest), Some(latest), Some(flows)) = (&mut guest, latest, &domain.flows) {
                guest.add_traffic(latest, flows);
            }
            domain.guest = guest;
            domain.files = self.files.get(&domain.uuid).cloned();
        }
        model
    }
}

#[cfg(test)]
mod tests {
    use kvmpilot_core::sample::{GuestSample, Sample};

    use super::*;

    #[test]
    fn what_a_guest_told_before_our_last_step_is_shown_and_not_decided_on() {
        let domain = crate::record::tests::domain();
        let uuid = domain.uuid;
        let sample = Sample { domains: vec![domain], ..Sample::default() };
        let s = Duration::from_secs;
        let model = Model::new(&sample, &sample, s(100), s(5), 0);
        let reading = GuestReading { at: s(90), host_cpu_ns: None, sample: GuestSample::default() };
        let readings = Readings { previous: None, latest: Some(Arc::new(reading)) };
        let mut insides = Insides { readings: [(uuid, readings)].into(), ..Insides::default() };
        let policy = Policy::default();
        let told = |insides: &Insides, to_decide| {
            insides.add(model.clone(), &policy, to_decide).domains[0].guest.is_some()
        };
        assert!(told(&insides, false) && told(&insides, true));
        insides.levelled.insert(uuid, s(95));
        assert!(told(&insides, false) && !told(&insides, true));
        insides.levelled.clear();
        insides.busy.insert(uuid);
        assert!(told(&insides, false) && !told(&insides, true));
    }
}
