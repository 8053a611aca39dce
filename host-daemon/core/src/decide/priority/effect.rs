//! Whether levels count: what happens to the applications' CPU after each step, and which means has no effect in a guest.
//!
//! A step is measured over the two windows around it, and only if CPU was scarce in both. It had an effect if what was
//! lowered got a tenth less CPU, or what was raised a tenth more. It had none if all stayed as it was although what was
//! raised still waits; who does not wait has all the CPU that it wants, and shares that went the other way are another
//! load's doing. After [`STRIKES`] steps in a row without effect the means rests in that guest: its levels go back, and the
//! next means is tried.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::{finding, input};
use crate::finding::{Finding, Severity};
use crate::model::{Application, DomainModel, GuestModel};
use crate::order::LadderMeans;
use crate::policy::Level;
use crate::units::{Ratio, doubled};

/// Change of CPU that is an effect, as a part of what it was.
const COUNTS: f64 = 0.1;
/// Change of CPU, in vcpus, below which it is noise.
const LEAST_VCPUS: f64 = 0.02;
/// CPU in vcpus above which a lowered application shows whether it got less.
const HUNGRY_VCPUS: f64 = 0.05;
/// Part of the time that a raised application waits, from which on it wants more CPU than it gets.
const WAITS: f64 = 0.1;
/// Part of the vcpus' time in use, from which on CPU is scarce for the whole of a window.
const BUSY: f64 = 0.9;
const STRIKES: u32 = 3;
/// First rest of a means without effect; doubles each time.
const REST: Duration = Duration::from_secs(3600);
const LONGEST_REST: Duration = Duration::from_secs(24 * 3600);

/// What is remembered of the ladder in one guest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LadderHistory {
    /// How each means has done.
    pub means: BTreeMap<LadderMeans, MeansHistory>,
    /// Applications that took a step since the last window: by which means, and whether up.
    moved: BTreeMap<String, (LadderMeans, bool)>,
    last: Option<Window>,
}

/// How one means has done in a guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeansHistory {
    /// What was measured last; what could not be told only where nothing else is known.
    pub last: Option<Effect>,
    /// Steps in a row without effect.
    pub strikes: u32,
    /// When it may be tried again, on the daemon's monotonic clock.
    pub rests_until: Option<Duration>,
    /// How often it had to rest.
    pub rests: u32,
}

/// One measurement: CPU in vcpus before and after a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// What follows.
    pub verdict: EffectVerdict,
    /// CPU of what was raised.
    pub raised: (f64, f64),
    /// CPU of what was lowered.
    pub lowered: (f64, f64),
    /// Part of the time that what is raised waits now.
    pub waits: Option<f64>,
}

/// What follows from one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EffectVerdict {
    /// The shares of CPU changed.
    Effective,
    /// They did not, though somebody waits.
    Void,
    /// They did not, and nobody waits: it cannot be told.
    Unclear,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Window {
    scarce: bool,
    /// CPU in vcpus of those applications that use any.
    cpu: BTreeMap<String, f64>,
}

impl Window {
    fn of(guest: &GuestModel) -> Self {
        let crowded = guest.runnable.zip(guest.vcpus_online).is_some_and(|(threads, vcpus)| threads > vcpus);
        let used = |application: &Application| Some((application.name.clone(), application.cpu()?));
        Self {
            scarce: crowded && guest.busy.is_some_and(|busy| busy.0 >= BUSY),
            cpu: guest.applications.iter().filter_map(used).filter(|(_, cpu)| *cpu > 0.0).collect(),
        }
    }

    fn of_those<'a>(&self, names: impl Iterator<Item = &'a String>) -> f64 {
        names.filter_map(|name| self.cpu.get(name)).sum()
    }
}

