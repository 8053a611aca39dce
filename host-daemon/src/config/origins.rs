//! [`Origins`]: in which file and line each value of the configuration was written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use kvmpilot_core::policy::Source;

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// Where values were written last. What is not in here has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Place>);

impl Origins {
    /// Where a value stands that a source of the configuration has given; `None` where it has none and the default counts.
    #[must_use]
    pub fn place(&self, source: Source) -> Option<&Place> {
        match source {
            Source::Section(option) => self.0.get(option),
            Source::Entry(number, key) => self.0.get(&of_entry(number, key)),
            Source::Default | Source::Metadata(_) | Source::Malformed => None,
        }
    }

    pub(super) fn insert(&mut self, option: String, place: Place) {
        self.0.insert(option, place);
    }
}

/// The name of an option of the `[[domain]]` entry of this number.
pub(super) fn of_entry(number: usize, key: &str) -> String {
    format!("domain {number} {key}")
}
