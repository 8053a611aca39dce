//! [`ExplainView`]: what counts for a domain and why, what kvmpilot holds, what it would do next or why not.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use kvmpilot_core::decide::class_of;
use kvmpilot_core::decide::history::{DomainHistory, Managed};
use kvmpilot_core::model::DomainModel;
use kvmpilot_core::order::{Proposal, WorkOrder};
use kvmpilot_core::policy::ClassSetting;
use kvmpilot_core::rules::Then;

use super::{Scene, means, settings};
use crate::api::views::{ClassSource, ClassView, ExplainView, HeldView, RuleSaysView};
use crate::config::Origins;

/// What one pace decided last.
#[derive(Clone, Debug, Default)]
pub struct LastWishes {
    /// What it wanted.
    pub wanted: Vec<Proposal>,
    /// What it wanted and the guard held back, and why.
    pub held: Vec<(Proposal, String)>,
}

/// What an explanation needs beyond the views.
#[derive(Debug)]
#[expect(missing_docs, reason = "named like what they are")]
pub struct Background<'a> {
    pub origins: &'a Origins,
    /// By pace.
    pub wishes: &'a BTreeMap<&'static str, LastWishes>,
    /// Orders of the domain that wait for approval.
    pub open: Vec<WorkOrder>,
    /// Targets of the domain that rest because a person refused them.
    pub resting: Vec<(String, Duration)>,
    /// It is being changed right now.
    pub busy: bool,
}

/// Explains one domain.
#[must_use]
pub fn explain(domain: &DomainModel, scene: &Scene<'_>, more: &Background<'_>) -> ExplainView {
    let known = scene.history.domains.get(&domain.uuid);
    ExplainView {
        domain: domain.name.clone(),
        uuid: domain.uuid,
        class: ClassView {
            class: class_of(domain, scene.policy, scene.history),
            source: class_source(domain, scene),
            evidence: known.map(|known| known.class.evidence.clone()).unwrap_or_default(),
            inferred: known.map(DomainHistory::inferred_class).unwrap_or_default(),
        },
        means: means::means(domain, scene, more),
        rules: known.map(rules).unwrap_or_default(),
        held: known.map(held).unwrap_or_default(),
        settings: settings::settings(domain, scene, more),
        findings: scene.findings_of(domain.uuid),
    }
}

/// Who gave a domain its class.
pub(super) fn class_source(domain: &DomainModel, scene: &Scene<'_>) -> ClassSource {
    let known = scene.history.domains.get(&domain.uuid);
    if scene.policy.of(domain).class().value != ClassSetting::Auto {
        ClassSource::Configured
    } else if known.is_some_and(|known| known.asked.class().is_some()) {
        ClassSource::Rule
    } else {
        ClassSource::Inferred
    }
}

fn rules(known: &DomainHistory) -> Vec<RuleSaysView> {
    let view = |(rule, then, application): (&str, Then, Option<&str>)| RuleSaysView {
        rule: rule.to_owned(),
        then: then.to_string(),
        application: application.map(str::to_owned),
    };
    known.asked.said().into_iter().map(view).collect()
}

/// What is away from its original.
fn held(known: &DomainHistory) -> Vec<HeldView> {
    let mut held = Vec::new();
    held.extend(one("cpu_shares".to_owned(), &known.shares));
    held.extend(known.pins.iter().filter_map(|(vcpu, pin)| one(format!("pin of vcpu {vcpu}"), pin)));
    held.extend(one("emulator pin".to_owned(), &known.emulator_pin));
    held.extend(known.iothread_pins.iter().filter_map(|(id, pin)| one(format!("pin of iothread {id}"), pin)));
    held.extend(one("memory".to_owned(), &known.balloon));
    let moved =
        known.applications.iter().filter(|(_, application)| application.level != application.original);
    held.extend(moved.map(|(name, application)| HeldView {
        what: format!("level of {name}"),
        original: application.original.to_string(),
        ours: application.level.to_string(),
    }));
    held
}

fn one<T: Display>(what: String, value: &Managed<T>) -> Option<HeldView> {
    let (original, ours) = (value.original.as_ref()?, value.ours.as_ref()?);
    Some(HeldView { what, original: original.to_string(), ours: ours.to_string() })
}
