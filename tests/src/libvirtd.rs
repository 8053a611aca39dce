//! The lab's libvirtd as a process: which it is, and what happens when it ends and comes back.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Lab;
use crate::run::wait_for;

/// As `keeper.sh` starts it.
const PID_FILE: &str = "/run/libvirt/libvirtd-lab.pid";
/// How long it may take to end and to start.
const PATIENCE: Duration = Duration::from_secs(30);

impl Lab {
    /// The pid of the lab's libvirtd.
    ///
    /// # Errors
    /// When it does not run.
    pub fn libvirtd_pid(&self) -> Result<u32> {
        let path = format!("/proc/{}/root{PID_FILE}", self.keeper_pid());
        let text = fs::read_to_string(&path).with_context(|| format!("libvirtd has no {path}"))?;
        let pid = text.trim().parse().with_context(|| format!("{path} holds no pid"))?;
        ensure!(!ended(pid), "libvirtd, process {pid}, has ended");
        Ok(pid)
    }

    /// Ends libvirtd with this signal and waits for its end; the guests go on.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub fn end_libvirtd(&self, signal: Signal) -> Result<()> {
        let pid = self.libvirtd_pid()?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal)?;
        wait_for("libvirtd to end", PATIENCE, || {
            ensure!(ended(pid), "process {pid} is still there");
            Ok(())
        })
    }

    /// Starts libvirtd again and waits until it answers. It ends with the lab; the caller has to wait for it then, or it
    /// stays in the table of processes as long as the caller does.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn start_libvirtd(&self) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.logs_dir().join("libvirtd.log"))?;
        let mut command = self.command("libvirtd");
        // A group of its own: Ctrl-C is for whoever owns the lab.
        command.args(["--pid-file", PID_FILE]).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let libvirtd = command.stderr(log).spawn()?;
        wait_for("libvirtd to answer", PATIENCE, || self.virsh(&["version"]))?;
        Ok(libvirtd)
    }
}

/// Whether a process is gone, or only waits for its parent to take note.
fn ended(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}
