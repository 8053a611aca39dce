//! Which domain has which column of the steal matrix. Pure book-keeping: no map, no memory, no clock.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use kvmpilot_core::Uuid;
use kvmpilot_core::sample::Runner;
use kvmpilot_ebpf_common::pcpu::{FIRST_DOMAIN, HOST, UNKNOWN};

/// A timeline may name a group long after its last thread has gone, but only somebody who has been waiting since then
/// reads that far back: a group rests for this long before it goes to another domain.
const REST: Duration = Duration::from_mins(1);

/// A group for a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) group: u32,
    /// It was another domain's: what its column says must go first.
    pub(super) used: bool,
}

#[derive(Debug)]
pub(super) struct Groups {
    /// Group and number of its threads.
    by_domain: HashMap<Uuid, (u32, u32)>,
    /// From `FIRST_DOMAIN` on. A domain that has gone keeps its group until another needs it.
    domains: Vec<Uuid>,
    limit: usize,
    /// Without threads, the longest first.
    resting: VecDeque<(Uuid, Instant)>,
}

impl Groups {
    /// For so many domains.
    pub(super) fn new(domains: u32) -> Self {
        let limit = usize::try_from(domains).unwrap_or(usize::MAX);
        Self { by_domain: HashMap::new(), domains: Vec::new(), limit, resting: VecDeque::new() }
    }

    /// The group for one more thread of `domain`; `None` while all are in use or resting.
    pub(super) fn take(&mut self, domain: Uuid, now: Instant) -> Option<Taken> {
        if let Some((group, threads)) = self.by_domain.get_mut(&domain) {
            if *threads == 0 {
                self.resting.retain(|(other, _)| *other != domain);
            }
            *threads += 1;
            return Some(Taken { group: *group, used: false });
        }
        let taken = if self.domains.len() < self.limit {
            self.domains.push(domain);
            let index = u32::try_from(self.domains.len() - 1).ok()?;
            Taken { group: FIRST_DOMAIN + index, used: false }
        } else {
            let rested = |(_, since): &mut (Uuid, Instant)| now.saturating_duration_since(*since) >= REST;
            let (gone, _) = self.resting.pop_front_if(rested)?;
            let (group, _) = self.by_domain.remove(&gone)?;
            *self.entry(group)? = domain;
            Taken { group, used: true }
        };
        self.by_domain.insert(domain, (taken.group, 1));
        Some(taken)
    }

    /// One thread less in this group.
    pub(super) fn give_back(&mut self, group: u32, now: Instant) {
        let Some(&mut domain) = self.entry(group) else { return };
        if let Some((_, threads)) = self.by_domain.get_mut(&domain)
            && *threads > 0
        {
            *threads -= 1;
            if *threads == 0 {
                self.resting.push_back((domain, now));
            }
        }
    }

    /// Who a group stands for.
    pub(super) fn runner(&self, group: u32) -> Runner {
        match group {
            HOST => Runner::Host,
            UNKNOWN => Runner::Unknown,
            group => {
                let index = usize::try_from(group - FIRST_DOMAIN).unwrap_or(usize::MAX);
                self.domains.get(index).map_or(Runner::Unknown, |domain| Runner::Domain(*domain))
            }
        }
    }

    /// Groups that may appear in a row, and nothing beyond.
    pub(super) fn used(&self) -> usize {
        self.domains.len() + usize::try_from(FIRST_DOMAIN).unwrap_or(0)
    }

    fn entry(&mut self, group: u32) -> Option<&mut Uuid> {
        self.domains.get_mut(usize::try_from(group.checked_sub(FIRST_DOMAIN)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);
    const C: Uuid = Uuid::from_u128(3);

    fn fresh(group: u32) -> Option<Taken> {
        Some(Taken { group, used: false })
    }

    #[test]
    fn threads_of_a_domain_share_its_group() {
        let (mut groups, now) = (Groups::new(2), Instant::now());
        assert_eq!(groups.take(A, now), fresh(2));
        assert_eq!(groups.take(B, now), fresh(3));
        assert_eq!(groups.take(A, now), fresh(2));
        assert_eq!(groups.take(C, now), None, "no column left");
        let runners = [Runner::Host, Runner::Unknown, Runner::Domain(A), Runner::Domain(B), Runner::Unknown];
        assert_eq!((0..5).map(|group| groups.runner(group)).collect::<Vec<_>>(), runners);
        assert_eq!(groups.used(), 4);
    }

    #[test]
    fn a_group_rests_and_is_reused_only_when_it_is_needed() {
        let (mut groups, now) = (Groups::new(1), Instant::now());
        assert_eq!(groups.take(A, now), fresh(2));
        assert_eq!(groups.take(A, now), fresh(2));
        groups.give_back(2, now);
        assert_eq!(groups.take(B, now + REST * 2), None, "it has a thread left");
        groups.give_back(2, now);
        groups.give_back(2, now);
        assert_eq!(groups.runner(2), Runner::Domain(A), "still readable");
        assert_eq!(groups.take(B, now + REST / 2), None, "it rests");
        assert_eq!(groups.take(A, now + REST / 2), fresh(2), "back again");
        assert_eq!(groups.take(B, now + REST * 2), None);
        groups.give_back(2, now);
        assert_eq!(groups.take(B, now + REST), Some(Taken { group: 2, used: true }));
        assert_eq!(groups.runner(2), Runner::Domain(B));
        assert_eq!(groups.take(A, now + REST * 9), None);
    }
}
