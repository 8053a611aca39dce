//! Asks the rules about each domain and each application, and keeps what they said for the deciders: these do nothing that
//! no rule wants. What cannot be evaluated wants nothing, and forbids where it could have forbidden.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::history::{DomainHistory, History};
use super::{input, running};
use crate::finding::{Finding, Severity};
use crate::model::{Application, DomainModel, Model};
use crate::order::{Action, Proposal};
use crate::policy::{Actuator, Class, Policy};
use crate::rules::{Means, Outcome, Rule, Scene, Scope, Then, Veto};

/// How often rules are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Each second, of domains whose memory we hold.
    Release,
    /// Each second, of domains that have just come: the class first, since the rest depends on it.
    ArrivalClass,
    /// What else is asked about those.
    Arrival,
    /// Before the classes of a tick.
    Class,
    /// With the weights and balloons.
    Tick,
    /// With the priority cycle.
    Cycle,
}

/// What the rules said about one domain when they were asked last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    wants: BTreeMap<Means, Arc<str>>,
    vetoes: Vec<(Actuator, Arc<str>)>,
    class: Option<(Class, Arc<str>)>,
    scarce: Option<Arc<str>>,
    steps: BTreeMap<String, (Means, Arc<str>)>,
    protected: BTreeMap<String, Arc<str>>,
}

/// What came of asking one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleCount {
    /// Domains or applications that it was asked about last.
    pub asked: u64,
    /// For how many of them it held.
    pub held: u64,
    /// For how many of them something that it needs was not known.
    pub unknown: u64,
    /// For how many of them it could not be evaluated.
    pub failed: u64,
    /// How often it held since this history began.
    pub held_total: u64,
    /// How often it could not be evaluated since then.
    pub failed_total: u64,
    /// Why, the last time.
    pub last_error: String,
}

impl Asked {
    /// The rule that wants this for the domain.
    #[must_use]
    pub fn wants(&self, means: Means) -> Option<&str> {
        self.wants.get(&means).map(|rule| &**rule)
    }

    /// The rule that forbids what this actuator does.
    #[must_use]
    pub fn forbids(&self, actuator: Actuator) -> Option<&str> {
        self.vetoes.iter().find(|(of, _)| *of == actuator).map(|(_, rule)| &**rule)
    }

    /// The class that a rule gives the domain, and the rule.
    #[must_use]
    pub fn class(&self) -> Option<(Class, &str)> {
        self.class.as_ref().map(|(class, rule)| (*class, &**rule))
    }

    /// The rule by which CPU is scarce for the guest.
    #[must_use]
    pub fn scarce(&self) -> Option<&str> {
        self.scarce.as_deref()
    }

    /// The rule by which an application is left alone.
    #[must_use]
    pub fn protects(&self, application: &str) -> Option<&str> {
        self.protected.get(application).map(|rule| &**rule)
    }

    /// The step that a rule wants for an application: raise, lower or decay.
    #[must_use]
    pub fn step(&self, application: &str) -> Option<Means> {
        self.steps.get(application).map(|(means, _)| *means)
    }

    /// All that they said: the rule, what it does as it is written in rule files, and the application that it is about.
    #[must_use]
    pub fn said(&self) -> Vec<(&str, Then, Option<&str>)> {
        let wants = self.wants.iter().map(|(means, rule)| (&**rule, Then::Propose(*means), None));
        let vetoes = self.vetoes.iter().map(|(of, rule)| (&**rule, Then::Veto(Veto::One(*of)), None));
        let class = self.class.iter().map(|(class, rule)| (&**rule, Then::Class(*class), None));
        let scarce = self.scarce.iter().map(|rule| (&**rule, Then::Scarce, None));
        let steps = self
            .steps
            .iter()
            .map(|(name, (means, rule))| (&**rule, Then::Propose(*means), Some(name.as_str())));
        let protected =
            self.protected.iter().map(|(name, rule)| (&**rule, Then::Protect, Some(name.as_str())));
        class.chain(vetoes).chain(wants).chain(scarce).chain(steps).chain(protected).collect()
    }

