//! Rule files: TOML text to rules, and everything that is wrong in it.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as WordError, StrDeserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::wide;
use super::condition::Condition;
use super::nearest;
use super::set::Rule;
use super::text::to_file;
use super::then::{Means, Scope, Then, Veto};
use crate::finding::Severity;

/// Most rules in one file.
const MAX_RULES: usize = 500;
/// Keys of a rule.
const KEYS: [&str; 6] = ["name", "on", "when", "then", "priority", "enabled"];
/// Keys of `then` besides those of proposals.
const THEN_KEYS: [&str; 5] = ["veto", "protect", "class", "scarce", "finding"];
const EXAMPLE: &str = "write something like then = { weight = \"protect\" }";

/// One `[[rule]]` of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Where the name stands, in bytes of the file.
    pub span: Range<usize>,
    /// The rule, or `None` if it switches the one of that name off.
    pub rule: Option<Rule>,
}

/// Something wrong in a rule file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, in bytes of the file.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// Reads one file. `source` is how its rules name where they come from.
///
/// # Errors
/// Everything that is wrong, in the order of the file. Never panics, and takes a bounded time for each rule.
pub fn read(text: &str, source: &str) -> Result<Vec<Entry>, Vec<Fault>> {
    let mut reader = Reader { text, source: source.into(), wrong: Vec::new(), entries: Vec::new() };
    reader.file();
    reader.wrong.sort_by_key(|fault| fault.span.start);
    if reader.wrong.is_empty() { Ok(reader.entries) } else { Err(reader.wrong) }
}

type Item<'a> = Spanned<DeValue<'a>>;
type Read<T> = Result<T, Fault>;

struct Reader<'a> {
    text: &'a str,
    source: Arc<str>,
    wrong: Vec<Fault>,
    entries: Vec<Entry>,
}

fn fault<T>(span: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Read<T> {
    Err(Fault { span, message: message.into(), help: help.into() })
}

impl Reader<'_> {
    fn file(&mut self) {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let span = wide(error.span().unwrap_or_default(), self.text);
            let help = "this is not valid TOML".to_owned();
            self.wrong.push(Fault { span, message: error.message().to_owned(), help });
        }
        if !errors.is_empty() {
            return;
        }
        for (name, value) in table.get_ref() {
            match (name.get_ref().as_ref(), value.get_ref()) {
                ("rule", DeValue::Array(rules)) if rules.iter().all(|rule| rule.get_ref().is_table()) => {
                    if rules.len() > MAX_RULES {
                        let message = format!("a file has {MAX_RULES} rules at most");
                        self.wrong.push(Fault { span: name.span(), message, help: "split it".to_owned() });
                        return;
                    }
                    rules.iter().for_each(|rule| self.rule(rule));
                }
                ("rule", _) => {
                    let message = "there can be several rules".to_owned();
                    let help = "write [[rule]] with two pairs of brackets".to_owned();
                    self.wrong.push(Fault { span: name.span(), message, help });
                }
                (other, _) => {
                    let message = format!("there is no {other} in a rule file");
                    let help = "a rule file has [[rule]] entries only".to_owned();
                    self.wrong.push(Fault { span: name.span(), message, help });
                }
            }
        }
    }

    fn rule(&mut self, entry: &Item<'_>) {
        let Some(table) = entry.get_ref().as_table() else { return };
        for (key, _) in table {
            if !KEYS.contains(&key.get_ref().as_ref()) {
                let help = nearest(key.get_ref(), KEYS).map_or_else(
                    || format!("the keys are {}", KEYS.join(", ")),
                    |near| format!("did you mean {near}?"),
                );
                let message = format!("a rule has no {}", key.get_ref());
                self.wrong.push(Fault { span: key.span(), message, help });
            }
        }
        let (name, name_span) = match name(entry, table) {
            Ok(name) => name,
            Err(fault) => return self.wrong.push(fault),
        };
        if self.entries.iter().any(|other| other.name == name) {
            let message = format!("there is a rule {name} before this one");
            self.wrong.push(Fault { span: name_span.clone(), message, help: "take another name".to_owned() });
        }
        let enabled = match table.get("enabled").map(|value| (value.get_ref().as_bool(), value.span())) {
            None => true,
            Some((Some(enabled), _)) => enabled,
            Some((None, span)) => {
                let message = "enabled wants true or false".to_owned();
                return self.wrong.push(Fault { span, message, help: "without quotes".to_owned() });
            }
        };
        if !enabled {
            return self.entries.push(Entry { name, span: name_span, rule: None });
        }
        let rule = self.body(&name, &name_span, table);
        self.entries.extend(rule.map(|rule| Entry { name, span: name_span, rule: Some(rule) }));
    }

    /// The rest of a rule; gathers all that is wrong.
    fn body(&mut self, name: &str, name_span: &Range<usize>, table: &DeTable<'_>) -> Option<Rule> {
        let missing = |key: &str, help: &str| Fault {
            span: name_span.clone(),
            message: format!("rule {name} has no {key}"),
            help: help.to_owned(),
        };
        let when = match table.get("when") {
            Some(value) => self.condition(value),
            None => {
                self.wrong.push(missing(
                    "when",
                    "write when = \"a condition\", or enabled = false to switch it off",
                ));
                None
            }
        };
        let then = match table.get("then").map(then) {
            Some(Ok(then)) => Some(then),
            Some(Err(fault)) => {
                self.wrong.push(fault);
                None
            }
            None => {
                self.wrong.push(missing("then", EXAMPLE));
                None
            }
        };
        let on = match table.get("on").map(|value| (word::<Scope>(value, "on"), value.span())) {
            Some((Err(fault), _)) => {
                self.wrong.push(fault);
                None
            }
            Some((Ok(on), span)) => Some((on, span)),
            None => None,
        };
        let priority = match table.get("priority").map(priority) {
            Some(Err(fault)) => {
                self.wrong.push(fault);
                0
            }
            Some(Ok(priority)) => priority,
            None => 0,
        };
        let (when, then) = (when?, then?);
        let then_span = table.get("then").map(Spanned::span).unwrap_or_default();
        let on = match scope(&when, &then, on, &then_span) {
            Ok(on) => on,
            Err(fault) => {
                self.wrong.push(fault);
                return None;
            }
        };
        Some(Rule { name: name.into(), source: Arc::clone(&self.source), on, when, then, priority })
    }

    fn condition(&mut self, value: &Item<'_>) -> Option<Condition> {
        let Some(text) = value.get_ref().as_str() else {
            let message = "when wants text".to_owned();
            let help = "put the condition in quotes, best in '''...'''".to_owned();
            self.wrong.push(Fault { span: value.span(), message, help });
            return None;
        };
        match Condition::new(text) {
            Ok(condition) => Some(condition),
            Err(errors) => {
                let raw = self.text.get(value.span()).unwrap_or_default();
                self.wrong.extend(errors.into_iter().map(|error| Fault {
                    span: to_file(raw, value.span().start, &error.span),
                    message: error.message,
                    help: error.help,
                }));
                None
            }
        }
    }
}

