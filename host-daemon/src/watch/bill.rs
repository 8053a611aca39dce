//! What all watches together have cost, for the daemon's own books.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use kvmpilot_core::sample::ProgramSample;

use crate::probes::Spent;

/// Added up over all watches since the daemon started, by program.
#[derive(Debug, Default)]
pub(super) struct Bill(Mutex<BTreeMap<&'static str, Item>>);

#[derive(Debug, Default)]
struct Item {
    runs: u64,
    ns_per_run: Option<u64>,
}

impl Bill {
    /// What the programs of a watch have cost in a window that is over: nothing is attached any more.
    pub(super) fn add(&self, spent: &[Spent]) {
        self.with(|items| {
            for Spent { program, runs, ns_per_run } in spent {
                let item = items.entry(program).or_default();
                item.runs += runs;
                item.ns_per_run = ns_per_run.or(item.ns_per_run);
            }
        });
    }

    /// As the daemon's sample has it. Empty until the first watch.
    pub(super) fn programs(&self) -> Vec<ProgramSample> {
        self.with(|items| {
            let sample = |(name, item): (&&str, &Item)| ProgramSample {
                name: (*name).to_owned(),
                tier: 2,
                // In windows only, which are over when they are counted.
                attached: 0,
                runs: Some(item.runs),
                ns_per_run: item.ns_per_run,
            };
            items.iter().map(sample).collect()
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<&'static str, Item>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_add_up_and_a_time_that_is_not_known_changes_none() {
        let bill = Bill::default();
        assert!(bill.programs().is_empty());
        let spent = |runs, ns_per_run| Spent { program: "watch_exit", runs, ns_per_run };
        bill.add(&[spent(10, Some(100))]);
        bill.add(&[spent(5, None)]);
        let seen: Vec<_> = bill.programs().iter().map(|program| (program.runs, program.ns_per_run)).collect();
        assert_eq!(seen, [(Some(15), Some(100))]);
    }
}
