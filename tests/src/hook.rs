//! The libvirt hook in the lab: installed as a package would, each of its runs timed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Lab;
use crate::daemon::program;
use crate::run::run;

/// The installed hook.
#[derive(Debug)]
pub struct InstalledHook {
    log: PathBuf,
}

/// One run of the hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRun {
    /// Name of the domain.
    pub name: String,
    /// libvirt's operation.
    pub operation: String,
    /// When it ended, since 1970.
    pub ended: Duration,
    /// How long it took, with what starting a program costs.
    pub took: Duration,
    /// Its exit status.
    pub status: i32,
}

impl Lab {
    /// Installs the hook for a daemon whose socket is `socket`, and has libvirtd look for hooks again.
    ///
    /// # Errors
    /// When a file cannot be written or libvirtd does not run.
    pub fn install_hook(&self, socket: &Path) -> Result<InstalledHook> {
        // What is bound over /etc/libvirt in the lab.
        let directory = self.state_dir().join("etc/hooks/qemu.d");
        fs::create_dir_all(&directory)?;
        let log = self.state_dir().join("hook.log");
        let hook = program("kvmpilot-hook")?;
        // Not its stdin: libvirt's XML is left to the hook. `date` once before and once after it.
        let script = format!(
            "#!/bin/sh\nbegan=$(date +%s%N)\nKVMPILOT_HOOK_SOCKET={} {} \"$@\"\nstatus=$?\n\
             echo \"$1 $2 $began $(date +%s%N) $status\" >>{}\nexit $status\n",
            socket.display(),
            hook.display(),
            log.display()
        );
        let file = directory.join("kvmpilot");
        fs::write(&file, script)?;
        fs::set_permissions(&file, Permissions::from_mode(0o755))?;
        run(self.command("sh").args(["-c", "kill -s HUP \"$(cat /run/libvirt/libvirtd-lab.pid)\""]))?;
        Ok(InstalledHook { log })
    }
}

impl InstalledHook {
    /// All runs so far.
    ///
    /// # Errors
    /// When the log is not what the hook writes.
    pub fn runs(&self) -> Result<Vec<HookRun>> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(|line| parse(line).with_context(|| format!("a run of the hook: {line}"))).collect()
    }
}

fn parse(line: &str) -> Option<HookRun> {
    let mut words = line.split(' ');
    let mut word = || words.next();
    let (name, operation) = (word()?.to_owned(), word()?.to_owned());
    let began = Duration::from_nanos(word()?.parse().ok()?);
    let ended = Duration::from_nanos(word()?.parse().ok()?);
    let status = word()?.parse().ok()?;
    Some(HookRun { name, operation, ended, took: ended.saturating_sub(began), status })
}