    fn rule_of(&self, means: Means, action: &Action) -> Option<&str> {
        match action {
            Action::SetLevel { application, .. } => {
                self.steps.get(application).filter(|(of, _)| *of == means).map(|(_, rule)| &**rule)
            }
            _ => self.wants(means),
        }
    }
}

/// Whether a rule wants this for a domain.
pub(super) fn wants(domain: &DomainModel, means: Means, history: &History) -> bool {
    history.domains.get(&domain.uuid).is_some_and(|entry| entry.asked.wants(means).is_some())
}

/// Whether a rule is asked at this pace about this domain: only where there is something to do.
fn is_due(rule: &Rule, pace: Pace, domain: &DomainModel, past: &DomainHistory) -> bool {
    match (&rule.then, pace) {
        (Then::Propose(Means::ReleaseMemory), Pace::Release) => past.balloon.ours.is_some(),
        (Then::Class(_), Pace::ArrivalClass)
        | (Then::Propose(Means::Arrive) | Then::Veto(_), Pace::Arrival) => past.newcomer.is_pending(),
        (Then::Class(_), Pace::Class) | (Then::Veto(_), Pace::Tick | Pace::Cycle) => true,
        (Then::Scarce, Pace::Tick | Pace::Cycle) => domain.guest.is_some(),
        (Then::Propose(means), Pace::Tick) => match means {
            Means::Protect | Means::Yield => true,
            Means::Relax => past.shares.ours.is_some(),
            Means::Reclaim => domain.balloon.is_some() && domain.balloon_refusal.is_none(),
            _ => false,
        },
        (Then::Propose(means), Pace::Cycle) => match means {
            Means::Separate | Means::MoreVcpus | Means::MoreMemory | Means::Move => true,
            Means::ReleasePins => past.is_pinned(),
            Means::Raise | Means::Lower | Means::Decay => domain.guest.is_some(),
            _ => false,
        },
        (Then::Protect, Pace::Cycle) => domain.guest.is_some(),
        (Then::Finding { .. }, Pace::Cycle) => true,
        _ => false,
    }
}

/// Asks all rules of one pace, and keeps what they said. Returns what rules report.
pub(super) fn ask(model: &Model, policy: &Policy, history: &mut History, pace: Pace) -> Vec<Finding> {
    let rules: Vec<&Rule> = policy.rules.iter().filter(|rule| has_pace(rule, pace)).collect();
    if rules.is_empty() && pace == Pace::Release {
        return Vec::new();
    }
    let mut inquiry = Inquiry { pace, counts: BTreeMap::new(), findings: Vec::new() };
    let mut told: Vec<(Uuid, Asked)> = Vec::new();
    for domain in running(model) {
        let Some(past) = history.domains.get(&domain.uuid) else { continue };
        if pace.is_for_newcomers() && !past.newcomer.is_pending() {
            continue;
        }
        let mut asked = past.asked.clone();
        asked.forget(pace);
        let due: Vec<&Rule> = rules.iter().copied().filter(|rule| is_due(rule, pace, domain, past)).collect();
        let mut scene = Scene { model, domain, application: None, policy, history, scarce: false };
        for rule in due.iter().filter(|rule| rule.then == Then::Scarce) {
            inquiry.ask(rule, &scene, &mut asked);
        }
        scene.scarce = asked.scarce.is_some();
        let rest =
            |scope: Scope| due.iter().filter(move |rule| rule.on == scope && rule.then != Then::Scarce);
        rest(Scope::Domain).for_each(|rule| inquiry.ask(rule, &scene, &mut asked));
        for application in domain.guest.iter().flat_map(|guest| &guest.applications) {
            scene.application = Some(application);
            rest(Scope::Process).for_each(|rule| inquiry.ask(rule, &scene, &mut asked));
        }
        told.push((domain.uuid, asked));
    }
    for (uuid, asked) in told {
        if let Some(entry) = history.domains.get_mut(&uuid) {
            entry.asked = asked;
        }
    }
    let Inquiry { mut counts, mut findings, .. } = inquiry;
    if pace.is_for_newcomers() {
        // The rest is asked about everybody, and that is what its figures are about.
        let is_theirs = |rule: &&Rule| rule.then == Then::Propose(Means::Arrive);
        counts.retain(|name, _| policy.rules.get(name).as_ref().is_some_and(is_theirs));
    }
    findings.extend(failures(&counts));
    history.rules.retain(|name, _| policy.rules.get(name).is_some());
    for (name, count) in counts {
        let known = history.rules.entry(name).or_default();
        let held_total = known.held_total + count.held;
        let failed_total = known.failed_total + count.failed;
        let last_error =
            if count.failed > 0 { count.last_error } else { std::mem::take(&mut known.last_error) };
        *known = RuleCount { held_total, failed_total, last_error, ..count };
    }
    findings
}

