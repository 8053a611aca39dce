//! `package`: what a package holds besides the programs, made from the programs themselves. The packages come later.

use std::fs;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::target_dir;

use crate::command::{cargo, run_shown, say};

/// Makes man pages and completions in `target/package`.
pub(crate) fn package() -> Result<()> {
    let directory = target_dir().join("package");
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("cannot empty {}", directory.display()))?;
    }
    for what in ["man", "completions"] {
        let into = directory.join(what);
        let mut command = cargo();
        command.args([
            "run",
            "--quiet",
            "--package",
            "kvmpilot",
            "--bin",
            "kvmpilot",
            "--",
            "generate",
            what,
        ]);
        run_shown(command.arg(&into))?;
        let files = fs::read_dir(&into)?.count();
        ensure!(files > 0, "{} is empty", into.display());
        say(&format!("{}: {files} files", into.display()));
    }
    Ok(())
}
