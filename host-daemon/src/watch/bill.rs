//! What all watches together have cost, for the daemon's own books.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use kvmpilot_core::sample::ProgramSample;

/// Added up over all watches since the daemon started, by program.
#[derive(Debug, Default)]
pub(super) struct Bill(Mutex<BTreeMap<&'static str, Item>>);

#[derive(Debug, Default)]
struct Item {
    attached: u32,
    runs: u64,
    ns_per_run: Option<u64>,
}

impl Bill {
    /// These programs are attached from now on.
    pub(super) fn attached(&self, names: &[&'static str]) {
        self.with(|items| names.iter().for_each(|name| items.entry(name).or_default().attached += 1));
    }

    /// They are not any more; what each of them ran, and for how many ns.
    pub(super) fn detached(&self, spent: Vec<(&'static str, u64, u64)>) {
        self.with(|items| {
            for (name, runs, ns) in spent {
                let item = items.entry(name).or_default();
                item.attached = item.attached.saturating_sub(1);
                item.runs += runs;
                item.ns_per_run = ns.checked_div(runs).or(item.ns_per_run);
            }
        });
    }

    /// As the daemon's sample has it. Empty until the first watch.
    pub(super) fn programs(&self) -> Vec<ProgramSample> {
        self.with(|items| {
            let sample = |(name, item): (&&str, &Item)| ProgramSample {
                name: (*name).to_owned(),
                tier: 2,
                attached: item.attached,
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
    fn watches_add_up_and_an_idle_window_keeps_the_mean() {
        let bill = Bill::default();
        assert!(bill.programs().is_empty());
        bill.attached(&["watch_exit"]);
        bill.attached(&["watch_exit"]);
        bill.detached(vec![("watch_exit", 10, 1000)]);
        let seen = |bill: &Bill| bill.programs().iter().map(|p| (p.attached, p.runs, p.ns_per_run)).next();
        assert_eq!(seen(&bill), Some((1, Some(10), Some(100))));
        bill.detached(vec![("watch_exit", 0, 0)]);
        assert_eq!(seen(&bill), Some((0, Some(10), Some(100))));
    }
}
