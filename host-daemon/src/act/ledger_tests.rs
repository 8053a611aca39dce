//! The promise of the ledger, whatever happens in between: a value that is ours has an entry with the value that it had
//! before us, and what somebody else has set is never put back.

use kvmpilot_core::Uuid;
use kvmpilot_core::ledger::{LedgerEntry, LedgerTarget, RestoreVerdict, Value};
use proptest::prelude::*;
use tempfile::TempDir;

use super::Ledger;
use crate::store::{Limits, Store};

const WEB: Uuid = Uuid::from_u128(1);

/// What may happen to one weight. Ours are even and theirs are odd, so that it can be told whose a value is.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// An order, which dies at one of its steps, or does not.
    Order { to: u64, dies: Option<Step> },
    /// Somebody else sets it.
    Others(u64),
    /// Everything is put back.
    Restore,
    /// The daemon starts again.
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    BeforeSet,
    BeforeSettle,
}

fn any_event() -> impl Strategy<Value = Event> {
    let dies = prop::option::of(prop_oneof![Just(Step::BeforeSet), Just(Step::BeforeSettle)]);
    prop_oneof![
        4 => (1_u64..50, dies).prop_map(|(half, dies)| Event::Order { to: half * 2, dies }),
        2 => (1_u64..50).prop_map(|half| Event::Others(half * 2 + 1)),
        1 => Just(Event::Restore),
        1 => Just(Event::Restart),
    ]
}

struct World {
    _directory: TempDir,
    ledger: Ledger,
    /// The weight now, and what somebody else has set last.
    live: u64,
    theirs: u64,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("state"), Limits::default()).unwrap();
        let ledger = Ledger::load(store).unwrap();
        Self { _directory: directory, ledger, live: 1025, theirs: 1025 }
    }

    /// What was in memory only is lost.
    fn restart(&self) {
        self.ledger.reload().unwrap();
    }

    fn entry(&self) -> Option<LedgerEntry> {
        self.ledger.entries_of(WEB).pop()
    }

    /// The steps of `change_value`, with a weight that is a number here.
    async fn order(&mut self, to: u64, dies: Option<Step>) {
        let fresh = LedgerEntry {
            domain: WEB,
            domain_name: "web".into(),
            incarnation: "1:1".into(),
            target: LedgerTarget::CpuShares,
            original: Value::Shares(self.live),
            applied: None,
            intended: Value::Shares(to),
        };
        self.ledger.announce(vec![(fresh, Value::Shares(self.live))], false).await.unwrap();
        if dies == Some(Step::BeforeSet) {
            return self.restart();
        }
        self.live = to;
        if dies == Some(Step::BeforeSettle) {
            return self.restart();
        }
        self.ledger.settle(WEB, vec![(LedgerTarget::CpuShares, Value::Shares(to))]).await.unwrap();
    }

    async fn restore(&mut self) {
        let Some(entry) = self.entry() else { return };
        if entry.restore_verdict(&Value::Shares(self.live)) == RestoreVerdict::Restore {
            let Value::Shares(original) = entry.original else { panic!("{entry:?}") };
            self.live = original;
        }
        self.ledger.forget(WEB, vec![LedgerTarget::CpuShares]).await.unwrap();
    }

    fn check(&self, event: Event) {
        let ours = self.live != self.theirs;
        let verdict = self.entry().map(|entry| (entry.restore_verdict(&Value::Shares(self.live)), entry));
        if ours {
            let (verdict, entry) = verdict.unwrap_or_else(|| panic!("{event:?}: {} is not in it", self.live));
            assert_eq!((verdict, &entry.original), (RestoreVerdict::Restore, &Value::Shares(self.theirs)));
        } else if let Some((verdict, entry)) = verdict {
            assert_ne!(verdict, RestoreVerdict::Restore, "{event:?}: {} is theirs: {entry:?}", self.live);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_ours_has_its_original_and_what_is_theirs_stays(events in prop::collection::vec(any_event(), 1..16)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut world = World::new();
        for event in events {
            runtime.block_on(async {
                match event {
                    Event::Order { to, dies } => world.order(to, dies).await,
                    Event::Others(value) => (world.live, world.theirs) = (value, value),
                    Event::Restore => world.restore().await,
                    Event::Restart => world.restart(),
                }
            });
            world.check(event);
            if matches!(event, Event::Restore) {
                assert_eq!(world.live, world.theirs, "not as it was before");
            }
        }
    }
}