fn name(entry: &Item<'_>, table: &DeTable<'_>) -> Read<(String, Range<usize>)> {
    let Some(value) = table.get("name") else {
        return fault(entry.span(), "this rule has no name", "write name = \"...\"");
    };
    let is_fine = |name: &str| {
        (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    match value.get_ref().as_str() {
        Some(name) if is_fine(name) => Ok((name.to_owned(), value.span())),
        _ => fault(value.span(), "this is no name of a rule", "up to 64 of letters, digits, dots, _ and -"),
    }
}

fn priority(value: &Item<'_>) -> Read<i32> {
    let number = value.get_ref().as_integer().and_then(|number| number.as_str().parse::<i32>().ok());
    match number.filter(|number| (-1000..=1000).contains(number)) {
        Some(number) => Ok(number),
        None => fault(value.span(), "priority wants a whole number from -1000 to 1000", "0 is the default"),
    }
}

/// What the rule is about: as written, as what it does needs, or by what it reads.
fn scope(
    when: &Condition,
    then: &Then,
    on: Option<(Scope, Range<usize>)>,
    then_span: &Range<usize>,
) -> Read<Scope> {
    let needed = then.scope();
    let reads_process = when.reads("process");
    if let (Some((on, span)), Some(needed)) = (&on, needed)
        && *on != needed
    {
        return fault(
            span.clone(),
            format!("{then} is about a {needed}"),
            format!("write on = \"{needed}\""),
        );
    }
    let written = on.as_ref().map(|(on, _)| *on);
    let scope = written.or(needed).unwrap_or(if reads_process { Scope::Process } else { Scope::Domain });
    if scope == Scope::Domain && reads_process {
        let span = on.map_or_else(|| then_span.clone(), |(_, span)| span);
        let message = format!("{then} is about a domain, and the condition reads fields of process");
        return fault(span, message, "ask about domain.* fields only");
    }
    if let (Scope::Process, Then::Veto(veto)) = (scope, then)
        && *veto != Veto::One(crate::policy::Actuator::Ladder)
    {
        return fault(
            then_span.clone(),
            "only the ladder can be forbidden for a process",
            "write veto = \"ladder\"",
        );
    }
    Ok(scope)
}

fn then(value: &Item<'_>) -> Read<Then> {
    let Some(table) = value.get_ref().as_table() else {
        return fault(value.span(), "then wants a table", EXAMPLE);
    };
    let mut entries = table.iter();
    let (Some((key, what)), None) = (entries.next(), entries.next()) else {
        return fault(value.span(), "then wants one thing to do", "make a rule for each");
    };
    let name = key.get_ref().as_ref();
    let proposals: Vec<(Means, &str)> = Means::ALL
        .iter()
        .filter(|(_, of, ..)| *of == name)
        .map(|(means, _, word, _)| (*means, *word))
        .collect();
    if !proposals.is_empty() {
        let words: Vec<String> = proposals.iter().map(|(_, word)| format!("\"{word}\"")).collect();
        let written = what.get_ref().as_str();
        return match proposals.iter().find(|(_, word)| Some(*word) == written) {
            Some((means, _)) => Ok(Then::Propose(*means)),
            None => {
                fault(what.span(), format!("{name} cannot do this"), format!("write {}", words.join(" or ")))
            }
        };
    }
    match name {
        "veto" if what.get_ref().as_str() == Some("all") => Ok(Then::Veto(Veto::All)),
        "veto" => word(what, "veto").map(Veto::One).map(Then::Veto).map_err(|mut fault| {
            fault.help += " or \"all\"";
            fault
        }),
        "class" => word(what, "class").map(Then::Class),
        "protect" => only(what, "process").map(|()| Then::Protect),
        "scarce" => only(what, "cpu").map(|()| Then::Scarce),
        "finding" => finding(what),
        other => {
            let keys = || Means::ALL.iter().map(|(_, key, ..)| *key).chain(THEN_KEYS);
            let mut all: Vec<&str> = keys().collect();
            all.dedup();
            let help = nearest(other, keys()).map_or_else(
                || format!("there are {}", all.join(", ")),
                |near| format!("did you mean {near}?"),
            );
            fault(key.span(), format!("a rule cannot {other}"), help)
        }
    }
}

fn only(value: &Item<'_>, word: &str) -> Read<()> {
    if value.get_ref().as_str() == Some(word) {
        return Ok(());
    }
    fault(value.span(), "this is not a choice here", format!("write \"{word}\""))
}

fn word<T: for<'d> Deserialize<'d>>(value: &Item<'_>, key: &str) -> Read<T> {
    let Some(word) = value.get_ref().as_str() else {
        return fault(value.span(), format!("{key} wants a word"), "put it in quotes");
    };
    let deserializer: StrDeserializer<'_, WordError> = word.into_deserializer();
    T::deserialize(deserializer).or_else(|error| {
        // serde says: unknown variant `x`, expected one of `a`, `b`
        let choices = error.to_string();
        let choices = choices.split_once(", expected ").map_or("", |(_, choices)| choices).replace('`', "\"");
        fault(value.span(), format!("\"{word}\" is not a choice here"), format!("write {choices}"))
    })
}

fn finding(value: &Item<'_>) -> Read<Then> {
    const HELP: &str = "write finding = { name = \"...\", severity = \"warning\", summary = \"...\" }";
    let Some(table) = value.get_ref().as_table() else {
        return fault(value.span(), "finding wants a table", HELP);
    };
    if let Some((key, _)) =
        table.iter().find(|(key, _)| !["name", "severity", "summary"].contains(&key.get_ref().as_ref()))
    {
        return fault(key.span(), format!("a finding has no {}", key.get_ref()), HELP);
    }
    let text = |key: &str, most: usize| {
        let Some(value) = table.get(key) else {
            return fault(value.span(), format!("the finding has no {key}"), HELP);
        };
        match value.get_ref().as_str().filter(|text| (1..=most).contains(&text.len())) {
            Some(text) => Ok(text.to_owned()),
            None => fault(value.span(), format!("{key} wants text of 1 to {most} bytes"), HELP),
        }
    };
    let severity = match table.get("severity") {
        Some(value) => word(value, "severity")?,
        None => Severity::Warning,
    };
    Ok(Then::Finding { name: text("name", 64)?, severity, summary: text("summary", 500)? })
}
