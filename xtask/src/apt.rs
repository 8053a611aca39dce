//! Debian's side of `setup`: which release this is, what is installed, and where backports come from.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

const SOURCES: &str = "/etc/apt/sources.list.d";

/// A supported release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    Bookworm,
    Trixie,
}

impl Release {
    /// The name that APT's sources use.
    pub(crate) fn codename(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    pub(crate) fn of_this_machine() -> Result<Self> {
        let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
        let field =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("").trim_matches('"');
        match (field("ID="), field("VERSION_ID="), std::env::consts::ARCH) {
            ("debian", "12", "x86_64") => Ok(Self::Bookworm),
            ("debian", "13", "x86_64") => Ok(Self::Trixie),
            _ => bail!(
                "setup knows Debian 12 and 13 on amd64, not {} on {}",
                field("PRETTY_NAME="),
                std::env::consts::ARCH
            ),
        }
    }
}

/// Those of `packages` that are installed.
pub(crate) fn installed(packages: &[&str]) -> BTreeSet<String> {
    // It fails if one is unknown, and prints the others.
    let mut query = Command::new("dpkg-query");
    let output = query.args(["-W", "-f", "${db:Status-Abbrev} ${Package}\n"]).args(packages).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    // The first letter is what is wanted, such as `h` for a package on hold.
    let is_there = |line: &&str| line.get(1..2) == Some("i");
    text.lines()
        .filter(is_there)
        .filter_map(|line| line.split_whitespace().nth(1))
        .map(str::to_owned)
        .collect()
}

/// Where the sources of a suite are to be written, and what; none if they are there.
pub(crate) fn missing_suite(base: &str, suite: &str) -> Result<Option<(String, String)>> {
    let files = source_files();
    if entry_in(&files, suite).is_some() {
        return Ok(None);
    }
    let (ending, entry) = derived(&files, base, suite)?;
    Ok(Some((format!("{SOURCES}/{suite}.{ending}"), entry)))
}

/// This machine's source of `base`, changed to `suite`: the ending that its file must have, and its text.
pub(crate) fn source_like(base: &str, suite: &str) -> Result<(&'static str, String)> {
    derived(&source_files(), base, suite)
}

fn derived(files: &[(String, String)], base: &str, suite: &str) -> Result<(&'static str, String)> {
    let found = entry_in(files, base);
    let (name, entry) = found.with_context(|| format!("no APT source of {base} to take {suite} from"))?;
    let ending = if name.ends_with(".sources") { "sources" } else { "list" };
    Ok((ending, with_suite(&entry, base, suite)))
}

/// The machine's files of sources with their names.
fn source_files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let listed = fs::read_dir(SOURCES).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in listed.chain(["/etc/apt/sources.list".into()]) {
        let name = path.to_string_lossy().into_owned();
        if name.ends_with(".sources") || name.ends_with(".list") {
            files.extend(fs::read_to_string(&path).map(|text| (name, text)));
        }
    }
    files.sort();
    files
}

/// The first file that has a suite, and its entry.
fn entry_in<'a>(files: &'a [(String, String)], suite: &str) -> Option<(&'a String, String)> {
    files.iter().find_map(|(name, text)| Some((name, entry_of(name, text, suite)?)))
}

/// The first enabled entry of a source file that gives binary packages of a suite.
fn entry_of(name: &str, text: &str, suite: &str) -> Option<String> {
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    if name.ends_with(".list") {
        let has =
            |line: &&&str| line.starts_with("deb ") && line.split_whitespace().any(|word| word == suite);
        return lines.iter().find(has).map(|line| format!("{line}\n"));
    }
    let stanzas = lines.split(|line| line.trim().is_empty());
    let field = |stanza: &[&str], key: &str, value: &str| {
        let found = stanza.iter().find_map(|line| line.strip_prefix(key));
        found.is_some_and(|values| values.split_whitespace().any(|word| word == value))
    };
    let mut enabled =
        stanzas.filter(|stanza| !field(stanza, "Enabled:", "no") && field(stanza, "Types:", "deb"));
    enabled.find(|stanza| field(stanza, "Suites:", suite)).map(|stanza| stanza.join("\n") + "\n")
}

/// The same entry for one other suite.
fn with_suite(entry: &str, base: &str, suite: &str) -> String {
    let change = |line: &str| {
        if line.starts_with("Suites:") {
            format!("Suites: {suite}")
        } else if line.starts_with("deb ") {
            line.split(' ').map(|word| if word == base { suite } else { word }).collect::<Vec<_>>().join(" ")
        } else {
            line.to_owned()
        }
    };
    entry.lines().map(|line| change(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "# main\nTypes: deb deb-src\nURIs: http://mirror.test/debian\n# old\nSuites: bookworm bookworm-updates\n\
                          Components: main\nSigned-By: /usr/share/keyrings/k.gpg\n\nTypes: deb\n\
                          URIs: http://mirror.test/security\nSuites: bookworm-security\nComponents: main\n";
    const ONE_LINE: &str = "# x\ndeb-src http://mirror.test/debian bookworm main\n\
                            deb [arch=amd64] http://mirror.test/debian bookworm main non-free\n";

    #[test]
    fn a_deb822_entry_is_copied_for_another_suite() {
        let entry = entry_of("debian.sources", DEB822, "bookworm").unwrap();
        assert_eq!(
            with_suite(&entry, "bookworm", "bookworm-backports"),
            "Types: deb deb-src\nURIs: http://mirror.test/debian\nSuites: bookworm-backports\nComponents: main\n\
             Signed-By: /usr/share/keyrings/k.gpg\n"
        );
        assert_eq!(entry_of("debian.sources", DEB822, "bookworm-backports"), None);
        let disabled = DEB822.replace("Types: deb deb-src", "Enabled: no\nTypes: deb");
        assert_eq!(entry_of("debian.sources", &disabled, "bookworm"), None);
    }

    #[test]
    fn a_one_line_entry_is_copied_for_another_suite() {
        let entry = entry_of("sources.list", ONE_LINE, "bookworm").unwrap();
        assert_eq!(
            with_suite(&entry, "bookworm", "bookworm-backports"),
            "deb [arch=amd64] http://mirror.test/debian bookworm-backports main non-free\n"
        );
    }
}
