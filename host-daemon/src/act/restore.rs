//! Puts everything in the ledger back: values of libvirt's, then nice values inside the guests.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvmpilot_core::Uuid;
use kvmpilot_core::ledger::{
    LedgerEntry, LedgerTarget, RestoreOutcome, RestoreVerdict, RestoredValue, Value,
};
use kvmpilot_core::model::incarnation;
use kvmpilot_core::sample::{GuestSample, ProcessKey, ProcessSample};
use tokio::task::JoinSet;

use super::{Executor, crash_point};
use crate::agent::{AgentError, MOST_NICE_CHANGES, NiceChange, NiceOutcome, NiceResult};
use crate::guest_channel::GuestAgent;
use crate::libvirt;

/// What became of values of an earlier life.
enum Fate {
    /// The domain was stopped or started anew: its configured values are in force.
    Void,
    /// It went on where it was, with our values: they go back like those of this life.
    Brought,
    /// They stay in the ledger, for this reason.
    Open(RestoreOutcome, String),
}

impl Executor {
    /// Puts every original back, all domains side by side. What cannot be put back stays in the ledger.
    pub async fn restore(self: &Arc<Self>) -> Vec<RestoredValue> {
        self.restore_those(|_| true).await
    }

    /// Puts the originals of one domain back.
    pub async fn restore_one(self: &Arc<Self>, domain: Uuid) -> Vec<RestoredValue> {
        self.restore_those(|other| other == domain).await
    }

    async fn restore_those(self: &Arc<Self>, wanted: impl Fn(Uuid) -> bool) -> Vec<RestoredValue> {
        // Looked up once for all: it reads the command line of every process.
        let (processes, _) = self.kernel.qemu_processes();
        let mut by_domain: BTreeMap<Uuid, Vec<LedgerEntry>> = BTreeMap::new();
        for entry in self.ledger.entries().into_iter().filter(|entry| wanted(entry.domain)) {
            by_domain.entry(entry.domain).or_default().push(entry);
        }
        let mut tasks = JoinSet::new();
        for (domain, entries) in by_domain {
            let executor = Arc::clone(self);
            let main = processes.get(&domain).and_then(|pid| self.kernel.thread(*pid, *pid).ok());
            let life = main.map(|main| incarnation(main.tid, main.start_ticks));
            tasks.spawn(async move { executor.restore_domain(domain, life.as_deref(), entries).await });
        }
        let mut values = Vec::new();
        while let Some(done) = tasks.join_next().await {
            match done {
                Ok(restored) => values.extend(restored),
                Err(error) => {
                    tracing::error!(%error, "restoring a domain ended early; its values stay in the ledger");
                }
            }
        }
        values
    }

    async fn restore_domain(
        &self,
        domain: Uuid,
        life: Option<&str>,
        entries: Vec<LedgerEntry>,
    ) -> Vec<RestoredValue> {
        let of_this_life = |entry: &LedgerEntry| life == Some(entry.incarnation.as_str());
        let mut values = Vec::new();
        let mut done = Vec::new();
        let mut live = entries;
        if !live.iter().all(of_this_life) {
            match self.fate(domain, life.is_some()).await {
                Fate::Brought => {}
                Fate::Void => {
                    let void = live.extract_if(.., |entry| !of_this_life(entry));
                    for entry in void {
                        let why =
                            "the domain was stopped or restarted since; its configured value is in force";
                        values.push(entry.outcome(RestoreOutcome::Gone, Some(why.to_owned())));
                        done.push(entry.target);
                    }
                }
                Fate::Open(outcome, why) => {
                    let open = live.extract_if(.., |entry| !of_this_life(entry));
                    values.extend(open.map(|entry| entry.outcome(outcome, Some(why.clone()))));
                }
            }
        }
        let (inside, others): (Vec<_>, Vec<_>) = live.into_iter().partition(|entry| entry.target.is_inside());
        let (nices, groups): (Vec<_>, Vec<_>) =
            inside.into_iter().partition(|entry| matches!(entry.target, LedgerTarget::Nice { .. }));
        for entry in others {
            let (outcome, message) = self.restore_value(&entry).await;
            values.push(entry.outcome(outcome, message));
            if !outcome.is_open() {
                done.push(entry.target);
            }
        }
        let mut inside = self.restore_groups(domain, groups).await;
        inside.extend(self.restore_nices(domain, nices).await);
        for (entry, outcome, message) in inside {
            values.push(entry.outcome(outcome, message));
            if !outcome.is_open() {
                done.push(entry.target);
            }
        }
        crash_point("forget");
        if let Err(error) = self.ledger.forget(domain, done).await {
            tracing::error!(%error, "the values are back, but the ledger still has them");
        }
        values
    }

