//! The guests of `bench memory`, and how much memory the program in each holds when. The same for each contestant.

use kvmpilot_tests::{GuestSpec, Work};
use serde::Serialize;

/// What a guest has, and what it swaps to.
pub(super) const MEMORY_MIB: u64 = 2048;
const SWAP_MIB: u64 = 1024;
/// A file that each guest's program reads all the time: its page cache.
const CACHE_MIB: u64 = 128;

/// One guest.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Plan {
    pub(super) name: &'static str,
    #[serde(skip)]
    octet: u8,
    phases: Vec<Phase>,
}

/// From a second on, so much memory is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Phase {
    pub(super) at_s: u32,
    pub(super) mib: u64,
}

/// A phase that wants more than the one before, and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Growth {
    pub(super) at_s: u32,
    pub(super) until_s: u32,
    pub(super) mib: u64,
}

/// All guests, for a run of so many seconds. A guest's own system needs some 90 MiB more, so together they use half of their
/// memory on average, as servers do: one as much all the time, one a lot for some hours of the day, one in short bursts, and
/// one that has a large start and is a different program later.
pub(super) fn plans(seconds: u32) -> Vec<Plan> {
    // Thousandths of the run, and MiB.
    let guests: [(&str, &[(u32, u64)]); 4] = [
        ("steady", &[(0, 900)]),
        ("day", &[(0, 400), (450, 1300), (750, 500)]),
        ("bursts", &[(0, 300), (350, 800), (450, 300), (700, 800), (800, 300)]),
        ("shrinks", &[(0, 1300), (200, 600), (600, 1000)]),
    ];
    let phase = |&(at, mib): &(u32, u64)| Phase { at_s: at * seconds / 1000, mib };
    let plans = guests.into_iter().zip(11..);
    plans
        .map(|((name, phases), octet)| Plan { name, octet, phases: phases.iter().map(phase).collect() })
        .collect()
}

impl Plan {
    /// The guest that follows it.
    pub(super) fn guest(&self) -> GuestSpec {
        let mut words = vec![format!("cache={CACHE_MIB}")];
        words.extend(self.phases.iter().map(|phase| format!("{}@{}", phase.mib, phase.at_s)));
        GuestSpec::new(self.name, self.octet)
            .memory_mib(MEMORY_MIB)
            .disk_mib(SWAP_MIB)
            .disk_mib(CACHE_MIB)
            .runs(Work::Workset(words))
    }

    /// When it wants more than before, in a run of so many seconds. The start is none: all memory is there then.
    pub(super) fn growths(&self, seconds: u32) -> Vec<Growth> {
        let grows = self.phases.windows(2).zip(1..).filter(|(pair, _)| pair[1].mib > pair[0].mib);
        let growth = |(pair, phase): (&[Phase], usize)| Growth {
            at_s: pair[1].at_s,
            until_s: self.phases.get(phase + 1).map_or(seconds, |next| next.at_s),
            mib: pair[1].mib - pair[0].mib,
        };
        grows.map(growth).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growths_end_where_the_next_phase_begins_or_with_the_run() {
        let plans = plans(400);
        let growths = |name: &str| plans.iter().find(|plan| plan.name == name).unwrap().growths(400);
        assert_eq!(growths("steady"), []);
        assert_eq!(growths("day"), [Growth { at_s: 180, until_s: 300, mib: 900 }]);
        assert_eq!(growths("shrinks"), [Growth { at_s: 240, until_s: 400, mib: 400 }]);
        assert_eq!(growths("bursts").len(), 2);
    }

    #[test]
    fn a_guest_is_told_its_phases() {
        let guest = plans(400)[1].guest();
        assert_eq!(guest.work[0].to_string(), "workset:cache=128/400@0/1300@180/500@300");
    }
}
