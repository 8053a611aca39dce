//! What kvmpilot's probes cost: `cargo xtask bench probes [--json FILE]`, as root on a kernel with BTF.
//!
//! Everything is a difference between a workload with a program attached and the same workload without, measured in
//! turns within one process, several times, and told as the median with its quartiles. The floor, an empty program on the
//! same tracepoint, is part of each round: it belongs to the hardware, what comes on top to us.

mod options;
mod packets;
mod pingpong;
mod programs;
mod report;
mod rounds;
mod signals;

use std::process::ExitCode;

use anyhow::Result;
use kvmpilot_tests::with_tracefs;

use options::Options;
use pingpong::PingPong;
use programs::Subject;
use report::Report;
use rounds::{Figure, measure};
use signals::Signals;

/// Goals of the design, ns over the floor.
const WATCHED_GOAL_NS: f64 = 25.0;
const UNWATCHED_GOAL_NS: f64 = 8.0;

fn main() -> ExitCode {
    let outcome = options::options().and_then(|options| options.map_or(Ok(()), |options| run(&options)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let pingpong = PingPong::start()?;
    let [one, other] = pingpong.tids();
    let mut switch = [
        Subject::empty_switch()?,
        Subject::scheduler_probe("watched", &[one, other])?,
        Subject::scheduler_probe("unwatched", &[])?,
        Subject::hash_and_clock()?,
        Subject::wake_latency("wake latency", std::process::id())?,
        Subject::wake_latency("wake latency of others", 1)?,
    ];
    println!("a context switch, by two threads that yield to each other on one pcpu:");
    let switches = measure(options.rounds, &mut switch, || pingpong.ns_per_switch())?;
    drop(pingpong);

    let (exits, exits_on) = exits(options)?;
    let packets = packets::measure(options.rounds)?;

    let report = Report::new(options.rounds, &switches, &exits, exits_on, packets);
    report.print();
    if let Some(file) = &options.json {
        report.write(file)?;
    }
    Ok(())
}

/// The pair of programs for exits, on events that can be had everywhere: a signal that a thread sends to itself, and its
/// delivery. KVM's own do not fire under every back end.
fn exits(options: &Options) -> Result<(Vec<Figure>, &'static str)> {
    let figures = with_tracefs(|| {
        let signals = Signals::start()?;
        let mut subjects = [
            Subject::empty_events()?,
            Subject::exits("exits", std::process::id())?,
            Subject::exits("exits of others", 1)?,
        ];
        println!("an exit and an entry, by a thread that sends itself signals:");
        measure(options.rounds, &mut subjects, || signals.ns_per_signal())
    })??;
    Ok((figures, programs::EXIT_EVENTS))
}
