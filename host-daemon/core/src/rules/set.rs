//! [`RuleSet`]: the rules in force, the shipped ones with those of the administrator's files over them.

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::read::{Entry, Fault, read};
use super::then::{Scope, Then};

/// The file of the built-in rules, as installed.
pub const SHIPPED: &str = include_str!("../../../../systemd/rules.toml");
/// How shipped rules name where they come from.
pub const SHIPPED_NAME: &str = "shipped";

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Rule {
    /// Its name, unique.
    pub name: Arc<str>,
    /// The file that it comes from; [`SHIPPED_NAME`] for the built-in ones.
    pub source: Arc<str>,
    /// What it is asked about.
    pub on: Scope,
    /// When it holds.
    pub when: Condition,
    /// What it does then.
    pub then: Then,
    /// Of rules that exclude each other, the one of highest priority counts.
    pub priority: i32,
}

/// A rule as recordings have it.
#[derive(Serialize, Deserialize)]
struct Raw {
    name: Arc<str>,
    source: Arc<str>,
    on: Scope,
    when: String,
    then: Then,
    priority: i32,
}

impl TryFrom<Raw> for Rule {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let Raw { name, source, on, when, then, priority } = raw;
        let when = Condition::new(&when).map_err(|errors| {
            let first = errors.first().map_or_else(String::new, |error| error.message.clone());
            format!("the condition of rule {name} is not understood by this version: {first}")
        })?;
        Ok(Self { name, source, on, when, then, priority })
    }
}

impl From<Rule> for Raw {
    fn from(rule: Rule) -> Self {
        let Rule { name, source, on, when, then, priority } = rule;
        Self { name, source, on, when: when.text().to_owned(), then, priority }
    }
}

/// The rules in force, in the order in which they are asked: by priority, then those of later files first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleSet(Arc<[Rule]>);

impl Default for RuleSet {
    /// The shipped rules.
    fn default() -> Self {
        static SHIPPED_RULES: LazyLock<RuleSet> = LazyLock::new(|| {
            // A test reads the shipped file, so there is nothing wrong in it.
            let entries = read(SHIPPED, SHIPPED_NAME).unwrap_or_default();
            RuleSet::layered(vec![entries]).unwrap_or_else(|_| RuleSet(Arc::from([])))
        });
        SHIPPED_RULES.clone()
    }
}

impl RuleSet {
    /// The shipped rules with these files over them, later ones over earlier ones.
    ///
    /// # Errors
    /// For a file (its index) and an entry that switches off what is not there.
    pub fn with_files(files: Vec<Vec<Entry>>) -> Result<Self, Vec<(usize, Fault)>> {
        let shipped = read(SHIPPED, SHIPPED_NAME).unwrap_or_default();
        let layers = std::iter::once(shipped).chain(files).collect();
        Self::layered(layers).map_err(|wrong| {
            wrong.into_iter().map(|(layer, fault)| (layer.saturating_sub(1), fault)).collect()
        })
    }

    /// These rules with a file over them; what it switches off need not be there.
    #[must_use]
    pub fn with_entries(&self, entries: Vec<Entry>) -> Self {
        let mut own: Vec<Rule> = Vec::new();
        let mut below = self.0.to_vec();
        for Entry { name, rule, .. } in entries {
            below.retain(|other| *other.name != name);
            own.extend(rule);
        }
        own.extend(below);
        // Those of the file come before others of their priority, as everywhere.
        own.sort_by_key(|rule| -rule.priority);
        Self(own.into())
    }

    fn layered(layers: Vec<Vec<Entry>>) -> Result<Self, Vec<(usize, Fault)>> {
        let mut rules: Vec<(usize, usize, Rule)> = Vec::new();
        let mut wrong = Vec::new();
        for (layer, entries) in layers.into_iter().enumerate() {
            for (n, Entry { name, span, rule }) in entries.into_iter().enumerate() {
                let known = rules.iter().position(|(.., other)| *other.name == name);
                match (known, rule) {
                    (Some(at), Some(rule)) => rules[at] = (layer, n, rule),
                    (None, Some(rule)) => rules.push((layer, n, rule)),
                    (Some(at), None) => {
                        rules.remove(at);
                    }
                    (None, None) => {
                        let names = rules.iter().map(|(.., rule)| &*rule.name);
                        let help = super::nearest(&name, names).map_or_else(
                            || "`kvmpilot rules list` shows them".to_owned(),
                            |near| format!("did you mean {near}?"),
                        );
                        let message = format!("there is no rule {name} to switch off");
                        wrong.push((layer, Fault { span, message, help }));
                    }
                }
            }
        }
        rules.sort_by_key(|(layer, n, rule)| (-rule.priority, std::cmp::Reverse(*layer), *n));
        if wrong.is_empty() {
            Ok(Self(rules.into_iter().map(|(.., rule)| rule).collect()))
        } else {
            Err(wrong)
        }
    }

    /// All, in the order in which they are asked.
    pub fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.0.iter()
    }

    /// The rule of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Rule> {
        self.iter().find(|rule| &*rule.name == name)
    }
}

impl<'a> IntoIterator for &'a RuleSet {
    type Item = &'a Rule;
    type IntoIter = std::slice::Iter<'a, Rule>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
