//! Trials: a change that predicts something is measured over three windows of its pace, and kept or undone by what came.
//!
//! * What is for the same end is one trial with one verdict: the weight of a domain that waits and the weights that yield
//!   to it, all pins that one domain is to gain by, the levels of one guest.
//! * Steps that follow each other on one target before three quiet windows have gone by belong to one trial: it begins
//!   where the first began, and goes back to there. If what a domain waits for had hardly begun by then, what it is compared with is
//!   what came after the first step.
//! * A window in which there was nothing to measure (the load has gone, a reading is missing, another domain came or went)
//!   is none, and after [`PATIENCE`] of them the change stays: what goes back for want of need is the relax step's. Nobody
//!   has been harmed by then, and undoing without evidence would only move things once more.
//! * Nor is one a window in which the host or equals took more than what those that give way gave up: their load has grown,
//!   and says nothing about the change. What they took of it, and no more, made it useless.
//! * A value that somebody else has changed meanwhile is not judged any more: it is theirs.

mod open;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Decision;
use super::history::History;
use super::weight::{stolen_from, yields_to};
use crate::model::{DomainModel, Model};
use crate::order::{Metric, OrderState, Prediction, Proposal, Trial};
use crate::policy::{Actuator, Policy};
use crate::sample::Runner;
use crate::units::doubled;
use open::{Open, Step};

/// Windows that are measured.
const WINDOWS: usize = 3;
/// Windows without anything to measure after which a change stays.
const PATIENCE: u32 = 12;
/// First pause of a target after a trial that failed; doubles each time (KubeVirt's descheduler has the same rule).
const PAUSE: Duration = Duration::from_secs(15 * 60);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// Answered packets a second below which a guest's answers are too few to be compared.
const ANSWERS: f64 = 5.0;

/// Rules that only bring something back towards its original: none of their steps is another attempt.
const GO_BACK: [&str; 4] = ["weight.relax", "weight.floor", "ladder.decay", "ladder.void"];

type Target = (Uuid, String);

fn target_of(proposal: &Proposal) -> Target {
    (proposal.domain, proposal.action.target())
}

/// How often an action is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// With the weights and balloons.
    Tick,
    /// With the priority cycle.
    Cycle,
}

impl Pace {
    const fn of(proposal: &Proposal) -> Self {
        match proposal.action.actuator() {
            Actuator::Weight | Actuator::Balloon => Self::Tick,
            Actuator::Placement | Actuator::Ladder | Actuator::Resize => Self::Cycle,
        }
    }
}

/// What is remembered of trials.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct TrialHistory {
    open: Vec<Open>,
    #[serde(with = "crate::pairs")]
    pauses: BTreeMap<Target, Pause>,
    /// Ended by something else than a measurement, to be told with the next decision.
    ended: Vec<Verdict>,
    /// How everybody waited at the last tick.
    waits: BTreeMap<Uuid, Wait>,
}

/// How a domain waited in one window.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Wait {
    /// wait / (wait + run).
    ratio: f64,
    /// The part of `ratio` in which nobody ran who has to give way to it: the host, or its equals. Nothing where no probe saw
    /// who did.
    by_others: f64,
}

impl Wait {
    fn of(domain: &DomainModel, model: &Model, policy: &Policy, history: &History) -> Option<Self> {
        let ratio = domain.wait_ratio()?.0;
        let gives_way = |by: &Runner| {
            let Runner::Domain(uuid) = by else { return false };
            let other = model.domains.iter().find(|other| other.uuid == *uuid);
            other.is_some_and(|other| yields_to(other, domain, policy, history))
        };
        let taken = stolen_from(domain, model).unwrap_or_default();
        let others: f64 = taken.iter().filter(|(by, _)| !gives_way(by)).map(|(_, part)| part).sum();
        Some(Self { ratio, by_others: ratio * others })
    }

    fn by_those_who_yield(self) -> f64 {
        self.ratio - self.by_others
    }
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
struct Pause {
    until: Duration,
    times: u32,
}

impl TrialHistory {
    /// Takes note of a change that was carried out: a trial begins, goes on, or ends.
    pub(super) fn applied(&mut self, order: u64, proposal: &Proposal, now: Duration) {
        let target = target_of(proposal);
        let Some(prediction) = &proposal.reason.prediction else {
            return self.taken_back(order, proposal, &target, now);
        };
        // One value, one trial: the one that promises more. What a small step for somebody else brings would decide on all
        // that the large one has brought before.
        let holds = |open: &Open| {
            open.touches(&target)
                && (open.is_for(proposal, prediction) || open.promises_more_than(prediction))
        };
        let wait = self.waits.get(&prediction.of).copied();
        if let Some(open) = self.open.iter_mut().find(|open| holds(open)) {
            open.go_on(order, proposal, prediction, wait);
            open.begin_again(now);
        } else {
            let earlier = self.open.iter_mut().find_map(|open| open.take(&target));
            self.open.retain(|open| !open.steps.is_empty());
            let step = match earlier {
                Some(earlier) => earlier.and(order, proposal),
                None => Step::new(order, proposal, target),
            };
            match self.open.iter_mut().find(|open| open.is_for(proposal, prediction)) {
                Some(open) => open.add(step, prediction, wait),
                None => self.open.push(Open::new(step, prediction.clone(), self.waits.clone(), now)),
            }
        }
        // What else is measured on the same domain would be credited with what this one brings.
        for open in self.open.iter_mut().filter(|open| open.prediction.of == prediction.of) {
            open.begin_again(now);
        }
    }

