//! oVirt's Memory Overcommitment Manager, as its authors ship it: from a checkout of its source, unchanged, with its own
//! configuration for ballooning through libvirt (`doc/mom-balloon.conf`) and its own policy (`doc/balloon.rules`).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kvmpilot_tests::{Lab, output_of, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How to get it, for the row that says that it did not run.
pub(super) const HOW: &str =
    "no --mom DIRECTORY: it takes a checkout of MOM's source, the project oVirt/mom on GitHub";
const PROGRAM: &str = "momd.in";
const CONFIGURATION: &str = "doc/mom-balloon.conf";
const POLICY: &str = "doc/balloon.rules";
/// Debian's Python: that is what its `python3-libvirt` is for.
const PYTHON: &str = "/usr/bin/python3";
const START: Duration = Duration::from_secs(30);
/// It waits for its threads, for 25 seconds together at most.
const STOP: Duration = Duration::from_secs(40);

/// Its source.
#[derive(Debug)]
pub(super) struct Checkout {
    directory: PathBuf,
    /// Its commit, where it is a git checkout.
    pub(super) version: String,
}

impl Checkout {
    pub(super) fn find(directory: &Path) -> Result<Self> {
        for file in [PROGRAM, CONFIGURATION, POLICY] {
            ensure!(
                directory.join(file).is_file(),
                "--mom {}: there is no {file}, so it is no checkout of MOM (oVirt/mom on GitHub)",
                directory.display()
            );
        }
        let directory = fs::canonicalize(directory)?;
        // Its own commit, not that of a repository around it.
        let commit = directory.join(".git").exists().then(|| {
            output_of(Command::new("git").arg("-C").arg(&directory).args(["rev-parse", "--short=12", "HEAD"]))
        });
        let version =
            commit.and_then(Result::ok).map_or_else(|| "unknown".to_owned(), |id| id.trim().to_owned());
        Ok(Self { directory, version })
    }

    /// Starts it in a lab, and waits until it decides.
    pub(super) fn start(&self, lab: &Lab) -> Result<Mom> {
        let log = lab.logs_dir().join("mom.log");
        let output = File::create(lab.logs_dir().join("mom.out"))?;
        let mut command = lab.command(PYTHON);
        command.arg(self.directory.join(PROGRAM));
        for (option, file) in [("-c", CONFIGURATION), ("-r", POLICY)] {
            command.arg(option).arg(self.directory.join(file));
        }
        // Its configuration leaves the URI to libvirt; nothing is left in somebody's checkout.
        command
            .arg("-l")
            .arg(&log)
            .env("LIBVIRT_DEFAULT_URI", "qemu:///system")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let child = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?;
        let mut mom = Mom { child, log, guests: lab.guests().len() };
        wait_for("MOM to start", START, || {
            ensure!(mom.log().contains("Policy Engine starting"), "it has not said so");
            Ok(())
        })
        .with_context(|| mom.said())?;
        mom.check()?;
        Ok(mom)
    }
}

/// A running one. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Mom {
    child: Child,
    log: PathBuf,
    guests: usize,
}

impl Mom {
    pub(super) fn process_id(&self) -> u32 {
        self.child.id()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn said(&self) -> String {
        let output = fs::read_to_string(self.log.with_extension("out")).unwrap_or_default();
        format!("MOM said:\n{}{output}", self.log())
    }

    /// Fails when it has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("MOM has ended ({status}); {}", self.said());
        }
        Ok(())
    }

    /// Balloons that it has set so far. It must have seen all guests: one whose figures it misses, it silently leaves alone.
    pub(super) fn actions(&self) -> Result<u64> {
        let log = self.log();
        // The host is ready as well.
        let ready = log.lines().filter(|line| line.ends_with(" is ready")).count();
        ensure!(ready > self.guests, "MOM has seen less than {} guests; {}", self.guests, self.said());
        Ok(log.lines().filter(|line| line.contains("Ballooning guest:")).count() as u64)
    }

    pub(super) fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "MOM does not end; {}", self.said());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }
}

impl Drop for Mom {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_checkout_is_refused_with_what_it_lacks() {
        let error = Checkout::find(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_err().to_string();
        assert!(error.contains("there is no momd.in") && error.contains("oVirt/mom"), "{error}");
    }
}
