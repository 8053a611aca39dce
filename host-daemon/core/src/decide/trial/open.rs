//! [`Open`]: one trial under way. What is measured, and what it amounts to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::class::class_of;
use super::super::history::History;
use super::super::state::{target_wait, wants_cpu};
use super::super::weight::stolen_from;
use super::super::{input, running};
use super::{Pace, Target, Verdict, WINDOWS, Wait};
use crate::model::{DomainModel, Model};
use crate::order::{Metric, OrderState, Prediction, Proposal, Reason, Trial};
use crate::policy::Policy;
use crate::sample::Runner;
use crate::units::Ratio;

/// Part of what was predicted that must have come: less is noise, and not worth an interference.
const WORTH: f64 = 0.25;
/// Wait ratio that comes and goes by itself: smaller promises cannot be told from it.
const NOISE: f64 = 0.01;
/// Wait ratio that another of the same class may lose: less is what equals do to each other as their loads change.
const HARMS: f64 = 0.05;
/// Part of what was won that others of the same class may have paid: a weight is to take from those that yield. One of four
/// equals on a pcpu that alone is raised, 8192 to 1024, wins 47 % of it, of which the other three pay 26.
const PAID: f64 = 1.0 / 3.0;
/// Where nothing better was promised: part of what was there before that must still be there.
const STAYS: f64 = 0.5;

/// Changes that are judged together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) steps: Vec<Step>,
    pub(super) prediction: Prediction,
    /// When the last of them was made.
    pub(super) since: Duration,
    /// Windows in a row without anything to measure.
    pub(super) empty: u32,
    measured: Vec<f64>,
    /// How all domains waited before the first change.
    waits_before: BTreeMap<Uuid, Wait>,
    /// Their sums over the windows measured, and of the part of each wait in which a domain of this trial ran.
    waits_since: BTreeMap<Uuid, (f64, f64)>,
    /// Who ran in the last window.
    ran: Option<BTreeSet<Uuid>>,
}

/// What was done to one value, from the first step's beginning to the last step's end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) target: Target,
    pub(super) orders: Vec<u64>,
    proposal: Proposal,
}

impl Step {
    pub(super) fn new(order: u64, proposal: &Proposal, target: Target) -> Self {
        Self { target, orders: vec![order], proposal: proposal.clone() }
    }

    /// The same value, one step further.
    pub(super) fn and(mut self, order: u64, proposal: &Proposal) -> Self {
        self.orders.push(order);
        self.proposal.action = self.proposal.action.up_to(&proposal.action);
        self
    }
}

impl Open {
    pub(super) fn new(
        step: Step,
        prediction: Prediction,
        waits_before: BTreeMap<Uuid, Wait>,
        now: Duration,
    ) -> Self {
        Self {
            steps: vec![step],
            prediction,
            since: now,
            empty: 0,
            measured: Vec::new(),
            waits_before,
            waits_since: BTreeMap::new(),
            ran: None,
        }
    }

    pub(super) fn pace(&self) -> Pace {
        self.steps.first().map_or(Pace::Tick, |step| Pace::of(&step.proposal))
    }

    /// Whether a change is for the same end as these.
    pub(super) fn is_for(&self, proposal: &Proposal, prediction: &Prediction) -> bool {
        let Prediction { metric, of, .. } = &self.prediction;
        self.pace() == Pace::of(proposal) && (*metric, *of) == (prediction.metric, prediction.of)
    }

    /// One more change for the same end.
    pub(super) fn add(&mut self, step: Step, prediction: &Prediction, wait: Option<Wait>) {
        self.promise(prediction, wait);
        self.steps.push(step);
    }

    /// One more step on a value that is on trial here.
    pub(super) fn go_on(
        &mut self,
        order: u64,
        proposal: &Proposal,
        prediction: &Prediction,
        wait: Option<Wait>,
    ) {
        if self.is_for(proposal, prediction) {
            self.promise(prediction, wait);
        }
        let target = super::target_of(proposal);
        if let Some(step) = self.take(&target) {
            self.steps.push(step.and(order, proposal));
        }
    }

    /// What all of them promise is what the boldest one does, measured from where the first began. Of answers none promises
    /// more than that they stay as many as they were before the first.
    fn promise(&mut self, prediction: &Prediction, wait: Option<Wait>) {
        if prediction.metric == Metric::AnsweredPackets {
            return;
        }
        if let Some(wait) = wait.filter(|wait| self.came_late(*wait)) {
            self.waits_before.insert(prediction.of, wait);
            (self.prediction.before, self.prediction.expected) = (prediction.before, prediction.expected);
        }
        let promised = |expected: f64| (self.prediction.before - expected).abs();
        if promised(prediction.expected) > promised(self.prediction.expected) {
            self.prediction.expected = prediction.expected;
        }
    }

