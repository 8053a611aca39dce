//! How single values are written: durations, sizes, words, numbers in a range.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use kvmpilot_core::CpuSet;
use kvmpilot_core::units::KiB;
use serde::de::DeserializeOwned;
use serde::de::value::{Error as WordError, StrDeserializer};
use toml::Spanned;
use toml::de::DeValue;

use super::options::Choice;

/// What is wrong with a value, before it is known in which file it stands.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) span: Range<usize>,
    pub(super) message: String,
    pub(super) help: String,
}

pub(super) type Read<T> = Result<T, Fault>;

/// A value in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a>(pub(super) &'a Spanned<DeValue<'a>>);

const DURATION: &str =
    "a duration is a number and a unit in quotes, like \"500ms\", \"5s\", \"5min\", \"12h\" or \"7d\"";
const SIZE: &str = "a size is a number and a unit in quotes, like \"512KiB\", \"128MiB\" or \"4GiB\"";
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 3] = [("GiB", 1 << 20), ("MiB", 1 << 10), ("KiB", 1)];

/// One second.
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// One day: longer than any period needs to be.
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// Reads a duration as it is written in the configuration, for options of the command line.
///
/// # Errors
/// What a duration looks like, when it is none.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    amount(text.trim(), &DURATION_UNITS)
        .flatten()
        .map(Duration::from_millis)
        .ok_or_else(|| DURATION.to_owned())
}

/// A number and a unit; `Some(None)` if the product is too large.
fn amount(text: &str, units: &[(&str, u64)]) -> Option<Option<u64>> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    Some(number.parse::<u64>().ok()?.checked_mul(*factor))
}

