//! `[[service]]` entries: components, the connections between them, watched files.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use kvmpilot_core::policy::{
    ComponentPolicy, ConnectionPolicy, FilePolicy, MAX_COMPONENTS, MAX_FILES, MAX_NAME, MAX_PATH,
    MAX_SERVICES, ServicePolicy,
};
use toml::Spanned;
use toml::de::DeValue;

use super::SERVICES;
use super::options::{Choice, option};
use super::read::{Reader, in_order, nearest};
use super::value::{Read, Value};

const COMPONENT: &[Choice<ComponentPolicy>] = &[
    option("service.component", "name", |entry, v| set(&mut entry.name, name(v))),
    option("service.component", "domain", |entry, v| set(&mut entry.domain, v.name())),
    option("service.component", "process", |entry, v| set(&mut entry.process, v.name().map(Some))),
    option("service.component", "unit", |entry, v| set(&mut entry.unit, v.name().map(Some))),
    option("service.component", "port", |entry, v| set(&mut entry.port, v.whole(1..=u16::MAX).map(Some))),
    option("service.component", "protocol", |entry, v| set(&mut entry.protocol, v.word())),
];

const CONNECTION: &[Choice<ConnectionPolicy>] = &[
    option("service.connection", "from", |entry, v| set(&mut entry.from, v.name())),
    option("service.connection", "to", |entry, v| set(&mut entry.to, v.name())),
    option("service.connection", "port", |entry, v| set(&mut entry.port, v.whole(1..=u16::MAX))),
    option("service.connection", "protocol", |entry, v| set(&mut entry.protocol, v.word())),
];

const FILE: &[Choice<FilePolicy>] = &[
    option("service.file", "component", |entry, v| set(&mut entry.component, v.name())),
    option("service.file", "path", |entry, v| set(&mut entry.path, path(v))),
    option("service.file", "sha256", |entry, v| set(&mut entry.sha256, sha256(v).map(Some))),
];

fn set<T>(target: &mut T, value: Read<T>) -> Read<()> {
    *target = value?;
    Ok(())
}

/// A name of our own, which commands and messages use.
fn name(value: Value<'_>) -> Read<String> {
    let name = value.name()?;
    if name.chars().count() > MAX_NAME {
        return Err(value.fault("is too long", format!("write at most {MAX_NAME} characters")));
    }
    if name.chars().any(char::is_control) {
        return Err(value.fault("has control characters in it", "leave them out"));
    }
    Ok(name)
}

fn path(value: Value<'_>) -> Read<String> {
    let path = value.text()?;
    if !path.starts_with('/') || path.contains('\0') {
        return Err(value.fault("wants an absolute path", "start it with /"));
    }
    if path.len() > MAX_PATH {
        return Err(value.fault("is too long", format!("write at most {MAX_PATH} bytes")));
    }
    Ok(path.to_owned())
}

fn sha256(value: Value<'_>) -> Read<String> {
    let text = value.text()?;
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(value.fault("is no SHA-256", "write 64 hexadecimal digits, as `sha256sum FILE` prints them"))
    }
}

/// Where a name of another part stands.
type Reference = (String, Range<usize>);

impl<'a> Reader<'a> {
    /// Whether the file that is read is for services only.
    pub(super) fn holds_services(&self) -> bool {
        let directory = self.sources.get(self.at).and_then(|source| source.path.parent());
        directory.and_then(|directory| directory.file_name()).is_some_and(|name| name == SERVICES)
    }

    pub(super) fn service(&mut self, entry: &Spanned<DeValue<'a>>) {
        let Some(table) = entry.get_ref().as_table() else {
            self.wrong(entry.span(), "wants tables", "write [[service]] and its keys below it");
            return;
        };
        let mut service = ServicePolicy::default();
        if let Some(source) = self.sources.get(self.at) {
            service.source = format!("{}:{}", source.path.display(), source.line_of(entry.span().start));
        }
        let mut references: Vec<Reference> = Vec::new();
        for (key, value) in in_order(table) {
            match key.get_ref().as_ref() {
                "name" => match name(Value(value)) {
                    Ok(name) => service.name = name,
                    Err(fault) => self.fault("service.name", fault),
                },
                "component" => {
                    service.components =
                        self.parts(value, COMPONENT, MAX_COMPONENTS, &["name", "domain"], &mut references);
                }
                "connection" => {
                    service.connections = self.parts(
                        value,
                        CONNECTION,
                        MAX_COMPONENTS,
                        &["from", "to", "port"],
                        &mut references,
                    );
                }
                "file" => {
                    service.files =
                        self.parts(value, FILE, MAX_FILES, &["component", "path"], &mut references);
                }
                unknown => {
                    let keys = ["name", "component", "connection", "file"];
                    let help = nearest(unknown, keys.into_iter()).map_or_else(
                        || "the keys are name, [[service.component]], [[service.connection]] and [[service.file]]".to_owned(),
                        |near| format!("did you mean {near}?"),
                    );
                    self.wrong(key.span(), format!("there is no {unknown} in [[service]]"), help);
                }
            }
        }
        if !table.contains_key("name") {
            return self.wrong(entry.span(), "this service has no name", "add name = \"...\"");
        }
        self.check(
            &service,
            entry.span(),
            table.get("name").map_or_else(|| entry.span(), Spanned::span),
            references,
        );
        self.config.policy.services.push(service);
    }

