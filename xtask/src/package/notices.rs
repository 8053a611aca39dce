//! The licences of everything that is linked into the programs. They ask that their notices come along.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::output_of;
use serde::Deserialize;

use crate::command::cargo;

/// What is shipped: the programs, and the eBPF objects in them.
const SHIPPED: [&str; 2] = ["kvmpilot", "kvmpilot-ebpf"];
/// How files with licences begin, in capitals.
const LICENCES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];

/// What `cargo metadata` prints, as far as we care.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// `None` for members of the workspace.
    source: Option<String>,
    repository: Option<String>,
    manifest_path: String,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

/// `kind` is `None` for what is linked, "build" and "dev" else.
#[derive(Debug, Deserialize)]
struct Kind {
    kind: Option<String>,
}

/// Names, versions, licences and notices of all libraries, each notice once.
pub(super) fn notices() -> Result<String> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = cargo();
    command.args(["metadata", "--format-version=1", "--locked", "--filter-platform", &platform]);
    let metadata: Metadata = serde_json::from_str(&output_of(&mut command)?)?;
    let packages = linked(&metadata);
    ensure!(!packages.is_empty(), "nothing is linked into {SHIPPED:?}");

    let mut list = String::from("Libraries that are part of kvmpilot's programs, and their licences.\n\n");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in &packages {
        let label = format!("{} {}", package.name, package.version);
        let licence = package.license.as_deref();
        let licence = licence.with_context(|| format!("{label} names no licence"))?;
        let place = package.repository.as_deref().unwrap_or("no address");
        list.push_str(&format!("{label}: {licence} ({place})\n"));
        for text in licences(Path::new(&package.manifest_path))? {
            texts.entry(text).or_default().push(label.clone());
        }
    }
    for (text, users) in texts {
        list.push_str(&format!("\n{}\n{}\n\n{}\n", "-".repeat(80), users.join(", "), text.trim_end()));
    }
    Ok(list)
}

/// Packages that are not ours, by name, which are linked into what is shipped.
fn linked(metadata: &Metadata) -> Vec<&Package> {
    let package = |id: &str| metadata.packages.iter().find(|package| package.id == id);
    let ours = metadata.packages.iter().filter(|package| package.source.is_none());
    let mut left: Vec<&str> = ours
        .filter(|package| SHIPPED.contains(&package.name.as_str()))
        .map(|package| package.id.as_str())
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = left.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = metadata.resolve.nodes.iter().find(|node| node.id == id);
        let deps = node.into_iter().flat_map(|node| &node.deps);
        left.extend(
            deps.filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind.is_none()))
                .map(|dep| dep.pkg.as_str()),
        );
    }
    let mut packages: Vec<&Package> =
        seen.into_iter().filter_map(package).filter(|package| package.source.is_some()).collect();
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    packages
}

/// The licence files beside a manifest.
fn licences(manifest: &Path) -> Result<Vec<String>> {
    let directory = manifest.parent().context("a manifest is in a directory")?;
    let mut texts = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        if path.is_file() && LICENCES.iter().any(|begin| name.starts_with(begin)) {
            let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            texts.push(String::from_utf8_lossy(&text).replace('\r', ""));
        }
    }
    texts.sort();
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_named_and_what_only_builds_or_tests_is_not() {
        let notices = notices().unwrap();
        let list: Vec<&str> = notices.lines().take_while(|line| !line.starts_with("---")).collect();
        let has = |name: &str| list.iter().any(|line| line.starts_with(&format!("{name} ")));
        // Of the daemon, of its eBPF objects, and of what they need.
        for name in ["tokio", "virt", "aya", "aya-ebpf", "libsqlite3-sys"] {
            assert!(has(name), "{name} is missing");
        }
        for name in ["kvmpilot", "kvmpilot-core", "proptest", "cc", "tempfile"] {
            assert!(!has(name), "{name} is not linked");
        }
        assert!(notices.contains("Copyright (c) Tokio Contributors"), "tokio's notice is missing");
    }
}