impl LadderHistory {
    /// The means that serves an application, the best first; none if none has an effect.
    /// An application with processes that must not be touched cannot be moved as a whole.
    pub(super) fn means_for(
        &self,
        application: &Application,
        spared: bool,
        now: Duration,
    ) -> Option<LadderMeans> {
        let serves = |means: &LadderMeans| match means {
            LadderMeans::UnitWeight => application.unit.is_some() && !spared,
            LadderMeans::Nice => true,
        };
        let rests = |means: &LadderMeans| {
            let until = self.means.get(means).and_then(|history| history.rests_until);
            until.is_some_and(|until| until > now)
        };
        [LadderMeans::UnitWeight, LadderMeans::Nice].into_iter().find(|means| serves(means) && !rests(means))
    }

    /// Takes note of a step that was made.
    pub(in crate::decide) fn moved(&mut self, application: &str, means: LadderMeans, from: Level, to: Level) {
        if from != to {
            self.moved.insert(application.to_owned(), (means, to > from));
        }
    }

    /// Measures the steps since the last poll.
    pub(super) fn measure(
        &mut self,
        guest: &GuestModel,
        is_favoured: impl Fn(&Application) -> bool,
        now: Duration,
    ) {
        let window = Window::of(guest);
        let moved = std::mem::take(&mut self.moved);
        let Some(before) = self.last.replace(window.clone()).filter(|before| before.scarce && window.scarce)
        else {
            return;
        };
        let waits = guest.applications.iter().filter(|application| is_favoured(application));
        let waits = waits.filter_map(Application::waits).max_by(f64::total_cmp);
        for means in [LadderMeans::UnitWeight, LadderMeans::Nice] {
            let those = |up: bool| {
                moved
                    .iter()
                    .filter(move |(_, step)| **step == (means, up))
                    .map(|(application, _)| application)
            };
            if those(true).chain(those(false)).next().is_none() {
                continue;
            }
            let raised = (before.of_those(those(true)), window.of_those(those(true)));
            let lowered = (before.of_those(those(false)), window.of_those(those(false)));
            let grew = |(before, after): (f64, f64)| after - before >= LEAST_VCPUS.max(before * COUNTS);
            let shrank = |(before, after): (f64, f64)| grew((after, before));
            let fell = lowered.0 >= HUNGRY_VCPUS && shrank(lowered);
            let verdict = match waits {
                _ if shrank(raised) => EffectVerdict::Unclear,
                _ if fell || grew(raised) => EffectVerdict::Effective,
                Some(waits) if waits >= WAITS && !grew(lowered) => EffectVerdict::Void,
                _ => EffectVerdict::Unclear,
            };
            self.means.entry(means).or_default().take(Effect { verdict, raised, lowered, waits }, now);
        }
    }

    /// Says which means rest because they had no effect.
    pub(super) fn findings(&self, domain: &DomainModel, now: Duration) -> Vec<Finding> {
        let resting = self.means.iter().filter_map(|(means, history)| {
            let effect = history.last.filter(|_| history.rests_until.is_some_and(|until| until > now))?;
            let text = |(before, after): (f64, f64)| format!("{before:.2} vcpus before, {after:.2} after");
            let evidence = vec![
                input("CPU of what was raised", text(effect.raised)),
                input("CPU of what was lowered", text(effect.lowered)),
                input("what was raised waits", effect.waits.map_or_else(String::new, |waits| Ratio(waits).to_string())),
                input("steps without effect", STRIKES),
            ];
            let summary = format!(
                "{means} changes nobody's share of CPU in {}: it is not used there for {} min, and what it set goes back",
                domain.name,
                history.rests_until?.saturating_sub(now).as_secs() / 60
            );
            Some(finding(domain, "ladder_void", Severity::Warning, summary, evidence))
        });
        resting.collect()
    }
}

impl MeansHistory {
    fn take(&mut self, effect: Effect, now: Duration) {
        if effect.verdict != EffectVerdict::Unclear || self.last.is_none() {
            self.last = Some(effect);
        }
        match effect.verdict {
            EffectVerdict::Effective => (self.strikes, self.rests) = (0, 0),
            EffectVerdict::Unclear => {}
            EffectVerdict::Void => {
                self.strikes += 1;
                if self.strikes >= STRIKES {
                    self.strikes = 0;
                    self.rests_until = Some(now + doubled(REST, self.rests, LONGEST_REST));
                    self.rests = self.rests.saturating_add(1);
                }
            }
        }
    }
}