    /// The tables of one kind in a service.
    fn parts<T: Default>(
        &mut self,
        value: &Spanned<DeValue<'a>>,
        choices: &[Choice<T>],
        most: usize,
        wanted: &[&str],
        references: &mut Vec<Reference>,
    ) -> Vec<T> {
        let section = choices.first().map_or("service", |choice| choice.section);
        let Some(entries) = value.get_ref().as_array() else {
            self.wrong(
                value.span(),
                format!("{section} can be there several times"),
                format!("write [[{section}]] with two pairs of brackets"),
            );
            return Vec::new();
        };
        if entries.len() > most {
            let (has, help) =
                (entries.len(), format!("at most {most} are possible: make two services of it"));
            self.wrong(value.span(), format!("there are {has} of [[{section}]]"), help);
            return Vec::new();
        }
        let mut parts = Vec::new();
        for entry in entries.iter() {
            let mut part = T::default();
            if let Err(fault) = Value(entry).table(&mut part, choices) {
                self.fault(section, fault);
                continue;
            }
            let table = entry.get_ref().as_table();
            let missing = |key: &&&str| table.is_none_or(|table| !table.contains_key(**key));
            if let Some(key) = wanted.iter().find(missing) {
                self.wrong(entry.span(), format!("this {section} has no {key}"), format!("add {key} = ..."));
                continue;
            }
            for key in ["from", "to", "component"] {
                let value = table.and_then(|table| table.get(key));
                references.extend(
                    value.and_then(|value| Some((value.get_ref().as_str()?.to_owned(), value.span()))),
                );
            }
            parts.push(part);
        }
        parts
    }

    /// What no value can tell alone.
    fn check(
        &mut self,
        service: &ServicePolicy,
        whole: Range<usize>,
        named: Range<usize>,
        references: Vec<Reference>,
    ) {
        let ServicePolicy { name, components, connections, files, .. } = service;
        let other = self.config.policy.services.iter().find(|other| other.name == *name);
        if let Some(source) = other.map(|other| other.source.clone()) {
            self.wrong(
                named,
                format!("there is a service \"{name}\" already, in {source}"),
                "give it another name",
            );
        } else if self.config.policy.services.len() >= MAX_SERVICES {
            self.wrong(named, format!("there are more than {MAX_SERVICES} services"), "take some out");
        }
        if components.is_empty() {
            self.wrong(
                whole.clone(),
                format!("service \"{name}\" has no components"),
                "add [[service.component]]",
            );
        }
        let mut names = BTreeSet::new();
        for component in components {
            if !names.insert(component.name.as_str()) {
                let message = format!("service \"{name}\" has two components \"{}\"", component.name);
                self.wrong(whole.clone(), message, "give one of them another name");
            }
        }
        for (reference, span) in references {
            if !names.contains(reference.as_str()) && !components.is_empty() {
                let help = nearest(&reference, names.iter().copied()).map_or_else(
                    || format!("the components are {}", names.iter().copied().collect::<Vec<_>>().join(", ")),
                    |near| format!("did you mean {near}?"),
                );
                self.wrong(span, format!("there is no component \"{reference}\""), help);
            }
        }
        if let Some(own) = connections.iter().find(|connection| connection.from == connection.to) {
            let message = format!("a connection goes from \"{}\" to itself", own.from);
            self.wrong(whole.clone(), message, "name two components");
        }
        let mut per_domain: BTreeMap<&str, usize> = BTreeMap::new();
        let before = self.config.policy.services.iter().chain([service]);
        for (file, of) in before.flat_map(|of| of.files.iter().map(move |file| (file, of))) {
            let domain = of.component(&file.component).map_or("", |component| component.domain.as_str());
            *per_domain.entry(domain).or_default() += 1;
        }
        let most = per_domain.into_iter().find(|(_, files)| *files > MAX_FILES);
        if let (Some((domain, _)), false) = (most, files.is_empty()) {
            let message = format!("more than {MAX_FILES} files of domain \"{domain}\" are watched");
            self.wrong(whole, message, "take some out");
        }
    }
}
