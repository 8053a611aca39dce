//! What the packages and the unit are checked for before anybody gets them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use kvmpilot_tests::{output_of, workspace};

use crate::command::{run_shown, say};

/// Most exposure that `systemd-analyze security` may see, in tenths. What keeps it from being lower is explained in the unit.
const EXPOSURE: &str = "30";
/// Files of the .deb alone: what dpkg wants.
const DEBIANS_OWN: [&str; 1] = ["/usr/share/doc/kvmpilot/changelog.Debian.gz"];
/// Where the same is elsewhere: in the .deb, in the .rpm.
const MOVED: [(&str, &str); 1] =
    [("/usr/share/zsh/vendor-completions/_kvmpilot", "/usr/share/zsh/site-functions/_kvmpilot")];

/// Measures how much the unit lets the daemon do.
pub(super) fn unit() -> Result<()> {
    let unit = workspace().join("systemd/kvmpilotd.service");
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=true", "--no-pager", &format!("--threshold={EXPOSURE}")]).arg(&unit);
    let output = command.output().context("cannot start systemd-analyze")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let verdict = text.lines().rev().find(|line| line.contains("exposure level"));
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("{}: more exposed than it may be, or systemd-analyze failed\n{text}{why}", unit.display());
    }
    let verdict = verdict.context("systemd-analyze names no exposure level")?;
    say(verdict.trim_start_matches(|c: char| !c.is_ascii_alphabetic()));
    Ok(())
}

/// Fails if Debian's policy is broken.
pub(super) fn lintian(deb: &Path) -> Result<()> {
    run_shown(Command::new("lintian").args(["--fail-on", "error", "--tag-display-limit", "0"]).arg(deb))
}

/// Fails unless both packages have the same files with the same owners and modes, and returns how many.
pub(super) fn same_files(deb: &Path, rpm: &Path) -> Result<usize> {
    let deb = deb_files(&output_of(Command::new("dpkg-deb").arg("--contents").arg(deb))?);
    let mut query = Command::new("rpm");
    query.args(["--query", "--package", "--queryformat"]);
    query.arg("[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]").arg(rpm);
    let rpm: BTreeSet<String> = output_of(&mut query)?.lines().map(str::to_owned).collect();
    ensure!(!deb.is_empty(), "the .deb is empty");
    let only = |some: &BTreeSet<String>, others: &BTreeSet<String>| -> Vec<String> {
        some.difference(others).cloned().collect()
    };
    let (missing, more) = (only(&deb, &rpm), only(&rpm, &deb));
    ensure!(
        missing.is_empty() && more.is_empty(),
        "only in the .deb: {missing:#?}\nonly in the .rpm: {more:#?}"
    );
    Ok(deb.len())
}

/// "mode owner/group path" of each file in what `dpkg-deb --contents` prints, as it should be in the .rpm.
fn deb_files(contents: &str) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for line in contents.lines().filter(|line| !line.starts_with('d')) {
        let mut words = line.split_ascii_whitespace();
        let (Some(mode), Some(owner), Some(path)) = (words.next(), words.next(), words.nth(3)) else {
            continue;
        };
        let path = path.trim_start_matches('.');
        if !DEBIANS_OWN.contains(&path) {
            // Without /etc/passwd's names.
            let owner = if owner == "0/0" { "root/root" } else { owner };
            let path = MOVED.iter().find(|(here, _)| *here == path).map_or(path, |(_, there)| there);
            files.insert(format!("{mode} {owner} {path}"));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read() {
        let listing = "drwxr-xr-x 0/0               0 2026-11-26 09:00 ./usr/bin/\n\
                       -rwxr-xr-x 0/0             123 2026-11-26 09:00 ./usr/bin/kvmpilot\n\
                       -rw-r--r-- root/root         1 2026-11-26 09:00 ./usr/share/doc/kvmpilot/changelog.Debian.gz\n\
                       -rw-r--r-- root/root         1 2026-11-26 09:00 ./usr/share/zsh/vendor-completions/_kvmpilot\n";
        let files: Vec<String> = deb_files(listing).into_iter().collect();
        assert_eq!(
            files,
            [
                "-rw-r--r-- root/root /usr/share/zsh/site-functions/_kvmpilot",
                "-rwxr-xr-x root/root /usr/bin/kvmpilot",
            ]
        );
    }

    /// Sources, destinations and modes in host-daemon/Cargo.toml, as the two packagers read them.
    #[test]
    fn both_packagers_are_given_the_same() {
        let manifest = std::fs::read_to_string(workspace().join("host-daemon/Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let metadata = &manifest["package"]["metadata"];
        let text = |value: &toml::Value| value.as_str().unwrap().trim_start_matches('/').to_owned();
        let deb: BTreeSet<[String; 3]> = metadata["deb"]["assets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|asset| [0, 1, 2].map(|part| text(&asset[part])))
            .filter(|[source, ..]| !source.contains("/package/debian/"))
            .map(|[source, into, mode]| {
                [source, into.replace("zsh/vendor-completions", "zsh/site-functions"), mode]
            })
            .collect();
        let rpm: BTreeSet<[String; 3]> = metadata["generate-rpm"]["assets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|asset| ["source", "dest", "mode"].map(|key| text(&asset[key])))
            // cargo-deb's is `license-file`.
            .filter(|[_, into, _]| !into.ends_with("/copyright"))
            .collect();
        assert!(deb.len() > 10, "{deb:?}");
        assert_eq!(deb, rpm);
    }
}
