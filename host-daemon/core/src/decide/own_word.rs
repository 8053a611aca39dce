//! Findings about what a domain's own XML says of kvmpilot: what is not understood, what contradicts the configuration.

use super::{finding, input};
use crate::finding::{Finding, Severity};
use crate::model::DomainModel;
use crate::policy::{Policy, Source};

/// What is wrong with the settings of one domain.
pub(super) fn check(domain: &DomainModel, policy: &Policy) -> Vec<Finding> {
    let mut findings = Vec::new();
    let problems = domain.metadata.iter().flat_map(|metadata| &metadata.problems);
    let evidence: Vec<_> = problems
        .clone()
        .map(|problem| input(problem.attribute.as_deref().unwrap_or("policy"), &problem.text))
        .collect();
    if let Some((_, first)) = evidence.first() {
        let attribute = problems.clone().find_map(|problem| problem.attribute.as_deref()).unwrap_or("--all");
        findings.push(finding(
            domain,
            "policy_metadata",
            Severity::Warning,
            format!(
                "<kvmpilot:policy> in the metadata of {name} is not understood ({first}), so the domain is only observed; \
                 `kvmpilot policy unset {name} {attribute}` takes it out, `kvmpilot policy show {name}` shows all of it",
                name = domain.name
            ),
            evidence.clone(),
        ));
    }
    let pcpus = policy.of(domain).pcpus();
    if pcpus.value.is_some_and(|pcpus| pcpus.is_empty()) {
        let who = match pcpus.source {
            Source::Metadata(_) => "its metadata",
            _ => "its [[domain]] entry",
        };
        findings.push(finding(
            domain,
            "no_pcpus_allowed",
            Severity::Warning,
            format!(
                "{who} allows {} none of the pcpus that the configuration allows, so it is never pinned; \
                 `kvmpilot explain {}` shows both",
                domain.name, domain.name
            ),
            Vec::new(),
        ));
    }
    findings
}