/// Asks what has to be known of those that have just come. What fails is reported when everybody is asked.
pub(super) fn ask_newcomers(model: &Model, policy: &Policy, history: &mut History) {
    for pace in [Pace::ArrivalClass, Pace::Arrival] {
        let _ = ask(model, policy, history, pace);
    }
}

impl Pace {
    const fn is_for_newcomers(self) -> bool {
        matches!(self, Self::ArrivalClass | Self::Arrival)
    }
}

fn has_pace(rule: &Rule, pace: Pace) -> bool {
    match &rule.then {
        Then::Propose(Means::Arrive) => pace == Pace::Arrival,
        Then::Propose(Means::ReleaseMemory) => pace == Pace::Release,
        Then::Propose(Means::Protect | Means::Yield | Means::Relax | Means::Reclaim) => pace == Pace::Tick,
        Then::Class(_) => matches!(pace, Pace::Class | Pace::ArrivalClass),
        Then::Veto(_) => matches!(pace, Pace::Tick | Pace::Cycle | Pace::Arrival),
        Then::Scarce => matches!(pace, Pace::Tick | Pace::Cycle),
        _ => pace == Pace::Cycle,
    }
}

impl Asked {
    /// Forgets what this pace asks anew.
    fn forget(&mut self, pace: Pace) {
        match pace {
            Pace::Release => {
                self.wants.remove(&Means::ReleaseMemory);
            }
            Pace::Class | Pace::ArrivalClass => self.class = None,
            Pace::Arrival => {
                self.wants.remove(&Means::Arrive);
                self.vetoes.clear();
            }
            Pace::Tick => {
                let of_tick = [Means::Protect, Means::Yield, Means::Relax, Means::Reclaim];
                self.wants.retain(|means, _| !of_tick.contains(means));
                self.vetoes.clear();
                self.scarce = None;
            }
            Pace::Cycle => {
                let of_cycle =
                    [Means::Separate, Means::ReleasePins, Means::MoreVcpus, Means::MoreMemory, Means::Move];
                self.wants.retain(|means, _| !of_cycle.contains(means));
                self.vetoes.clear();
                self.scarce = None;
                self.steps.clear();
                self.protected.clear();
            }
        }
    }
}

/// One round of questions.
struct Inquiry {
    pace: Pace,
    counts: BTreeMap<Arc<str>, RuleCount>,
    findings: Vec<Finding>,
}

impl Inquiry {
    fn ask(&mut self, rule: &Rule, scene: &Scene<'_>, asked: &mut Asked) {
        let outcome = rule.when.ask(scene);
        let count = self.counts.entry(Arc::clone(&rule.name)).or_default();
        count.asked += 1;
        match &outcome {
            Outcome::Holds => count.held += 1,
            Outcome::Not => return,
            Outcome::Unknown(_) => count.unknown += 1,
            Outcome::Failed(error) => {
                count.failed += 1;
                count.last_error = format!("{}: {error}", scene.domain.name);
            }
        }
        let holds = outcome == Outcome::Holds;
        // What could have forbidden does forbid.
        if holds || matches!(rule.then, Then::Veto(_) | Then::Protect) {
            self.told(rule, scene, asked);
        }
    }

