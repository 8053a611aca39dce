//! `package`: the .deb and the .rpm, from a release build. `contents` says what is in them, `notices` and `changelog` write
//! what exists nowhere else, `check` looks at the results. How the two packagers see it is in host-daemon/Cargo.toml.

mod changelog;
mod check;
mod contents;
mod notices;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::{output_of, target_dir, workspace};

use crate::command::{cargo, run_shown, say};

/// The programs, and where they go.
const PROGRAMS: [(&str, &str); 3] =
    [("kvmpilot", "usr/bin"), ("kvmpilotd", "usr/bin"), ("kvmpilot-hook", "usr/sbin")];

/// Makes the packages and checks them. `as_version` is a version to put on them instead of the real one, to test upgrades.
/// Returns the .deb.
pub(crate) fn package(as_version: Option<&str>) -> Result<PathBuf> {
    check::unit()?;
    let programs = build()?;
    let directory = directory();
    // What an earlier run with another version has left is kept: an upgrade needs both.
    for part in ["root", "debian", "generated"] {
        remove(&directory.join(part))?;
    }
    generate(&programs, &directory.join("generated"))?;
    let version = as_version.unwrap_or(env!("CARGO_PKG_VERSION"));
    let epoch = changelog::epoch()?;
    let root = directory.join("root");
    programs.iter().try_for_each(|(program, into)| strip(program, &root.join(into)))?;
    contents::put(&root, &directory.join("generated"))?;
    let notices = directory.join("generated/third-party");
    fs::write(&notices, notices::notices()?)?;
    contents::compressed(&notices, &root.join("usr/share/doc/kvmpilot/third-party.gz"))?;
    let debian = directory.join("debian");
    changelog::put(&debian, version, epoch)?;

    let deb = deb(&directory, version, epoch)?;
    let rpm = rpm(&directory, version, epoch)?;
    check::lintian(&deb)?;
    let files = check::same_files(&deb, &rpm)?;
    for made in [&deb, &rpm] {
        let bytes = fs::metadata(made)?.len();
        say(&format!("{} ({:.1} MB, {files} files)", made.display(), bytes as f64 / 1e6));
    }
    Ok(deb)
}

/// Where packages are made. Not in a target directory that was moved: the tables in host-daemon/Cargo.toml name this one.
fn directory() -> PathBuf {
    workspace().join("target/package")
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot empty {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Builds the programs, and says where they are and where they go.
fn build() -> Result<Vec<(PathBuf, &'static str)>> {
    run_shown(cargo().args(["build", "--release", "--locked", "--package", "kvmpilot"]))?;
    let built = target_dir().join("release");
    let found = |(name, into)| {
        let program = built.join(name);
        ensure!(program.exists(), "cargo made no {}: is there a src/bin/{name}.rs?", program.display());
        Ok((program, into))
    };
    PROGRAMS.into_iter().map(found).collect()
}

/// Man pages and completions, made by the program that they are about.
fn generate(programs: &[(PathBuf, &str)], into: &Path) -> Result<()> {
    let (program, _) = programs.first().context("there are programs")?;
    for what in ["man", "completions"] {
        let directory = into.join(what);
        run_shown(Command::new(program).args(["generate", what]).arg(&directory))?;
        ensure!(fs::read_dir(&directory)?.count() > 0, "{} is empty", directory.display());
    }
    Ok(())
}

/// Copies a program without what only debuggers read.
fn strip(program: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    let stripped = into.join(program.file_name().context("a program has a name")?);
    let mut command = Command::new("strip");
    command.args(["--strip-unneeded", "--remove-section=.comment", "--remove-section=.note", "-o"]);
    run_shown(command.arg(stripped).arg(program))
}

fn deb(directory: &Path, version: &str, epoch: u64) -> Result<PathBuf> {
    let mut command = cargo();
    // Quiet, because it wonders why files below target/ are not programs that it should build.
    command.args(["deb", "--quiet", "--package", "kvmpilot", "--no-build", "--no-strip", "--deb-version"]);
    command.arg(changelog::debian_version(version)).arg("--output").arg(directory);
    run_shown(command.env("SOURCE_DATE_EPOCH", epoch.to_string()))?;
    let architecture = output_of(Command::new("dpkg").arg("--print-architecture"))?;
    let name = format!("kvmpilot_{}_{}.deb", changelog::debian_version(version), architecture.trim());
    Ok(directory.join(name))
}

fn rpm(directory: &Path, version: &str, epoch: u64) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["generate-rpm", "--package", "host-daemon", "--set-metadata"]);
    command.arg(format!("version = \"{version}\"")).arg("--output").arg(directory);
    run_shown(command.env("SOURCE_DATE_EPOCH", epoch.to_string()))?;
    Ok(directory.join(format!("kvmpilot-{version}-1.{}.rpm", std::env::consts::ARCH)))
}
