//! `bench`: what kvmpilot costs, measured on this machine.

pub(crate) mod common;
mod contention;
mod document;
mod guest_priority;
mod memory;
mod scale;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Subcommand;

use crate::command::{cargo, run_shown, say};
use crate::{build_ebpf, setup};

#[derive(Debug, Subcommand)]
pub(crate) enum BenchTask {
    /// Time that the eBPF programs add to a context switch, an exit, a packet (as root)
    Probes {
        /// Rounds; a round takes some three seconds
        #[arg(long, default_value_t = 25)]
        rounds: u32,
        /// Also write the figures to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// CPU time and memory of the fast cycle, over processes laid out like QEMU's (as root)
    Cycle {
        /// Domains at the end; smaller numbers come before
        #[arg(long, default_value_t = 500)]
        domains: u32,
        /// Cycles that are measured for each number of domains; one takes a second
        #[arg(long, default_value_t = 25)]
        cycles: u32,
        /// Do without eBPF (tier 0)
        #[arg(long)]
        no_probes: bool,
        /// Also write the figures to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// A server beside CPU-bound guests, under nobody, static weights and kvmpilot, which is told nothing (as root)
    Contention {
        /// Who takes part
        #[arg(long = "peer", value_enum, default_values = ["none", "static", "numad", "mom", "kvmpilot"])]
        peers: Vec<contention::Peer>,
        /// Rounds; in each, every contestant goes through six phases
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Seconds of a phase; the first 10 are for the reaction
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Give the guests agents, which kvmpilot polls
        #[arg(long)]
        agents: bool,
        /// Also write the figures to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Write docs/BENCHMARKS.md anew from the figures in docs/benchmarks/
    Document,
    /// Latency of a server beside CPU hogs in one guest, with kvmpilot off and on, in both kinds of guests (as root)
    GuestPriority {
        /// Rounds of alone, off and on; medians are reported
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Seconds of each measurement
        #[arg(long, default_value_t = 15)]
        seconds: u32,
        /// Also write the figures to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Guest memory that is reclaimed, and what that costs the guests: by nobody, by oVirt's MOM, by kvmpilot (as root)
    Memory(memory::Options),
    /// CPU and memory of kvmpilotd beside hundreds of domains, and what it costs libvirtd, against a full sweep of statistics
    /// as by an exporter (as root)
    Scale(scale::ScaleOptions),
}

pub(crate) fn bench(task: &BenchTask) -> Result<()> {
    if !matches!(task, BenchTask::Document) {
        setup::setup(setup::Needs::Lab)?;
        build_ebpf::build_ebpf()?;
    }
    match task {
        BenchTask::Document => document::run(),
        BenchTask::Probes { rounds, json } => {
            // What is measured runs in the kernel, and is always built for release: the rest may be as it is.
            let arguments = vec!["--rounds".to_owned(), rounds.to_string()];
            run("probes", &["--profile", "dev"], arguments, json.as_deref())
        }
        BenchTask::Cycle { domains, cycles, no_probes, json } => {
            let mut arguments = vec!["--domains".to_owned(), domains.to_string()];
            arguments.extend(["--cycles".to_owned(), cycles.to_string()]);
            arguments.extend(no_probes.then(|| "--no-probes".to_owned()));
            run("cycle", &[], arguments, json.as_deref())
        }
        BenchTask::Contention { peers, rounds, seconds, agents, json } => {
            let (rounds, seconds, agents) = (*rounds, *seconds, *agents);
            contention::run(contention::Settings { peers, rounds, seconds, agents }, json.as_deref())
        }
        BenchTask::GuestPriority { rounds, seconds, json } => {
            guest_priority::run(*rounds, *seconds, json.as_deref())
        }
        BenchTask::Memory(options) => memory::run(options),
        BenchTask::Scale(options) => scale::run(options),
    }
}

/// Builds and runs a benchmark of the package `kvmpilot-tests`, in a release build unless the profile is another one.
fn run(name: &str, profile: &[&str], mut arguments: Vec<String>, json: Option<&Path>) -> Result<()> {
    if let Some(file) = json {
        // cargo starts it in another directory.
        arguments.extend(["--json".to_owned(), std::path::absolute(file)?.to_string_lossy().into_owned()]);
    }
    say("building, which takes some minutes the first time");
    let mut command = cargo();
    command.arg("bench").args(profile).args([
        "--quiet",
        "--package",
        "kvmpilot-tests",
        "--bench",
        name,
        "--",
    ]);
    run_shown(command.args(arguments))
}
