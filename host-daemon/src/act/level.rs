//! Changes of nice values inside a guest, through its agent.

use kvmpilot_core::ledger::{LedgerEntry, LedgerTarget, Value};
use kvmpilot_core::order::{ProcessStep, WorkOrder};
use kvmpilot_core::policy::Level;

use super::{Done, Executor, Failure, crash_point};
use crate::agent::{NiceChange, NiceResult};

impl Executor {
    /// Moves the processes of one application to their nice values. Processes that ended meanwhile are no failure;
    /// one whose nice value somebody else changed is left alone.
    pub(super) async fn set_level(
        &self,
        order: &WorkOrder,
        incarnation: &str,
        processes: &[ProcessStep],
        to: Level,
    ) -> Result<Done, Failure> {
        let proposal = &order.proposal;
        let domain = proposal.domain;
        let target = |step: &ProcessStep| LedgerTarget::Nice { key: step.key, name: step.name.clone() };
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
        self.ledger.announce(entries.collect(), false).await?;
        crash_point("claim");
        self.claim(order.id).await?;
        crash_point("set");
        let changes: Vec<NiceChange> = processes
            .iter()
            .map(|step| NiceChange { key: step.key, expect: step.nice_from, to: step.nice_to })
            .collect();
        let outcomes = self.guests.agent(domain).set_nice(&changes).await?;
        // The agent has set and read back in one go.
        crash_point("read_back");
        crash_point("settle");

        let (mut settled, mut gone, mut troubles) = (Vec::new(), Vec::new(), Vec::new());
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
        let mut text =
            format!("{applied} of {} processes are at level {to}, read back in the guest", processes.len());
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
        Ok(Done::Changed(text))
    }
}
