//! Setting nice values in a guest: one program for a whole batch, which checks, sets and reads back.

use std::collections::HashMap;

use kvmpilot_core::sample::ProcessKey;

use super::linux::{PATH, program};
use super::{Agent, AgentError, Kind, Transport};

const NICE: &str = include_str!("nice.sh");

/// Changes in one batch at most; the rest fails, for its caller to send again. Keeps the command line small.
pub const MOST: usize = 1024;

/// One process that is to get another nice value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NiceChange {
    /// The process.
    pub key: ProcessKey,
    /// Its nice value as the decision saw it. Threads with another value are left alone.
    pub expect: i8,
    /// The value wanted, -20 to 19.
    pub to: i8,
}

impl NiceChange {
    fn is_valid(&self) -> bool {
        (-20..=19).contains(&self.to) && self.key.pid > 0
    }
}

/// What became of one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NiceOutcome {
    /// The process.
    pub key: ProcessKey,
    /// What happened.
    pub result: NiceResult,
}

/// What became of one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NiceResult {
    /// Set, and read back from the guest's `/proc`.
    Applied,
    /// The process has ended; its pid may belong to another one, which was not touched.
    Gone,
    /// Somebody else changed the value; nothing was done.
    Drift {
        /// The value found.
        now: i8,
    },
    /// It did not take effect.
    Failed(String),
}

impl<T: Transport> Agent<T> {
    /// Sets nice values. The outcomes are in the order of the changes.
    ///
    /// # Errors
    /// When the agent cannot be used. After [`AgentError::TimedOut`] the values may still change.
    pub async fn set_nice(&mut self, changes: &[NiceChange]) -> Result<Vec<NiceOutcome>, AgentError> {
        if changes.iter().any(NiceChange::is_valid) && self.kind().await? == Kind::Windows {
            return self.set_priority_classes(changes).await;
        }
        let mut batch: Vec<&NiceChange> =
            changes.iter().filter(|change| change.is_valid()).take(MOST).collect();
        // One renice for all of the same target.
        batch.sort_by_key(|change| change.to);
        let reports = if batch.is_empty() {
            Reports::default()
        } else {
            // Numbers only: nothing here can be taken for shell code.
            let arguments: Vec<String> = batch
                .iter()
                .flat_map(|change| {
                    let NiceChange { key: ProcessKey { pid, start_ticks }, expect, to } = change;
                    [pid.to_string(), start_ticks.to_string(), expect.to_string(), to.to_string()]
                })
                .collect();
            let output = self.exec(&program(NICE), &arguments, &[PATH.to_owned()]).await?;
            Reports::read(&output.stdout, output.stderr)
        };
        Ok(changes
            .iter()
            .map(|change| NiceOutcome { key: change.key, result: reports.result(change) })
            .collect())
    }
}

/// What the program said about each process.
#[derive(Debug, Default)]
pub(super) struct Reports {
    words: HashMap<ProcessKey, Report>,
    stderr: String,
}

#[derive(Clone, Copy, Debug)]
enum Report {
    Gone,
    Drift(i8),
    Now(i8),
}

impl Reports {
    /// Reads lines like `114 308 now -5`, `114 308 drift 3` and `114 308 gone`.
    pub(super) fn read(stdout: &[u8], stderr: String) -> Self {
        let mut words = HashMap::new();
        for line in String::from_utf8_lossy(stdout).lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let (pid, start, report) = match fields[..] {
                [pid, start, "gone"] => (pid, start, Some(Report::Gone)),
                [pid, start, "drift", nice] => (pid, start, nice.parse().ok().map(Report::Drift)),
                [pid, start, "now", nice] => (pid, start, nice.parse().ok().map(Report::Now)),
                _ => continue,
            };
            if let (Ok(pid), Ok(start_ticks), Some(report)) = (pid.parse(), start.parse(), report) {
                words.insert(ProcessKey { pid, start_ticks }, report);
            }
        }
        Self { words, stderr }
    }

    fn result(&self, change: &NiceChange) -> NiceResult {
        if !change.is_valid() {
            return NiceResult::Failed(format!("pid {} or nice {} is impossible", change.key.pid, change.to));
        }
        match self.words.get(&change.key) {
            Some(Report::Gone) => NiceResult::Gone,
            Some(Report::Drift(now)) => NiceResult::Drift { now: *now },
            Some(Report::Now(now)) if *now == change.to => NiceResult::Applied,
            Some(Report::Now(now)) => NiceResult::Failed(format!(
                "nice is {now} instead of {}; renice said: {}",
                change.to, self.stderr
            )),
            None => NiceResult::Failed(format!("no report from the guest; {MOST} changes are tried at most")),
        }
    }
}