impl Value<'_> {
    pub(super) fn fault(&self, message: impl Into<String>, help: impl Into<String>) -> Fault {
        Fault { span: self.0.span(), message: message.into(), help: help.into() }
    }

    fn wants(&self, what: &str, help: impl Into<String>) -> Fault {
        self.fault(format!("wants {what}, but this is of type {}", self.0.get_ref().type_str()), help)
    }

    fn in_range<T: PartialOrd>(
        &self,
        value: T,
        range: &RangeInclusive<T>,
        show: fn(&T) -> String,
    ) -> Read<T> {
        if range.contains(&value) {
            return Ok(value);
        }
        let (problem, bound) =
            if value < *range.start() { ("small", "at least") } else { ("large", "at most") };
        let limit = if value < *range.start() { range.start() } else { range.end() };
        Err(self
            .fault(format!("{} is too {problem}", show(&value)), format!("write {bound} {}", show(limit))))
    }

    pub(super) fn text(&self) -> Read<&str> {
        self.0.get_ref().as_str().ok_or_else(|| self.wants("text", "put it in quotes"))
    }

    /// Text that must not be empty.
    pub(super) fn name(&self) -> Read<String> {
        match self.text()? {
            "" => Err(self.fault("must not be empty", "leave the key out to get the default")),
            name => Ok(name.to_owned()),
        }
    }

    pub(super) fn path(&self) -> Read<std::path::PathBuf> {
        let path = std::path::PathBuf::from(self.text()?);
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(self.fault("wants an absolute path", "start it with /"))
        }
    }

    pub(super) fn boolean(&self) -> Read<bool> {
        self.0
            .get_ref()
            .as_bool()
            .ok_or_else(|| self.wants("true or false", "write true or false without quotes"))
    }

    /// A word of a small vocabulary: an enum without fields.
    pub(super) fn word<T: DeserializeOwned>(&self) -> Read<T> {
        let word = self.text()?;
        T::deserialize(StrDeserializer::<WordError>::new(word)).map_err(|error| {
            // serde says: unknown variant `x`, expected one of `a`, `b`
            let choices = error.to_string();
            let choices =
                choices.split_once(", expected ").map_or("", |(_, choices)| choices).replace('`', "\"");
            self.fault(format!("\"{word}\" is not a choice here"), format!("write {choices}"))
        })
    }

    /// `None` for the word `same`, else as `read` says.
    pub(super) fn unless<T>(&self, same: &str, read: impl FnOnce(&Self) -> Read<T>) -> Read<Option<T>> {
        if self.0.get_ref().as_str() == Some(same) {
            return Ok(None);
        }
        read(self).map(Some).map_err(|mut fault| {
            fault.help = format!("{}, or \"{same}\"", fault.help);
            fault
        })
    }

    pub(super) fn whole<T>(&self, range: RangeInclusive<T>) -> Read<T>
    where
        T: TryFrom<u64> + PartialOrd + Display,
    {
        let Some(integer) = self.0.get_ref().as_integer() else {
            return Err(self.wants("a whole number", "write it without quotes, point or unit"));
        };
        u64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| {
                self.fault("is out of range", format!("write {} to {}", range.start(), range.end()))
            })
            .and_then(|number| self.in_range(number, &range, T::to_string))
    }

    /// A number with or without a point.
    pub(super) fn number(&self, range: RangeInclusive<f64>) -> Read<f64> {
        let text = match self.0.get_ref() {
            DeValue::Float(float) => float.as_str().to_owned(),
            DeValue::Integer(integer) => integer.to_string(),
            _ => return Err(self.wants("a number", "write it without quotes, like 0.9")),
        };
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => self.in_range(number, &range, f64::to_string),
            _ => {
                Err(self.fault("is no usable number", format!("write {} to {}", range.start(), range.end())))
            }
        }
    }

    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Read<Duration> {
        let millis = self.with_unit("a duration", &DURATION_UNITS, DURATION)?;
        self.in_range(Duration::from_millis(millis), &range, show_duration)
    }

    pub(super) fn size(&self, range: RangeInclusive<KiB>) -> Read<KiB> {
        let kib = self.with_unit("a size", &SIZE_UNITS, SIZE)?;
        self.in_range(KiB(kib), &range, show_size)
    }

    fn with_unit(&self, what: &str, units: &[(&str, u64)], help: &str) -> Read<u64> {
        let Some(text) = self.0.get_ref().as_str() else { return Err(self.wants(what, help)) };
        let text = text.trim();
        match amount(text, units) {
            Some(Some(amount)) => Ok(amount),
            Some(None) => Err(self.fault(format!("\"{text}\" is too large"), help)),
            None => Err(self.fault(format!("\"{text}\" is not {what}"), help)),
        }
    }

    pub(super) fn cpu_set(&self) -> Read<CpuSet> {
        let text = self.text()?;
        let set: CpuSet = text
            .parse()
            .map_err(|error| self.fault(format!("{error}"), "write a CPU list like \"0-3,8\""))?;
        if set.is_empty() {
            return Err(self.fault("names no CPU", "write a CPU list like \"0-3,8\""));
        }
        Ok(set)
    }

    /// A table of options of its own, all of which set something in `target`.
    pub(super) fn table<T>(&self, target: &mut T, choices: &[Choice<T>]) -> Read<()> {
        let keys = || choices.iter().map(|choice| choice.key).collect::<Vec<_>>().join(", ");
        let Some(table) = self.0.get_ref().as_table() else {
            return Err(self.wants("a table", format!("write {{ KEY = VALUE }}; the keys are {}", keys())));
        };
        for (key, value) in table {
            let Some(choice) = choices.iter().find(|choice| choice.key == key.get_ref()) else {
                let message = format!("there is no {} in it", key.get_ref());
                return Err(Fault { span: key.span(), message, help: format!("the keys are {}", keys()) });
            };
            (choice.set)(target, Value(value))
                .map_err(|fault| Fault { message: format!("{}: {}", choice.key, fault.message), ..fault })?;
        }
        Ok(())
    }

    /// A table of texts; `like` shows one.
    pub(super) fn texts(&self, like: &str) -> Read<BTreeMap<String, String>> {
        let help = || format!("write a table like {like}");
        let Some(table) = self.0.get_ref().as_table() else { return Err(self.wants("a table", help())) };
        let text = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let key: &std::borrow::Cow<'_, str> = key.get_ref();
            Ok((key.clone().into_owned(), Value(value).text()?.to_owned()))
        };
        table.iter().map(text).collect()
    }

    pub(super) fn names(&self) -> Read<Vec<String>> {
        const HELP: &str = "write a list like [\"sshd*\", \"cron\"]";
        let Some(list) = self.0.get_ref().as_array() else { return Err(self.wants("a list of names", HELP)) };
        list.iter().map(|item| Value(item).name()).collect()
    }
}

/// As it is written in the file: the largest unit that gives a whole number.
pub(crate) fn show_duration(duration: &Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATION_UNITS)
}

fn show_size(size: &KiB) -> String {
    show(size.0, &SIZE_UNITS)
}

fn show(number: u64, units: &[(&str, u64)]) -> String {
    units
        .iter()
        .find(|(_, factor)| number != 0 && number.is_multiple_of(*factor))
        .or_else(|| units.last())
        .map_or_else(String::new, |(unit, factor)| format!("\"{}{unit}\"", number / factor))
}
