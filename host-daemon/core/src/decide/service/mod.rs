//! Services: what of each is there, from what the guests' agents and the flow probes told. A component that is missing means
//! failed, a connection that is missing means degraded, and what nobody can tell is unknown. Nothing follows from it but
//! findings, and who is served first.

mod component;
mod connection;
mod file;
pub mod learn;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{History, input};
use crate::finding::{Finding, Severity};
use crate::model::{DomainModel, Model};
use crate::policy::{ComponentPolicy, Policy, ServicePolicy};
use crate::service::{ComponentStatus, PartState, ServiceState, ServiceStatus, Transition};

/// Guests that have not told anything for so many polls are silent.
const POLLS: u32 = 3;

/// What is remembered of one service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ServiceHistory {
    /// All that is shown.
    pub status: ServiceStatus,
    /// When the guest of each component told something last.
    told: Vec<Duration>,
    lines: Vec<connection::Line>,
}

impl ServiceHistory {
    /// What an earlier daemon knew. Its clock was another one, so that only the status counts.
    #[must_use]
    pub fn of(status: ServiceStatus) -> Self {
        Self { status, ..Self::default() }
    }

    /// Keeps what is known of the parts that are still configured as they were.
    fn follow(&mut self, service: &ServicePolicy, now: Duration) {
        let old = std::mem::take(&mut self.status);
        let fresh = self.told.is_empty();
        let components: Vec<ComponentStatus> = service.components.iter().map(component::blank).collect();
        let mut told = Vec::new();
        let mut status = ServiceStatus {
            name: service.name.clone(),
            source: service.source.clone(),
            state: old.state,
            since_unix_ms: old.since_unix_ms,
            reasons: old.reasons,
            ..ServiceStatus::default()
        };
        for blank in components {
            let same = |known: &ComponentStatus| {
                ComponentStatus { state: blank.state, reason: blank.reason.clone(), ..known.clone() } == blank
            };
            let at = old.components.iter().position(same);
            told.push(at.and_then(|at| self.told.get(at)).copied().unwrap_or(now));
            status.components.push(at.and_then(|at| old.components.get(at)).cloned().unwrap_or(blank));
        }
        let mut lines = Vec::new();
        for policy in &service.connections {
            let same = |known: &&crate::service::ConnectionStatus| {
                (&known.from, &known.to, known.port, known.protocol)
                    == (&policy.from, &policy.to, policy.port, policy.protocol)
            };
            let known = old.connections.iter().position(|known| same(&known));
            let line = known.filter(|_| !fresh).and_then(|at| self.lines.get(at));
            lines.push(line.cloned().unwrap_or_default());
            let known = known.and_then(|at| old.connections.get(at)).cloned();
            status.connections.push(known.unwrap_or_else(|| connection::blank(policy)));
        }
        status.files = service.files.iter().map(|policy| file::follow(policy, &old.files)).collect();
        (self.status, self.told, self.lines) = (status, told, lines);
    }
}

