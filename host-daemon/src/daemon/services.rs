//! Services and baselines in the daemon: which files are looked at, and what outlives it.

use std::collections::BTreeMap;

use kvmpilot_core::Uuid;
use kvmpilot_core::decide::History;
use kvmpilot_core::decide::baseline::DomainBaseline;
use kvmpilot_core::decide::service::ServiceHistory;
use kvmpilot_core::decide::service::learn::learn;
use kvmpilot_core::model::DomainModel;
use kvmpilot_core::policy::{ComponentPolicy, FilePolicy, MAX_NAME};
use kvmpilot_core::sample::Sample;
use kvmpilot_core::service::{ServiceStatus, Transition};
use serde::Serialize;

use super::Daemon;
use crate::api::CommandError;
use crate::api::present;
use crate::api::views::{LearnAsk, LearnedView};
use crate::clock::unix_ms;
use crate::store::{Lesson, Store};

/// What an earlier daemon had learned.
pub(super) fn learned(store: &Store) -> History {
    let mut history = History::default();
    match store.learned::<ServiceStatus>(Lesson::Service) {
        Ok(services) => {
            history
                .services
                .extend(services.into_iter().map(|(name, status)| (name, ServiceHistory::of(status))));
        }
        Err(error) => tracing::warn!(%error, "what was known of services is learned anew"),
    }
    match store.learned::<DomainBaseline>(Lesson::Baseline) {
        Ok(baselines) => history.baselines.extend(
            baselines.into_iter().filter_map(|(uuid, known)| Some((uuid.parse::<Uuid>().ok()?, known))),
        ),
        Err(error) => tracing::warn!(%error, "what is normal for domains is learned anew"),
    }
    history
}

impl Daemon {
    /// Has those watched files looked at that are due. Guests without any are not asked.
    pub(super) fn look_at_files(&self, sample: &Sample) {
        let services = &self.config.policy.services;
        let watched: Vec<(&ComponentPolicy, &FilePolicy)> = services
            .iter()
            .flat_map(|service| {
                service.files.iter().map(move |file| (service.component(&file.component), file))
            })
            .filter_map(|(component, file)| Some((component?, file)))
            .collect();
        let mut wanted: BTreeMap<Uuid, Vec<String>> = BTreeMap::new();
        if !watched.is_empty() {
            let guests = self.guests.snapshot();
            let answers = |uuid| {
                guests.get(&uuid).is_some_and(|guest| guest.latest.is_some() && guest.trouble.is_none())
            };
            for domain in sample.domains.iter().filter(|domain| answers(domain.uuid) && !domain.job_active) {
                let here = watched.iter().filter(|(component, _)| component.names(&domain.name, domain.uuid));
                let mut paths: Vec<String> = here.map(|(_, file)| file.path.clone()).collect();
                paths.sort();
                paths.dedup();
                if !paths.is_empty() {
                    wanted.insert(domain.uuid, paths);
                }
            }
        }
        self.files.look(wanted, self.config.policy.watched.files);
    }

    /// A service of what runs and talks now.
    pub(super) fn learn(&self, ask: &LearnAsk) -> Result<LearnedView, CommandError> {
        let name = ask.name.trim();
        if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(CommandError::Bad(format!(
                "a service needs a name of 1 to {MAX_NAME} plain characters"
            )));
        }
        if ask.from.is_empty() {
            return Err(CommandError::Bad("name the domains to learn from".to_owned()));
        }
        let mut domains: Vec<&DomainModel> = Vec::new();
        for wanted in &ask.from {
            let is = |domain: &&DomainModel| {
                domain.name == *wanted || domain.uuid.to_string().eq_ignore_ascii_case(wanted)
            };
            let domain = self.latest.domains.iter().find(is);
            let domain = domain.ok_or_else(|| CommandError::NoSuchDomain(wanted.clone()))?;
            if domains.iter().all(|other| other.uuid != domain.uuid) {
                domains.push(domain);
            }
        }
        Ok(present::learned(&learn(name, &domains)))
    }

    /// Logs and stores what happened to services.
    pub(super) fn note_transitions(&mut self, transitions: Vec<Transition>) {
        if transitions.is_empty() {
            return;
        }
        for Transition { service, from, to, reasons, .. } in &transitions {
            tracing::info!(service, %from, %to, ?reasons, "a service changed its state");
        }
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.record_transitions(transitions) {
                tracing::error!(%error, "transitions of services are not in the history");
            }
        });
        self.keep_services();
    }

    /// Writes down what must outlive the daemon.
    pub(super) fn keep_learned(&self) {
        self.keep_services();
        let present = |uuid: &Uuid| self.latest.domains.iter().any(|domain| domain.uuid == *uuid);
        let baselines = self.history.baselines.iter().filter(|(uuid, _)| present(uuid));
        self.keep(
            Lesson::Baseline,
            baselines.filter_map(|(uuid, known)| row(uuid.to_string(), known)).collect(),
        );
    }

    fn keep_services(&self) {
        let services = self.history.services.iter();
        self.keep(
            Lesson::Service,
            services.filter_map(|(name, known)| row(name.clone(), &known.status)).collect(),
        );
    }

    fn keep(&self, lesson: Lesson, rows: Vec<(String, String)>) {
        if rows.is_empty() {
            return;
        }
        let (store, unix_ms) = (self.store.clone(), unix_ms());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.learn(lesson, unix_ms, rows) {
                tracing::error!(%error, ?lesson, "what was learned is not written down");
            }
        });
    }
}

fn row<T: Serialize>(key: String, value: &T) -> Option<(String, String)> {
    Some((key, serde_json::to_string(value).ok()?))
}
