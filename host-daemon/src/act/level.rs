//! Changes of levels inside a guest, through its agent.

use kvmpilot_core::ledger::{LedgerEntry, LedgerTarget, Value};
use kvmpilot_core::order::{GroupStep, ProcessStep, WorkOrder};
use kvmpilot_core::policy::Level;

use super::group::Prepared;
use super::{Done, Executor, Failure, crash_point};
use crate::agent::{GroupResult, NiceChange, NiceResult};

impl Executor {
    /// Moves the processes and groups of one application to their values. What ended meanwhile is no failure; what somebody
    /// else changed is left alone.
    pub(super) async fn set_level(
        &self,
        order: &WorkOrder,
        incarnation: &str,
        (processes, groups): (&[ProcessStep], &[GroupStep]),
        to: Level,
    ) -> Result<Done, Failure> {
        let proposal = &order.proposal;
        let domain = proposal.domain;
        let target = |step: &ProcessStep| LedgerTarget::Nice { key: step.key, name: step.name.clone() };
        let (groups, mut troubles) = self.prepare_groups(order, incarnation, groups).await?;
        let entries = processes.iter().map(|step| {
            let entry = LedgerEntry {
                domain,
                domain_name: proposal.domain_name.clone(),
                incarnation: incarnation.to_owned(),
                target: target(step),
                original: Value::Nice(step.nice_original),
                applied: None,
                intended: Value::Nice(step.nice_to),
            };
            (entry, Value::Nice(step.nice_from))
        });
        crash_point("announce");
        let of_groups = groups.iter().map(|prepared| (prepared.entry.clone(), prepared.live.clone()));
        self.ledger.announce(entries.chain(of_groups).collect(), false).await?;
        crash_point("claim");
        self.claim(order.id, incarnation).await?;
        crash_point("set");
        let changes: Vec<NiceChange> = processes
            .iter()
            .map(|step| NiceChange { key: step.key, expect: step.nice_from, to: step.nice_to })
            .collect();
        let outcomes = self.guests.agent(domain).set_nice(&changes).await?;
        let group_results = self.set_groups(domain, &groups).await?;
        // The agent has set and read back in one go.
        crash_point("read_back");
        crash_point("settle");

        let (mut settled, mut gone) = (Vec::new(), Vec::new());
        for (Prepared { entry, .. }, result) in groups.iter().zip(group_results) {
            let target = entry.target.clone();
            match result {
                GroupResult::Applied => settled.push((target, entry.intended.clone())),
                // Set by an earlier try.
                GroupResult::Drift { now } if now == entry.intended => settled.push((target, now)),
                GroupResult::Gone => gone.push(target),
                GroupResult::Drift { now } => troubles.push(format!("{target} is {now} now")),
                GroupResult::Failed(why) => troubles.push(format!("{target}: {why}")),
            }
        }
        for step in processes {
            let outcome =
                outcomes.iter().find(|outcome| outcome.key == step.key).map(|outcome| &outcome.result);
            match outcome {
                Some(NiceResult::Applied) => settled.push((target(step), Value::Nice(step.nice_to))),
                // Set by an earlier try.
                Some(NiceResult::Drift { now }) if *now == step.nice_to => {
                    settled.push((target(step), Value::Nice(step.nice_to)));
                }
                Some(NiceResult::Gone) => gone.push(target(step)),
                Some(NiceResult::Drift { now }) => {
                    troubles.push(format!(
                        "{} ({}) has nice {now} now, not {}",
                        step.name, step.key.pid, step.nice_from
                    ));
                }
                Some(NiceResult::Failed(why)) => {
                    troubles.push(format!("{} ({}): {why}", step.name, step.key.pid));
                }
                None => troubles.push(format!("{} ({}): the agent did not say", step.name, step.key.pid)),
            }
        }
        let applied = settled.len();
        let ended = gone.len();
        self.ledger.settle(domain, settled).await?;
        self.ledger.forget(domain, gone).await?;
        let all = [(processes.len(), "processes"), (groups.len(), "groups")];
        let all: Vec<String> = all
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let mut text =
            format!("{applied} of {} are at level {to}, read back in the guest", all.join(" and "));
        if ended > 0 {
            text.push_str(&format!("; {ended} had ended"));
        }
        if applied == 0 && !troubles.is_empty() {
            let wanted = format!("level {to}");
            return Err(Failure::NotTaken {
                what: proposal.action.target(),
                wanted,
                live: troubles.join("; "),
            });
        }
        for trouble in troubles {
            text.push_str("; left alone: ");
            text.push_str(&trouble);
        }
        // Where all of them had ended nothing of ours is in force.
        Ok(if applied == 0 { Done::Already(text) } else { Done::Changed(text) })
    }
}
