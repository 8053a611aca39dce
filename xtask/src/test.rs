//! `test`: everything that must hold before a change lands, summed up in one last line.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::build_ebpf::{build_ebpf, clippy_ebpf};
use crate::command::{cargo, run_shown, say, shell_line};
use crate::matrix::{MatrixOptions, matrix};
use crate::{host, package, setup};

/// What was counted; a check such as clippy counts as one test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

/// What of it; all but the host VM without options.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct TestOptions {
    /// Leave out what needs guests
    #[arg(long, conflicts_with = "host")]
    quick: bool,
    /// Only what needs a host of its own: the package, the unit, the hook, cgroup v2 and KVM's exits, in the host VM
    #[arg(long)]
    host: bool,
}

/// Runs it all and prints the sum, also when something fails.
pub(crate) fn test(options: TestOptions) -> ExitCode {
    let mut tally = Tally::default();
    let outcome = if options.host { run_host(&mut tally) } else { run(options.quick, &mut tally) };
    if let Err(error) = outcome {
        eprintln!("error: {error:#}");
        tally.failed += 1;
    }
    println!("{}", tally.line());
    if tally.failed == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// An error means that it makes no sense to go on.
fn run(quick: bool, tally: &mut Tally) -> Result<()> {
    setup::setup(setup::Needs::Tests)?;
    tally.check("build-ebpf", build_ebpf().map(|_| true));
    tally.check("fmt", run_shown(cargo().args(["fmt", "--all", "--check"])).map(|()| true));
    let mut clippy = cargo();
    clippy.args(["clippy", "--quiet", "--workspace", "--exclude", "kvmpilot-ebpf", "--all-targets"]);
    tally.check("clippy", run_shown(clippy.args(["--", "-D", "warnings"])).map(|()| true));
    tally.check("clippy of the eBPF programs", clippy_ebpf());

    // xtask's own tests hold the check that the work tree is tidy.
    let mut units = cargo();
    units.args([
        "test",
        "--workspace",
        "--no-fail-fast",
        "--exclude",
        "kvmpilot-ebpf",
        "--exclude",
        "kvmpilot-tests",
    ]);
    tally.cargo_test(&mut units)?;
    // The tests in the lab start the programs themselves.
    tally.check(
        "build",
        run_shown(cargo().args(["build", "--quiet", "--package", "kvmpilot"])).map(|()| true),
    );
    let mut guests = cargo();
    guests.args(["test", "--no-fail-fast", "--package", "kvmpilot-tests"]);
    if quick {
        // By convention what is in tests/tests/ needs guests, and the rest does not.
        tally.cargo_test(guests.arg("--lib"))
    } else {
        // One lab at a time: tests that measure CPU time cannot share two cores.
        tally.cargo_test(guests.args(["--", "--test-threads=1"]))?;
        tally.check("kernel matrix", matrix(&MatrixOptions::for_tests()).map(|()| true));
        Ok(())
    }
}

/// The version of the package that the one of now is installed over.
const OLD: &str = "0.0.9";

/// The package, built and checked, and then lived with on a host.
fn run_host(tally: &mut Tally) -> Result<()> {
    setup::setup(setup::Needs::Host)?;
    build_ebpf()?;
    for version in [Some(OLD), None] {
        let name = format!("package {}", version.unwrap_or("of now"));
        tally.check(&name, package::package(version).map(|_| true));
    }
    tally.check("host image", host::images().map(|_| true));
    let mut tests = cargo();
    tests.args(["test", "--package", "kvmpilot-tests", "--test", "host"]);
    tally.cargo_test(tests.args(["--", "--ignored", "--test-threads=1", "--nocapture"]))
}

impl Tally {
    /// Counts a check; `Ok(false)` says that this machine cannot do it.
    fn check(&mut self, name: &str, outcome: Result<bool>) {
        match outcome {
            Ok(true) => self.passed += 1,
            Ok(false) => {
                say(&format!("{name}: skipped, its tool is not installed"));
                self.skipped += 1;
            }
            Err(error) => {
                say(&format!("{name}: {error:#}"));
                self.failed += 1;
            }
        }
    }

    /// Runs `cargo test` in full view and adds up the results of its test binaries.
    fn cargo_test(&mut self, command: &mut Command) -> Result<()> {
        say(&shell_line(command));
        // A backtrace in every expected error would hide the unexpected ones.
        let mut child = command.env("RUST_LIB_BACKTRACE", "0").stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("cargo has no output")?;
        let before = self.failed;
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            self.add(&line);
        }
        // Without a failed test it was the compiler, or a test binary that died.
        if !child.wait()?.success() && self.failed == before {
            self.failed += 1;
        }
        Ok(())
    }

    /// Adds a line like `test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; ...`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else { continue };
            let number: u32 = number.parse().unwrap_or_default();
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }

    fn line(self) -> String {
        let skipped = if self.skipped > 0 { format!(", {} skipped", self.skipped) } else { String::new() };
        format!("{} passed, {} failed{skipped}", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_up() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s",
            "test something ... FAILED",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
        ] {
            tally.add(line);
        }
        assert_eq!(tally.line(), "6 passed, 1 failed, 1 skipped");
        assert_eq!(Tally { passed: 1, ..Tally::default() }.line(), "1 passed, 0 failed");
    }
}