    /// Whether the trouble had hardly begun when the first weight was changed: those that have to give way took more of the
    /// domain's time after that than before, which a weight that is raised against them cannot be the reason of. (A tick that caught the
    /// first moment of two burners had 6.6 % before, 26.3 % came, and 9.0 % thereafter counted as a failure.)
    fn came_late(&self, wait: Wait) -> bool {
        let before = self.waits_before.get(&self.prediction.of);
        let rose =
            before.is_some_and(|before| wait.by_those_who_yield() > before.by_those_who_yield() + NOISE);
        self.prediction.metric == Metric::WaitRatio
            && self.pace() == Pace::Tick
            && rose
            && wait.ratio > self.prediction.before
    }

    /// Whether it promises more of the same kind than another one, for whomever.
    pub(super) fn promises_more_than(&self, other: &Prediction) -> bool {
        let Prediction { metric, before, expected, .. } = &self.prediction;
        *metric == other.metric && (before - expected).abs() > (other.before - other.expected).abs()
    }

    /// Whether this value is on trial here.
    pub(super) fn touches(&self, target: &Target) -> bool {
        self.steps.iter().any(|step| step.target == *target)
    }

    /// The step on this value, which is not on trial any more.
    pub(super) fn take(&mut self, target: &Target) -> Option<Step> {
        let at = self.steps.iter().position(|step| step.target == *target)?;
        Some(self.steps.remove(at))
    }

    /// Whether this value was to be `to`.
    pub(super) fn has(&self, target: &Target, to: &str) -> bool {
        self.steps.iter().any(|step| step.target == *target && step.proposal.action.to_text() == to)
    }

    /// Only windows after `now` count.
    pub(super) fn begin_again(&mut self, now: Duration) {
        (self.since, self.empty, self.ran) = (now, 0, None);
        self.measured.clear();
        self.waits_since.clear();
    }

    pub(super) fn orders(&self) -> Vec<u64> {
        self.steps.iter().flat_map(|step| step.orders.iter().copied()).collect()
    }

    /// Leaves out the values of some domains.
    pub(super) fn drop_those(
        &mut self,
        goes: impl Fn(Uuid) -> bool,
        state: OrderState,
        why: &str,
    ) -> Option<Verdict> {
        let gone: Vec<Step> = self.steps.extract_if(.., |step| goes(step.target.0)).collect();
        let orders: Vec<u64> = gone.into_iter().flat_map(|step| step.orders).collect();
        (!orders.is_empty()).then(|| self.verdict(orders, state, why.to_owned()))
    }

    /// Looks at one window.
    pub(super) fn look(&mut self, model: &Model, policy: &Policy, history: &History) {
        let runs: BTreeSet<Uuid> = running(model).map(|domain| domain.uuid).collect();
        if self.ran.replace(runs.clone()).is_some_and(|ran| ran != runs) {
            // Whoever came or went has changed more than we did.
            self.measured.clear();
            self.waits_since.clear();
            self.empty += 1;
            return;
        }
        let Some(value) = self.measure(model, policy, history) else {
            self.empty += 1;
            return;
        };
        self.measured.push(value);
        for domain in running(model) {
            if let Some(wait) = domain.wait_ratio() {
                let taken = self.takes_of(domain, model);
                let (waits, parts) = self.waits_since.entry(domain.uuid).or_default();
                *waits += wait.0;
                *parts += taken;
            }
        }
    }

    /// The part of a domain's waiting in which a domain of this trial ran; all of it where no probe saw who did.
    fn takes_of(&self, domain: &DomainModel, model: &Model) -> f64 {
        let is_ours = |by: &Runner| {
            let of = self.steps.iter().map(|step| step.target.0).chain([self.prediction.of]);
            matches!(by, Runner::Domain(uuid) if of.into_iter().any(|ours| ours == *uuid))
        };
        let taken = stolen_from(domain, model);
        taken.map_or(1.0, |taken| taken.iter().filter(|(by, _)| is_ours(by)).map(|(_, part)| part).sum())
    }

    fn measure(&self, model: &Model, policy: &Policy, history: &History) -> Option<f64> {
        let domain = model.domains.iter().find(|domain| domain.uuid == self.prediction.of)?;
        let is_inactive =
            || history.domains.get(&domain.uuid).is_some_and(|entry| entry.memory.is_inactive(model.at));
        match self.prediction.metric {
            Metric::WaitRatio => {
                let wait = Wait::of(domain, model, policy, history)?;
                let before = self.waits_before.get(&domain.uuid).copied().unwrap_or(wait);
                let grown = wait.by_others - before.by_others;
                let fell = before.by_those_who_yield() - wait.by_those_who_yield();
                let same = grown <= fell.max(0.0) + NOISE;
                (same && wants_cpu(domain, policy, history)).then_some(wait.ratio)
            }
            // A guest that has not followed yet has shown nothing; how long it may take is the balloon's rule.
            Metric::MemoryMib if is_inactive() => None,
            Metric::MemoryMib => domain.balloon.map(|balloon| balloon.current.as_f64() / 1024.0),
            // A guest that nobody talks to has no answers to lose.
            Metric::AnsweredPackets => domain.conversation_packets_per_s().filter(|packets| *packets >= 1.0),
        }
    }