    fn told(&mut self, rule: &Rule, scene: &Scene<'_>, asked: &mut Asked) {
        let name = || Arc::clone(&rule.name);
        let application = scene.application.map(|application: &Application| application.name.clone());
        match (&rule.then, application) {
            (Then::Propose(means), None) => {
                asked.wants.entry(*means).or_insert_with(name);
            }
            (Then::Propose(means), Some(application)) => {
                asked.steps.entry(application).or_insert_with(|| (*means, name()));
            }
            (Then::Veto(veto), None) => {
                let forbidden = Actuator::ALL.into_iter().filter(|actuator| veto.covers(*actuator));
                asked.vetoes.extend(forbidden.map(|actuator| (actuator, name())));
            }
            (Then::Protect | Then::Veto(_), Some(application)) => {
                asked.protected.entry(application).or_insert_with(name);
            }
            (Then::Class(class), _) => {
                asked.class.get_or_insert_with(|| (*class, name()));
            }
            (Then::Scarce, _) => {
                asked.scarce.get_or_insert_with(name);
            }
            (Then::Finding { name, severity, summary }, application) if self.pace == Pace::Cycle => {
                let mut evidence =
                    vec![input("rule", &rule.name), input("condition", one_line(rule.when.text()))];
                evidence.extend(application.map(|application| input("application", application)));
                self.findings.push(super::finding(
                    scene.domain,
                    name,
                    *severity,
                    summary.replace("{name}", &scene.domain.name),
                    evidence,
                ));
            }
            (Then::Finding { .. } | Then::Protect, _) => {}
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A finding for each rule that could not be evaluated.
fn failures(counts: &BTreeMap<Arc<str>, RuleCount>) -> Vec<Finding> {
    let failed = counts.iter().filter(|(_, count)| count.failed > 0);
    failed
        .map(|(rule, count)| Finding {
            domain: None,
            domain_name: None,
            name: "rule_failed".to_owned(),
            severity: Severity::Error,
            summary: format!(
                "the rule {rule} could not be evaluated, so it proposed nothing; a veto counts as a veto"
            ),
            evidence: vec![
                input("times", format!("{} of {}", count.failed, count.asked)),
                input("last error", &count.last_error),
            ],
        })
        .collect()
}

/// Names the rule that asked for each proposal, where it is not the built-in one.
pub(super) fn sign(proposals: &mut [Proposal], policy: &Policy, history: &History) {
    for proposal in proposals {
        let Some((means, ..)) = Means::ALL.iter().find(|(.., name)| proposal.reason.rule == *name) else {
            continue;
        };
        let entry = history.domains.get(&proposal.domain);
        let rule = entry.and_then(|entry| entry.asked.rule_of(*means, &proposal.action));
        let rule = rule.filter(|rule| *rule != proposal.reason.rule).and_then(|rule| policy.rules.get(rule));
        if let Some(rule) = rule {
            proposal.reason.rule = rule.name.to_string();
            proposal.reason.threshold = one_line(rule.when.text());
            proposal.reason.inputs.push(input("rule from", &rule.source));
        }
    }
}

/// Why a rule forbids a proposal. What goes back towards an original is never forbidden.
pub(super) fn veto(proposal: &Proposal, history: &DomainHistory) -> Option<String> {
    let goes_back = match (&proposal.action, history.shares.original) {
        (Action::SetCpuShares { from, to }, Some(original)) => {
            to.abs_diff(original) < from.abs_diff(original)
        }
        (Action::SetLevel { application, .. }, _) => history.asked.step(application) == Some(Means::Decay),
        _ => false,
    };
    let rule = history.asked.forbids(proposal.action.actuator()).filter(|_| !goes_back)?;
    Some(format!("the rule {rule} forbids it"))
}
