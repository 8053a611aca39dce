//! Domains that come and go are shown, and decided on, at once: not only when the next tick ends.

use kvmpilot_core::decide::Decision;
use kvmpilot_core::model::{DomainModel, Model};
use kvmpilot_core::order::Proposal;

use super::Daemon;
use crate::api::present::LastWishes;

impl Daemon {
    /// Brings what is shown up to who is there, as the fast loop's `model` knows it. Whether that changed anything. Of a domain
    /// that has just come there are no rates yet; everything else of it is there.
    pub(super) fn show_comings(&mut self, model: Model) -> bool {
        if self.latest.at.is_zero() {
            self.latest = model;
            return true;
        }
        let shown = &mut self.latest.domains;
        let before = shown.len();
        let is_same = |one: &DomainModel, other: &DomainModel| {
            one.uuid == other.uuid && (one.incarnation == other.incarnation || other.incarnation.is_none())
        };
        shown.retain(|domain| model.domains.iter().any(|other| is_same(domain, other)));
        let gone = shown.len() < before;
        let come: Vec<DomainModel> = model
            .domains
            .into_iter()
            .filter(|domain| !shown.iter().any(|other| other.uuid == domain.uuid))
            .collect();
        for domain in &come {
            let vcpus = domain.vcpus.iter().filter(|vcpu| vcpu.thread.is_some()).count();
            tracing::info!(domain = domain.name, vcpus, "has come");
        }
        let changed = gone || !come.is_empty();
        shown.extend(come);
        shown.sort_by_key(|domain| domain.uuid);
        changed
    }

    /// Keeps what was decided about newcomers, if there are any, and returns what that wants. It is decided each second, so what
    /// is held back is shown and not logged.
    pub(super) fn take_arrivals(&mut self, decision: Option<Decision>) -> Vec<Proposal> {
        let Some(Decision { proposals, held, .. }) = decision else {
            self.wishes.remove("arrival");
            return Vec::new();
        };
        self.wishes.insert("arrival", LastWishes { wanted: proposals.clone(), held });
        proposals
    }
}
