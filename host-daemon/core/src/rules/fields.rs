//! The variables of conditions: the one table that conditions are checked by, evaluated by and documented from.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use super::scene::Scene;

/// One variable.
pub struct Field {
    /// As written in a condition.
    pub path: &'static str,
    /// Of what type it is.
    pub kind: Kind,
    /// What it means.
    pub meaning: &'static str,
    pub(super) read: for<'a> fn(&Scene<'a>) -> Datum<'a>,
}

/// Type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A double.
    Number,
    /// True or false.
    Truth,
    /// Text.
    Text,
    /// A list of records of numbers, with the names of these and what they mean.
    Records(&'static [(&'static str, &'static str)]),
}

/// A value of a field.
#[derive(Debug)]
pub(crate) enum Datum<'a> {
    Unknown,
    Number(f64),
    Truth(bool),
    Text(Cow<'a, str>),
    Records(Vec<Vec<(&'static str, Option<f64>)>>),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "number",
            Self::Truth => "true or false",
            Self::Text => "text",
            Self::Records(_) => "list",
        })
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field").field("path", &self.path).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// All fields, in the order of the documentation.
#[must_use]
pub fn fields() -> &'static [Field] {
    super::scene::FIELDS
}

/// The names that fields begin with.
pub fn groups() -> impl Iterator<Item = &'static str> {
    ["host", "domain", "vcpu", "process", "service", "history", "policy"].into_iter()
}

/// The field of this path.
pub(super) fn field(path: &str) -> Option<&'static Field> {
    static BY_PATH: LazyLock<HashMap<&'static str, &'static Field>> =
        LazyLock::new(|| fields().iter().map(|field| (field.path, field)).collect());
    BY_PATH.get(path).copied()
}

impl From<f64> for Datum<'_> {
    fn from(number: f64) -> Self {
        if number.is_nan() { Self::Unknown } else { Self::Number(number) }
    }
}

impl From<bool> for Datum<'_> {
    fn from(truth: bool) -> Self {
        Self::Truth(truth)
    }
}

impl<'a> From<&'a str> for Datum<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Datum<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<'a, T: Into<Datum<'a>>> From<Option<T>> for Datum<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Unknown, Into::into)
    }
}
