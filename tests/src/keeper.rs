//! Starting, ending and burying the keeper process of a lab. What it does is in `keeper.sh`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_child_subreaper;

use crate::paths::{STATE_ROOT, workspace};
use crate::run::{run, wait_for};

const SCRIPT: &str = include_str!("keeper.sh");
/// The script gives processes 3 s to end by themselves and 10 s in all.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// A running keeper.
#[derive(Debug)]
pub(crate) struct Keeper {
    name: String,
    /// Process that holds the lab's namespaces.
    pub(crate) pid: u32,
    owned: Option<(Child, ChildStdin)>,
}

/// The state directory of a lab.
pub(crate) fn state_dir(name: &str) -> PathBuf {
    Path::new(STATE_ROOT).join(name)
}

impl Keeper {
    /// Makes the namespaces, the bridge and the daemons. The state directory must hold `etc/` already.
    pub(crate) fn start(name: &str, logs: &Path) -> Result<Self> {
        let state = state_dir(name);
        let script = state.join("keeper.sh");
        fs::write(&script, SCRIPT)?;
        fs::write(state.join("workspace"), workspace().as_os_str().as_bytes())?;
        // A session of its own: Ctrl-C and a closing terminal reach the owner, not the keeper.
        let mut command = Command::new("setsid");
        command
            .args(["unshare", "--mount", "--net", "--propagation", "private", "sh"])
            .arg(&script)
            .args(["keep", name])
            .args([&state, logs])
            .env("KVMPILOT_LAB", name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(logs.join("keeper.log"))?);
        // QEMU is nobody's child: libvirtd waits until whoever inherits it has reaped it. Some init processes take 2 s
        // for that, the keeper takes none. SAFETY: prctl(PR_SET_CHILD_SUBREAPER) is async-signal-safe.
        unsafe { command.pre_exec(|| Ok(set_child_subreaper(true)?)) };
        let mut child = command.spawn().context("cannot start setsid unshare")?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the keeper has no pipes");
        };
        let keeper = Self { name: name.to_owned(), pid: child.id(), owned: Some((child, stdin)) };
        let mut answer = String::new();
        BufReader::new(stdout).read_line(&mut answer)?;
        if answer != "up\n" {
            bail!("the lab's namespaces could not be made: see {}", logs.join("keeper.log").display());
        }
        Ok(keeper)
    }

    /// Finds the keeper of a lab that was left running.
    pub(crate) fn attach(name: &str) -> Result<Self> {
        let Some(record) = Record::read(name).filter(Record::alive) else {
            bail!("there is no running lab called {name}");
        };
        Ok(Self { name: name.to_owned(), pid: record.pid, owned: None })
    }

    /// Lets the lab live on after this process.
    pub(crate) fn detach(&mut self) -> Result<()> {
        if let Some((_, stdin)) = &mut self.owned {
            stdin.write_all(b"detach\n")?;
            let hold = state_dir(&self.name).join("hold");
            wait_for("the keeper to detach", Duration::from_secs(5), || Ok(fs::metadata(&hold)?))?;
            self.owned = None;
        }
        Ok(())
    }

    /// Ends the lab and waits until nothing is left of it.
    pub(crate) fn end(&mut self) -> Result<()> {
        let state = state_dir(&self.name);
        match self.owned.take() {
            Some((mut child, stdin)) => {
                drop(stdin);
                wait_for("the keeper to end", END_TIMEOUT, || child.try_wait()?.context("it still runs"))?;
            }
            None if state.join("hold").exists() => {
                fs::OpenOptions::new().write(true).open(state.join("hold"))?.write_all(b"end\n")?;
                wait_for("the keeper to end", END_TIMEOUT, || {
                    if state.exists() { bail!("{} is still there", state.display()) } else { Ok(()) }
                })?;
            }
            None => {}
        }
        // Only if the keeper itself was killed.
        bury(&self.name)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.owned.is_some()
            && let Err(error) = self.end()
        {
            eprintln!("ending {}: {error:#}", self.name);
        }
    }
}

/// Removes what is left of labs whose keeper was killed; returns their names.
///
/// # Errors
/// When the clean-up script cannot be run.
pub fn reap_stale() -> Result<Vec<String>> {
    let mut dead = Vec::new();
    for name in names()? {
        if Record::read(&name).is_some_and(|record| !record.alive()) {
            bury(&name)?;
            dead.push(name);
        }
    }
    Ok(dead)
}

/// The labs of this workspace that nobody owns.
pub(crate) fn detached() -> Result<Vec<String>> {
    let mut names = names()?;
    names.retain(|name| {
        let state = state_dir(name);
        let ours =
            fs::read(state.join("workspace")).is_ok_and(|path| path == workspace().as_os_str().as_bytes());
        ours && state.join("hold").exists() && Keeper::attach(name).is_ok()
    });
    names.sort();
    Ok(names)
}

/// The labs that have a state directory.
fn names() -> Result<Vec<String>> {
    match fs::read_dir(STATE_ROOT) {
        Ok(entries) => {
            Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot list {STATE_ROOT}")),
    }
}

fn bury(name: &str) -> Result<()> {
    let state = state_dir(name);
    let Some(record) = Record::read(name) else { return Ok(()) };
    if record.alive() {
        bail!("the keeper of {name}, process {}, does not end", record.pid);
    }
    run(Command::new("sh").args(["-c", SCRIPT, "keeper", "end", name]).arg(&state).arg(record.netns))
}

/// What a keeper writes down about itself.
struct Record {
    pid: u32,
    /// In clock ticks since boot, as `/proc/PID/stat` has it: a pid can be given out again.
    start_time: String,
    /// Inode of the network namespace.
    netns: String,
}

impl Record {
    fn read(name: &str) -> Option<Self> {
        let text = fs::read_to_string(state_dir(name).join("keeper")).ok()?;
        let mut words = text.split_whitespace().map(str::to_owned);
        Some(Self { pid: words.next()?.parse().ok()?, start_time: words.next()?, netns: words.next()? })
    }

    fn alive(&self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return false };
        // The name in parentheses may hold anything; after it come the state and, 19 fields on, the start time.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let zombie = fields.next() == Some("Z");
        !zombie && fields.nth(18) == Some(&self.start_time)
    }
}
