//! What is in the packages besides the programs, and where. Everything is put into one tree, with its final names and already
//! compressed, so that both packagers take the same files.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::workspace;

/// Files and directories of the work tree, and where they go: a directory with all that is in it.
const CONTENTS: &[(&str, &str)] = &[
    ("systemd/kvmpilot.toml", "etc/kvmpilot/kvmpilot.toml"),
    ("systemd/etc", "etc/kvmpilot"),
    ("systemd/qemu-hook.sh", "etc/libvirt/hooks/qemu.d/kvmpilot"),
    ("systemd/kvmpilotd.service", "usr/lib/systemd/system/kvmpilotd.service"),
    ("systemd/kvmpilot.sysusers", "usr/lib/sysusers.d/kvmpilot.conf"),
    ("systemd/rules.toml", "usr/share/kvmpilot/rules.toml"),
    ("systemd/service.toml", "usr/share/kvmpilot/service.toml"),
    ("systemd/prometheus", "usr/share/kvmpilot/prometheus"),
    ("scenarios", "usr/share/kvmpilot/scenarios"),
    ("README.md", "usr/share/doc/kvmpilot/README.md"),
    ("docs", "usr/share/doc/kvmpilot"),
];
/// What of those directories is for those who build kvmpilot.
const LEFT_OUT: &[&str] = &["docs/BENCHMARKS.md", "systemd/prometheus/kvmpilot.test.yml"];
/// Completions by the names that clap gives them.
const COMPLETIONS: [(&str, &str); 3] = [
    ("kvmpilot.bash", "usr/share/bash-completion/completions/kvmpilot"),
    ("kvmpilot.fish", "usr/share/fish/vendor_completions.d/kvmpilot.fish"),
    ("_kvmpilot", "usr/share/zsh/vendor-completions/_kvmpilot"),
];

/// Puts everything but the programs and the notices below `root`. Man pages and completions are in `generated`.
pub(super) fn put(root: &Path, generated: &Path) -> Result<()> {
    for (from, to) in CONTENTS {
        copy_tree(from, &root.join(to))?;
    }
    compressed(&workspace().join("CHANGELOG.md"), &root.join("usr/share/doc/kvmpilot/changelog.gz"))?;
    for entry in fs::read_dir(generated.join("man"))? {
        let page = entry?.path();
        let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let section = name.rsplit_once('.').with_context(|| format!("{name} names no section"))?.1;
        compressed(&page, &root.join(format!("usr/share/man/man{section}/{name}.gz")))?;
    }
    COMPLETIONS
        .iter()
        .try_for_each(|(from, to)| copy(&generated.join("completions").join(from), &root.join(to)))
}

fn copy_tree(from: &str, to: &Path) -> Result<()> {
    let source = workspace().join(from);
    if !source.is_dir() {
        return copy(&source, to);
    }
    for entry in fs::read_dir(&source).with_context(|| format!("cannot list {}", source.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let path = format!("{from}/{name}");
        if !LEFT_OUT.contains(&path.as_str()) {
            copy_tree(&path, &to.join(&name))?;
        }
    }
    Ok(())
}

/// Copies one file and makes the directories above it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file is in a directory")?)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Copies one file, compressed as Debian's policy wants it: best, without name and time.
pub(super) fn compressed(from: &Path, to: &Path) -> Result<()> {
    ensure!(to.extension().is_some_and(|extension| extension == "gz"), "{} is no .gz", to.display());
    let plain = to.with_extension("");
    copy(from, &plain)?;
    let mut command = Command::new("gzip");
    command.args(["-9nf"]).arg(&plain);
    let status = command.status().context("cannot start gzip")?;
    ensure!(status.success(), "gzip failed on {}", plain.display());
    Ok(())
}