    /// What became of values that were changed in an earlier life of a domain.
    async fn fate(&self, domain: Uuid, runs: bool) -> Fate {
        let told = if runs {
            self.libvirt.is_booted(domain).await.map(|booted| if booted { Fate::Void } else { Fate::Brought })
        } else {
            self.fate_of_absent(domain).await
        };
        told.unwrap_or_else(|error| Fate::Open(RestoreOutcome::Failed, error.to_string()))
    }

    /// The same where no QEMU of it was found. That it does not run only libvirt knows: `/proc` may not have been read, or somebody
    /// else's process may say that it is its QEMU, too.
    async fn fate_of_absent(&self, domain: Uuid) -> Result<Fate, libvirt::Error> {
        if self.libvirt.is_active(domain).await? {
            let why = "libvirt says that the domain runs, but its QEMU was not found".to_owned();
            return Ok(Fate::Open(RestoreOutcome::Failed, why));
        }
        let saved = "the domain is saved to disk, and what kvmpilot had set with it".to_owned();
        let is_saved = self.libvirt.is_saved(domain).await?;
        Ok(if is_saved { Fate::Open(RestoreOutcome::Saved, saved) } else { Fate::Void })
    }

    async fn restore_value(&self, entry: &LedgerEntry) -> (RestoreOutcome, Option<String>) {
        let live = match self.read(entry.domain, &entry.target).await {
            Ok(live) => live,
            Err(failure) => return (RestoreOutcome::Failed, Some(failure.to_string())),
        };
        match entry.restore_verdict(&live) {
            // What libvirt tells of a balloon is where it is, not where it was sent: a daemon that died right after it had sent
            // it away must not be followed by one that looks before it has moved, and forgets it.
            RestoreVerdict::AlreadyOriginal if entry.target == LedgerTarget::Balloon => {
                match self.set(entry.domain, &entry.target, &live, &entry.original).await {
                    Ok(_) => (RestoreOutcome::AlreadyOriginal, None),
                    Err(failure) => (RestoreOutcome::Failed, Some(failure.to_string())),
                }
            }
            RestoreVerdict::AlreadyOriginal => (RestoreOutcome::AlreadyOriginal, None),
            RestoreVerdict::Drift => (RestoreOutcome::Drift, Some(drift(entry, &live))),
            RestoreVerdict::Restore => {
                crash_point("put_back");
                match self.set(entry.domain, &entry.target, &live, &entry.original).await {
                    Ok(_) => (RestoreOutcome::Restored, None),
                    Err(failure) => (RestoreOutcome::Failed, Some(failure.to_string())),
                }
            }
        }
    }

    /// Nice values go back in two calls at most for the processes that we know, and one for the workers that they
    /// forked meanwhile, which have our value and none of their own.
    async fn restore_nices(
        &self,
        domain: Uuid,
        entries: Vec<LedgerEntry>,
    ) -> Vec<(LedgerEntry, RestoreOutcome, Option<String>)> {
        if entries.is_empty() {
            return Vec::new();
        }
        let agent = self.guests.agent(domain);
        let mut results = Vec::new();
        let mut open: Vec<(LedgerEntry, Value)> =
            entries.iter().map(|entry| (entry.clone(), entry.intended.clone())).collect();
        for _ in 0..2 {
            let changes: Vec<NiceChange> =
                open.iter().filter_map(|(entry, live)| change(entry, live)).collect();
            crash_point("put_back");
            let outcomes = match set_all(&agent, &changes).await {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    let why = error.to_string();
                    results.extend(
                        open.drain(..).map(|(entry, _)| (entry, RestoreOutcome::Failed, Some(why.clone()))),
                    );
                    return results;
                }
            };
            for (entry, _) in std::mem::take(&mut open) {
                let result =
                    outcomes.iter().find(|outcome| Some(outcome.key) == process(&entry).map(|(key, _)| key));
                let (outcome, message) = match result.map(|outcome| &outcome.result) {
                    Some(NiceResult::Applied) => (RestoreOutcome::Restored, None),
                    Some(NiceResult::Gone) => {
                        (RestoreOutcome::Gone, Some("the process has ended".to_owned()))
                    }
                    Some(NiceResult::Failed(why)) => (RestoreOutcome::Failed, Some(why.clone())),
                    None => (RestoreOutcome::Failed, Some("the agent did not say".to_owned())),
                    Some(NiceResult::Drift { now }) => {
                        let live = Value::Nice(*now);
                        match entry.restore_verdict(&live) {
                            RestoreVerdict::AlreadyOriginal => (RestoreOutcome::AlreadyOriginal, None),
                            RestoreVerdict::Drift => (RestoreOutcome::Drift, Some(drift(&entry, &live))),
                            // Ours, from before or after the change that a crash interrupted: once more.
                            RestoreVerdict::Restore => {
                                open.push((entry, live));
                                continue;
                            }
                        }
                    }
                };
                results.push((entry, outcome, message));
            }
            if open.is_empty() {
                break;
            }
        }
        results.extend(
            open.into_iter()
                .map(|(entry, _)| (entry, RestoreOutcome::Failed, Some("it keeps changing".to_owned()))),
        );
        if let Ok(inventory) = agent.inventory().await {
            let heirs = heirs(&inventory, &entries);
            if !heirs.is_empty()
                && let Err(error) = set_all(&agent, &heirs).await
            {
                tracing::warn!(%domain, %error, "workers of re-levelled processes keep their nice value");
            }
        }
        results
    }
}

