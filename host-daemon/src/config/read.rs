//! Walks the files' tables along the table of options and gathers everything that is wrong.

use std::collections::HashMap;
use std::ops::Range;

use kvmpilot_core::policy::DomainPolicy;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::diagnostic::{Diagnostic, Source};
use super::options::{Choice, DOMAIN_OPTIONS, OPTIONS};
use super::origins::{Place as Origin, of_entry};
use super::value::{Fault, Value, show_duration};

/// More than an administrator mends at once.
const MAX_DIAGNOSTICS: usize = 20;

/// Where a key was set last: which source, and where in it.
type Place = (usize, Range<usize>);

/// Later sources win key by key; `[[domain]]` entries add up. What is wrong leaves its default behind.
pub(super) fn read(sources: &[Source]) -> (Config, Vec<Diagnostic>) {
    let mut reader =
        Reader { sources, at: 0, config: Config::default(), places: HashMap::new(), wrong: Vec::new() };
    for at in 0..sources.len() {
        reader.at = at;
        reader.file();
    }
    reader.check_together();
    reader.note_origins();
    reader.wrong.sort_by_key(|(at, wrong)| (*at, wrong.line, wrong.column));
    (reader.config, reader.wrong.into_iter().map(|(_, wrong)| wrong).take(MAX_DIAGNOSTICS).collect())
}

pub(super) struct Reader<'a> {
    pub(super) sources: &'a [Source],
    pub(super) at: usize,
    pub(super) config: Config,
    places: HashMap<String, Place>,
    wrong: Vec<(usize, Diagnostic)>,
}

impl<'a> Reader<'a> {
    pub(super) fn wrong(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let at = self.at;
        self.wrong_at((at, span), message, help);
    }

    fn wrong_at(&mut self, (at, span): Place, message: impl Into<String>, help: impl Into<String>) {
        if let Some(source) = self.sources.get(at) {
            self.wrong.push((at, Diagnostic::new(source, span, message.into(), help.into())));
        }
    }

