//! `fuzz`: libFuzzer on everything that is parsed of what a guest says. The layout is cargo-fuzz's, but neither it nor a
//! nightly compiler is needed: the coverage pass of LLVM is on with options that are stable.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use clap::Args;
use clap::builder::PossibleValuesParser;
use kvmpilot_tests::workspace;

use crate::build_ebpf;
use crate::command::{cargo, run_shown, say};

const TARGETS: [&str; 7] = ["inventory", "system", "replies", "fallback", "windows", "reports", "masking"];

/// What cargo-fuzz sets, without the sanitizers: there is no `unsafe` in what is fuzzed.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

#[derive(Debug, Args)]
pub(crate) struct FuzzOptions {
    /// One target instead of all
    #[arg(value_parser = PossibleValuesParser::new(TARGETS))]
    target: Option<String>,
    /// Minutes for each target
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
}

/// Runs one target, or all one after the other, so many minutes each. What crashes is in `fuzz/artifacts/TARGET`.
pub(crate) fn fuzz(options: &FuzzOptions) -> Result<()> {
    let (target, minutes) = (options.target.as_deref(), options.minutes);
    ensure!(minutes.is_finite() && minutes > 0.0, "minutes must be more than 0");
    let objects = build_ebpf::build_ebpf()?;
    let home = workspace().join("fuzz");
    say("building the fuzzers, which takes some minutes the first time");
    // Only what is built for the target gets the flags: build scripts and macros do not.
    let mut build = cargo();
    build
        .current_dir(&home)
        .args(["build", "--release", "--quiet", "--target", TRIPLE])
        .env("RUSTFLAGS", FLAGS);
    build.env("KVMPILOT_PROBES", objects);
    run_shown(&mut build)?;
    TARGETS
        .into_iter()
        .filter(|name| target.is_none_or(|target| target == *name))
        .try_for_each(|name| run(&home, name, minutes))
}

fn run(home: &Path, name: &str, minutes: f64) -> Result<()> {
    let found = home.join("target/found").join(name);
    let artifacts = home.join("artifacts").join(name);
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&artifacts)?;
    // New inputs go to the first directory; the corpus in the repository stays small.
    let mut fuzzer = Command::new(home.join("target").join(TRIPLE).join("release").join(name));
    fuzzer.arg(&found).arg(home.join("corpus").join(name));
    fuzzer.arg(format!("-artifact_prefix={}/", artifacts.display()));
    fuzzer.arg(format!("-max_total_time={:.0}", (minutes * 60.0).ceil()));
    fuzzer.args([
        "-max_len=16384",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        "-verbosity=0",
    ]);
    run_shown(&mut fuzzer)
}