/// One call takes so many only.
async fn set_all(agent: &GuestAgent, changes: &[NiceChange]) -> Result<Vec<NiceOutcome>, AgentError> {
    let mut outcomes = Vec::with_capacity(changes.len());
    for batch in changes.chunks(MOST_NICE_CHANGES) {
        outcomes.extend(agent.set_nice(batch).await?);
    }
    Ok(outcomes)
}

pub(super) fn drift(entry: &LedgerEntry, live: &Value) -> String {
    let ours = entry.applied.as_ref().unwrap_or(&entry.intended);
    format!("somebody else set it to {live} after kvmpilot had set {ours}; left alone")
}

fn process(entry: &LedgerEntry) -> Option<(ProcessKey, i8)> {
    match (&entry.target, &entry.original) {
        (LedgerTarget::Nice { key, .. }, Value::Nice(original)) => Some((*key, *original)),
        _ => None,
    }
}

fn change(entry: &LedgerEntry, live: &Value) -> Option<NiceChange> {
    let (key, to) = process(entry)?;
    let Value::Nice(expect) = live else { return None };
    Some(NiceChange { key, expect: *expect, to })
}

/// Processes that are not in the ledger, but have the nice value that we gave to their parent or its parents.
fn heirs(inventory: &GuestSample, entries: &[LedgerEntry]) -> Vec<NiceChange> {
    let by_pid: BTreeMap<u32, &ProcessSample> =
        inventory.processes.iter().map(|process| (process.key.pid, process)).collect();
    let entry_of =
        |key: ProcessKey| entries.iter().find(|entry| process(entry).is_some_and(|(other, _)| other == key));
    let heir = |child: &ProcessSample| {
        if entry_of(child.key).is_some() {
            return None;
        }
        // A guest may lie about parents, so a circle ends after 64 steps.
        let ancestors =
            std::iter::successors(by_pid.get(&child.parent), |parent| by_pid.get(&parent.parent)).take(64);
        let entry = ancestors.filter_map(|ancestor| entry_of(ancestor.key)).next()?;
        let inherited = entry.restore_verdict(&Value::Nice(child.nice)) == RestoreVerdict::Restore;
        let (_, original) = process(entry).filter(|_| inherited)?;
        Some(NiceChange { key: child.key, expect: child.nice, to: original })
    };
    inventory.processes.iter().filter_map(heir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pid: u32, parent: u32, nice: i8) -> ProcessSample {
        ProcessSample {
            key: ProcessKey { pid, start_ticks: 1 },
            parent,
            name: format!("p{pid}"),
            state: 'S',
            threads: 1,
            nice,
            ..ProcessSample::default()
        }
    }

    #[test]
    fn workers_go_back_with_the_process_that_forked_them_unless_they_have_a_value_of_their_own() {
        let server = LedgerEntry {
            domain: Uuid::nil(),
            domain_name: "web".into(),
            incarnation: "1:1".into(),
            target: LedgerTarget::Nice { key: ProcessKey { pid: 10, start_ticks: 1 }, name: "p10".into() },
            original: Value::Nice(0),
            applied: Some(Value::Nice(-5)),
            intended: Value::Nice(-10),
        };
        let processes = vec![
            sample(10, 1, 0),
            sample(11, 10, -10),
            sample(12, 11, -5),
            sample(13, 10, 7),
            sample(14, 1, -10),
            // The guest lies: each is the other's parent.
            sample(20, 21, -10),
            sample(21, 20, -10),
        ];
        let inventory = GuestSample { processes, ..GuestSample::default() };
        let change = |pid, expect| NiceChange { key: ProcessKey { pid, start_ticks: 1 }, expect, to: 0 };
        assert_eq!(heirs(&inventory, &[server]), [change(11, -10), change(12, -5)]);
    }
}
