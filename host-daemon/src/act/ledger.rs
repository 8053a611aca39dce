//! The ledger in memory and on disk: on disk first, always. What an entry means is `core::ledger`'s business.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvmpilot_core::Uuid;
use kvmpilot_core::ledger::{LedgerEntry, LedgerTarget, Value};

use crate::clock::unix_ms;
use crate::store::{Store, StoreError};

type Entries = BTreeMap<(Uuid, LedgerTarget), LedgerEntry>;

/// The originals of everything that we changed.
#[derive(Debug)]
pub struct Ledger {
    store: Store,
    entries: Mutex<Entries>,
}

impl Ledger {
    /// Reads the ledger from disk.
    ///
    /// # Errors
    /// When the store cannot be read; nothing may be changed then.
    pub fn load(store: Store) -> Result<Self, StoreError> {
        let entries =
            store.ledger()?.into_iter().map(|entry| ((entry.domain, entry.target.clone()), entry)).collect();
        Ok(Self { store, entries: Mutex::new(entries) })
    }

    /// Reads it again, from another database than before.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn reload(&self) -> Result<(), StoreError> {
        let entries = self.store.ledger()?.into_iter();
        *self.lock() = entries.map(|entry| ((entry.domain, entry.target.clone()), entry)).collect();
        Ok(())
    }

    /// Everything in it.
    #[must_use]
    pub fn entries(&self) -> Vec<LedgerEntry> {
        self.lock().values().cloned().collect()
    }

    /// The domains in it, with the life that each entry was made in.
    #[must_use]
    pub fn lives(&self) -> Vec<(Uuid, String)> {
        let mut lives: Vec<_> =
            self.lock().values().map(|entry| (entry.domain, entry.incarnation.clone())).collect();
        lives.dedup();
        lives
    }

    /// Those of one domain.
    #[must_use]
    pub fn entries_of(&self, domain: Uuid) -> Vec<LedgerEntry> {
        self.lock().values().filter(|entry| entry.domain == domain).cloned().collect()
    }

    /// How many values are not at their original.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether every value is at its original.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Announces changes; when this returns they are on disk. `fresh` entries carry the live value as their original,
    /// which it is not where it is somebody else's and the change `overrules` it.
    pub(super) async fn announce(
        &self,
        changes: Vec<(LedgerEntry, Value)>,
        overrules: bool,
    ) -> Result<(), StoreError> {
        let entries = {
            let known = self.lock();
            let merged = changes.into_iter().map(|(fresh, live)| {
                let earlier = known.get(&(fresh.domain, fresh.target.clone()));
                LedgerEntry::before_change(earlier, fresh, &live, overrules)
            });
            merged.collect::<Vec<_>>()
        };
        let on_disk = entries.clone();
        self.blocking(move |store| store.ledger_put_all(on_disk)).await?;
        self.lock().extend(entries.into_iter().map(|entry| ((entry.domain, entry.target.clone()), entry)));
        Ok(())
    }

    /// Writes down that an order's change is being made; `false` if it is not this order's turn (any more).
    pub(super) async fn mark_applied(&self, order: u64) -> Result<bool, StoreError> {
        let now = unix_ms();
        self.blocking(move |store| store.order_apply(order, now)).await
    }

    /// Takes note of values that were set and read back. One that is at its original leaves the ledger.
    pub(super) async fn settle(
        &self,
        domain: Uuid,
        values: Vec<(LedgerTarget, Value)>,
    ) -> Result<(), StoreError> {
        let (mut back, mut away) = (Vec::new(), Vec::new());
        for (target, value) in values {
            let Some(mut entry) = self.lock().get(&(domain, target)).cloned() else { continue };
            if entry.original == value {
                back.push(entry.target);
            } else {
                entry.applied = Some(value);
                away.push(entry);
            }
        }
        let on_disk = away.clone();
        self.blocking(move |store| store.ledger_put_all(on_disk)).await?;
        self.lock().extend(away.into_iter().map(|entry| ((entry.domain, entry.target.clone()), entry)));
        self.forget(domain, back).await
    }

    /// Drops entries whose value is back or gone.
    pub(super) async fn forget(&self, domain: Uuid, targets: Vec<LedgerTarget>) -> Result<(), StoreError> {
        let on_disk = targets.clone();
        self.blocking(move |store| on_disk.iter().try_for_each(|target| store.ledger_remove(domain, target)))
            .await?;
        let mut entries = self.lock();
        for target in targets {
            entries.remove(&(domain, target));
        }
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || write(&store)).await {
            Ok(result) => result,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
