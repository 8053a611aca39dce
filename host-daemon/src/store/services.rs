//! Transitions of services, and what was learned and outlives the daemon.

use kvmpilot_core::service::Transition;
use rusqlite::params;
use serde::de::DeserializeOwned;

use super::sql::{Json, Word, clamp};
use super::{Store, StoreError};

/// What is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// What was known of a service; the key is its name.
    Service,
    /// What is normal for a domain; the key is its UUID.
    Baseline,
}

impl Lesson {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Baseline => "baseline",
        }
    }
}

impl Store {
    /// Writes transitions, all of them or none.
    ///
    /// # Errors
    /// When the file could not be written.
    pub fn record_transitions(&self, transitions: Vec<Transition>) -> Result<(), StoreError> {
        self.run(move |state| {
            let transaction = state.connection.transaction()?;
            for transition in &transitions {
                transaction
                    .prepare_cached(
                        "insert into service_event (unix_ms, service, from_state, to_state, reasons)
                         values (?1, ?2, ?3, ?4, ?5)",
                    )?
                    .execute(params![
                        clamp(transition.unix_ms),
                        transition.service,
                        Word(transition.from),
                        Word(transition.to),
                        Json(&transition.reasons),
                    ])?;
            }
            transaction.commit()?;
            state.prune = true;
            Ok(())
        })
    }

    /// The last transitions of a service, newest first.
    ///
    /// # Errors
    /// When the file could not be read.
    pub fn transitions(&self, service: &str, limit: u32) -> Result<Vec<Transition>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "select * from service_event where service = ?1 order by unix_ms desc, id desc limit ?2",
                )?
                .query_map(params![service, limit], |row| {
                    let (Word(from), Word(to)) = (row.get("from_state")?, row.get("to_state")?);
                    let Json(reasons) = row.get("reasons")?;
                    Ok(Transition {
                        service: row.get("service")?,
                        unix_ms: row.get("unix_ms")?,
                        from,
                        to,
                        reasons,
                    })
                })?
                .collect()
        })
    }

    /// Writes what was learned, as JSON by key, over what was known before.
    ///
    /// # Errors
    /// When the file could not be written.
    pub fn learn(
        &self,
        lesson: Lesson,
        unix_ms: u64,
        values: Vec<(String, String)>,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            let transaction = connection.transaction()?;
            for (key, value) in &values {
                transaction
                    .prepare_cached(
                        "insert into learned (kind, key, unix_ms, value) values (?1, ?2, ?3, ?4)
                         on conflict do update set unix_ms = excluded.unix_ms, value = excluded.value",
                    )?
                    .execute(params![lesson.as_str(), key, clamp(unix_ms), value])?;
            }
            transaction.commit()
        })
    }

    /// What was learned, by key. What another version wrote and this one does not understand is left out: it is learned anew.
    ///
    /// # Errors
    /// When the file could not be read.
    pub fn learned<T: DeserializeOwned>(&self, lesson: Lesson) -> Result<Vec<(String, T)>, StoreError> {
        let rows: Vec<(String, String)> = self.read(|connection| {
            connection
                .prepare_cached("select key, value from learned where kind = ?1 order by key")?
                .query_map([lesson.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        Ok(rows
            .into_iter()
            .filter_map(|(key, value)| Some((key, serde_json::from_str(&value).ok()?)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use kvmpilot_core::service::ServiceState;

    use super::*;
    use crate::store::Limits;

    #[test]
    fn transitions_and_lessons_survive_and_an_older_schema_is_brought_up() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Limits::default()).unwrap();
        // As an earlier version left it.
        store
            .write(|connection| {
                connection.execute_batch(
                    "drop table service_event; drop table learned; drop table token;
                     alter table work_order drop column decided_by_token; pragma user_version = 2;",
                )
            })
            .unwrap();
        drop(store);
        let store = Store::open(directory.path(), Limits::default()).unwrap();
        let transition = |unix_ms, to| Transition {
            service: "shop".into(),
            unix_ms,
            from: ServiceState::Healthy,
            to,
            reasons: vec!["web: no process httpd in web".into()],
        };
        let (first, second) = (transition(5, ServiceState::Failed), transition(9, ServiceState::Healthy));
        store.record_transitions(vec![first.clone(), second.clone()]).unwrap();
        store
            .learn(Lesson::Service, 9, vec![("shop".into(), "7".into()), ("odd".into(), "\"x\"".into())])
            .unwrap();
        store.learn(Lesson::Service, 10, vec![("shop".into(), "8".into())]).unwrap();
        drop(store);
        let store = Store::open(directory.path(), Limits::default()).unwrap();
        assert_eq!(store.transitions("shop", 10).unwrap(), [second.clone(), first]);
        assert_eq!(store.transitions("shop", 1).unwrap(), [second]);
        assert_eq!(store.transitions("other", 10).unwrap(), []);
        assert_eq!(store.learned::<u32>(Lesson::Service).unwrap(), [("shop".to_owned(), 8)]);
        assert_eq!(store.learned::<u32>(Lesson::Baseline).unwrap(), []);
    }

    #[test]
    fn retention_takes_old_transitions_and_lessons() {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Limits::default()).unwrap();
        let old = Transition {
            service: "shop".into(),
            unix_ms: DAY_MS,
            from: ServiceState::Healthy,
            to: ServiceState::Failed,
            reasons: Vec::new(),
        };
        store.record_transitions(vec![old.clone(), Transition { unix_ms: 40 * DAY_MS, ..old }]).unwrap();
        store.learn(Lesson::Baseline, DAY_MS, vec![("old".into(), "1".into())]).unwrap();
        store.learn(Lesson::Baseline, 40 * DAY_MS, vec![("new".into(), "1".into())]).unwrap();
        store.record(crate::store::CycleRecord { unix_ms: 41 * DAY_MS, ..Default::default() }).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while store.transitions("shop", 10).unwrap().len() > 1
            || store.learned::<u32>(Lesson::Baseline).unwrap().len() > 1
        {
            assert!(std::time::Instant::now() < end, "nothing was pruned");
            std::thread::yield_now();
        }
        assert_eq!(store.transitions("shop", 10).unwrap().len(), 1);
        assert_eq!(store.learned::<u32>(Lesson::Baseline).unwrap(), [("new".to_owned(), 1)]);
    }
}
