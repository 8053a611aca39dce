//! Running a program to its end, and waiting for a condition.

use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Least and longest time between two looks at a condition.
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_millis(250);

/// Runs a command and returns its standard output.
///
/// # Errors
/// When it cannot be started or fails; the message holds the command line and its standard error.
pub fn output_of(command: &mut Command) -> Result<String> {
    let output = finish(command)?;
    String::from_utf8(output.stdout)
        .with_context(|| format!("{command:?} printed something that is not UTF-8"))
}

/// Runs a command for its effect.
///
/// # Errors
/// As [`output_of`].
pub fn run(command: &mut Command) -> Result<()> {
    finish(command).map(drop)
}

fn finish(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({}): {}", output.status, said.trim());
    }
    Ok(output)
}

/// Polls `condition` every 50 ms until it yields a value; less often when it takes long, so that asking leaves the CPU to
/// whom is waited for, and still notices within a twentieth of the time that it took.
///
/// # Errors
/// When the deadline passes; the message holds what was waited for and why the last try failed.
pub fn wait_for<T>(what: &str, timeout: Duration, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let deadline = began + timeout;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("gave up waiting for {what} after {timeout:?}")));
            }
            Err(_) => sleep((began.elapsed() / 20).clamp(OFTEN, SELDOM)),
        }
    }
}
