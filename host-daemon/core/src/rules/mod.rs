//! Rules: when something is wanted, in files that an administrator can read, copy and override.
//!
//! A rule has a condition in CEL over documented variables ([`fields`]) and says what to do when it holds ([`Then`]). How
//! much is done, and what may never be done, is not here: that is `decide`'s. What is built in is a rule file too
//! ([`SHIPPED`]); later files replace its rules by name.

mod check;
mod condition;
mod fields;
mod read;
mod scene;
mod set;
mod text;
mod then;

pub use condition::{Condition, ConditionError, MAX_TEXT, Outcome};
pub use fields::{Field, Kind, fields, groups};
pub use read::{Entry, Fault, read};
pub(crate) use scene::Scene;
pub use set::{Rule, RuleSet, SHIPPED, SHIPPED_NAME};
pub use then::{Means, Scope, Then, Veto};

/// The word most like `wrong`, if one is like it.
#[must_use]
pub fn nearest<'w>(wrong: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    words
        .into_iter()
        .map(|word| (strsim::jaro_winkler(wrong, word), word))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests;
