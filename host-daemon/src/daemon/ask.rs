//! Questions and wishes about one domain: `explain`, and what the domain's own XML says about kvmpilot.

use std::sync::Arc;

use kvmpilot_core::asker::Asker;
use kvmpilot_core::policy::{Actuator, Change, Metadata, Policy, Subject};
use kvmpilot_core::sample::PolicySample;

use super::Daemon;
use crate::api::present::{self, Background};
use crate::api::views::{ExplainView, OwnWordView, PolicyView};
use crate::api::{Ask, CommandError};
use crate::config::Origins;
use crate::libvirt::{ErrorKind, Libvirt, OwnWord, Scope};

impl Daemon {
    pub(super) fn ask(&self, ask: Ask) {
        // Whoever asked may be gone.
        match ask {
            Ask::Explain { domain, reply } => {
                let _ = reply.send(self.explain(&domain));
            }
            Ask::Learn { ask, reply } => {
                let _ = reply.send(self.learn(&ask));
            }
            Ask::Policy { domain, change, reply } => {
                let libvirt = self.libvirt.clone();
                let file = Arc::new((self.config.policy.clone(), self.config.origins.clone()));
                // libvirt may take its time, and nobody else should have to wait for it.
                tokio::spawn(async move {
                    let _ = reply.send(own_policy(&libvirt, &domain, change, &file.0, &file.1).await);
                });
            }
        }
    }

    fn explain(&self, name: &str) -> Result<ExplainView, CommandError> {
        let uuid = name.parse().ok();
        let domain = self
            .latest
            .domains
            .iter()
            .find(|domain| domain.name == name || Some(domain.uuid) == uuid)
            .ok_or_else(|| CommandError::NoSuchDomain(name.to_owned()))?;
        let resting = self.book.resting(domain.uuid, self.began.elapsed());
        let background = Background {
            origins: &self.config.origins,
            wishes: &self.wishes,
            open: self.book.open_of(domain.uuid).cloned().collect(),
            resting: resting.map(|(target, rest)| (target.to_owned(), rest)).collect(),
            busy: self.busy.contains(&domain.uuid),
        };
        Ok(self.with_scene(|scene| present::explain(domain, scene, &background)))
    }
}

/// Changes what the domain says, if that is wanted, and reads it back.
async fn own_policy(
    libvirt: &Libvirt,
    name: &str,
    change: Option<(Change, Asker)>,
    policy: &Policy,
    origins: &Origins,
) -> Result<PolicyView, CommandError> {
    let read = || async {
        libvirt.own_word(name).await.map_err(|error| match error.kind {
            ErrorKind::DomainGone => CommandError::NoSuchDomain(name.to_owned()),
            _ => CommandError::Failed(error.to_string()),
        })
    };
    let mut word = read().await?;
    let mut message = None;
    if let Some((change, by)) = change {
        let written = write(libvirt, &word, &change).await?;
        word = read().await?;
        message = Some(said(&word, &change, &written));
        tracing::info!(domain = word.name, %by, ?change, ?written, "a domain's policy");
    }
    let of = |scope| word.said.iter().find(|(of, _)| *of == scope).map(|(_, sample)| view(sample.as_ref()));
    Ok(PolicyView {
        domain: word.name.clone(),
        uuid: word.uuid,
        message,
        notes: notes(&word, policy, origins),
        running: of(Scope::Live),
        stored: of(Scope::Stored),
    })
}

/// Writes the change into each XML that it changes. All of them are checked before the first is written.
async fn write(libvirt: &Libvirt, word: &OwnWord, change: &Change) -> Result<Vec<Scope>, CommandError> {
    let mut writes = Vec::new();
    for (scope, sample) in &word.said {
        let after = change.apply(sample.as_ref()).map_err(|wrong| {
            let way_out = match change.check() {
                Ok(()) => format!("; `kvmpilot policy show {}` shows what stands there", word.name),
                Err(_) => String::new(),
            };
            CommandError::Bad(format!("nothing was written: {}{way_out}", wrong.join("; ")))
        })?;
        let before = sample.as_ref().map(|sample| (sample.settings.as_slice(), sample.wrong.is_empty()));
        let same = match before {
            None => after.is_empty(),
            Some((settings, sound)) => sound && !after.is_empty() && settings == after.as_slice(),
        };
        if !same {
            writes.push((*scope, after));
        }
    }
    let mut written = Vec::new();
    for (scope, settings) in writes {
        if let Err(error) = libvirt.set_own_word(word.uuid, scope, &settings).await {
            let before = match written.as_slice() {
                [] => "nothing was written".to_owned(),
                _ => "only the running domain was changed".to_owned(),
            };
            return Err(CommandError::Failed(format!("{before}: {error}")));
        }
        written.push(scope);
    }
    Ok(written)
}

/// What was done, in one sentence.
fn said(word: &OwnWord, change: &Change, written: &[Scope]) -> String {
    let name = &word.name;
    let place = match written {
        [] => return format!("{name}: nothing was written, because that stands there already"),
        [Scope::Live] => "the running domain",
        [Scope::Stored] => "the stored configuration",
        _ => "the running domain and the stored configuration",
    };
    let mut parts = Vec::new();
    if change.clear {
        parts.push("took all settings out".to_owned());
    } else if !change.unset.is_empty() {
        parts.push(format!("took {} out", change.unset.join(", ")));
    }
    if !change.set.is_empty() {
        let set: Vec<_> = change.set.iter().map(|(key, value)| format!("{key}={}", value.trim())).collect();
        parts.push(format!("wrote {}", set.join(" ")));
    }
    let transient = !word.said.iter().any(|(scope, _)| *scope == Scope::Stored);
    let end = if transient { "; the domain is transient, so this ends with it" } else { "" };
    format!("{name}: {} ({place}){end}", parts.join(" and "))
}

fn view(sample: Option<&PolicySample>) -> OwnWordView {
    let Some(sample) = sample else { return OwnWordView::default() };
    OwnWordView {
        settings: sample.settings.iter().cloned().collect(),
        problems: Metadata::read(sample).problems.into_iter().map(|problem| problem.text).collect(),
    }
}

/// What counts less than the domain says, and why: the file allows less.
fn notes(word: &OwnWord, policy: &Policy, origins: &Origins) -> Vec<String> {
    let Some(sample) = word.said.iter().find_map(|(_, sample)| sample.as_ref()) else { return Vec::new() };
    let metadata = Metadata::read(sample);
    if !metadata.is_sound() {
        return vec!["none of it counts, and the domain is only observed, until it is put right".to_owned()];
    }
    let settings = policy.of(Subject { name: &word.name, metadata: Some(&metadata) });
    let lesser = |actuator: Actuator| {
        let wish = metadata.wishes.mode_of(actuator)?;
        let mode = settings.mode(actuator);
        let place = origins.place(mode.source).map_or_else(String::new, |place| format!(" ({place})"));
        (mode.value < wish).then(|| {
            format!("{actuator} stays in mode {}: the configuration allows no more{place}", mode.value)
        })
    };
    Actuator::ALL.into_iter().filter(|actuator| *actuator != Actuator::Resize).filter_map(lesser).collect()
}
