//! What may happen, and in which order: a deck of cards that is shuffled anew when it is empty. So everything happens, however
//! the dice fall.

use fastrand::Rng;
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// A guest that is off is started.
    Start,
    /// A guest powers itself off.
    PowerOff,
    Destroy,
    /// Destroyed and started at once.
    Restart,
    Suspend,
    Resume,
    /// Saved to disk and started from there.
    Save,
    PlugVcpu,
    AttachInterface,
    DetachInterface,
    /// Its QEMU is stopped for some seconds.
    QemuHangs,
    /// Another server is asked.
    MoveLoad,
    /// The hogs of a guest stop or go on.
    Hogs,
    /// A guest takes memory or gives it back.
    Memory,
    AgentEnds,
    AgentIsMute,
    AgentStops,
    AgentForbids,
    LibvirtdKilled,
    LibvirtdRestarted,
    DaemonKilled,
    DaemonRestarted,
    DaemonReloaded,
    /// `kvmpilot restore`, checked against the values at first.
    Restore,
    /// Orders in force are compared with what is found.
    Audit,
}

/// How often each is in a deck.
const DECK: [(Event, usize); 25] = [
    (Event::Start, 3),
    (Event::PowerOff, 1),
    (Event::Destroy, 1),
    (Event::Restart, 1),
    (Event::Suspend, 1),
    (Event::Resume, 2),
    (Event::Save, 1),
    (Event::PlugVcpu, 1),
    (Event::AttachInterface, 1),
    (Event::DetachInterface, 1),
    (Event::QemuHangs, 1),
    (Event::MoveLoad, 5),
    (Event::Hogs, 2),
    (Event::Memory, 2),
    (Event::AgentEnds, 1),
    (Event::AgentIsMute, 1),
    (Event::AgentStops, 1),
    (Event::AgentForbids, 1),
    (Event::LibvirtdKilled, 1),
    (Event::LibvirtdRestarted, 1),
    (Event::DaemonKilled, 1),
    (Event::DaemonRestarted, 1),
    (Event::DaemonReloaded, 1),
    (Event::Restore, 1),
    (Event::Audit, 3),
];

impl Event {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        DECK.into_iter().map(|(event, _)| event)
    }

    /// It begins another life of the daemon.
    pub(super) const fn ends_the_daemon(self) -> bool {
        matches!(self, Self::DaemonKilled | Self::DaemonRestarted)
    }

    /// As in the report.
    pub(super) fn name(self) -> String {
        let name = serde_json::to_value(self).ok();
        name.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
pub(super) struct Deck {
    cards: Vec<Event>,
    is_open: bool,
}

impl Deck {
    /// The next one. The first deck holds one of each, so that a short soak sees as much as possible.
    pub(super) fn draw(&mut self, rng: &mut Rng, daemon_may_end: bool) -> Event {
        loop {
            if let Some(event) = self.cards.pop() {
                if event.ends_the_daemon() && !daemon_may_end {
                    continue;
                }
                return event;
            }
            let times = |count| if self.is_open { count } else { 1 };
            self.cards = DECK.iter().flat_map(|(event, count)| vec![*event; times(*count)]).collect();
            self.is_open = true;
            rng.shuffle(&mut self.cards);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everything_happens_and_a_seed_repeats_it() {
        let draw = |seed, may_end| {
            let (mut rng, mut deck) = (Rng::with_seed(seed), Deck::default());
            (0..100).map(|_| deck.draw(&mut rng, may_end)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, true), draw(1, true));
        assert_ne!(draw(1, true), draw(2, true));
        assert_eq!(draw(3, true).iter().take(DECK.len()).collect::<BTreeSet<_>>().len(), DECK.len());
        assert!(draw(1, false).into_iter().all(|event| !event.ends_the_daemon()));
        assert_eq!(Event::QemuHangs.name(), "qemu_hangs");
    }
}
