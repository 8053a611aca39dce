//! Changes of values of groups inside a guest: `CPUWeight` of systemd units, nice values of autogroups, vcpus of threads.

use kvmpilot_core::Uuid;
use kvmpilot_core::ledger::{LedgerEntry, LedgerTarget, RestoreOutcome, RestoreVerdict, Value};
use kvmpilot_core::order::{GroupStep, GroupValue, TaskGroup, WorkOrder};
use kvmpilot_core::sample::UnitWeight;

use super::{Executor, Failure};
use crate::agent::{AgentError, GroupChange, GroupResult};

/// A value before its change.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) entry: LedgerEntry,
    pub(super) live: Value,
}

impl Executor {
    /// Looks at the groups of a step; what cannot be changed is told in words.
    pub(super) async fn prepare_groups(
        &self,
        order: &WorkOrder,
        incarnation: &str,
        steps: &[GroupStep],
    ) -> Result<(Vec<Prepared>, Vec<String>), Failure> {
        let domain = order.proposal.domain;
        let known = self.ledger.entries_of(domain);
        let entry_of = |target: &LedgerTarget| {
            known.iter().find(|entry| entry.target == *target && entry.incarnation == incarnation)
        };
        // What we set ourselves is known; that it is still so, the guest checks when it is set again.
        let ours = |step: &GroupStep| match entry_of(&LedgerTarget::of_group(&step.group))?.applied {
            Some(Value::UnitWeight(weight)) if Some(i32::from(weight.in_force())) == step.from.number() => {
                Some(weight)
            }
            _ => None,
        };
        let units: Vec<String> = steps
            .iter()
            .filter_map(|step| match &step.group {
                TaskGroup::Unit { name } if ours(step).is_none() => Some(name.clone()),
                _ => None,
            })
            .collect();
        let mut weights = Vec::new();
        if !units.is_empty() {
            weights = self.guests.agent(domain).unit_weights(&units).await?;
        }
        let (mut prepared, mut troubles) = (Vec::new(), Vec::new());
        for step in steps {
            let target = LedgerTarget::of_group(&step.group);
            let nice = |value: &GroupValue| Some(Value::Nice(i8::try_from(value.number()?).ok()?));
            let vcpus = |value: &GroupValue| match value {
                GroupValue::Vcpus(vcpus) => Some(Value::Pin(vcpus.clone())),
                GroupValue::Number(_) => None,
            };
            let values = match &step.group {
                TaskGroup::Unit { name } => {
                    let at = units.iter().position(|unit| unit == name);
                    let live = ours(step).or_else(|| weights.get(at?).copied().flatten());
                    live.and_then(|live| {
                        // Back at its original it is as if nothing had been.
                        let original = entry_of(&target).map(|entry| &entry.original);
                        let back = match original {
                            Some(Value::UnitWeight(original)) => *original,
                            _ => live,
                        };
                        let to = u16::try_from(step.to.number()?).ok()?;
                        let set = UnitWeight { weight: Some(to), at_run_time: true };
                        let to = if back.in_force() == to { back } else { set };
                        let in_force = Some(i32::from(live.in_force()));
                        let is_expected = [step.from.number(), step.to.number()].contains(&in_force);
                        Some((Value::UnitWeight(live), Value::UnitWeight(to), is_expected))
                    })
                }
                TaskGroup::Autogroup { .. } => {
                    nice(&step.from).zip(nice(&step.to)).map(|(from, to)| (from, to, true))
                }
                TaskGroup::Threads { .. } => {
                    vcpus(&step.from).zip(vcpus(&step.to)).map(|(from, to)| (from, to, true))
                }
            };
            match values {
                Some((live, intended, true)) => prepared.push(Prepared {
                    entry: LedgerEntry {
                        domain,
                        domain_name: order.proposal.domain_name.clone(),
                        incarnation: incarnation.to_owned(),
                        target,
                        original: vcpus(&step.original).unwrap_or_else(|| live.clone()),
                        applied: None,
                        intended,
                    },
                    live,
                }),
                Some((live, ..)) => troubles.push(format!("{target} is {live} now, not {}", step.from)),
                None => troubles.push(format!("the guest does not tell {target}")),
            }
        }
        Ok((prepared, troubles))
    }

