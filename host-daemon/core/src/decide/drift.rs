//! Drift: somebody else changed a value that kvmpilot had set. It is named with both values and the time, and left to them
//! until it is back where it was before us; unless the policy says `enforce`: then ours is put back.

use std::fmt::Display;

use super::history::{DomainHistory, History};
use super::managed::{Drift, Managed};
use super::{finding, input, propose, running};
use crate::finding::{Finding, Severity};
use crate::model::{DomainModel, Model};
use crate::order::{Action, Proposal, Reason};
use crate::policy::Policy;
use crate::units::utc;

/// The rule of orders that put ours back. What they overrule is nobody's original.
pub const ENFORCE: &str = "drift.enforce";

/// One value that somebody else changed.
struct Drifted {
    /// Which, in words.
    what: String,
    ours: String,
    before: String,
    live: String,
    found_unix_s: u64,
    /// How to put ours back, where that is wanted.
    back: Option<Action>,
}

/// All that others have changed, one finding for each value.
pub(super) fn findings(model: &Model, history: &History) -> Vec<Finding> {
    let domains =
        model.domains.iter().filter_map(|domain| Some((domain, history.domains.get(&domain.uuid)?)));
    domains
        .flat_map(|(domain, entry)| entry.drifted().into_iter().map(|drifted| report(domain, &drifted)))
        .collect()
}

fn report(domain: &DomainModel, drifted: &Drifted) -> Finding {
    let Drifted { what, ours, before, live, found_unix_s, back } = drifted;
    let then = if back.is_some() {
        "it is put back, as `enforce` says".to_owned()
    } else {
        format!("it is left alone until it is {before} again, as it was before kvmpilot")
    };
    let summary = format!("somebody else set {what} to {live}, where kvmpilot had set {ours}: {then}");
    let evidence = vec![
        input("value", what),
        input("ours", ours),
        input("live", live),
        input("before kvmpilot", before),
        input("found", utc(*found_unix_s)),
    ];
    finding(domain, "drift", Severity::Warning, summary, evidence)
}

/// Puts ours back where the policy says so.
pub(super) fn enforce(model: &Model, policy: &Policy, history: &History) -> Vec<Proposal> {
    let mut proposals = Vec::new();
    for domain in running(model).filter(|domain| policy.of(*domain).enforce().value) {
        let Some(entry) = history.domains.get(&domain.uuid) else { continue };
        for Drifted { what, ours, live, found_unix_s, back, .. } in entry.drifted() {
            let Some(action) = back else { continue };
            let reason = Reason {
                rule: ENFORCE.to_owned(),
                summary: format!(
                    "somebody else set {what} of {} to {live}, and its policy says that ours is enforced",
                    domain.name
                ),
                inputs: vec![input("ours", &ours), input("live", &live), input("found", utc(found_unix_s))],
                threshold: format!("{what} other than {ours} although nobody but kvmpilot should change it"),
                expected: format!("{what} is {ours} again"),
                alternatives: vec![
                    "leaving it to the other side, which is what happens without `enforce`".to_owned(),
                ],
                ..Reason::default()
            };
            proposals.push(propose(domain, action, reason, false));
        }
    }
    proposals
}

impl DomainHistory {
    fn drifted(&self) -> Vec<Drifted> {
        let mut all = Vec::new();
        let shares = |from, to| Action::SetCpuShares { from, to };
        all.extend(drifted("cpu_shares".to_owned(), &self.shares, shares));
        for (vcpu, pin) in &self.pins {
            let back = |from, to| Action::PinVcpu { vcpu: *vcpu, from, to };
            all.extend(drifted(format!("the pin of vcpu {vcpu}"), pin, back));
        }
        let back = |from, to| Action::SetBalloon { from, to };
        all.extend(drifted("the balloon".to_owned(), &self.balloon, back));
        let back = |from, to| Action::PinEmulator { from, to };
        all.extend(drifted("the emulator pin".to_owned(), &self.emulator_pin, back));
        for (iothread, pin) in &self.iothread_pins {
            let back = |from, to| Action::PinIothread { iothread: *iothread, from, to };
            all.extend(drifted(format!("the pin of iothread {iothread}"), pin, back));
        }
        all
    }
}

fn drifted<T: Clone + Display>(
    what: String,
    value: &Managed<T>,
    back: impl Fn(T, T) -> Action,
) -> Option<Drifted> {
    let Drift { ours, before, live, found } = value.drift.as_ref()?;
    let back = value.ours.is_some().then(|| back(live.clone(), ours.clone()));
    let text = |value: &T| value.to_string();
    Some(Drifted {
        what,
        ours: text(ours),
        before: text(before),
        live: text(live),
        found_unix_s: found.unix_s,
        back,
    })
}
