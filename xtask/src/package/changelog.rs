//! Debian's changelog: one entry, which points to the real one. And the versions and times that packages carry.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use kvmpilot_tests::{output_of, workspace};

use super::contents::compressed;

/// Debian's version of a version of ours.
pub(super) fn debian_version(version: &str) -> String {
    format!("{version}-1")
}

/// The time of the packages in seconds since 1970: `SOURCE_DATE_EPOCH`, else that of the last commit, else now.
pub(super) fn epoch() -> Result<u64> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return epoch.parse().context("SOURCE_DATE_EPOCH is no number of seconds");
    }
    let mut git = Command::new("git");
    git.current_dir(workspace()).args(["log", "-1", "--format=%ct"]);
    if let Some(epoch) = output_of(&mut git).ok().and_then(|told| told.trim().parse().ok()) {
        return Ok(epoch);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Ok(now.context("the clock is before 1970")?.as_secs())
}

/// Writes `changelog.Debian.gz` into `directory`.
pub(super) fn put(directory: &Path, version: &str, epoch: u64) -> Result<()> {
    let time = output_of(Command::new("date").args(["--utc", "-R", "-d", &format!("@{epoch}")]))?;
    fs::create_dir_all(directory)?;
    let plain = directory.join("changelog");
    fs::write(&plain, entry(version, time.trim()))?;
    compressed(&plain, &directory.join("changelog.Debian.gz"))
}

fn entry(version: &str, time: &str) -> String {
    let version = debian_version(version);
    let maintainer = "The kvmpilot authors <kvmpilot@users.noreply.github.com>";
    format!(
        "kvmpilot ({version}) unstable; urgency=medium\n\n  \
         * A build of this version; changelog.gz beside this file has what changed.\n\n \
         -- {maintainer}  {time}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_one_that_dpkg_reads() {
        let directory = std::env::temp_dir().join(format!("kvmpilot-changelog-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("changelog");
        fs::write(&file, entry("1.2.3", "Thu, 26 Nov 2026 09:00:00 +0000")).unwrap();
        let told = output_of(Command::new("dpkg-parsechangelog").arg("-l").arg(&file));
        fs::remove_dir_all(&directory).unwrap();
        let told = told.unwrap();
        for line in ["Source: kvmpilot", "Version: 1.2.3-1", "Date: Thu, 26 Nov 2026 09:00:00 +0000"] {
            assert!(told.lines().any(|found| found == line), "{line} is not in\n{told}");
        }
    }
}
