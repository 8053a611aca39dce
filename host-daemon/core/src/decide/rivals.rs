//! Who else works on this host's domains: named, and given way to.

use serde::{Deserialize, Serialize};

use super::history::History;
use super::input;
use crate::competitor::{Competitor, competitor};
use crate::finding::{Finding, Severity};
use crate::model::HostModel;
use crate::policy::{Actuator, Mode, Policy};

/// Who runs now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Rivals {
    daemons: Vec<String>,
    sched_ext: Option<String>,
}

impl Rivals {
    pub(super) fn observe(&mut self, host: &HostModel) {
        self.daemons.clone_from(&host.competitors);
        self.sched_ext.clone_from(&host.sched_ext);
    }

    /// Why CPU weights mean nothing now, if so (scx#3549).
    pub(super) fn weights_are_void(&self) -> Option<String> {
        let name = self.sched_ext.as_ref()?;
        Some(format!("the BPF scheduler {name} is in force, and what weights mean is up to it"))
    }

    fn competitors(&self) -> impl Iterator<Item = &'static Competitor> + '_ {
        let known = self.daemons.iter().filter_map(|name| competitor(name));
        known.filter(|competitor| !competitor.fights.is_empty())
    }

    pub(super) fn findings(&self, policy: &Policy) -> Vec<Finding> {
        let way_out = if policy.guard.yield_to_competitors {
            "kvmpilot only recommends there while it runs"
        } else {
            "kvmpilot goes on all the same, as guard.yield_to_competitors says"
        };
        let about = |summary: String, evidence| Finding {
            domain: None,
            domain_name: None,
            name: "competitor".to_owned(),
            severity: Severity::Warning,
            summary,
            evidence,
        };
        let daemons = self.competitors().map(|Competitor { name, does, fights }| {
            let fights = fights.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let evidence = vec![input("process", name), input("same means", &fights)];
            about(format!("{name} runs, which {does}: {way_out} ({fights})"), evidence)
        });
        let weights = self.weights_are_void().map(|why| {
            about(format!("{why}: kvmpilot leaves them alone"), vec![input("same means", Actuator::Weight)])
        });
        daemons.chain(weights).collect()
    }
}

impl History {
    /// Who works on the same values as this actuator, if somebody does.
    #[must_use]
    pub fn rival(&self, actuator: Actuator) -> Option<&'static str> {
        self.rivals
            .competitors()
            .find(|competitor| competitor.fights.contains(&actuator))
            .map(|found| found.name)
    }

    /// The most that an actuator may do beside those who work on the same values.
    #[must_use]
    pub fn most(&self, actuator: Actuator, policy: &Policy) -> Mode {
        let yields = policy.guard.yield_to_competitors && self.rival(actuator).is_some();
        if yields { Mode::Recommend } else { Mode::Auto }
    }
}