/// What a component's domain tells.
enum Inside<'a> {
    /// It does not run.
    Gone(String),
    /// Its agent cannot be asked.
    Silent(String, &'a DomainModel),
    /// It has told nothing new that may be decided on; what was known still counts.
    Later(&'a DomainModel),
    /// What it told.
    Told(&'a DomainModel),
}

impl<'a> Inside<'a> {
    fn of(component: &ComponentPolicy, model: &'a Model, policy: &Policy, told: &mut Duration) -> Self {
        let name = &component.domain;
        let Some(domain) = model.domains.iter().find(|domain| component.is_in(domain)) else {
            *told = model.at;
            return Self::Gone(format!("domain {name} does not run on this host"));
        };
        if domain.state != crate::sample::DomainState::Running {
            *told = model.at;
            return Self::Gone(format!("domain {name} is not running ({:?})", domain.state).to_lowercase());
        }
        if let Some(why) = &domain.quarantine {
            return Self::Silent(format!("domain {name} is in quarantine: {why}"), domain);
        }
        if domain.guest.is_some() {
            *told = model.at;
            return Self::Told(domain);
        }
        let silence = model.at.saturating_sub(*told);
        if silence <= policy.periods.guest * POLLS {
            return Self::Later(domain);
        }
        let why = match domain.agent_connected {
            None => format!("domain {name} has no agent channel"),
            Some(false) => format!("no agent is connected in {name}"),
            Some(true) => format!("the agent of {name} has told nothing for {} s", silence.as_secs()),
        };
        Self::Silent(why, domain)
    }

    /// The domain, as long as it runs.
    const fn domain(&self) -> Option<&'a DomainModel> {
        match self {
            Self::Later(domain) | Self::Told(domain) | Self::Silent(_, domain) => Some(domain),
            Self::Gone(_) => None,
        }
    }
}

/// Judges all services. What changed is returned beside the findings.
pub(super) fn judge(
    model: &Model,
    policy: &Policy,
    history: &mut History,
) -> (Vec<Finding>, Vec<Transition>) {
    let known = &mut history.services;
    known.retain(|name, _| policy.services.iter().any(|service| service.name == *name));
    let (mut findings, mut transitions) = (Vec::new(), Vec::new());
    for service in &policy.services {
        let entry = known.entry(service.name.clone()).or_default();
        entry.follow(service, model.at);
        transitions.extend(look(service, entry, model, policy));
        findings.extend(finding(&entry.status));
        findings.extend(file::findings(service, &entry.status, model));
    }
    (findings, transitions)
}

/// Services by name.
pub type Services = BTreeMap<String, ServiceHistory>;

fn look(
    service: &ServicePolicy,
    entry: &mut ServiceHistory,
    model: &Model,
    policy: &Policy,
) -> Option<Transition> {
    let unix_ms = model.wall_unix_s * 1000;
    let ServiceHistory { status, told, lines } = entry;
    let insides: Vec<Inside<'_>> = service
        .components
        .iter()
        .zip(told)
        .map(|(component, told)| Inside::of(component, model, policy, told))
        .collect();
    for ((component, inside), known) in service.components.iter().zip(&insides).zip(&mut status.components) {
        component::judge(component, inside, known);
    }
    let end = |name: &str| {
        let at = service.components.iter().position(|component| component.name == name)?;
        Some(connection::End { component: service.components.get(at)?, inside: insides.get(at)? })
    };
    for ((wanted, known), line) in service.connections.iter().zip(&mut status.connections).zip(lines) {
        if let (Some(from), Some(to)) = (end(&wanted.from), end(&wanted.to)) {
            line.judge(&from, &to, known, &connection::Clock { at: model.at, unix_ms, policy });
        }
    }
    for (known, wanted) in status.files.iter_mut().zip(&service.files) {
        let domain = end(&wanted.component).and_then(|end| end.inside.domain());
        file::judge(known, domain, unix_ms);
    }
    let (state, reasons) = combine(status);
    let before = std::mem::replace(&mut status.state, state);
    status.reasons.clone_from(&reasons);
    if before == state {
        return None;
    }
    status.since_unix_ms = Some(unix_ms);
    Some(Transition { service: service.name.clone(), unix_ms, from: before, to: state, reasons })
}

/// State and reasons from the states of the parts.
fn combine(status: &ServiceStatus) -> (ServiceState, Vec<String>) {
    let mut missing = Vec::new();
    let mut unclear = Vec::new();
    for component in &status.components {
        match component.state {
            PartState::Down => missing.push(format!("{}: {}", component.name, component.reason)),
            PartState::Unknown => unclear.push(format!("{}: {}", component.name, component.reason)),
            PartState::Up => {}
        }
    }
    let failed = !missing.is_empty();
    for connection in &status.connections {
        let line = || format!("{} to {}: {}", connection.from, connection.to, connection.reason);
        match connection.state {
            PartState::Down => missing.push(line()),
            PartState::Unknown => unclear.push(line()),
            PartState::Up => {}
        }
    }
    let state = match (failed, missing.is_empty(), unclear.is_empty()) {
        (true, ..) => ServiceState::Failed,
        (_, false, _) => ServiceState::Degraded,
        (.., false) => ServiceState::Unknown,
        _ => ServiceState::Healthy,
    };
    missing.extend(unclear);
    (state, missing)
}

fn finding(status: &ServiceStatus) -> Option<Finding> {
    let (name, severity) = match status.state {
        ServiceState::Failed => ("service_failed", Severity::Error),
        ServiceState::Degraded => ("service_degraded", Severity::Warning),
        ServiceState::Healthy | ServiceState::Unknown => return None,
    };
    let mut evidence = vec![input("service", &status.name)];
    evidence.extend(status.since_unix_ms.map(|since| input("since_unix_ms", since)));
    Some(Finding {
        domain: None,
        domain_name: None,
        name: name.to_owned(),
        severity,
        summary: format!(
            "service {} is {}: {}; `kvmpilot services {}` shows all of it",
            status.name,
            status.state,
            status.reasons.join("; "),
            status.name
        ),
        evidence,
    })
}
