//! Undos that could not be carried out yet: the domain was being changed, a job of it ran, or nothing may be changed now. A
//! trial tells its verdict once, so nobody would propose them again.

use kvmpilot_core::Uuid;
use kvmpilot_core::order::Proposal;
use tokio::time::Instant;

/// The undos that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Undoing(Vec<Waiting>);

#[derive(Debug)]
struct Waiting {
    undo: Proposal,
    /// Of its domain: what an earlier life had has gone with it.
    life: String,
    from: Instant,
}

impl Undoing {
    /// Keeps `undo` until `from`. One for a domain that does not run is let go.
    pub(super) fn keep(&mut self, undo: Proposal, life: Option<String>, from: Instant) {
        self.0.extend(life.map(|life| Waiting { undo, life, from }));
    }

    /// Hands out what is due, and lets go what was for another life of its domain.
    pub(super) fn take(&mut self, now: Instant, life_of: impl Fn(Uuid) -> Option<String>) -> Vec<Proposal> {
        self.0.retain(|waiting| life_of(waiting.undo.domain).as_ref() == Some(&waiting.life));
        self.0.extract_if(.., |waiting| waiting.from <= now).map(|waiting| waiting.undo).collect()
    }

    /// Lets everything go: all values are back.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kvmpilot_core::order::{Action, Reason};

    use super::*;

    fn undo(domain: u128) -> Proposal {
        Proposal {
            domain: Uuid::from_u128(domain),
            domain_name: "web".into(),
            action: Action::SetCpuShares { from: 8192, to: 1024 },
            reason: Reason::default(),
            release: true,
            undoes: vec![7],
        }
    }

    fn life(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    #[test]
    fn each_undo_is_handed_out_once_and_not_before_its_time() {
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        let mut undoing = Undoing::default();
        undoing.keep(undo(1), life("5:1"), now);
        undoing.keep(undo(2), life("5:1"), later);
        assert_eq!(undoing.take(now, |_| life("5:1")), [undo(1)]);
        assert_eq!(undoing.take(now, |_| life("5:1")), []);
        assert_eq!(undoing.take(later, |_| life("5:1")), [undo(2)]);
    }

    #[test]
    fn the_next_life_of_a_domain_is_left_alone() {
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        let mut undoing = Undoing::default();
        for domain in 1..=3 {
            undoing.keep(undo(domain), life("5:1"), later);
        }
        undoing.keep(undo(4), None, now);
        let lives = |domain: Uuid| match domain.as_u128() {
            1 => life("5:1"),
            2 => life("6:2"),
            _ => None,
        };
        assert_eq!(undoing.take(now, lives), []);
        // Also those that were not due have been let go by then.
        assert_eq!(undoing.take(later, |_| life("5:1")), [undo(1)]);
    }

    #[test]
    fn nothing_is_left_after_a_restore() {
        let now = Instant::now();
        let mut undoing = Undoing::default();
        undoing.keep(undo(1), life("5:1"), now);
        undoing.clear();
        assert_eq!(undoing.take(now, |_| life("5:1")), []);
    }
}