    /// Sets what was prepared to what is intended. The results are in the same order.
    pub(super) async fn set_groups(
        &self,
        domain: Uuid,
        prepared: &[Prepared],
    ) -> Result<Vec<GroupResult<Value>>, AgentError> {
        let agent = self.guests.agent(domain);
        let (mut units, mut autogroups, mut affinities) = (Vec::new(), Vec::new(), Vec::new());
        for Prepared { entry, live } in prepared {
            match (&entry.target, live, &entry.intended) {
                (LedgerTarget::UnitWeight { unit }, Value::UnitWeight(expect), Value::UnitWeight(to)) => {
                    units.push(GroupChange { group: unit.clone(), expect: *expect, to: *to });
                }
                (LedgerTarget::Autogroup { id }, Value::Nice(expect), Value::Nice(to)) => {
                    autogroups.push(GroupChange { group: *id, expect: *expect, to: *to });
                }
                (LedgerTarget::Affinity { key }, Value::Pin(expect), Value::Pin(to)) => {
                    affinities.push(GroupChange { group: *key, expect: expect.clone(), to: to.clone() });
                }
                _ => {}
            }
        }
        let mut of_units = agent.set_unit_weights(&units).await?.into_iter();
        let mut of_autogroups = agent.set_autogroups(&autogroups).await?.into_iter();
        let mut of_threads = agent.set_affinities(&affinities).await?.into_iter();
        let result = |Prepared { entry, .. }: &Prepared| {
            let result = match entry.target {
                LedgerTarget::UnitWeight { .. } => {
                    of_units.next().map(|result| result.map(Value::UnitWeight))
                }
                LedgerTarget::Affinity { .. } => of_threads.next().map(|result| result.map(Value::Pin)),
                _ => of_autogroups.next().map(|result| result.map(Value::Nice)),
            };
            result.unwrap_or_else(|| GroupResult::Failed("the agent did not say".to_owned()))
        };
        Ok(prepared.iter().map(result).collect())
    }

    /// Puts the originals of groups back, in two calls at most: one for what was set last, and one for what a crash left at
    /// the value before.
    pub(super) async fn restore_groups(
        &self,
        domain: Uuid,
        entries: Vec<LedgerEntry>,
    ) -> Vec<(LedgerEntry, RestoreOutcome, Option<String>)> {
        let mut results = Vec::new();
        let back = |entry: &LedgerEntry, live: Value| Prepared {
            entry: LedgerEntry { intended: entry.original.clone(), ..entry.clone() },
            live,
        };
        let mut open: Vec<(LedgerEntry, Prepared)> =
            entries.into_iter().map(|entry| (entry.clone(), back(&entry, entry.intended.clone()))).collect();
        for _ in 0..2 {
            let prepared: Vec<Prepared> = open.iter().map(|(_, prepared)| prepared.clone()).collect();
            let outcomes = match self.set_groups(domain, &prepared).await {
                Ok(outcomes) => outcomes,
                Err(error) => vec![GroupResult::Failed(error.to_string()); open.len()],
            };
            for ((entry, _), outcome) in std::mem::take(&mut open).into_iter().zip(outcomes) {
                let (outcome, message) = match outcome {
                    GroupResult::Applied => (RestoreOutcome::Restored, None),
                    GroupResult::Gone => (RestoreOutcome::Gone, Some("there is none any more".to_owned())),
                    GroupResult::Failed(why) => (RestoreOutcome::Failed, Some(why)),
                    GroupResult::Drift { now } => match entry.restore_verdict(&now) {
                        RestoreVerdict::AlreadyOriginal => (RestoreOutcome::AlreadyOriginal, None),
                        RestoreVerdict::Drift => {
                            (RestoreOutcome::Drift, Some(super::restore::drift(&entry, &now)))
                        }
                        RestoreVerdict::Restore => {
                            let once_more = back(&entry, now);
                            open.push((entry, once_more));
                            continue;
                        }
                    },
                };
                results.push((entry, outcome, message));
            }
            if open.is_empty() {
                break;
            }
        }
        let changing = Some("it keeps changing".to_owned());
        results.extend(open.into_iter().map(|(entry, _)| (entry, RestoreOutcome::Failed, changing.clone())));
        results
    }
}
