//! kvmpilotd in the lab: started with a configuration, asked through its command line, ended by signal.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::Lab;
use crate::paths::target_dir;
use crate::run::{output_of, wait_for};

/// How long the daemon may take until it answers.
const START: Duration = Duration::from_secs(60);
/// How long it may take to stop: it puts everything back first.
const STOP: Duration = Duration::from_secs(30);

/// A running kvmpilotd. Dropping it stops it as systemd would.
#[derive(Debug)]
pub struct Daemon<'a> {
    lab: &'a Lab,
    child: Child,
    directory: PathBuf,
    log: PathBuf,
}

/// The program `kvmpilotd` or `kvmpilot` that cargo built.
///
/// # Errors
/// When it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let (build, how) =
        if RELEASE.load(Ordering::Relaxed) { ("release", " --release") } else { ("debug", "") };
    let path = target_dir().join(build).join(name);
    ensure!(path.exists(), "{} does not exist: run `cargo build{how} -p kvmpilot`", path.display());
    Ok(path)
}

static RELEASE: AtomicBool = AtomicBool::new(false);

/// From now on this process starts programs that were built for release.
pub fn use_release_build() {
    RELEASE.store(true, Ordering::Relaxed);
}

impl Lab {
    /// Starts kvmpilotd with these lines of configuration; where state and socket are is added. Everything that a
    /// daemon with the same `name` left is still there.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn start_daemon(&self, name: &str, config: &str) -> Result<Daemon<'_>> {
        self.start_wrapped_daemon(name, config, &[])
    }

    /// As [`Lab::start_daemon`], as the last arguments of `wrapper`.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn start_wrapped_daemon(&self, name: &str, config: &str, wrapper: &[&str]) -> Result<Daemon<'_>> {
        let daemon = self.spawn_wrapped_daemon(name, config, wrapper, &[])?;
        wait_for("kvmpilotd to answer", START, || daemon.json(&["status"]))
            .with_context(|| format!("kvmpilotd said:\n{}", daemon.log()))?;
        Ok(daemon)
    }

    /// As [`Lab::start_daemon`], without waiting for an answer.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn spawn_daemon(&self, name: &str, config: &str) -> Result<Daemon<'_>> {
        self.spawn_wrapped_daemon(name, config, &[], &[])
    }

    /// Starts kvmpilotd with more arguments, as the last arguments of `wrapper`, and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn spawn_wrapped_daemon(
        &self,
        name: &str,
        config: &str,
        wrapper: &[&str],
        arguments: &[&str],
    ) -> Result<Daemon<'_>> {
        let directory = self.state_dir().join(name);
        fs::create_dir_all(&directory)?;
        write_config(&directory, config)?;
        let log = self.logs_dir().join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let program = program("kvmpilotd")?;
        let mut command = match wrapper.split_first() {
            None => self.command(program),
            Some((first, rest)) => {
                let mut command = self.command(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.arg("--config").arg(directory.join("kvmpilot.toml")).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?;
        Ok(Daemon { lab: self, child, directory, log })
    }
}

fn write_config(directory: &Path, config: &str) -> Result<()> {
    let mut text = config.to_owned();
    let at = |name: &str| directory.join(name).display().to_string();
    // A section that is there already must not be opened again.
    let section = if config.contains("[daemon]") { "" } else { "\n[daemon]" };
    write!(text, "{section}\nstate_directory = \"{}\"\nsocket = \"{}\"\n", at("state"), at("sock"))?;
    writeln!(text, "hook_socket = \"{}\"", at("hook.sock"))?;
    // These are debug builds, ten times as dear as what a budget is meant for.
    if !config.contains("[overhead]") {
        text.push_str("\n[overhead]\nenabled = false\n");
    }
    Ok(fs::write(directory.join("kvmpilot.toml"), text)?)
}

impl Daemon<'_> {
    /// A `kvmpilot` command that asks this daemon.
    ///
    /// # Errors
    /// When it was not built.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.lab.command(program("kvmpilot")?);
        command.arg("--socket").arg(self.directory.join("sock")).args(args);
        Ok(command)
    }

    /// A `kvmpilot` command that does without a daemon, on this one's configuration.
    ///
    /// # Errors
    /// When it was not built.
    pub fn offline(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.lab.command(program("kvmpilot")?);
        command.args(args).arg("--config").arg(self.directory.join("kvmpilot.toml"));
        Ok(command)
    }

    /// What `kvmpilot ARGS` prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn text(&self, args: &[&str]) -> Result<String> {
        output_of(&mut self.command(args)?)
    }

    /// What `kvmpilot ARGS --json` prints.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = output_of(self.command(args)?.arg("--json"))?;
        serde_json::from_str(&text).with_context(|| format!("kvmpilot {args:?} --json printed:\n{text}"))
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("sock")
    }

    /// All work orders, newest first.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn orders(&self) -> Result<Vec<Value>> {
        let answer = self.json(&["orders", "list", "--limit", "1000"])?;
        Ok(answer["orders"].as_array().context("no list of orders")?.clone())
    }

    /// Replaces the configuration and reloads it.
    ///
    /// # Errors
    /// When the file cannot be written or the daemon is gone.
    pub fn reload(&self, config: &str) -> Result<()> {
        write_config(&self.directory, config)?;
        self.signal(Signal::SIGHUP)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the daemon is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid()?, signal)?)
    }

    /// Stops it as systemd would, and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait()
    }

    /// Ends it without any chance to clean up.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn kill(mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        let status = self.wait()?;
        ensure!(status.signal() == Some(Signal::SIGKILL as i32), "it ended by itself: {status}");
        Ok(())
    }

    /// Everything that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id, where it was started without a wrapper that stays.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.wait_for_end(STOP)
    }

    /// As [`Self::wait`], for so long.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_for_end(&mut self, patience: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("kvmpilotd does not end; it said:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::SIGTERM);
            if self.wait().is_err() {
                let _ = self.signal(Signal::SIGKILL);
                let _ = self.child.wait();
            }
        }
    }
}
