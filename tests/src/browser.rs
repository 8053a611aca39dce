//! A browser in the lab, driven by the scripts of `tests/browser`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::Lab;
use crate::paths::{target_dir, workspace};
use crate::run::run;

/// Which libraries, to the digest.
const LOCK: &str = "package-lock.json";

impl Lab {
    /// Runs a script of `tests/browser` inside the lab, in full view, and returns the last line that it printed. Its browser
    /// may take so many seconds.
    ///
    /// # Errors
    /// When the script fails, and with what it said.
    pub fn browse(&self, script: &str, arguments: &[&str], seconds: u32) -> Result<String> {
        let directory = scripts()?;
        let mut command = self.command("timeout");
        command.args(["--kill-after=5", &seconds.to_string(), "node"]).arg(directory.join(script));
        // Its profile and its sockets go where nothing else of this machine looks.
        command.args(arguments).env("HOME", &directory).env("TMPDIR", self.state_dir());
        let output = command.stdin(Stdio::null()).output().context("cannot start node")?;
        let (said, complained) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        print!("{said}");
        ensure!(output.status.success(), "{script} failed ({}):\n{said}{complained}", output.status);
        Ok(said.lines().last().unwrap_or_default().to_owned())
    }
}

/// The scripts with their libraries, below the target directory: `npm` puts the libraries beside them, and the work tree
/// stays clean.
fn scripts() -> Result<PathBuf> {
    let (from, to) = (workspace().join("tests/browser"), target_dir().join("browser"));
    fs::create_dir_all(&to)?;
    let read = |directory: &Path| fs::read(directory.join(LOCK)).ok();
    // npm writes this file last, and removes it first.
    let installed = read(&from) == read(&to) && to.join("node_modules/.package-lock.json").exists();
    for entry in fs::read_dir(&from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    if !installed {
        run(Command::new("npm").arg("ci").current_dir(&to))
            .context("cannot install the browser's driver; `cargo xtask setup` installs npm")?;
    }
    Ok(to)
}
