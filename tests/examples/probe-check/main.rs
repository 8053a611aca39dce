//! Checks the probes on the kernel that runs, and prints one line about it (`probe_report.rs`). `cargo xtask matrix`
//! runs it here and as the one program of virtual machines with other kernels. Needs root and /proc, /sys; with the
//! argument `unprivileged` it gives up root first, to show how the probes take that; with `hotplug` it also takes a pcpu
//! offline, which only a machine of its own should suffer.

mod hotplug;
mod sockets;
mod subjects;
mod tier0;
mod tier1;
mod tier2;
mod tier3;

use std::process::ExitCode;
use std::time::Duration;

use kvmpilot::kernel::Kernel;
use kvmpilot_tests::probe_report::{ProbeReport, TierOutcome, TierReport};
use nix::unistd::{Uid, setresuid};

/// A user without capabilities.
const NOBODY: Uid = Uid::from_raw(65534);
/// How long threads are watched.
const WINDOW: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let told = |word: &str| std::env::args().any(|argument| argument == word);
    if told("unprivileged")
        && let Err(error) = setresuid(NOBODY, NOBODY, NOBODY)
    {
        eprintln!("cannot give up root: {error}");
        return ExitCode::FAILURE;
    }
    let kernel = Kernel::default();
    let mut report = ProbeReport {
        kernel: kernel.release().unwrap_or_default(),
        lockdown: kernel.lockdown(),
        tiers: vec![tier(0, tier0::check(&kernel))],
        errors: None,
        matrix_error: None,
        window_s: WINDOW.as_secs_f64(),
    };
    match tier1::load(&kernel) {
        Err(reason) => {
            report.tiers.push(TierReport { tier: 1, outcome: TierOutcome::Off, note: reason });
        }
        Ok(probes) => match tier1::check(probes, told("hotplug")) {
            Ok(counted) => {
                report.errors = Some(counted.errors);
                report.matrix_error = Some(counted.matrix_error);
                report.tiers.push(tier(1, Ok(counted.note)));
            }
            Err(error) => report.tiers.push(tier(1, Err(error))),
        },
    }
    report.tiers.push(tier2::check(&kernel));
    report.tiers.push(tier3::check(&kernel));
    match report.line() {
        Ok(line) => println!("{line}"),
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    }
    let wrong = report.tiers.iter().any(|tier| tier.outcome == TierOutcome::Wrong);
    if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn tier(tier: u8, checked: anyhow::Result<String>) -> TierReport {
    match checked {
        Ok(note) => TierReport { tier, outcome: TierOutcome::Ok, note },
        Err(error) => TierReport { tier, outcome: TierOutcome::Wrong, note: format!("{error:#}") },
    }
}
