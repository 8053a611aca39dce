//! Trials: a change that predicts something is measured over three windows of its pace, and kept or undone by what came.
//!
//! Steps that follow each other on one target before three quiet windows have gone by are one trial: it begins where the
//! first began, and goes back to there. A window in which there was nothing to measure (the load has gone, a reading is
//! missing) is none, and after [`PATIENCE`] of them the change stays: what goes back for want of need is the relax step's.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::history::History;
use super::state::wants_cpu;
use super::{Decision, input};
use crate::model::{DomainModel, Model};
use crate::order::{Metric, OrderState, Prediction, Proposal, Reason, Trial};
use crate::policy::{Actuator, Policy};

/// Windows that are measured.
const WINDOWS: usize = 3;
/// Windows without anything to measure after which a change stays.
const PATIENCE: u32 = 12;
/// Part of what was predicted that must have come: less is noise, and not worth an interference.
const WORTH: f64 = 0.25;
/// First pause of a target after a trial that failed; doubles each time (KubeVirt's descheduler has the same rule).
const PAUSE: Duration = Duration::from_secs(15 * 60);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);

type Target = (Uuid, String);

/// How often an action is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// With the weights and balloons.
    Tick,
    /// With the priority cycle.
    Cycle,
}

/// What is remembered of trials.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct TrialHistory {
    #[serde(with = "crate::pairs")]
    open: BTreeMap<Target, Open>,
    #[serde(with = "crate::pairs")]
    pauses: BTreeMap<Target, Pause>,
    /// Ended by something else than a measurement, to be told with the next decision.
    ended: Vec<Verdict>,
}

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The orders on trial, first step first.
    pub orders: Vec<u64>,
    /// `Kept`; `RolledBack` where something else has taken it back; `Verified` where a proposal that undoes it follows.
    pub state: OrderState,
    /// What was measured, and whether it stays.
    pub trial: Trial,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    orders: Vec<u64>,
    /// From the first step's beginning to the last step's end.
    proposal: Proposal,
    prediction: Prediction,
    since: Duration,
    measured: Vec<f64>,
    empty: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pause {
    until: Duration,
    times: u32,
}

impl TrialHistory {
    /// Takes note of a change that was carried out: a trial begins, goes on, or ends.
    pub(super) fn applied(&mut self, order: u64, proposal: &Proposal, now: Duration) {
        let target = (proposal.domain, proposal.action.target());
        let Some(prediction) = &proposal.reason.prediction else {
            if let Some(open) = self.open.remove(&target) {
                let why = format!("order {order} took it back: {}", proposal.reason.summary);
                self.ended.push(open.verdict(OrderState::RolledBack, why));
            }
            return;
        };
        let open = self.open.entry(target).or_insert_with(|| Open {
            orders: Vec::new(),
            proposal: proposal.clone(),
            prediction: prediction.clone(),
            since: now,
            measured: Vec::new(),
            empty: 0,
        });
        open.orders.push(order);
        open.proposal.action = open.proposal.action.clone().up_to(&proposal.action);
        open.prediction.expected = prediction.expected;
        (open.since, open.empty) = (now, 0);
        open.measured.clear();
    }

    /// Somebody else has changed the value: what is measured from now on is their doing.
    pub(super) fn taken_over(&mut self, domain: Uuid, target: &str) {
        if let Some(open) = self.open.remove(&(domain, target.to_owned())) {
            let why = "somebody else changed the value before the trial was over".to_owned();
            self.ended.push(open.verdict(OrderState::RolledBack, why));
        }
    }

    /// Everything was put back: nothing is on trial.
    pub(super) fn restored(&mut self) {
        let open = std::mem::take(&mut self.open);
        let why = "everything was put back before the trial was over";
        self.ended
            .extend(open.into_values().map(|open| open.verdict(OrderState::RolledBack, why.to_owned())));
    }

    /// How long a target rests because a trial on it failed.
    pub(super) fn rests(&self, proposal: &Proposal, now: Duration) -> Option<Duration> {
        let pause = self.pauses.get(&(proposal.domain, proposal.action.target()))?;
        pause.until.checked_sub(now).filter(|left| !left.is_zero())
    }

