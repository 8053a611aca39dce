//! [`Change`]: what a person wants to have in a domain's metadata, and what stands there afterwards.

use serde::{Deserialize, Serialize};

use super::keys::{KEYS, Key, key_names};
use super::metadata::Metadata;
use crate::sample::PolicySample;

/// What a person wants to have in a domain's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// Settings to set, name and value.
    pub set: Vec<(String, String)>,
    /// Settings to take out.
    pub unset: Vec<String>,
    /// Whether all are taken out first.
    pub clear: bool,
}

impl Change {
    /// What is wrong with the change itself, whatever the domain says now.
    ///
    /// # Errors
    /// What is wrong, one sentence for each mistake.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        for (at, (name, value)) in self.set.iter().enumerate() {
            match Key::named(name) {
                None => wrong.push(format!("there is no setting {name}; the settings are {}", key_names())),
                Some(key) => wrong.extend(key.read(&mut super::Wishes::default(), value).err()),
            }
            if self.set.iter().take(at).any(|(other, _)| other == name) || self.unset.contains(name) {
                wrong.push(format!("{name} is named more than once"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// The settings that stand there after the change: known ones in their usual order.
    ///
    /// # Errors
    /// What is wrong, one sentence for each mistake; nothing is to be written then.
    pub fn apply(&self, before: Option<&PolicySample>) -> Result<Vec<(String, String)>, Vec<String>> {
        self.check()?;
        let kept = before.filter(|_| !self.clear);
        let named =
            |name: &String| self.unset.contains(name) || self.set.iter().any(|(other, _)| other == name);
        let mut settings: Vec<(String, String)> = kept
            .into_iter()
            .flat_map(|sample| &sample.settings)
            .filter(|(name, _)| !named(name))
            .chain(&self.set)
            .map(|(name, value)| (name.clone(), value.trim().to_owned()))
            .collect();
        settings.sort_by_key(|(name, _)| KEYS.iter().position(|key| key.name == name));
        let wrong = kept.map(|sample| sample.wrong.clone()).unwrap_or_default();
        let after = Metadata::read(&PolicySample { settings: settings.clone(), wrong });
        if after.is_sound() {
            Ok(settings)
        } else {
            Err(after.problems.into_iter().map(|p| p.text).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(settings: &[(&str, &str)]) -> Vec<(String, String)> {
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn sample(settings: &[(&str, &str)]) -> PolicySample {
        PolicySample { settings: pairs(settings), wrong: Vec::new() }
    }

    #[test]
    fn sets_replaces_and_takes_out() {
        let before = sample(&[("class", "batch"), ("floor", "64MiB"), ("mode", "auto")]);
        let change = Change {
            set: pairs(&[("pcpus", "0-1"), ("class", " latency ")]),
            unset: vec!["floor".into()],
            clear: false,
        };
        let after = change.apply(Some(&before)).unwrap();
        assert_eq!(after, pairs(&[("class", "latency"), ("mode", "auto"), ("pcpus", "0-1")]));
        assert_eq!(change.apply(None).unwrap(), pairs(&[("class", "latency"), ("pcpus", "0-1")]));
        let clear = Change { clear: true, ..Change::default() };
        assert_eq!(clear.apply(Some(&before)).unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_not_written_and_can_be_taken_out() {
        let wrong = Change { set: pairs(&[("colour", "red"), ("class", "fast")]), ..Change::default() };
        let said = wrong.apply(None).unwrap_err();
        assert!(said[0].contains("no setting colour") && said[1].contains("class: \"fast\""), "{said:?}");
        let twice = Change { set: pairs(&[("class", "batch"), ("class", "auto")]), ..Change::default() };
        assert!(twice.apply(None).is_err());

        let broken = sample(&[("colour", "red"), ("class", "batch")]);
        let set = Change { set: pairs(&[("mode", "auto")]), ..Change::default() };
        assert!(set.apply(Some(&broken)).unwrap_err()[0].contains("colour"));
        let mended = Change { unset: vec!["colour".into()], ..set.clone() };
        assert_eq!(mended.apply(Some(&broken)).unwrap(), pairs(&[("class", "batch"), ("mode", "auto")]));
        let foreign = PolicySample { settings: Vec::new(), wrong: vec!["it has an element inside".into()] };
        assert!(set.apply(Some(&foreign)).is_err());
        assert!(Change { clear: true, ..set }.apply(Some(&foreign)).is_ok());
        let limits = Change { set: pairs(&[("weight.min", "9"), ("weight.max", "8")]), ..Change::default() };
        assert!(limits.apply(None).unwrap_err()[0].contains("more than weight.max"));
    }
}
