//! Readings that wait for a moment, so that several reasons for one lead to one.

use std::collections::BTreeMap;

use kvmpilot_core::Uuid;
use tokio::time::Instant;

/// Domains that are to be read, with the time and whether QEMU is asked for the balloon as well.
#[derive(Debug, Default)]
pub(super) struct Later(BTreeMap<Uuid, (Instant, bool)>);

impl Later {
    /// Reads a domain at this time, or when it was to be read already if that is sooner.
    pub(super) fn add(&mut self, domain: Uuid, at: Instant, balloon: bool) {
        let (known, with_balloon) = self.0.entry(domain).or_insert((at, balloon));
        *known = at.min(*known);
        *with_balloon |= balloon;
    }

    /// A reading of the domain begins now. Whether the one that waited was to ask for the balloon.
    pub(super) fn begun(&mut self, domain: Uuid) -> bool {
        self.0.remove(&domain).is_some_and(|(_, balloon)| balloon)
    }

    /// When the first is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().map(|(at, _)| *at).min()
    }

    /// Takes out what is due.
    pub(super) fn take(&mut self, now: Instant) -> Vec<(Uuid, bool)> {
        let due = self.0.extract_if(.., |_, (at, _)| *at <= now);
        due.map(|(domain, (_, balloon))| (domain, balloon)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn several_reasons_lead_to_one_reading_at_the_first_of_their_times() {
        let (now, ms) = (Instant::now(), Duration::from_millis(1));
        let [one, two] = [1, 2].map(Uuid::from_u128);
        let mut later = Later::default();
        assert_eq!(later.due(), None);
        later.add(one, now + 300 * ms, false);
        later.add(one, now + 500 * ms, true);
        later.add(two, now + 400 * ms, false);
        assert_eq!(later.due(), Some(now + 300 * ms));
        assert_eq!(later.take(now + 299 * ms), []);
        assert_eq!(later.take(now + 300 * ms), [(one, true)]);
        assert!(!later.begun(two), "it is being read for another reason");
        assert_eq!((later.due(), later.take(now + 500 * ms)), (None, vec![]));
    }
}