    fn pause(&mut self, target: Target, now: Duration) -> Duration {
        let pause = self.pauses.entry(target).or_insert(Pause { until: now, times: 0 });
        let length =
            PAUSE.saturating_mul(1_u32.checked_shl(pause.times).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
        *pause = Pause { until: now + length, times: pause.times.saturating_add(1) };
        length
    }

    fn forget(&mut self, now: Duration) {
        self.pauses.retain(|_, pause| pause.until + LONGEST_PAUSE > now);
    }
}

/// Measures what is on trial at this pace; what failed is undone.
pub(super) fn judge(model: &Model, pace: Pace, policy: &Policy, history: &mut History) -> Decision {
    let mut decision =
        Decision { verdicts: std::mem::take(&mut history.trials.ended), ..Decision::default() };
    history.trials.forget(model.at);
    let on_trial: Vec<Target> = history.trials.open.keys().cloned().collect();
    for target in on_trial {
        let Some(mut open) = history.trials.open.remove(&target) else { continue };
        // Part of a window was before the change.
        if open.pace() != pace || model.at.saturating_sub(model.elapsed) < open.since {
            history.trials.open.insert(target, open);
            continue;
        }
        let Some(changed) = model.domains.iter().find(|domain| domain.uuid == target.0) else {
            decision.verdicts.push(open.verdict(OrderState::Kept, "the domain has gone".to_owned()));
            continue;
        };
        match open.measure(model, policy, history) {
            Some(value) => open.measured.push(value),
            None => open.empty += 1,
        }
        if open.measured.len() >= WINDOWS {
            let kept = open.is_worth_it();
            let mut text = open.compared();
            if !kept {
                let pause = history.trials.pause(target, model.at);
                text = format!("{text}: it is undone, and not tried again for {} min", pause.as_secs() / 60);
                decision.proposals.extend(open.undo(changed));
            }
            let state = if kept { OrderState::Kept } else { OrderState::Verified };
            decision.verdicts.push(open.verdict(state, text));
        } else if open.empty >= PATIENCE {
            let why = "there was nothing to measure: its load has gone, or it is not read".to_owned();
            decision.verdicts.push(open.verdict(OrderState::Kept, why));
        } else {
            history.trials.open.insert(target, open);
        }
    }
    decision
}

impl Open {
    fn pace(&self) -> Pace {
        match self.proposal.action.actuator() {
            Actuator::Weight | Actuator::Balloon => Pace::Tick,
            Actuator::Placement | Actuator::Ladder | Actuator::Resize => Pace::Cycle,
        }
    }

    fn measure(&self, model: &Model, policy: &Policy, history: &History) -> Option<f64> {
        let domain = model.domains.iter().find(|domain| domain.uuid == self.prediction.of)?;
        match self.prediction.metric {
            Metric::WaitRatio => {
                let wants = wants_cpu(domain, policy, history);
                domain.wait_ratio().filter(|_| wants).map(|wait| wait.0)
            }
            // A guest that has not followed yet has shown nothing; how long it may take is the balloon's rule.
            Metric::MemoryMib
                if history
                    .domains
                    .get(&domain.uuid)
                    .is_some_and(|entry| entry.memory.is_inactive(model.at)) =>
            {
                None
            }
            Metric::MemoryMib => domain.balloon.map(|balloon| balloon.current.as_f64() / 1024.0),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a handful of windows")]
    fn mean(&self) -> Option<f64> {
        (!self.measured.is_empty()).then(|| self.measured.iter().sum::<f64>() / self.measured.len() as f64)
    }

    fn is_worth_it(&self) -> bool {
        let Prediction { before, expected, .. } = self.prediction;
        let promised = before - expected;
        self.mean().is_none_or(|measured| promised == 0.0 || (before - measured) / promised >= WORTH)
    }

    fn compared(&self) -> String {
        let Prediction { metric, of_name, before, expected, .. } = &self.prediction;
        let show = |value| metric.show(value);
        let measured = self.mean().map_or_else(|| "unknown".to_owned(), show);
        format!(
            "{metric} of {of_name} was {} before, {} was expected, {measured} was measured",
            show(*before),
            show(*expected)
        )
    }

    fn undo(&self, changed: &DomainModel) -> Option<Proposal> {
        let reason = Reason {
            rule: "trial.rollback".to_owned(),
            summary: format!("what it was meant to bring did not come: {}", self.compared()),
            inputs: vec![
                input("windows measured", self.measured.len()),
                input("orders undone", self.orders.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
            ],
            threshold: format!("a quarter of what was predicted ({})", self.prediction),
            expected: "as it was before".to_owned(),
            ..Reason::default()
        };
        Some(Proposal {
            domain_name: changed.name.clone(),
            action: self.proposal.action.clone().reversed()?,
            reason,
            release: true,
            undoes: self.orders.clone(),
            ..self.proposal.clone()
        })
    }

    fn verdict(&self, state: OrderState, verdict: String) -> Verdict {
        let Prediction { before, expected, .. } = self.prediction;
        let windows = u32::try_from(self.measured.len()).unwrap_or(u32::MAX);
        let kept = state == OrderState::Kept;
        let trial = Trial { windows, before, expected, measured: self.mean(), kept, verdict };
        Verdict { orders: self.orders.clone(), state, trial }
    }
}