    /// A change that predicts nothing: a release, a step back, or one that makes a change of ours good again.
    fn taken_back(&mut self, order: u64, proposal: &Proposal, target: &Target, now: Duration) {
        for open in &mut self.open {
            if open.has(target, &proposal.action.to_text()) {
                open.begin_again(now);
            } else if let Some(step) = open.take(target) {
                let why = format!("order {order} took it back: {}", proposal.reason.summary);
                self.ended.push(open.verdict(step.orders, OrderState::RolledBack, why));
            }
            // What was measured beside a change that failed says nothing about how it is without: where four equals are
            // raised one after the other, the last one would be credited with what it takes from those that were undone.
            if !proposal.undoes.is_empty() && open.prediction.metric == Metric::WaitRatio {
                open.begin_again(now);
            }
        }
        self.open.retain(|open| !open.steps.is_empty());
    }

    /// Somebody else has changed the value: what is measured from now on is their doing.
    pub(super) fn taken_over(&mut self, domain: Uuid, target: &str) {
        let target = (domain, target.to_owned());
        for open in &mut self.open {
            if let Some(step) = open.take(&target) {
                let why = "somebody else changed the value before the trial was over".to_owned();
                self.ended.push(open.verdict(step.orders, OrderState::RolledBack, why));
            }
        }
        self.open.retain(|open| !open.steps.is_empty());
    }

    /// A domain has a new life, with its configured values: those that it had before are not on trial any more, and what others
    /// do for it is measured anew.
    pub(super) fn born(&mut self, domain: Uuid, now: Duration) {
        self.ends_with(
            domain,
            (OrderState::RolledBack, "the domain was started anew before the trial was over"),
            now,
        );
    }

    /// A domain does not run any more.
    pub(super) fn gone(&mut self, domain: Uuid, now: Duration) {
        self.ends_with(domain, (OrderState::Kept, "the domain has gone"), now);
    }

    fn ends_with(&mut self, domain: Uuid, (state, why): (OrderState, &str), now: Duration) {
        let open = self.open.iter_mut();
        let ended = open.filter_map(|open| open.drop_those(|of| of == domain, state, why));
        self.ended.extend(ended);
        self.open.retain(|open| !open.steps.is_empty());
        self.open
            .iter_mut()
            .filter(|open| open.prediction.of == domain)
            .for_each(|open| open.begin_again(now));
    }

    /// Everything was put back: nothing is on trial.
    pub(super) fn restored(&mut self) {
        for open in std::mem::take(&mut self.open) {
            let why = "everything was put back before the trial was over".to_owned();
            self.ended.push(open.verdict(open.orders(), OrderState::RolledBack, why));
        }
    }

    /// Whether what this would change is on trial.
    pub(super) fn tries(&self, proposal: &Proposal) -> bool {
        let target = target_of(proposal);
        self.open.iter().any(|open| open.touches(&target))
    }

    /// How long a target rests because a trial on it failed; steps back towards its original may be made meanwhile.
    pub(super) fn rests(&self, proposal: &Proposal, now: Duration) -> Option<Duration> {
        if GO_BACK.contains(&proposal.reason.rule.as_str()) {
            return None;
        }
        let pause = self.pauses.get(&target_of(proposal))?;
        pause.until.checked_sub(now).filter(|left| !left.is_zero())
    }

    fn pause(&mut self, target: Target, now: Duration) -> Duration {
        let pause = self.pauses.entry(target).or_insert(Pause { until: now, times: 0 });
        let length = doubled(PAUSE, pause.times, LONGEST_PAUSE);
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
    for mut open in std::mem::take(&mut history.trials.open) {
        // Part of a window was before the change.
        if open.pace() != pace || model.at.saturating_sub(model.elapsed) < open.since {
            history.trials.open.push(open);
            continue;
        }
        // It could not be undone now, and what is measured meanwhile says nothing.
        let held = |step: &Step| {
            model.domains.iter().any(|domain| domain.uuid == step.target.0 && domain.hold(true).is_some())
        };
        if open.steps.iter().any(held) {
            history.trials.open.push(open);
            continue;
        }
        open.look(model, policy, history);
        if let Some(harm) = open.over().then(|| open.harm(model, policy, history)) {
            let kept = harm.is_none() && open.is_worth_it();
            let mut text = open.compared();
            if let Some(harm) = harm {
                text = format!("{text}; {harm}");
            }
            if !kept {
                let pauses =
                    open.steps.iter().map(|step| history.trials.pause(step.target.clone(), model.at));
                let minutes = pauses.max().unwrap_or(PAUSE).as_secs() / 60;
                text = format!("{text}: it is undone, and not tried again for {minutes} min");
                decision.proposals.extend(open.undo(model));
            }
            let state = if kept { OrderState::Kept } else { OrderState::Verified };
            decision.verdicts.push(open.verdict(open.orders(), state, text));
        } else if open.empty >= PATIENCE {
            let why = "there was nothing to measure: its load has gone, or it is not read";
            decision.verdicts.push(open.verdict(open.orders(), OrderState::Kept, why.to_owned()));
        } else {
            history.trials.open.push(open);
        }
    }
    if pace == Pace::Tick {
        let wait = |domain: &DomainModel| Some((domain.uuid, Wait::of(domain, model, policy, history)?));
        history.trials.waits = model.domains.iter().filter_map(wait).collect();
    }
    decision
}

/// What a change of priorities inside a guest must not do: cost the guest its answers. What it brings shows in the time that
/// clients wait, which nobody here sees, so that more is not promised. `None` where too little is answered to compare.
pub(super) fn answers_stay(domain: &DomainModel) -> Option<Prediction> {
    let before = domain.conversation_packets_per_s().filter(|packets| *packets >= ANSWERS)?;
    Some(Prediction {
        metric: Metric::AnsweredPackets,
        of: domain.uuid,
        of_name: domain.name.clone(),
        before,
        expected: before,
    })
}