    /// Whether enough was measured for a verdict.
    pub(super) fn over(&self) -> bool {
        self.measured.len() >= WINDOWS
    }

    #[expect(clippy::cast_precision_loss, reason = "a handful of windows")]
    fn windows(&self) -> f64 {
        self.measured.len() as f64
    }

    fn mean(&self) -> Option<f64> {
        (!self.measured.is_empty()).then(|| self.measured.iter().sum::<f64>() / self.windows())
    }

    pub(super) fn is_worth_it(&self) -> bool {
        let Prediction { before, expected, .. } = self.prediction;
        let promised = before - expected;
        let noise = if self.prediction.metric == Metric::WaitRatio { NOISE } else { 0.0 };
        self.mean().is_none_or(|measured| {
            if promised == 0.0 {
                measured >= before * STAYS
            } else {
                (before - measured + noise) / promised >= WORTH
            }
        })
    }

    /// Whether those of at least the same class that now wait more than their class allows have paid for what the change has
    /// won: longer because of those that this trial is about, each by more than [`HARMS`], together by more than [`PAID`] of
    /// it. Who lost most, and how much.
    pub(super) fn harm(&self, model: &Model, policy: &Policy, history: &History) -> Option<String> {
        if self.prediction.metric != Metric::WaitRatio {
            return None;
        }
        let of = model.domains.iter().find(|domain| domain.uuid == self.prediction.of)?;
        let own = class_of(of, policy, history);
        let won = self.prediction.before - self.mean()?;
        let lost = |domain: &DomainModel| {
            let class = class_of(domain, policy, history);
            let target = target_wait(class, policy).filter(|_| !class.yields_to(own))?;
            let before = self.waits_before.get(&domain.uuid)?.ratio;
            let (waits, parts) = self.waits_since.get(&domain.uuid)?;
            let (since, taken) = (waits / self.windows(), parts / self.windows());
            let over = since > target * (1.0 + policy.weight.dead_band);
            let text =
                format!("{} waits {} instead of {} since then", domain.name, Ratio(since), Ratio(before));
            let loss = (since - before) * taken;
            (over && loss > HARMS).then_some((loss, text))
        };
        let equals = running(model).filter(|domain| domain.uuid != of.uuid);
        let losses: Vec<(f64, String)> = equals.filter_map(lost).collect();
        let all: f64 = losses.iter().map(|(loss, _)| loss).sum();
        let most = losses.into_iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
        (all > won * PAID).then_some(most.1)
    }

    pub(super) fn compared(&self) -> String {
        let Prediction { metric, of_name, before, expected, .. } = &self.prediction;
        let show = |value| metric.show(value);
        let measured = self.mean().map_or_else(|| "unknown".to_owned(), show);
        format!(
            "{metric} of {of_name} was {} before, {} was expected, {measured} was measured",
            show(*before),
            show(*expected)
        )
    }

    /// The changes that bring everything back to where it was before the first step.
    pub(super) fn undo(&self, model: &Model) -> Vec<Proposal> {
        let promised = self.prediction.before != self.prediction.expected;
        let threshold = if promised {
            format!("a quarter of what was predicted ({})", self.prediction)
        } else {
            format!("half of what it was before ({})", self.prediction.metric.show(self.prediction.before))
        };
        let all = self.orders();
        let undo = |step: &Step| {
            let changed = model.domains.iter().find(|domain| domain.uuid == step.target.0)?;
            let reason = Reason {
                rule: "trial.rollback".to_owned(),
                summary: format!("what it was meant to bring did not come: {}", self.compared()),
                inputs: vec![
                    input("windows measured", self.measured.len()),
                    input(
                        "orders judged together",
                        all.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
                    ),
                ],
                threshold: threshold.clone(),
                expected: "as it was before".to_owned(),
                ..Reason::default()
            };
            Some(Proposal {
                domain_name: changed.name.clone(),
                action: step.proposal.action.clone().reversed()?,
                reason,
                release: true,
                undoes: step.orders.clone(),
                ..step.proposal.clone()
            })
        };
        self.steps.iter().filter_map(undo).collect()
    }

    /// What these orders have come to.
    pub(super) fn verdict(&self, orders: Vec<u64>, state: OrderState, verdict: String) -> Verdict {
        let Prediction { before, expected, .. } = self.prediction;
        let windows = u32::try_from(self.measured.len()).unwrap_or(u32::MAX);
        let kept = state == OrderState::Kept;
        let trial = Trial { windows, before, expected, measured: self.mean(), kept, verdict };
        Verdict { orders, state, trial }
    }
}