    fn file(&mut self) {
        let Some(source) = self.sources.get(self.at) else { return };
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        for error in &errors {
            self.wrong(error.span().unwrap_or_default(), error.message(), "this is not valid TOML");
        }
        if !errors.is_empty() {
            // What could be parsed beside a syntax error would only mislead.
            return;
        }
        for (name, value) in in_order(table.get_ref()) {
            match (name.get_ref().as_ref(), value.get_ref()) {
                ("service", DeValue::Array(entries)) => entries.iter().for_each(|entry| self.service(entry)),
                ("service", _) => self.wrong(
                    name.span(),
                    "there can be several services",
                    "write [[service]] with two pairs of brackets",
                ),
                (other, _) if self.holds_services() => self.wrong(
                    name.span(),
                    format!("{other} has no place in a file of {}", super::SERVICES),
                    "write it into kvmpilot.toml or a file of conf.d",
                ),
                ("domain", DeValue::Array(entries)) => entries.iter().for_each(|entry| self.domain(entry)),
                ("domain", _) => self.wrong(
                    name.span(),
                    "there can be several domains",
                    "write [[domain]] with two pairs of brackets",
                ),
                (section, DeValue::Table(table)) if is_section(section) => self.section(section, table),
                (section, _) if is_section(section) => {
                    self.wrong(name.span(), format!("{section} is a section"), format!("write [{section}]"));
                }
                (unknown, value) => self.unknown_section(unknown, name.span(), value),
            }
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'a>) {
        for (key, value) in in_order(table) {
            let choices = OPTIONS.iter().filter(|choice| choice.section == section);
            let Some(choice) = choices.clone().find(|choice| choice.key == key.get_ref()) else {
                let help = nearest_key(section, key.get_ref(), choices);
                self.wrong(key.span(), format!("there is no option {} in [{section}]", key.get_ref()), help);
                continue;
            };
            self.places.insert(format!("{section}.{}", choice.key), (self.at, value.span()));
            if let Err(fault) = (choice.set)(&mut self.config, Value(value)) {
                self.fault(&format!("{section}.{}", choice.key), fault);
            }
        }
    }

    fn domain(&mut self, entry: &Spanned<DeValue<'a>>) {
        let Some(table) = entry.get_ref().as_table() else {
            self.wrong(entry.span(), "wants tables", "write [[domain]] and its keys below it");
            return;
        };
        let mut domain = DomainPolicy::default();
        for (key, value) in in_order(table) {
            let Some(choice) = DOMAIN_OPTIONS.iter().find(|choice| choice.key == key.get_ref()) else {
                let help = nearest_key("[domain]", key.get_ref(), DOMAIN_OPTIONS.iter());
                self.wrong(key.span(), format!("there is no option {} in [[domain]]", key.get_ref()), help);
                continue;
            };
            let entry = self.config.policy.domains.len();
            self.places.insert(of_entry(entry, choice.key), (self.at, value.span()));
            if let Err(fault) = (choice.set)(&mut domain, Value(value)) {
                self.fault(&format!("domain.{}", choice.key), fault);
            }
        }
        let limits = domain.wishes.weight;
        if let (Some(min), Some(max), Some(weight)) = (limits.min, limits.max, table.get("weight"))
            && min > max
        {
            let message = format!("domain.weight: min ({min}) is more than max ({max})");
            self.wrong(weight.span(), message, "lower min or raise max");
        }
        let Some(name) = table.get("name") else {
            let help = "add name = \"...\"; * stands for any run of characters";
            return self.wrong(entry.span(), "this domain has no name", help);
        };
        let place = (self.at, name.span());
        if self.places.insert(format!("domain {}", domain.name), place).is_some() {
            self.wrong(
                name.span(),
                format!(
                    "there is an entry for domain \"{}\" before this one, which is the one that counts",
                    domain.name
                ),
                "put both together",
            );
        }
        self.config.policy.domains.push(domain);
    }

    /// Where each value that counts was written.
    fn note_origins(&mut self) {
        for (option, (at, span)) in &self.places {
            if let Some(source) = self.sources.get(*at) {
                let place = Origin { path: source.path.clone(), line: source.line_of(span.start) };
                self.config.origins.insert(option.clone(), place);
            }
        }
    }

    pub(super) fn fault(&mut self, option: &str, fault: Fault) {
        self.wrong(fault.span, format!("{option}: {}", fault.message), fault.help);
    }

    fn unknown_section(&mut self, unknown: &str, span: Range<usize>, value: &DeValue<'_>) {
        if value.is_table() || value.is_array() {
            let sections = OPTIONS.iter().map(|choice| choice.section).chain(["domain", "service"]);
            let help = nearest(unknown, sections)
                .map_or_else(all_sections, |near| format!("did you mean [{near}]?"));
            self.wrong(span, format!("there is no section [{unknown}]"), help);
        } else {
            let help = nearest_key("", unknown, OPTIONS.iter());
            self.wrong(span, format!("{unknown} stands in no section"), help);
        }
    }

    /// What no value can tell alone. Only a value that some file sets can be wrong.
    fn check_together(&mut self) {
        if let Some((option, message, help)) = self.config.daemon.tcp.trouble() {
            let place = self.places.get(option).or_else(|| self.places.get("tcp.address")).cloned();
            self.config.daemon.tcp.address = None;
            place.into_iter().for_each(|place| self.wrong_at(place, message, help));
        }
        let policy = &self.config.policy;
        let pairs = [
            (
                "state.low",
                policy.state.low.to_string(),
                "state.high",
                policy.state.high.to_string(),
                policy.state.low < policy.state.high,
            ),
            (
                "weight.latency_target",
                policy.weight.latency_target.to_string(),
                "weight.standard_target",
                policy.weight.standard_target.to_string(),
                policy.weight.latency_target < policy.weight.standard_target,
            ),
            (
                "loops.fast",
                show_duration(&policy.periods.fast),
                "loops.cycle",
                show_duration(&policy.periods.cycle),
                policy.periods.fast < policy.periods.cycle,
            ),
        ];
        for (small, small_value, large, large_value, holds) in pairs {
            let place = self.places.get(small).or_else(|| self.places.get(large)).cloned();
            if let (false, Some(place)) = (holds, place) {
                self.wrong_at(
                    place,
                    format!("{small} ({small_value}) must be less than {large} ({large_value})"),
                    format!("lower {small} or raise {large}"),
                );
            }
        }
    }
}

/// The entries of a table as they stand in the file.
pub(super) fn in_order<'t, 'a>(
    table: &'t DeTable<'a>,
) -> Vec<(&'t Spanned<std::borrow::Cow<'a, str>>, &'t Spanned<DeValue<'a>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn is_section(name: &str) -> bool {
    OPTIONS.iter().any(|choice| choice.section == name)
}

fn all_sections() -> String {
    let mut sections: Vec<_> = OPTIONS.iter().map(|choice| choice.section).collect();
    sections.dedup();
    format!("the sections are [{}], [[domain]] and [[service]]", sections.join("], ["))
}

/// Says what could be meant by `key`: one of `choices`, or the option of that name in another section.
fn nearest_key<'c, T: 'c>(
    section: &str,
    key: &str,
    choices: impl Iterator<Item = &'c Choice<T>> + Clone,
) -> String {
    if let Some(other) = OPTIONS.iter().find(|choice| choice.key == key) {
        return format!("{key} is an option of [{}]", other.section);
    }
    if let Some(near) = nearest(key, choices.clone().map(|choice| choice.key)) {
        return format!("did you mean {near}?");
    }
    let keys: Vec<_> = choices.map(|choice| choice.key).collect();
    if section.is_empty() {
        all_sections()
    } else {
        format!("the options of [{section}] are {}", keys.join(", "))
    }
}

/// The word most like `wrong`, if one is like it.
pub(super) fn nearest<'w>(wrong: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    words
        .map(|word| (strsim::jaro_winkler(wrong, word), word))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}
